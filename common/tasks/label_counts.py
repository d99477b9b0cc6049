"""What sites release about predictions of several labels a record, and what noised sums of it tell.

Kinds of a decision on one label: (rightly said, wrongly said, missed, rightly left out). Cells by release, L labels:
`per_class`: L rows of the four kinds; a unit adds the mean over its records of each label's one-hot kind, divided by
√L: a vector of norm at most 1. `accuracy`: the four kinds over all labels together; a unit adds the mean over its
records of each kind's share of the L decisions. The F1 over all labels is as exact from the one as from the other.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from privet.common.privacy.events import Release
from privet.common.tasks.counts import GRID, LEAST, Estimate, flat, scored
from privet.common.tasks.targets import Targets, known

KINDS = 4
_TABLE = 2**21  # numbers: 16 MB
SCORE_NAME = "micro F1"


@dataclass(frozen=True)
class LabelEstimates:
    """Of one label; None for what the noise drowns."""

    recall: Estimate | None
    precision: Estimate | None
    f1: Estimate | None


@dataclass(frozen=True)
class NoisedLabelMetrics:
    """What pooled noised counts tell. None stands for what the noise drowns: of macro F1, where it drowns one label.

    Sampling errors of what goes over several labels are as if a record's labels were drawn independently.
    """

    release: Release
    micro_f1: Estimate | None
    micro_recall: Estimate | None
    micro_precision: Estimate | None
    macro_f1: Estimate | None
    num_units: float  # validation units with known labels, estimated; may be negative
    num_units_error: float
    labels: dict[str, LabelEstimates]  # empty where only the sums over all labels are released

    @property
    def score(self) -> Estimate | None:
        return self.micro_f1

    def to_json(self) -> dict[str, object]:
        """Of JSON's types; the score's value and errors stand at the top."""
        shares = ("micro_f1", "micro_recall", "micro_precision", "macro_f1")
        found: dict[str, object] = {name: _flat(getattr(self, name)) for name in shares}
        found |= {"release": self.release, "num_units": self.num_units, "num_units_error": self.num_units_error}
        found["recall"] = {label: _flat(part.recall) for label, part in self.labels.items()}
        found["precision"] = {label: _flat(part.precision) for label, part in self.labels.items()}
        found["f1"] = {label: _flat(part.f1) for label, part in self.labels.items()}
        return found | scored(self.micro_f1, "score") | {"score_name": SCORE_NAME, "confusion": None}


def num_cells(release: Release, num_labels: int) -> int:
    """How many numbers one evaluation releases.

    >>> num_cells("accuracy", 5), num_cells("per_class", 5)
    (4, 20)
    """
    return KINDS if _checked(release) == "accuracy" else KINDS * num_labels


def share(num_labels: int) -> float:
    """What a unit adds of one label to `per_class`: 1 / √L, rounded down to 2^-24."""
    return int(GRID / math.sqrt(num_labels)) / GRID


def kinds(said: NDArray[np.bool_], stands: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], ...]:
    """Which decisions are of which kind, each of the arguments' shape."""
    return said & stands, said & ~stands, ~said & stands, ~said & ~stands


