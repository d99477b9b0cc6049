"""Entities found and missed: counts of one text, what a validation unit adds to a site's sums, what noised sums tell.

An entity counts as found (TP) where its type, first and last word are all right, as in conlleval and seqeval; one that
was said and is none is an FP, one that was missed an FN. A row of counts has TP, FP and FN of each of the L types:
[3 L]. Cells by release: `accuracy`: TP, FP, FN over all types; `per_class`: of each type, row by row.

A unit's part is the mean of its records' counts, clipped jointly to the plan's bound b in L2 norm and divided by b: of
norm at most 1. A clipped unit counts for less than it should, and all its cells alike: what noised sums tell is biased
towards the units with few entities. The larger b, the fewer are clipped and the more noise there is: its deviation on a
count is b times that of the cell.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from privet.common.privacy.events import Release
from privet.common.tasks.counts import Estimate, flat, scored
from privet.common.tasks.tags import entities

__all__ = [
    "EntityEstimates",
    "EntityScores",
    "entity_counts",
    "entity_estimates",
    "entity_scores",
    "exact_f1",
    "num_clipped",
    "num_entity_cells",
    "predicted_f1_error",
    "unit_entity_cells",
]

Floats64 = NDArray[np.float64]

SCORE_NAME = "entity F1"

_GRID = 2**24  # a unit's part is a multiple of 2^-24, rounded down: sums are exact in any order, up to 2^29 units
_MARGIN = 1 + 2.0**-30  # of a clipped unit's norm: covers all rounding
_LEAST = 3.0  # standard deviations of its noise that a sum must exceed before anything is divided by it


def entity_counts(truth: Sequence[int], said: Sequence[int], num_types: int) -> NDArray[np.int64]:
    """TP, FP and FN by type, int64 [3 L], of one text's tags [words] and of those that were said of it."""
    counts = np.zeros((num_types, 3), np.int64)
    actual, found = set(entities(truth)), set(entities(said))
    for column, part in enumerate((actual & found, found - actual, actual - found)):
        for entity in part:
            if entity.type < num_types:
                counts[entity.type, column] += 1
    return counts.reshape(-1)


# Cells


def num_entity_cells(release: Release, num_types: int) -> int:
    """How many numbers one evaluation releases.

    >>> num_entity_cells("accuracy", 5), num_entity_cells("per_class", 5)
    (3, 15)
    """
    return 3 if release == "accuracy" else 3 * num_types


def unit_entity_cells(
    release: Release, counts: Floats64, units: NDArray[np.int64], num_units: int, bound: float
) -> Floats64:
    """The un-noised sum over units, float64 [cells]: private. One unit adds a vector of norm at most 1.

    counts: [N, 3 L]; a row that is not finite adds nothing, and its record counts in the mean. units: [N], dense.
    A unit's part is a function of its own records, to the last bit, and rounded down to 2^-24.
    """
    sums, least = _of_units(release, counts, units, num_units, bound)
    parts = np.floor(sums / least[:, None] * _GRID).astype(np.int64)
    return np.asarray(parts.sum(axis=0) / _GRID, np.float64)


def num_clipped(release: Release, counts: Floats64, units: NDArray[np.int64], num_units: int, bound: float) -> int:
    """How many units the bound clips. Private: for simulations."""
    _, least = _of_units(release, counts, units, num_units, bound)
    sizes = np.maximum(1, np.bincount(units, minlength=num_units))
    return int((least > sizes * bound).sum())


