"""Query, key and value of one layer with LoRA on them, as one autograd function that emits per-row gradients.

y = x Wᵀ + b for the three frozen projections at once, plus s (x A_kᵀ) B_kᵀ on the targets, where k is the site that a
row belongs to. The backward pass gives, for every row of the batch by itself,

    ∂A = s (∂y B)ᵀ x        ∂B = s ∂yᵀ (x Aᵀ)

so that no second pass and no hook is needed (compare Li et al. 2022 on ghost clipping, whose Gram matrices of T² cost
more than these products of rank r).
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Factors:
    """The LoRA factors of one layer for K sites, and where their per-row gradients go.

    down [K, m r, d] (K = 1 where all sites share it) and up, for each of the m targets [K, d, r]; targets: which of
    query 0, key 1, value 2; scale: alpha / rank.
    """

    down: Tensor
    up: tuple[Tensor, ...]
    targets: tuple[int, ...]
    scale: float
    owner: Tensor | None = None  # int64 [N], the site of each row; None where K = 1
    wants_down: bool = True
    down_rows: Tensor | None = field(default=None, repr=False)  # [N, m r, d], after a backward pass
    up_rows: list[Tensor] = field(default_factory=list, repr=False)  # for each target [N, d, r]

    def of_rows(self, factor: Tensor) -> Tensor:
        """The factor that each row has: [N, ...], or [1, ...] where all have the same."""
        return factor if factor.shape[0] == 1 or self.owner is None else factor[self.owner]


def project(x: Tensor, weight: Tensor, bias: Tensor, factors: Factors) -> Tensor:
    """x [N, T, d] to query, key and value side by side [N, T, 3d], float32; per-row gradients into `factors`."""
    out: Tensor = _Projection.apply(x, weight, bias, factors, _anchor())
    return out


def _anchor() -> Tensor:
    """Without an input that wants a gradient there is no backward pass: below the first layer nothing does."""
    return torch.zeros((), requires_grad=torch.is_grad_enabled())


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A frozen linear layer in the precision of its weight; the result keeps that precision."""
    out: Tensor = _Frozen.apply(x, weight, bias)
    return out


class _Frozen(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.weight, ctx.dtype = weight, x.dtype  # type: ignore[attr-defined]
        return torch.nn.functional.linear(x.to(weight.dtype), weight, bias)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor | None, None, None]:
        weight: Tensor = ctx.weight  # type: ignore[attr-defined]
        return (grads[0].to(weight.dtype) @ weight).to(ctx.dtype), None, None  # type: ignore[attr-defined]


class _Projection(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        factors: Factors,
        anchor: Tensor,
    ) -> Tensor:
        y = torch.nn.functional.linear(x.to(weight.dtype), weight, bias).float()
        d, rank = x.shape[-1], factors.up[0].shape[-1]
        down = factors.of_rows(factors.down)
        low = x @ down[0].T if len(down) == 1 else torch.bmm(x, down.transpose(1, 2))
        low *= factors.scale  # [N, T, m r]
        for place, (target, factor) in enumerate(zip(factors.targets, factors.up, strict=True)):
            part, up = low[..., place * rank : (place + 1) * rank], factors.of_rows(factor)
            y[..., target * d : (target + 1) * d] += part @ up.transpose(1, 2)
        ctx.save_for_backward(x, low)
        ctx.weight, ctx.factors = weight, factors  # type: ignore[attr-defined]
        return y

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, *grads: Tensor
    ) -> tuple[Tensor | None, None, None, None, None]:
        g = grads[0]
        weight: Tensor = ctx.weight  # type: ignore[attr-defined]
        factors: Factors = ctx.factors  # type: ignore[attr-defined]
        x, low = ctx.saved_tensors  # type: ignore[attr-defined]
        d, rank = x.shape[-1], factors.up[0].shape[-1]
        needs_input = ctx.needs_input_grad[0]  # type: ignore[attr-defined]
        back = torch.empty_like(low) if needs_input or factors.wants_down else None
        factors.up_rows = []
        for place, (target, factor) in enumerate(zip(factors.targets, factors.up, strict=True)):
            of_target = g[..., target * d : (target + 1) * d]
            mine = slice(place * rank, (place + 1) * rank)
            factors.up_rows.append(torch.bmm(of_target.transpose(1, 2), low[..., mine]))
            if back is not None:
                torch.mul(of_target @ factors.of_rows(factor), factors.scale, out=back[..., mine])
        if factors.wants_down:
            assert back is not None
            factors.down_rows = torch.bmm(back.transpose(1, 2), x)
        if not needs_input:
            return None, None, None, None, None
        gx = (g.to(weight.dtype) @ weight).float()
        assert back is not None
        gx += back @ factors.of_rows(factors.down)
        return gx, None, None, None, None
