"""A model that is none: its logits are a function of a window's tokens alone, exactly, whoever stands beside it."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privet.common.config import Plan
from privet.common.predicting.reader import Reader, by_length
from privet.common.wordpiece import quick_tokenizer
from tests.tiny_models import tiny_base, tiny_plan

_WEIGHTS = np.random.default_rng(0).normal(0, 1, (4096, 5)).astype(np.float32)


class StandIn(Reader):
    """Of `width` logits; batches as the real one has them."""

    def __init__(self, plan: Plan, tokenizer: Any, width: int, *, per_token: bool = False) -> None:
        self.plan, self.tokenizer, self.vocabulary, self.tokens = plan, tokenizer, 4096, 256
        self._width, self._per_token = width, per_token
        self.batches: list[int] = []

    def __call__(self, rows: Sequence[NDArray[np.int32]]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        lengths = np.array([len(row) for row in rows], np.int64)
        for batch in by_length(lengths, self.tokens):
            self.batches.append(len(batch))
            each = [_WEIGHTS[rows[i], : self._width] for i in batch]
            if not self._per_token:
                yield batch, np.stack([values.sum(0) for values in each])
                continue
            table = np.zeros((len(batch), int(lengths[batch].max()), self._width), np.float32)
            for row, values in enumerate(each):
                table[row, : len(values)] = values
            yield batch, table


def stand_in(folder: Path, *, per_token: bool = False, **task: Any) -> StandIn:
    """On the tiny base's tokenizer, which is written into `folder`."""
    base = tiny_base(folder / "base")
    kind = {"kind": "tokens", "labels": ["sign", "drug"]} if per_token else {}
    plan = tiny_plan(base, task=kind | task, model={"pooling": "none"} if per_token else {})
    return StandIn(plan, quick_tokenizer(base), 5 if per_token else len(plan.task.labels), per_token=per_token)
