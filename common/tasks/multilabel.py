"""Several labels a record: each is said or not, by its own threshold. Loss, metrics of a public file, task."""

import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from privet.common.privacy.events import Release
from privet.common.tasks import label_counts
from privet.common.tasks.labelled import Labelled
from privet.common.tasks.targets import UNKNOWN, Targets

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Multilabel", "PublicLabelMetrics", "codes", "public_metrics"]


@dataclass(frozen=True)
class PublicLabelMetrics:
    """Judged on text that anyone may see. A ratio is 0 where there is nothing to divide by."""

    micro_f1: float
    macro_f1: float
    subset_accuracy: float  # share of records with every label right
    loss: float
    num_records: int
    recall: dict[str, float]
    precision: dict[str, float]
    f1: dict[str, float]
    counts: list[list[int]]  # of each label: rightly said, wrongly said, missed, rightly left out

    @property
    def score(self) -> float:
        return self.micro_f1

    def to_json(self) -> dict[str, object]:
        return asdict(self) | {"score": self.score, "score_name": label_counts.SCORE_NAME}


@dataclass(frozen=True)
class Multilabel(Labelled):
    """Any number of labels a record; a `Task`."""

    score_name = label_counts.SCORE_NAME
    per_token = False

    def targets(self, cells: Sequence[str], known: Mapping[str, int], separator: str) -> Targets:
        found = np.zeros((len(cells), self.num_outputs), np.int8)
        for row, cell in enumerate(cells):
            indices = [known.get(code, UNKNOWN) for code in codes(cell, separator)]
            if UNKNOWN in indices:
                found[row] = UNKNOWN
            elif indices:
                found[row, indices] = 1
        return found

    def nobody(self, num_rows: int, length: int) -> Targets:
        places = np.arange(num_rows)[:, None] + np.arange(self.num_outputs)
        return np.asarray(places % 2 == 0, np.float32)

    def per_example_loss(self, logits: "Tensor", targets: "Tensor", weights: "Tensor") -> "Tensor":
        from privet.common.tasks.loss import multilabel_loss

        smoothing = self.spec.label_smoothing
        return multilabel_loss(logits, targets, weights, class_weights=self.class_weights, smoothing=smoothing)

    @cached_property
    def thresholds(self) -> NDArray[np.float64]:
        """The probability from which each label is said, [L]."""
        given = self.spec.thresholds
        each = given if isinstance(given, dict) else dict.fromkeys(self.spec.labels, given)
        return np.array([each.get(label, 0.5) for label in self.spec.labels])

    def said(self, logits: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Which labels logits [N, L] say, [N, L]; none where a logit is nan."""
        least = np.array([math.log(threshold / (1 - threshold)) for threshold in self.thresholds.tolist()])
        return np.asarray(logits.astype(np.float64) >= least, np.bool_)

    def num_cells(self, release: Release) -> int:
        return label_counts.num_cells(release, self.num_outputs)

    def most(self, release: Release) -> tuple[float, float]:
        part = label_counts.share(self.num_outputs)
        return (1.0, 1.0) if release == "accuracy" else (part * self.num_outputs, part)

    def unit_cells(
        self, release: Release, logits: NDArray[np.float32], targets: Targets, units: NDArray[np.int64], num_units: int
    ) -> NDArray[np.float64]:
        return label_counts.unit_cells(release, logits, self.said(logits), targets, units, num_units)

    def predicted_standard_error(self, release: Release, noise_multiplier: float, units: int) -> float:
        return label_counts.predicted_standard_error(release, self.num_outputs, noise_multiplier, units)

    def noised_metrics(
        self, release: Release, cells: NDArray[np.float64], variance: float
    ) -> label_counts.NoisedLabelMetrics:
        return label_counts.noised_metrics(release, cells, variance, self.spec.labels)

    def exact_score(self, release: Release, cells: NDArray[np.float64]) -> float:
        return label_counts.exact_micro_f1(release, cells, self.num_outputs)

    def public_metrics(self, logits: NDArray[np.float32], targets: Targets) -> PublicLabelMetrics:
        return public_metrics(logits, self.said(logits), targets == 1, self.spec.labels)


def codes(cell: str, separator: str) -> list[str]:
    """The labels in one cell, NFC and trimmed, each once; an empty cell has none.

    >>> codes("I10; E11;;I10 ", ";")
    ['I10', 'E11']
    """
    parts = (unicodedata.normalize("NFC", part).strip() for part in cell.split(separator))
    return list(dict.fromkeys(part for part in parts if part))


def public_metrics(
    logits: NDArray[np.float32], said: NDArray[np.bool_], stands: NDArray[np.bool_], labels: Sequence[str]
) -> PublicLabelMetrics:
    """F1 over all decisions and its mean over labels, exact matches, mean loss, and each label's rates, of logits
    [N, L] on public text; said and stands: which labels are said, and which stand, [N, L]."""
    counts = np.stack([kind.sum(axis=0) for kind in label_counts.kinds(said, stands)])
    right, wrong, missed, _ = counts
    f1 = _ratio(2 * right, 2 * right + wrong + missed)
    whole = 2 * int(right.sum()) + int(wrong.sum()) + int(missed.sum())
    signed = np.where(stands, -1.0, 1.0) * logits.astype(np.float64)  # log(1 + e^z), without overflow
    loss = np.maximum(signed, 0) + np.log1p(np.exp(-np.abs(signed)))

    def named(values: NDArray[np.float64]) -> dict[str, float]:
        return dict(zip(labels, map(float, values), strict=True))

    return PublicLabelMetrics(
        micro_f1=2 * int(right.sum()) / whole if whole else 0.0,
        macro_f1=float(f1.mean()),
        subset_accuracy=float((said == stands).all(axis=1).mean()),
        loss=float(loss.mean()),
        num_records=len(logits),
        recall=named(_ratio(right, right + missed)),
        precision=named(_ratio(right, right + wrong)),
        f1=named(f1),
        counts=counts.T.tolist(),
    )


def _ratio(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    """part / whole, 0 where both are 0."""
    return np.divide(part, whole, out=np.zeros(len(whole)), where=whole != 0)