def _of_units(
    release: Release, counts: Floats64, units: NDArray[np.int64], num_units: int, bound: float
) -> tuple[Floats64, Floats64]:
    """Each unit's counts summed over its records [units, cells], and what they are divided by [units]: its records
    times the bound, or more where the norm of their mean is above the bound."""
    finite = np.isfinite(counts).all(axis=1, keepdims=True)
    table = np.where(finite, counts, 0.0)
    if release == "accuracy":
        table = table.reshape(len(table), table.shape[1] // 3, 3).sum(axis=1)  # of no text too
    sums = np.zeros((num_units, table.shape[1]))
    np.add.at(sums, units, table)  # whole numbers: exact
    sizes = np.maximum(1, np.bincount(units, minlength=num_units))
    squares = np.zeros(num_units)
    for column in sums.T:  # value by value: another unit changes no order
        squares += column**2
    return sums, np.maximum(sizes * bound, np.sqrt(squares) * _MARGIN)


def predicted_f1_error(release: Release, num_types: int, noise_multiplier: float, units: int, bound: float) -> float:
    """The standard error that privacy noise will give the micro F1, at worst over it: to first order 2 b σ √R / n, R
    the number of cells over which TP is summed, where n units have one entity each on average. With m entities it is
    one m-th of that.

    Raises: ValueError unless units >= 1 and noise_multiplier >= 0.

    >>> predicted_f1_error("accuracy", 5, noise_multiplier=10.0, units=1000, bound=4.0)
    0.08
    """
    if units < 1 or not noise_multiplier >= 0:
        raise ValueError(f"Expected units >= 1 and noise_multiplier >= 0, got {units!r} and {noise_multiplier!r}.")
    rows = 1 if release == "accuracy" else num_types
    return 2 * bound * noise_multiplier * math.sqrt(rows) / units


# What cells tell


@dataclass(frozen=True)
class EntityEstimates:
    """What pooled noised counts tell. None stands for what the noise drowns.

    The sampling errors are those of entities that are found, said and missed independently of each other.
    """

    release: Release
    micro_f1: Estimate | None  # over all types together
    micro_precision: Estimate | None
    micro_recall: Estimate | None
    f1: dict[str, Estimate | None]  # by type; empty where only the sums over types are released
    recall: dict[str, Estimate | None]  # by type
    entities: float  # TP + FN, after clipping and averaging over records, estimated; may be negative
    entities_error: float
    bound: float

    @property
    def score(self) -> Estimate | None:
        return self.micro_f1

    @property
    def num_units(self) -> float:
        """Not told by counts of entities: nan."""
        return math.nan

    def to_json(self) -> dict[str, object]:
        """Of JSON's types; the micro F1's value and errors stand at the top."""
        rest = asdict(self) | {"score_name": SCORE_NAME}
        for name in ("micro_f1", "micro_precision", "micro_recall"):
            part: Estimate | None = getattr(self, name)
            rest[name] = None if part is None else flat(part)
        for name in ("f1", "recall"):
            table: dict[str, Estimate | None] = getattr(self, name)
            rest[name] = {label: None if part is None else flat(part) for label, part in table.items()}
        return rest | scored(self.micro_f1, "score")


def entity_estimates(
    release: Release, cells: Floats64, variance: float, labels: Sequence[str], bound: float
) -> EntityEstimates:
    """Metrics from noised cells [cells] alone: of one site, or summed over sites.

    variance: of the noise on each cell, summed over the sites.
    """
    table, variance = cells.reshape(-1, 3) * bound, variance * bound**2
    rows = len(table)
    right, wrong, missed = map(float, table.sum(axis=0))
    f1: dict[str, Estimate | None] = {}
    recall: dict[str, Estimate | None] = {}
    if release != "accuracy":
        for label, (found, said, lost) in zip(labels, table.tolist(), strict=True):
            f1[label] = _ratio(2, found, said + lost, (1, 2), variance)
            recall[label] = _ratio(1, found, lost, (1, 1), variance)
    return EntityEstimates(
        release=release,
        micro_f1=_ratio(2, right, wrong + missed, (rows, 2 * rows), variance),
        micro_precision=_ratio(1, right, wrong, (rows, rows), variance),
        micro_recall=_ratio(1, right, missed, (rows, rows), variance),
        f1=f1,
        recall=recall,
        entities=right + missed,
        entities_error=math.sqrt(2 * rows * variance),
        bound=bound,
    )


def exact_f1(cells: Floats64) -> float:
    """The micro F1 that un-noised cells tell; nan where nothing was counted."""
    right, wrong, missed = cells.reshape(-1, 3).sum(axis=0).tolist()
    whole = 2 * right + wrong + missed
    return 2 * right / whole if whole > 0 else math.nan


def _ratio(weight: int, right: float, others: float, num_cells: tuple[int, int], variance: float) -> Estimate | None:
    """w right / (w right + others), held within [0, 1]; sums over `num_cells` cells each, of noise `variance` each."""
    whole = weight * right + others
    noise = math.sqrt((weight**2 * num_cells[0] + num_cells[1]) * variance)
    if whole < 1 / _GRID or whole <= _LEAST * noise:
        return None
    share = min(1.0, max(0.0, weight * right / whole))
    of_noise = math.sqrt((weight**2 * (1 - share) ** 2 * num_cells[0] + share**2 * num_cells[1]) * variance) / whole
    smooth = (whole * share + 1) / (whole + 2)  # Laplace: a share of 0 or 1 is no certainty
    sampling = math.sqrt(smooth * (1 - smooth) * (weight * (1 - smooth) + smooth) / whole)
    return Estimate(share, of_noise, sampling)


# Public text


@dataclass(frozen=True)
class EntityScores:
    """Judged on text that anyone may see. A ratio is 0 where there is nothing to divide by."""

    micro_f1: float  # over all types together
    macro_f1: float  # over the types that occur, in the truth or in what was said
    micro_precision: float
    micro_recall: float
    loss: float
    num_records: int
    num_entities: int
    f1: dict[str, float]  # by type
    precision: dict[str, float]
    recall: dict[str, float]
    entities: dict[str, int]

    @property
    def score(self) -> float:
        return self.micro_f1

    def to_json(self) -> dict[str, object]:
        return asdict(self) | {"score": self.score, "score_name": SCORE_NAME}


def entity_scores(counts: Floats64, losses: Floats64, labels: Sequence[str]) -> EntityScores:
    """Precision, recall and F1 of counts [N, 3 L], as seqeval has them; losses: [N]."""
    table = counts.sum(axis=0).reshape(-1, 3)
    whole = _scores(*table.sum(axis=0).tolist())
    types = {label: _scores(*row) for label, row in zip(labels, table.tolist(), strict=True)}
    occurring = [types[label]["f1"] for label, row in zip(labels, table, strict=True) if row.any()]
    return EntityScores(
        micro_f1=whole["f1"],
        macro_f1=float(np.mean(occurring)) if occurring else 0.0,
        micro_precision=whole["precision"],
        micro_recall=whole["recall"],
        loss=float(losses.mean()) if len(losses) else math.nan,
        num_records=len(counts),
        num_entities=int(whole["entities"]),
        f1={label: row["f1"] for label, row in types.items()},
        precision={label: row["precision"] for label, row in types.items()},
        recall={label: row["recall"] for label, row in types.items()},
        entities={label: int(row["entities"]) for label, row in types.items()},
    )


def _scores(right: float, wrong: float, missed: float) -> dict[str, float]:
    return {
        "precision": right / (right + wrong) if right + wrong else 0.0,
        "recall": right / (right + missed) if right + missed else 0.0,
        "f1": 2 * right / (2 * right + wrong + missed) if right + wrong + missed else 0.0,
        "entities": right + missed,
    }
