"""Single-label classification: per-example loss, the metrics of a public file, and those of noised counts."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

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
    "per_example_loss",
    "predicted_standard_error",
    "public_metrics",
    "unit_cells",
]


def per_example_loss(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Cross-entropy of each row [N], times its weight (0 for a dummy row). Never averaged over the batch: a mean
    would let one record's presence rescale the others' gradients."""
    losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    return torch.where(weights > 0, losses, torch.zeros_like(losses))


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
    """Accuracy, macro F1, mean loss, recall by label and the confusion matrix of logits [N, L] on public text."""
    from sklearn.metrics import confusion_matrix, f1_score, recall_score

    predicted = logits.argmax(1)
    classes = range(len(labels))
    shifted = logits - logits.max(1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    recall = recall_score(truth, predicted, labels=list(classes), average=None, zero_division=0.0)
    return PublicMetrics(
        accuracy=float((predicted == truth).mean()),
        macro_f1=float(f1_score(truth, predicted, labels=list(classes), average="macro", zero_division=0.0)),
        loss=float(-log_p[np.arange(len(truth)), truth].mean()),
        num_records=len(truth),
        recall=dict(zip(labels, map(float, recall), strict=True)),
        confusion=confusion_matrix(truth, predicted, labels=list(classes)).tolist(),
    )
