"""Labels for texts by a finished adapter: the folder that a run leaves behind, on the base that its plan names."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from privet.common import adapter
from privet.common.base import checked_base
from privet.common.config import Plan, load_federation
from privet.common.errors import ModelError, WireError
from privet.common.grouping import Windows
from privet.common.model import Classifier, build_classifier, canonical_name, load_tokenizer
from privet.common.tagged import tag_examples
from privet.common.tasks.tags import OUTSIDE, Tags
from privet.common.tasks.targets import UNKNOWN
from privet.common.tokens import split

__all__ = ["Predictor", "probabilities"]

_TOKENS_PER_BATCH = 4096
_TEXTS_PER_PASS = 4096  # tokenised together, so that a large file does not stand in memory as tokens


class Predictor:
    """A classifier that only reads."""

    def __init__(self, classifier: Classifier, tokenizer: Any) -> None:
        self.classifier = classifier.eval()
        self._tokenizer = tokenizer

    @classmethod
    def load(cls, folder: Path, base: str | None = None) -> "Predictor":
        """Read the adapter in `folder`; `base` (hub id, folder, package:NAME) stands for the plan's, with its digest.

        Raises: ModelError (ConfigError for a damaged plan.toml).
        """
        plan = _plan(folder)
        where = checked_base(base or plan.model.base, plan.model.sha256)
        classifier = build_classifier(plan, where)
        classifier.write(_arrays(folder, classifier))
        return cls(classifier, load_tokenizer(where))

    @property
    def plan(self) -> Plan:
        return self.classifier.plan

    @property
    def labels(self) -> tuple[str, ...]:
        return self.plan.task.labels

    def predict(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Logits [N, L], row by row as `texts`: the mean over a text's windows, at most the plan's number of them."""
        parts = [self._predict(texts[i : i + _TEXTS_PER_PASS]) for i in range(0, len(texts), _TEXTS_PER_PASS)]
        return np.concatenate(parts) if parts else np.zeros((0, len(self.labels)), np.float32)

    def tags(self, texts: Sequence[str], words: Sequence[int]) -> list[Tags | None]:
        """Of a task that labels tokens: a tag for each of a text's words, which single spaces join; None for a text
        that cannot be computed. words: how many each has."""
        from privet.common.tagging import said_tags

        task, nobody = self.plan.task, np.arange(len(texts))
        outside = [np.full(num, OUTSIDE, np.int16) for num in words]
        vocabulary = self.classifier.vocabulary
        examples = tag_examples(
            texts,
            outside,
            nobody,
            len(texts),
            self._tokenizer,
            task.buckets,
            vocabulary,
            windows=task.windows,
            stride=task.stride,
        )
        said, _ = said_tags(self.classifier, examples)
        return [None if label == UNKNOWN else row for label, row in zip(examples.labels.tolist(), said, strict=True)]

    def _predict(self, texts: Sequence[str]) -> NDArray[np.float32]:
        task = self.plan.task
        found = split(self._tokenizer, list(texts), task.max_length, task.windows, task.stride)
        rows = [row for windows in found for row in windows]
        lengths = np.array([len(row) for row in rows])
        order = np.argsort(lengths, kind="stable")  # neighbours of like length need little padding
        logits = np.zeros((len(rows), len(self.labels)), np.float32)
        start = 0
        while start < len(order):
            num = 1
            while start + num < len(order) and (num + 1) * lengths[order[start + num]] <= _TOKENS_PER_BATCH:
                num += 1
            batch = order[start : start + num]
            logits[batch] = self._forward([rows[i] for i in batch])
            start += num
        return Windows(np.array([len(windows) for windows in found])).mean(torch.from_numpy(logits))

    @torch.inference_mode()
    def _forward(self, rows: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        shape = (len(rows), max(len(row) for row in rows))
        ids = torch.full(shape, int(self._tokenizer.pad_token_id or 0))
        mask = torch.zeros(shape, dtype=torch.int64)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = 1
        logits: torch.Tensor = self.classifier(ids, mask)
        return logits.numpy()


def probabilities(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Softmax over the last axis of logits [N, L]."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(-1, keepdims=True))


def _plan(folder: Path) -> Plan:
    if not folder.is_dir():
        raise ModelError("no such folder.", where=str(folder), mend="give a finished run's folder adapter/.")
    for name in ("plan.toml", "adapter_model.safetensors"):
        if not (folder / name).is_file():
            raise ModelError(f"not a privet adapter: it has no {name}.", where=str(folder), mend=_mend_folder(folder))
    return load_federation(folder / "plan.toml").plan


def _mend_folder(folder: Path) -> str:
    inner = folder / "adapter"
    return f"give {inner}." if (inner / "plan.toml").is_file() else "give a finished run's folder adapter/."


def _arrays(folder: Path, classifier: Classifier) -> dict[str, adapter.Floats]:
    """The adapter's arrays by canonical name, checked against the plan's layout."""
    stored = adapter.load(folder / "adapter_model.safetensors")
    named = {canonical_name("encoder." + name): array for name, array in stored.items()}
    if classifier.head is not None:
        _check_labels(folder / "head.safetensors", classifier.plan)
        named |= {f"head.{name}": array for name, array in adapter.load(folder / "head.safetensors").items()}
    # A module is saved whole: what it holds of the base's own frozen weights is the base's already.
    arrays = {name: array for name, array in named.items() if name in classifier.spec.names}
    try:
        classifier.spec.check(arrays)
    except WireError as error:
        raise ModelError(
            f"its weights are not those of its plan.toml. {error.what}",
            where=str(folder),
            mend="export the adapter again.",
        ) from None
    return arrays


def _check_labels(path: Path, plan: Plan) -> None:
    """The head's rows are the plan's labels, in their order, and it reads features of the plan's scale."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise ModelError("no such file.", where=str(path), mend="export the adapter again.")
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
        labels, scale = json.loads(metadata["labels"]), float(metadata["feature_scale"])
    except (SafetensorError, OSError, KeyError, ValueError):
        labels, scale = [], 0.0
    if labels != list(plan.task.labels) or scale != plan.model.feature_scale:
        raise ModelError(
            "its labels or feature scale are not those of plan.toml.", where=str(path), mend="export the adapter again."
        )
