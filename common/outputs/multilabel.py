"""Several labels a text, or none: those whose probability reaches the plan's threshold; and every probability."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privet.common.config.task import TaskSpec
from privet.common.outputs.base import Answer, Column, Scores, one_line, rounded, sigmoid

__all__ = ["SEPARATOR", "MultilabelOutput", "thresholds"]

SEPARATOR = ";"  # of labels in one cell


def thresholds(task: TaskSpec) -> NDArray[np.float64]:
    """Of each label [L]: 0.5 where the plan names none."""
    stated = task.thresholds
    if isinstance(stated, dict):
        return np.array([stated.get(label, 0.5) for label in task.labels])
    return np.full(len(task.labels), stated)


class MultilabelOutput:
    """Every label's probability is always there."""

    words = False

    def __init__(self, task: TaskSpec, every: bool) -> None:
        self._labels, self._thresholds, self._every = task.labels, thresholds(task), every
        self._lines = [one_line(label) for label in task.labels]

    @property
    def columns(self) -> tuple[Column, ...]:
        return (Column("labels", "text"), *(Column(f"p:{label}", "number") for label in self._labels))

    def answers(self, texts: Sequence[str], scores: Scores) -> list[Answer]:
        chances = sigmoid(scores.logits)
        return [_Labels(self, np.flatnonzero(row >= self._thresholds).tolist(), row) for row in chances]


@dataclass(frozen=True, repr=False, slots=True)
class _Labels:
    _of: MultilabelOutput
    _chosen: list[int]
    _chances: NDArray[np.float64]

    def line(self) -> str:
        shown = range(len(self._chances)) if self._of._every else self._chosen
        names = SEPARATOR.join(self._of._lines[label] for label in self._chosen)
        return names + "\t" + SEPARATOR.join(f"{self._chances[label]:.4f}" for label in shown)

    def members(self) -> dict[str, Any]:
        return {
            "labels": [self._of._labels[label] for label in self._chosen],
            "probabilities": dict(zip(self._of._labels, map(rounded, self._chances.tolist()), strict=True)),
        }

    def table(self) -> Sequence[tuple[Any, ...]]:
        names = SEPARATOR.join(self._of._labels[label] for label in self._chosen)
        return [(names, *map(rounded, self._chances.tolist()))]
