"""One label a text, with its probability."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privet.common.config.task import TaskSpec
from privet.common.outputs.base import Answer, Column, Scores, one_line, rounded, softmax

__all__ = ["ClassificationOutput"]


class ClassificationOutput:
    """every: with each label's probability."""

    words = False

    def __init__(self, task: TaskSpec, every: bool) -> None:
        self._labels, self._every = task.labels, every
        self._lines = [one_line(label) for label in task.labels]

    @property
    def columns(self) -> tuple[Column, ...]:
        each = [Column(f"p:{label}", "number") for label in self._labels if self._every]
        return (Column("label", "text"), Column("probability", "number"), *each)

    def answers(self, texts: Sequence[str], scores: Scores) -> list[Answer]:
        chances = softmax(scores.logits)
        best = chances.argmax(1).tolist()
        return [_Label(self, top, chance) for top, chance in zip(best, chances, strict=True)]


@dataclass(frozen=True, repr=False, slots=True)
class _Label:
    _of: ClassificationOutput
    _top: int
    _chances: NDArray[np.float64]

    def line(self) -> str:
        chances = self._chances if self._of._every else self._chances[[self._top]]
        return "\t".join([self._of._lines[self._top], *(f"{chance:.4f}" for chance in chances.tolist())])

    def members(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "label": self._of._labels[self._top],
            "probability": rounded(self._chances[self._top]),
        }
        if self._of._every:
            found["probabilities"] = dict(zip(self._of._labels, map(rounded, self._chances.tolist()), strict=True))
        return found

    def table(self) -> Sequence[tuple[Any, ...]]:
        each = map(rounded, self._chances.tolist()) if self._of._every else ()
        return [(self._of._labels[self._top], rounded(self._chances[self._top]), *each)]
