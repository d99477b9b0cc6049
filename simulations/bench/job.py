"""What every arm of a bench works on: the plan, the base's folder and the rows of token ids, in one folder of files.

Tokenised once, by the process that measures; the arms' processes read it and draw the very same batches.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from privet.common.config import Plan
from privet.common.examples import Integers

Text = Literal["fixed", "ragged"]
_FIXED_ROWS = 512


@dataclass(frozen=True)
class Rows:
    """Token ids of each row with its special tokens, and its label's index."""

    ids: list[NDArray[np.int32]]
    labels: Integers

    @property
    def mean_length(self) -> float:
        return float(np.mean([len(row) for row in self.ids]))


@dataclass(frozen=True)
class Job:
    """batch: rows of a step, B; local_steps and sites: of a client's update, where those are measured."""

    folder: str
    base: str
    plan: dict[str, Any]
    batch: int
    seed: int = 0
    noise_multiplier: float = 1.0
    local_steps: int = 1
    sites: int = 1

    @property
    def max_length(self) -> int:
        return int(self.plan["task"]["max_length"])

    def parsed_plan(self) -> Plan:
        return Plan.model_validate(self.plan)

    def rows(self) -> Rows:
        with np.load(Path(self.folder) / "rows.npz") as stored:
            ends = np.cumsum(stored["lengths"])
            return Rows(np.split(stored["ids"], ends[:-1]), stored["labels"])

    def write(self, rows: Rows) -> None:
        np.savez(
            Path(self.folder) / "rows.npz",
            ids=np.concatenate(rows.ids),
            lengths=np.array([len(row) for row in rows.ids], np.int64),
            labels=rows.labels,
        )
        (Path(self.folder) / "job.json").write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "Job":
        return cls(**json.loads((folder / "job.json").read_text(encoding="utf-8")))


class Draws:
    """The rows of one step after the other: so many each time, the same sequence in every arm."""

    def __init__(self, seed: int, count: int, batch: int) -> None:
        self._random, self._count, self._batch = np.random.default_rng(seed), count, min(batch, count)

    def next(self) -> NDArray[np.int64]:
        """[batch], ascending."""
        return np.sort(self._random.choice(self._count, self._batch, replace=False))


def tokenised(
    tokenizer: Any,
    texts: Sequence[str],
    labels: Integers,
    text: Text,
    max_length: int,
    limit: int | None,
    seed: int = 0,
) -> Rows:
    """Of at most `limit` texts in random order. ragged: each cut off at `max_length`. fixed: one after the other, cut
    into rows of exactly `max_length` with their special tokens; a row's label is that of some text."""
    order = np.random.default_rng(seed).permutation(len(texts))[:limit]
    chosen, own = [texts[index] for index in order], labels[order]
    if text == "ragged":
        encoded = tokenizer(chosen, truncation=True, max_length=max_length)["input_ids"]
        return Rows([np.array(row, np.int32) for row in encoded], own)
    plain = tokenizer(chosen, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
    stream = np.concatenate([np.array(row, np.int32) for row in plain])
    width = max_length - 2
    stream = np.resize(stream, max(width * 64, min(len(stream), width * _FIXED_ROWS)) // width * width)
    body = stream.reshape(-1, width)
    first, last = (
        np.full((len(body), 1), token, np.int32) for token in (tokenizer.cls_token_id, tokenizer.sep_token_id)
    )
    return Rows(list(np.concatenate([first, body, last], axis=1)), np.resize(own, len(body)))
