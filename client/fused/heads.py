"""The linear head on the encoder: of a row's features, or of every token of a row; and where its loss points to.

Each row's logits, loss and gradients are computed by themselves, one product a row: its place or its mates would show
in one product of few columns for all.
"""

import torch
from torch import Tensor

from privet.client.flat_engine import Loss
from privet.client.fused.factors import Met
from privet.common.passes import Pass, Segment

Outputs = tuple[Tensor | None, Tensor | None]  # for ∂ weight [R, L, d] and ∂ bias [R, L]; None where it is not trained


def of_logits(loss: Loss, logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """∂ loss / ∂ logits of every row, of the logits' shape."""
    with torch.enable_grad():
        logits = logits.detach().requires_grad_(True)
        (delta,) = torch.autograd.grad(loss(logits, targets, weights).sum(), logits)
    return delta


def tokens_back(hidden: Tensor, given: Pass, met: Met, loss: Loss, outputs: Outputs) -> Tensor:
    """∂ loss / ∂ hidden states [M, d] of a head that reads every token; leaves every row's

        ∂W = Σ_t δ_t ⊗ h_t        ∂b = Σ_t δ_t

    in `outputs`. Zero at tokens of nobody.
    """
    assert given.tags is not None
    tags, weights = given.tags.to(hidden.device), given.weights.to(hidden.device)
    found = torch.zeros_like(hidden)
    for segment in given.segments:
        rows, x = segment.rows, rows_of(hidden, segment)
        targets = tags[segment.tokens].view(segment.num_rows, segment.length)
        delta = of_logits(loss, met.logits_of_tokens(rows, x), targets, weights[rows])
        of_weight, of_bias = outputs
        if of_weight is not None:
            of_weight[rows].copy_(torch.bmm(delta.transpose(1, 2), x))
        if of_bias is not None:
            of_bias[rows].copy_(delta.sum(1))
        rows_of(found, segment).copy_(met.tokens_through_head(rows, delta))
    return found


def rows_of(x: Tensor, segment: Segment) -> Tensor:
    """The segment's part of x [M, d] as [n, T, d]; a view."""
    return x[segment.tokens].view(segment.num_rows, segment.length, -1)
