"""Self-attention of one layer with LoRA on query, key and value, and its backward pass, which emits per-row gradients.

y = x Wᵀ + b for the three frozen projections at once, plus s (x A_kᵀ) B_kᵀ on the targets, where k is the site that a
row belongs to. The backward pass gives, for every row of the batch by itself,

    ∂A = s (∂y B)ᵀ x        ∂B = s ∂yᵀ (x Aᵀ)

so that no second pass and no hook is needed. (Ghost clipping, Li et al. 2022, would take Gram matrices of T² where
these are products of rank r.) The scores are written out: for texts of some ten tokens the library's kernels, made for
long ones, take longer.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from privet.client.fused.matrices import Matrix

_KEPT = 128  # tokens of a row up to which its attention is kept for the way back; beyond, it is computed again


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


@dataclass
class Attended:
    """What the way back needs: the input [N, T, d], s x Aᵀ [N, T, m r], query, key and value [3, N h, T, d / h]."""

    x: Tensor
    low: Tensor | None
    parts: Tensor
    chances: Tensor | None  # [N h, T, T]
    bias: Tensor  # [N h, T, T] or [N h, 1, T]
    num_heads: int


def attend(x: Tensor, qkv: Matrix, factors: Factors | None, bias: Tensor, num_heads: int) -> tuple[Tensor, Attended]:
    """Heads side by side, [N, T, d] float32, of x [N, T, d]; bias [N h, 1, T] is added to the scores."""
    n, length, d = x.shape
    size = d // num_heads
    by_head = qkv(x).view(n, length, 3, num_heads, size).permute(2, 0, 3, 1, 4)
    parts = torch.empty(3, n, num_heads, length, size, device=x.device).copy_(by_head)
    low = None if factors is None else _add_low_rank(parts, x, factors)
    parts = parts.view(3, n * num_heads, length, size)
    chances = _chances(parts, bias)
    seen = torch.bmm(chances, parts[2]).view(n, num_heads, length, size).transpose(1, 2).reshape(n, length, d)
    return seen, Attended(x, low, parts, chances if length <= _KEPT else None, bias, num_heads)


def attend_back(g: Tensor, kept: Attended, qkv: Matrix, factors: Factors | None, needs_input: bool) -> Tensor | None:
    """∂ loss / ∂x [N, T, d], where it is needed, of that of the heads [N, T, d]; leaves LoRA's gradients."""
    x, parts = kept.x, kept.parts
    n, length, d = x.shape
    heads, size = kept.num_heads, d // kept.num_heads
    by_head = g.view(n, length, heads, size).transpose(1, 2).reshape(n * heads, length, size)
    chances = kept.chances if kept.chances is not None else _chances(parts, kept.bias)
    of_parts = torch.empty_like(parts)
    torch.bmm(chances.transpose(1, 2), by_head, out=of_parts[2])
    scores = torch._softmax_backward_data(
        torch.bmm(by_head, parts[2].transpose(1, 2)), chances, -1, torch.float32
    ).mul_(1 / math.sqrt(size))
    torch.bmm(scores, parts[1], out=of_parts[0])
    torch.bmm(scores.transpose(1, 2), parts[0], out=of_parts[1])
    of_y = of_parts.view(3, n, heads, length, size).permute(1, 3, 0, 2, 4).reshape(n, length, 3 * d)
    back = None if factors is None else _emit(of_y, x, kept.low, factors, needs_input)
    if not needs_input:
        return None
    of_x = qkv.back(of_y).float()
    if factors is not None:
        assert back is not None
        of_x += _product(back, factors.down)
    return of_x


def _chances(parts: Tensor, bias: Tensor) -> Tensor:
    """softmax(q kᵀ / √size + bias), [N h, T, T]."""
    query, key = parts[0], parts[1]
    scores = torch.baddbmm(bias, query, key.transpose(1, 2), alpha=1 / math.sqrt(query.shape[-1]))
    return torch.softmax(scores, -1)


def _add_low_rank(parts: Tensor, x: Tensor, factors: Factors) -> Tensor:
    """parts [3, N, h, T, d / h] += s (x Aᵀ) Bᵀ on the targets; s x Aᵀ, [N, T, m r]."""
    _, n, heads, length, size = parts.shape
    rank = factors.up[0].shape[-1]
    low = x @ factors.down[0].T if len(factors.down) == 1 else torch.bmm(x, factors.down.transpose(1, 2))
    low *= factors.scale
    for place, (target, up) in enumerate(zip(factors.targets, factors.up, strict=True)):
        part = _product(low[..., place * rank : (place + 1) * rank], up.transpose(1, 2))
        parts[target] += part.view(n, length, heads, size).transpose(1, 2)
    return low


def _emit(g: Tensor, x: Tensor, low: Tensor | None, factors: Factors, needs_input: bool) -> Tensor | None:
    """Every row's ∂A and ∂Bᵀ to where they belong; s ∂y B, [N, T, m r], where it is needed."""
    assert low is not None
    d, rank = x.shape[-1], factors.up[0].shape[-1]
    back = torch.empty_like(low) if needs_input or factors.down_out is not None else None
    for place, (target, up) in enumerate(zip(factors.targets, factors.up, strict=True)):
        of_target, mine = g[..., target * d : (target + 1) * d], slice(place * rank, (place + 1) * rank)
        if factors.up_out:
            factors.up_out[place].copy_(torch.bmm(low[..., mine].transpose(1, 2), of_target))
        if back is not None:
            back[..., mine] = _product(of_target, up)
    if back is not None:
        back *= factors.scale
    if factors.down_out is not None:
        assert back is not None
        factors.down_out.copy_(torch.bmm(back.transpose(1, 2), x))
    return back


def _product(rows: Tensor, factor: Tensor) -> Tensor:
    """[N, T, b] by [N, b, a], or by [1, b, a] for all: [N, T, a]."""
    return rows @ factor[0] if len(factor) == 1 else torch.bmm(rows, factor)