def unit_cells(
    release: Release,
    logits: NDArray[np.float32],
    said: NDArray[np.bool_],
    targets: Targets,
    units: NDArray[np.int64],
    num_units: int,
) -> NDArray[np.float64]:
    """The un-noised sum over units, float64 [cells]: private. One unit adds a vector of norm at most 1.

    logits, said, targets: [N, L]; units: [N], dense. A record with an unknown label, or a logit that is not finite,
    adds nothing and counts in the mean. Parts are multiples of 2^-24, rounded down: sums are exact in any order.
    """
    num_labels = logits.shape[1]
    sound = known(targets) & np.isfinite(logits).all(axis=1)
    sizes = np.maximum(1, np.bincount(units, minlength=num_units))
    found = []
    for kind in kinds(said[sound], targets[sound] == 1):
        if _checked(release) == "accuracy":
            counts = np.bincount(units[sound], weights=kind.sum(axis=1), minlength=num_units).astype(np.int64)
            found.append((counts * GRID // (sizes * num_labels)).sum())
            continue
        found.append(_by_label(kind, units[sound], sizes))
    return np.asarray(np.stack(found, axis=-1).reshape(-1) / GRID, np.float64)


def _by_label(kind: NDArray[np.bool_], units: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of each label, the sum over units of the mean over a unit's records, in multiples of 2^-24; kind, [n, L], of
    records of these units. Blocks of units: a table of all units and labels could be larger than memory."""
    order, num_labels = np.argsort(units, kind="stable"), kind.shape[1]
    ordered, part = units[order], round(share(num_labels) * GRID)
    total, block = np.zeros(num_labels, np.int64), max(1, _TABLE // num_labels)
    for first in range(0, len(sizes), block):
        own = order[slice(*np.searchsorted(ordered, [first, first + block]))]
        table = np.zeros((min(block, len(sizes) - first), num_labels), np.int64)
        np.add.at(table, units[own] - first, kind[own])
        total += (table * part // sizes[first : first + block, None]).sum(axis=0)
    return total


def counts(release: Release, cells: NDArray[np.float64], num_labels: int) -> tuple[NDArray[np.float64], float]:
    """Cells as units' decisions: [4, L], or [4, 1] summed over labels; and what the noise on each is multiplied by."""
    scale = num_labels if _checked(release) == "accuracy" else 1 / share(num_labels)
    return cells.reshape(-1, KINDS).T * scale, scale


def exact_micro_f1(release: Release, cells: NDArray[np.float64], num_labels: int) -> float:
    """The micro F1 that un-noised cells tell; nan where no label stands and none is said."""
    right, wrong, missed, _ = counts(release, cells, num_labels)[0].sum(axis=1).tolist()
    whole = 2 * right + wrong + missed
    return float(2 * right / whole) if whole > 0 else math.nan


def predicted_standard_error(release: Release, num_labels: int, noise_multiplier: float, units: int) -> float:
    """The standard error that privacy noise will give the micro F1, at worst over its true value, where each unit has
    one label on average and as many are said: σ L / n.

    With m labels on average it is m times smaller. F = 2 A / (2 A + B), with A rightly said, B wrongly said or missed;
    by the delta method its error is σ L √(4 (1 - F)² + 2 F²) / (2 A + B), at most 2 σ L / (2 m n).
    Raises: ValueError unless units >= 1 and noise_multiplier >= 0.

    >>> predicted_standard_error("per_class", 5, noise_multiplier=10.0, units=1000)
    0.05
    """
    if units < 1 or not noise_multiplier >= 0:
        raise ValueError(f"Expected units >= 1 and noise_multiplier >= 0, got {units!r} and {noise_multiplier!r}.")
    _checked(release)
    return noise_multiplier * num_labels / units


def noised_metrics(
    release: Release, cells: NDArray[np.float64], variance: float, labels: Sequence[str]
) -> NoisedLabelMetrics:
    """Metrics from noised cells [cells] alone: of one site, or summed over sites.

    variance: of the noise on each cell, summed over the sites.
    """
    num_labels = len(labels)
    table, scale = counts(release, cells, num_labels)
    rows = table.shape[1]
    each = variance * scale**2
    micro = _estimates(table.sum(axis=1), each * rows)
    by_label = {}
    if release != "accuracy":
        by_label = {label: _estimates(row, each) for label, row in zip(labels, table.T, strict=True)}
    return NoisedLabelMetrics(
        release=release,
        micro_f1=micro.f1,
        micro_recall=micro.recall,
        micro_precision=micro.precision,
        macro_f1=_mean([part.f1 for part in by_label.values()]),
        num_units=float(table.sum()) / num_labels,
        num_units_error=math.sqrt(KINDS * rows * each) / num_labels,
        labels=by_label,
    )


def _estimates(row: NDArray[np.float64], variance: float) -> LabelEstimates:
    """row: the four kinds, with noise of this variance on each."""
    right, wrong, missed, _ = row.tolist()
    return LabelEstimates(
        recall=_ratio(right, missed, variance, variance),
        precision=_ratio(right, wrong, variance, variance),
        f1=_ratio(right, (wrong + missed) / 2, variance, variance / 2),
    )


def _ratio(part: float, other: float, variance: float, variance_of_other: float) -> Estimate | None:
    """part / (part + other), held within [0, 1]; errors to first order."""
    whole = part + other
    if whole < 1 / GRID or whole <= LEAST * math.sqrt(variance + variance_of_other):
        return None
    value = min(1.0, max(0.0, part / whole))
    noise = math.sqrt((1 - value) ** 2 * variance + value**2 * variance_of_other) / whole
    smooth = (whole * value + 1) / (whole + 2)  # Laplace: a share of 0 or 1 is no certainty
    return Estimate(value, noise, math.sqrt(smooth * (1 - smooth) / whole))


def _mean(parts: Sequence[Estimate | None]) -> Estimate | None:
    told = [part for part in parts if part is not None]
    if not told or len(told) < len(parts):
        return None
    size = len(told)
    noise = math.sqrt(sum(part.noise_error**2 for part in told)) / size
    sampling = math.sqrt(sum(part.sampling_error**2 for part in told)) / size
    return Estimate(sum(part.value for part in told) / size, noise, sampling)


def _flat(estimate: Estimate | None) -> dict[str, object] | None:
    return None if estimate is None else flat(estimate)


def _checked(release: Release) -> Release:
    if release == "confusion":
        raise ValueError('Expected release "accuracy" or "per_class" with several labels a record.')
    return release
