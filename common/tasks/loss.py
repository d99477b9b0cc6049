"""What a task trains on: a loss for each example, never one for the batch.

Nothing is averaged over the batch, and no weight is divided by what others weigh: a mean would let one record's
presence rescale the others' gradients.
"""

import torch
from torch import Tensor
from torch.nn import functional


def per_example_loss(
    logits: Tensor,
    labels: Tensor,
    weights: Tensor,
    *,
    class_weights: Tensor | None = None,
    smoothing: float = 0.0,
) -> Tensor:
    """Cross-entropy of each row [N] with labels [N], times its weight: 0 for a dummy row.

    class_weights: [L], by which the loss of a row with that label is multiplied. smoothing: the share of the target
    that is spread evenly over all labels (Szegedy et al. 2016).
    """
    losses = functional.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
    if class_weights is not None:
        losses = losses * class_weights.to(logits)[labels]
    return torch.where(weights > 0, losses, torch.zeros_like(losses))


def multilabel_loss(
    logits: Tensor,
    targets: Tensor,
    weights: Tensor,
    *,
    class_weights: Tensor | None = None,
    smoothing: float = 0.0,
) -> Tensor:
    """Binary cross-entropy of each row [N], the mean over its labels, times its weight: 0 for a dummy row.

    targets: [N, L] of 0 and 1. class_weights: [L], by which the part of a label that stands is multiplied. smoothing:
    targets become 1 - smoothing / 2 and smoothing / 2.
    """
    wanted = targets.to(logits)
    if smoothing:
        wanted = wanted * (1 - smoothing) + smoothing / 2
    heavier = None if class_weights is None else class_weights.to(logits)
    each = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none", pos_weight=heavier)
    losses = each.mean(dim=1)
    return torch.where(weights > 0, losses, torch.zeros_like(losses))
