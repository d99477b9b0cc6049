"""What the tagging of words trains on: a loss for each text, never one for the batch.

The library's own loss is a mean over all words of the batch: a text's gradient would shrink with the words of the
others. Here a text's loss is the mean over its own words.
"""

import torch
from torch import Tensor
from torch.nn import functional

from privet.common.tasks.targets import NO_TAG


def token_loss(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """The mean cross-entropy over the tagged pieces of each row [N], times its weight; 0 where it has none.

    logits: [N, T, K]; targets: int64 [N, T], NO_TAG where no loss is counted; weights: [N], 0 for a dummy row.
    """
    losses = functional.cross_entropy(logits.transpose(1, 2), targets, ignore_index=NO_TAG, reduction="none")
    counted = (targets != NO_TAG).sum(dim=1)
    return torch.where((weights > 0) & (counted > 0), losses.sum(dim=1) / counted.clamp(min=1) * weights, 0.0)
