"""Self-attention of one layer with LoRA on query, key and value, as one autograd function that emits per-row gradients.

y = x Wᵀ + b for the three frozen projections at once, plus s (x A_kᵀ) B_kᵀ on the targets, where k is the site that a
row belongs to. The backward pass gives, for every row of the batch by itself,

    ∂A = s (∂y B)ᵀ x        ∂B = s ∂yᵀ (x Aᵀ)

so that no second pass and no hook is needed. (Ghost clipping, Li et al. 2022, would take Gram matrices of T² where
these are products of rank r.)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

_Context = Any  # torch.autograd.function.FunctionCtx, to which anything may be attached


@dataclass
class Factors:
    """The LoRA factors of one layer as the rows of a batch meet them, and where their gradients go.

    down [N, m r, d] and, for each of the m targets, up [N, d, r]; N is 1 where all rows have the same.
    targets: which of query 0, key 1, value 2. scale: alpha / rank.
    down_out [N, m r, d] for ∂A and up_out [N, r, d], for each target, for ∂Bᵀ: filled by the backward pass.
    """

    down: Tensor
    up: Sequence[Tensor]
    targets: tuple[int, ...]
    scale: float
    down_out: Tensor | None = None  # None where A is frozen
    up_out: Sequence[Tensor] = ()  # empty where B is


def attend(x: Tensor, weight: Tensor, bias: Tensor, factors: Factors | None, mask: Tensor, num_heads: int) -> Tensor:
    """Heads side by side, [N, T, d] float32, of x [N, T, d]; mask [N, 1, T, T] is added to the scores."""
    anchor = torch.zeros((), requires_grad=torch.is_grad_enabled())  # below the first layer no input wants a gradient
    out: Tensor = _Attention.apply(x, anchor, weight, bias, factors, mask, num_heads)  # type: ignore[no-untyped-call]
    return out


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A frozen linear layer in the precision of its weight; the result keeps that precision."""
    out: Tensor = _Frozen.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return out


class _Frozen(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Context, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.weight, ctx.dtype = weight, x.dtype
        return functional.linear(x.to(weight.dtype), weight, bias)

    @staticmethod
    def backward(ctx: _Context, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return (grads[0].to(ctx.weight.dtype) @ ctx.weight).to(ctx.dtype), None, None


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: _Context,
        x: Tensor,
        anchor: Tensor,
        weight: Tensor,
        bias: Tensor,
        factors: Factors | None,
        mask: Tensor,
        num_heads: int,
    ) -> Tensor:
        n, length, d = x.shape
        y = functional.linear(x.to(weight.dtype), weight, bias).float()
        low = None if factors is None else _add_low_rank(y, x, factors)
        parts = y.view(n, length, 3, num_heads, d // num_heads).permute(2, 0, 3, 1, 4).unbind(0)
        q, k, v = (part.detach().requires_grad_(True) for part in parts)
        with torch.enable_grad():
            seen = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        ctx.x, ctx.low, ctx.parts, ctx.seen, ctx.weight, ctx.factors = x, low, (q, k, v), seen, weight, factors
        return seen.detach().transpose(1, 2).reshape(n, length, d)

    @staticmethod
    def backward(ctx: _Context, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, factors = ctx.x, ctx.weight, ctx.factors
        n, length, d = x.shape
        heads = ctx.parts[0].shape[1]
        by_head = grads[0].view(n, length, heads, d // heads).transpose(1, 2)
        of_parts = torch.autograd.grad(ctx.seen, ctx.parts, by_head)
        g = torch.empty(n, length, 3 * d, device=x.device)
        split = g.view(n, length, 3, heads, d // heads)
        for place, of_part in enumerate(of_parts):
            split[:, :, place].copy_(of_part.transpose(1, 2))
        needs_input = ctx.needs_input_grad[0]
        back = None if factors is None else _emit(g, x, ctx.low, factors, needs_input)
        ctx.x = ctx.low = ctx.parts = ctx.seen = None
        if not needs_input:
            return (None,) * 7
        gx = (g.to(weight.dtype) @ weight).float()
        if factors is not None:
            assert back is not None
            _add_product(gx, back, factors.down)
        return gx, *(None,) * 6


def _add_low_rank(y: Tensor, x: Tensor, factors: Factors) -> Tensor:
    """y [N, T, 3d] += s (x Aᵀ) Bᵀ on the targets; s x Aᵀ, [N, T, m r]."""
    d, rank = x.shape[-1], factors.up[0].shape[-1]
    low = x @ factors.down[0].T if len(factors.down) == 1 else torch.bmm(x, factors.down.transpose(1, 2))
    low *= factors.scale
    for place, (target, up) in enumerate(zip(factors.targets, factors.up, strict=True)):
        part = low[..., place * rank : (place + 1) * rank]
        _add_product(y[..., target * d : (target + 1) * d], part, up.transpose(1, 2))
    return low


def _emit(g: Tensor, x: Tensor, low: Tensor, factors: Factors, needs_input: bool) -> Tensor | None:
    """Every row's ∂A and ∂Bᵀ to where they belong; s ∂y B, [N, T, m r], where it is needed."""
    d, rank = x.shape[-1], factors.up[0].shape[-1]
    back = torch.empty_like(low) if needs_input or factors.down_out is not None else None
    for place, (target, up) in enumerate(zip(factors.targets, factors.up, strict=True)):
        of_target, mine = g[..., target * d : (target + 1) * d], slice(place * rank, (place + 1) * rank)
        if factors.up_out:
            factors.up_out[place].copy_(torch.bmm(low[..., mine].transpose(1, 2), of_target))
        if back is not None:
            back[..., mine] = of_target @ up[0] if len(up) == 1 else torch.bmm(of_target, up)
    if back is not None:
        back *= factors.scale
    if factors.down_out is not None:
        assert back is not None
        factors.down_out.copy_(torch.bmm(back.transpose(1, 2), x))
    return back


def _add_product(total: Tensor, rows: Tensor, factor: Tensor) -> None:
    """total [N, T, a] += rows [N, T, b] factor, [N, b, a] or [1, b, a]. (Adding in place of a part of each row would be
    done row by row.)"""
    total += rows @ factor[0] if len(factor) == 1 else torch.bmm(rows, factor)
