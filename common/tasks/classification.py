"""Single-label classification: its loss, the metrics of a public file, and those of noised counts."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from privet.common.privacy.events import Release
from privet.common.tasks.counts import (
    Estimate,
    NoisedMetrics,
    exact_accuracy,
    noised_metrics,
    num_cells,
    predicted_standard_error,
    unit_cells,
)
from privet.common.tasks.labelled import Labelled
from privet.common.tasks.targets import UNKNOWN, Targets

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "Classification",
    "Estimate",
    "NoisedMetrics",
    "PublicMetrics",
    "exact_accuracy",
    "noised_metrics",
    "num_cells",
    "predicted_standard_error",
    "public_metrics",
    "unit_cells",
]


@dataclass(frozen=True)
class PublicMetrics:
    """Judged on text that anyone may see."""

    accuracy: float
    macro_f1: float
    loss: float
    num_records: int
    recall: dict[str, float]
    confusion: list[list[int]]  # rows: truth, columns: prediction

    @property
    def score(self) -> float:
        return self.accuracy

    def to_json(self) -> dict[str, object]:
        return asdict(self)


@dataclass(frozen=True)
class Classification(Labelled):
    """One label a record; a `Task`."""

    score_name = "accuracy"
    per_token = False

    def targets(self, cells: Sequence[str], known: Mapping[str, int], separator: str) -> Targets:
        return np.array([known.get(cell, UNKNOWN) for cell in cells], np.int64)

    def nobody(self, num_rows: int, length: int) -> Targets:
        return np.arange(num_rows) % self.num_outputs

    def per_example_loss(self, logits: "Tensor", targets: "Tensor", weights: "Tensor") -> "Tensor":
        from privet.common.tasks.loss import per_example_loss

        smoothing = self.spec.label_smoothing
        return per_example_loss(logits, targets, weights, class_weights=self.class_weights, smoothing=smoothing)

    def num_cells(self, release: Release) -> int:
        return num_cells(release, self.num_outputs)

    def most(self, release: Release) -> tuple[float, float]:
        return 1.0, 1.0

    def unit_cells(
        self, release: Release, logits: NDArray[np.float32], targets: Targets, units: NDArray[np.int64], num_units: int
    ) -> NDArray[np.float64]:
        return unit_cells(release, logits, targets, units, num_units)

    def predicted_standard_error(self, release: Release, noise_multiplier: float, units: int) -> float:
        return predicted_standard_error(release, self.num_outputs, noise_multiplier, units)

    def noised_metrics(self, release: Release, cells: NDArray[np.float64], variance: float) -> NoisedMetrics:
        return noised_metrics(release, cells, variance, self.spec.labels)

    def exact_score(self, release: Release, cells: NDArray[np.float64]) -> float:
        return exact_accuracy(release, cells, self.num_outputs)

    def public_metrics(self, logits: NDArray[np.float32], targets: Targets) -> PublicMetrics:
        return public_metrics(logits, np.asarray(targets, np.int64), self.spec.labels)


def public_metrics(logits: NDArray[np.float32], truth: NDArray[np.int64], labels: Sequence[str]) -> PublicMetrics:
    """Accuracy, macro F1, mean loss, recall by label and the confusion matrix of logits [N, L] on public text.

    A label's recall, and its F1, is 0 where there is nothing to divide by.
    """
    num_labels = len(labels)
    predicted = logits.argmax(1)
    shifted = logits - logits.max(1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    confusion = np.bincount(truth * num_labels + predicted, minlength=num_labels**2).reshape(num_labels, num_labels)
    hits, actual, said = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    recall = _ratio(hits, actual)
    return PublicMetrics(
        accuracy=float((predicted == truth).mean()),
        macro_f1=float(_ratio(2 * hits, actual + said).mean()),
        loss=float(-log_p[np.arange(len(truth)), truth].mean()),
        num_records=len(truth),
        recall=dict(zip(labels, map(float, recall), strict=True)),
        confusion=confusion.tolist(),
    )


def _ratio(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    """part / whole, 0 where both are 0."""
    return np.divide(part, whole, out=np.zeros(len(whole)), where=whole != 0)
