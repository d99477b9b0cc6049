"""Is an export what it was made from? Its logits beside the adapter's, its size and its speed on this machine."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from privet.common.adapter import Floats
from privet.common.config import Plan
from privet.common.exported import Kind
from privet.server.exporting.outputs import decisions
from privet.server.exporting.reading import Reader

MOST_DIFFERENCE = 1e-3  # between two logits, for the forms in float32
LEAST_AGREEMENT = 0.95  # of what is said, for int8
_BATCH = 32
_SECONDS = 10.0  # after which no further pass is timed
_FLAT = 1e-4  # logits that differ by less from text to text say nothing of the encoder


@dataclass(frozen=True, kw_only=True)
class Check:
    """What the comparison found. Speeds are texts a second, tokenisation included, measured where it was made."""

    kind: Kind
    num_texts: int
    difference: float  # the largest between two logits; nan where one is not a number
    largest: float  # of the adapter's logits, without sign
    agreement: float  # share of rows (texts, or tokens) of which both say the very same
    megabytes: float  # of all files, 10^6 bytes
    speed: float
    pytorch_speed: float  # of the adapter's model in PyTorch, float32, merged
    threads: int
    blind: bool  # the adapter says the same of every text: the comparison could find little
    fault: str  # why it is not what it was made from; empty: it is

    def to_json(self) -> dict[str, Any]:
        return {name: None if value != value else value for name, value in asdict(self).items()}

    def in_words(self) -> list[str]:
        """Lines for people."""
        rule = (
            f"at least {100 * LEAST_AGREEMENT:g} % of the labels must agree"
            if self.kind == "onnx-int8"
            else f"no logit may differ by more than {MOST_DIFFERENCE:g}"
        )
        return [
            f"largest difference of logits {self.difference:.2g}, of logits up to {self.largest:.3g}, over "
            f"{self.num_texts} texts",
            f"labels that agree: {100 * self.agreement:.4g} % ({rule})",
            f"size {self.megabytes:.1f} MB",
            f"speed {self.speed:.4g} texts/s, PyTorch in float32 {self.pytorch_speed:.4g}, on this machine with "
            f"{self.threads} thread{'s' * (self.threads > 1)}",
        ]


def compare(
    kind: Kind, plan: Plan, folder: Path, texts: Sequence[str], *, adapter: Reader, pytorch: Reader, form: Reader
) -> Check:
    """Judge the form in `folder`: by logits where it is float32, by what it says where it is int8.

    adapter is asked text by text, form in batches of unlike lengths, so that padding is part of the question.
    pytorch: what the form's speed stands beside.
    """
    import torch

    expected = np.concatenate([adapter([text]) for text in texts])
    found = np.concatenate([form(batch) for batch in _batches(texts)])
    ordered = sorted(texts, key=len)
    difference, agreement, fault = judge(kind, plan, expected, found)
    return Check(
        kind=kind,
        num_texts=len(texts),
        difference=difference,
        largest=float(np.abs(expected).max()),
        agreement=agreement,
        megabytes=sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6,
        speed=_speed(form, ordered),
        pytorch_speed=_speed(pytorch, ordered),
        threads=torch.get_num_threads(),
        blind=float(np.ptp(expected, axis=0).max()) < _FLAT,
        fault=fault,
    )


def judge(kind: Kind, plan: Plan, expected: Floats, found: Floats) -> tuple[float, float, str]:
    """Largest difference, share of decisions that agree, and the fault, empty where there is none."""
    if found.shape != expected.shape:
        return math.nan, 0.0, f"its logits have the shape {found.shape}, the adapter's {expected.shape}"
    if not np.isfinite(found).all():
        return math.nan, 0.0, "it gives logits that are no numbers"
    difference = float(np.abs(found.astype(np.float64) - expected).max())
    agreement = float((decisions(plan, found) == decisions(plan, expected)).all(1).mean())
    fault = ""
    if kind == "onnx-int8":
        if not agreement >= LEAST_AGREEMENT:
            fault = f"{100 * agreement:.4g} % of the labels agree, fewer than {100 * LEAST_AGREEMENT:g} %"
    elif not difference <= MOST_DIFFERENCE:
        fault = f"a logit differs by {difference:.3g}, more than {MOST_DIFFERENCE:g}"
    return difference, agreement, fault


def _batches(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(texts), _BATCH):
        yield texts[start : start + _BATCH]


def _speed(reader: Reader, texts: Sequence[str]) -> float:
    """Texts a second of the best of up to three passes over batches of like length, after a batch to warm up."""
    reader(texts[:_BATCH])
    best, spent = math.inf, 0.0
    for _ in range(3):
        start = time.perf_counter()
        for batch in _batches(texts):
            reader(batch)
        taken = time.perf_counter() - start
        best, spent = min(best, taken), spent + taken
        if spent > _SECONDS:
            break
    return len(texts) / best
