"""Single-label classification: the metrics of a public file, and those of noised counts."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from privet.common.tasks.counts import (
    Estimate,
    NoisedMetrics,
    exact_accuracy,
    noised_metrics,
    num_cells,
    predicted_standard_error,
    unit_cells,
)

__all__ = [
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

    def to_json(self) -> dict[str, object]:
        return asdict(self)


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
