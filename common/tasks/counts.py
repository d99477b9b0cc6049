"""What sites release about predictions: cells that each validation unit adds to, and what noised sums of them tell.

Cells by release, L labels: `accuracy`: (right, wrong). `per_class`: L rows of (right, wrong) by true label.
`confusion`: L rows of L, true label by prediction. Flattened row by row.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from privet.common.privacy.events import Release
from privet.common.tasks.targets import UNKNOWN as UNKNOWN

__all__ = [
    "Estimate",
    "NoisedMetrics",
    "exact_accuracy",
    "noised_metrics",
    "num_cells",
    "predicted_standard_error",
    "unit_cells",
]

LEAST = 3.0  # standard deviations of its noise that a count must exceed before anything is divided by it
GRID = 2**24  # a unit's part is a multiple of 2^-24, rounded down: sums are exact in any order, up to 2^29 units


@dataclass(frozen=True)
class Estimate:
    """A share in [0, 1] from noised counts, and its standard errors to first order."""

    value: float
    noise_error: float  # by the privacy noise alone
    sampling_error: float  # at most this, had the validation units been drawn anew: binomial

    @property
    def error(self) -> float:
        """Of both together."""
        return math.hypot(self.noise_error, self.sampling_error)

    @property
    def noise_share(self) -> float:
        """The part of the variance that is privacy noise, in [0, 1]."""
        return self.noise_error**2 / self.error**2


@dataclass(frozen=True)
class NoisedMetrics:
    """What pooled noised counts tell. None stands for what the noise drowns."""

    release: Release
    accuracy: Estimate | None
    num_units: float  # validation units with a known label, estimated; may be negative
    num_units_error: float
    recall: dict[str, Estimate | None]  # by label; empty where only the accuracy is released
    confusion: list[list[float]] | None  # rows: truth, columns: prediction; at least 0, to be looked at only

    @property
    def score(self) -> Estimate | None:
        return self.accuracy

    def to_json(self) -> dict[str, object]:
        """Of JSON's types; the accuracy's value and errors stand at the top."""
        rest = asdict(self)
        rest["recall"] = {label: None if part is None else flat(part) for label, part in self.recall.items()}
        return rest | scored(self.accuracy, "accuracy")


def num_cells(release: Release, num_labels: int) -> int:
    """How many numbers one evaluation releases.

    >>> [num_cells(release, 4) for release in ("accuracy", "per_class", "confusion")]
    [2, 8, 16]
    """
    return {"accuracy": 2, "per_class": 2 * num_labels, "confusion": num_labels**2}[release]


def unit_cells(
    release: Release, logits: NDArray[np.float32], labels: NDArray[np.int64], units: NDArray[np.int64], num_units: int
) -> NDArray[np.float64]:
    """The un-noised sum over units, float64 [cells]: private. One unit adds a vector of norm at most 1.

    logits: [N, L]; labels: [N], or UNKNOWN; units: [N], dense. A unit adds the mean over its records of the one-hot
    cell, rounded down to 2^-24. A record with an unknown label, or a logit that is not finite, adds nothing and counts
    in the mean. Of equal logits the first label's wins: a record's cell is a function of its own row alone.
    """
    num_labels = logits.shape[1]
    known = (labels >= 0) & (labels < num_labels) & np.isfinite(logits).all(axis=1)
    predicted = np.where(np.isfinite(logits), logits, -np.inf).argmax(axis=1)
    if release == "accuracy":
        cell = (predicted != labels).astype(np.int64)
    elif release == "per_class":
        cell = 2 * labels + (predicted != labels)
    else:
        cell = labels * num_labels + predicted
    width = num_cells(release, num_labels)
    sizes = np.bincount(units, minlength=num_units)
    pairs, counts = np.unique(units[known] * width + cell[known], return_counts=True)
    parts = counts * GRID // sizes[pairs // width]  # integers
    total = np.zeros(width, np.int64)
    np.add.at(total, pairs % width, parts)
    return total / GRID


def exact_accuracy(release: Release, cells: NDArray[np.float64], num_labels: int) -> float:
    """The accuracy that un-noised cells tell; nan where no unit counts. For researchers on simulated sites."""
    right, wrong = _right_and_wrong(release, cells, num_labels)
    return right / (right + wrong) if right + wrong > 0 else math.nan


def predicted_standard_error(release: Release, num_labels: int, noise_multiplier: float, units: int) -> float:
    """The standard error that privacy noise will give the accuracy, at worst over the true accuracy.

    The accuracy p is a / (a + b), a summed over R cells and b over W, each cell with noise of deviation σ. To first
    order (the delta method) its error is σ √((1 − p)² R + p² W) / n with n = a + b units, at most σ √max(R, W) / n.
    R and W: 1 and 1 for `accuracy`, L and L for `per_class`, L and L (L − 1) for `confusion`. For evaluations pooled
    over sites: σ² is the sum over them, n too. Sampling comes on top: √(p (1 − p) / n).
    Raises: ValueError unless units >= 1 and noise_multiplier >= 0.

    >>> predicted_standard_error("accuracy", 5, noise_multiplier=10.0, units=1000)
    0.01
    """
    if units < 1 or not noise_multiplier >= 0:
        raise ValueError(f"Expected units >= 1 and noise_multiplier >= 0, got {units!r} and {noise_multiplier!r}.")
    return noise_multiplier * math.sqrt(max(_num_right_and_wrong(release, num_labels))) / units


def noised_metrics(
    release: Release, cells: NDArray[np.float64], variance: float, labels: Sequence[str]
) -> NoisedMetrics:
    """Metrics from noised cells [cells] alone: of one site, or summed over sites.

    variance: of the noise on each cell, summed over the sites.
    """
    num_labels = len(labels)
    right, wrong = _right_and_wrong(release, cells, num_labels)
    num_right, num_wrong = _num_right_and_wrong(release, num_labels)
    recall: dict[str, Estimate | None] = {}
    confusion = None
    if release != "accuracy":
        table = cells.reshape(num_labels, -1)
        hit = table[:, 0] if release == "per_class" else table.diagonal()
        for label, found, whole in zip(labels, hit.tolist(), table.sum(axis=1).tolist(), strict=True):
            recall[label] = _share(found, whole - found, (1, table.shape[1] - 1), variance)
        if release == "confusion":
            confusion = np.maximum(table, 0.0).tolist()
    return NoisedMetrics(
        release=release,
        accuracy=_share(right, wrong, (num_right, num_wrong), variance),
        num_units=right + wrong,
        num_units_error=math.sqrt((num_right + num_wrong) * variance),
        recall=recall,
        confusion=confusion,
    )


def _share(right: float, wrong: float, num_cells: tuple[int, int], variance: float) -> Estimate | None:
    """right / (right + wrong), held within [0, 1]; sums over `num_cells` cells each."""
    total = right + wrong
    if total < 1 / GRID or total <= LEAST * math.sqrt(sum(num_cells) * variance):  # less than a part of one unit
        return None
    share = min(1.0, max(0.0, right / total))
    noise = math.sqrt(((1 - share) ** 2 * num_cells[0] + share**2 * num_cells[1]) * variance) / total
    smooth = (total * share + 1) / (total + 2)  # Laplace: a share of 0 or 1 is no certainty
    return Estimate(share, noise, math.sqrt(smooth * (1 - smooth) / total))


def _right_and_wrong(release: Release, cells: NDArray[np.float64], num_labels: int) -> tuple[float, float]:
    table = cells.reshape(num_labels, num_labels) if release == "confusion" else cells.reshape(-1, 2)
    right = float(table.trace()) if release == "confusion" else float(table[:, 0].sum())
    return right, float(table.sum()) - right


def _num_right_and_wrong(release: Release, num_labels: int) -> tuple[int, int]:
    """Over how many cells the right and the wrong are summed."""
    right = 1 if release == "accuracy" else num_labels
    return right, num_cells(release, num_labels) - right


def scored(score: Estimate | None, key: str) -> dict[str, object]:
    """The score under `key` and its errors, as they stand at the top of a row; None where the noise drowns it."""
    if score is None:
        return dict.fromkeys((key, "error", "noise_error", "sampling_error", "noise_share"))
    errors = flat(score) | {key: score.value, "noise_share": score.noise_share}
    del errors["value"]
    return errors


def flat(estimate: Estimate) -> dict[str, object]:
    return {**asdict(estimate), "error": estimate.error}
