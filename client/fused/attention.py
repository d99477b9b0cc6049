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
from privet.common.passes import Segment

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

    def of(self, rows: slice) -> "Factors":
        """Those of some rows."""
        down, *up = (part if len(part) == 1 else part[rows] for part in (self.down, *self.up))
        down_out = None if self.down_out is None else self.down_out[rows]
        return Factors(down, up, self.targets, self.scale, down_out, [part[rows] for part in self.up_out])


@dataclass
class Attended:
    """What the way back needs of the n rows of a segment."""

    low: Tensor | None  # s x Aᵀ, [n, T, m r]
    parts: Tensor  # query, key and value, [3, n h, T, d / h]
    chances: Tensor | None  # [n h, T, T]


def attend(
    x: Tensor,
    qkv: Matrix,
    factors: Factors | None,
    segments: Sequence[Segment],
    biases: Sequence[Tensor],
    num_heads: int,
) -> tuple[Tensor, list[Attended]]:
    """Heads side by side, [M, d] in the precision of frozen products, of x [M, d]; zero at tokens of nobody.

    biases: of each segment, [n h, 1, T]; added to its scores.
    """
    d = x.shape[1]
    y, kept = qkv(x), []
    seen = torch.empty(x.shape, dtype=y.dtype, device=x.device)
    for segment, bias in zip(segments, biases, strict=True):
        shape = (segment.num_rows, segment.length, num_heads, d // num_heads)
        by_head = y[segment.tokens].view(shape[0], shape[1], 3, *shape[2:]).permute(2, 0, 3, 1, 4)
        parts = torch.empty(by_head.shape, device=x.device).copy_(by_head)
        low = None
        if factors is not None:
            low = _add_low_rank(parts, _rows(x, segment), factors.of(segment.rows))
        parts = parts.view(3, shape[0] * num_heads, *shape[1::2])
        chances = _chances(parts, bias)
        of_rows = torch.bmm(chances, parts[2]).view(shape[0], num_heads, *shape[1::2])
        seen[segment.tokens].view(shape).copy_(of_rows.transpose(1, 2))
        kept.append(Attended(low, parts, chances if segment.length <= _KEPT else None))
    seen[_used(segments) :] = 0.0
    return seen, kept


def attend_back(
    g: Tensor,
    x: Tensor,
    kept: Sequence[Attended],
    qkv: Matrix,
    factors: Factors | None,
    segments: Sequence[Segment],
    biases: Sequence[Tensor],
    num_heads: int,
    *,
    needs_input: bool,
) -> Tensor | None:
    """∂ loss / ∂x [M, d], where it is needed, of that of the heads [M, d]; leaves LoRA's gradients."""
    d = x.shape[1]
    of_y = torch.empty(len(x), 3 * d, device=x.device)
    of_y[_used(segments) :] = 0.0
    backs: list[Tensor | None] = []
    for segment, bias, one in zip(segments, biases, kept, strict=True):
        shape = (segment.num_rows, segment.length, num_heads, d // num_heads)
        by_head = torch.empty(shape[0], num_heads, *shape[1::2], device=x.device)
        by_head.copy_(g[segment.tokens].view(shape).transpose(1, 2))
        of_parts = _parts_back(by_head.view(-1, *shape[1::2]), one, bias).view(3, shape[0], num_heads, *shape[1::2])
        of_rows = of_y[segment.tokens]
        of_rows.view(shape[0], shape[1], 3, *shape[2:]).copy_(of_parts.permute(1, 3, 0, 2, 4))
        if factors is not None:
            of_rows = of_rows.view(*shape[:2], 3 * d)
            backs.append(_emit(of_rows, _rows(x, segment), one.low, factors.of(segment.rows), needs_input))
    if not needs_input:
        return None
    of_x = qkv.back(of_y).float()
    if factors is not None:
        for segment, back in zip(segments, backs, strict=True):
            assert back is not None
            _rows(of_x, segment).add_(_product(back, factors.of(segment.rows).down))
    return of_x


def _rows(x: Tensor, segment: Segment) -> Tensor:
    """The segment's part of x [M, d] as [n, T, d]; a view."""
    return x[segment.tokens].view(segment.num_rows, segment.length, -1)


def _used(segments: Sequence[Segment]) -> int:
    """Tokens from there on are nobody's."""
    return int(segments[-1].tokens.stop)


def _parts_back(g: Tensor, kept: Attended, bias: Tensor) -> Tensor:
    """∂ loss / ∂ query, key and value of that of the heads [n h, T, d / h]."""
    query, key, value = kept.parts
    chances = kept.chances if kept.chances is not None else _chances(kept.parts, bias)
    found = torch.empty_like(kept.parts)
    torch.bmm(chances.transpose(1, 2), g, out=found[2])
    of_chances = torch.bmm(g, value.transpose(1, 2))
    scores = torch._softmax_backward_data(of_chances, chances, -1, torch.float32).mul_(1 / math.sqrt(g.shape[-1]))
    torch.bmm(scores, key, out=found[0])
    torch.bmm(scores.transpose(1, 2), query, out=found[1])
    return found


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
