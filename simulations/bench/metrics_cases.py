"""What `bench metrics` draws: records of a model that is right at a known rate, for each kind of task."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from privet.common.config import TaskSpec
from privet.common.privacy.events import Release
from privet.common.tasks.targets import Targets

Drawn = tuple[NDArray[np.float32], Targets]  # what a task reads of some records, and their targets
Draw = Callable[[np.random.Generator, int], Drawn]

LABELS = ("one", "two", "three", "four", "five", "six")
_RIGHT = 0.85  # of decisions
_STAND = (0.5, 0.35, 0.25, 0.2, 0.12, 0.08)  # how often each stands, with several labels a record; shares of types
_CROWDED = 1 / 6  # of records: those with many entities
_ENTITIES, _FOUND = (1.5, 12.0), (0.9, 0.7)  # of plain and crowded records: how many on average, how often found


class Setting(NamedTuple):
    """One curve. bound: of a unit's counts of entities; None where there is none."""

    release: Release
    bound: float | None = None


class Case(NamedTuple):
    """A kind of task. draw: so many records of it."""

    settings: tuple[Setting, ...]
    draw: Draw

    def spec(self, kind: str, bound: float | None) -> TaskSpec:
        """The task of a plan."""
        clipped = {} if bound is None else {"entity_bound": bound}
        return TaskSpec.model_validate({"kind": kind, "labels": list(LABELS)} | clipped)


def _classification(random: np.random.Generator, count: int) -> Drawn:
    labels = random.integers(len(LABELS), size=count)
    said = np.where(random.random(count) < _RIGHT, labels, random.integers(len(LABELS), size=count))
    return np.eye(len(LABELS), dtype=np.float32)[said], labels


def _multilabel(random: np.random.Generator, count: int) -> Drawn:
    stand = random.random((count, len(LABELS))) < np.array(_STAND)
    said = stand ^ (random.random(stand.shape) > _RIGHT + (1 - _RIGHT) / 2)
    return np.where(said, 1, -1).astype(np.float32), stand.astype(np.int8)


def _tokens(random: np.random.Generator, count: int) -> Drawn:
    """Crowded records are the harder ones: to clip units that have them moves the F1, and not only the counts."""
    crowded = (random.random(count) < _CROWDED).astype(np.int64)
    each = np.array(_ENTITIES)[crowded][:, None] * (np.array(_STAND) / sum(_STAND))
    found = np.array(_FOUND)[crowded][:, None]
    columns = [random.poisson(each * rate) for rate in (found, 1 - found, 1 - found)]  # TP, FP and FN
    counts = np.stack(columns, axis=-1).reshape(count, -1)
    return np.append(counts, np.zeros((count, 1)), axis=1).astype(np.float32), np.zeros(count, np.int64)


CASES: dict[str, Case] = {
    "classification": Case((Setting("accuracy"), Setting("per_class"), Setting("confusion")), _classification),
    "multilabel": Case((Setting("accuracy"), Setting("per_class")), _multilabel),
    "tokens": Case((Setting("accuracy", 4.0), Setting("per_class", 4.0), Setting("accuracy", 1.0)), _tokens),
}
"""By kind of task."""
