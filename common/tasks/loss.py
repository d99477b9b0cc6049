"""What classification trains on: a loss for each example, never one for the batch."""

import torch
from torch import Tensor


def per_example_loss(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Cross-entropy of each row [N], times its weight (0 for a dummy row). Never averaged over the batch: a mean
    would let one record's presence rescale the others' gradients."""
    losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    return torch.where(weights > 0, losses, torch.zeros_like(losses))
