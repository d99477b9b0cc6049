"""A frozen linear layer, laid out for the products that a pass takes with it: forward, and back to its input."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

_TOKENS = 512  # of a product: a hint for the layout, not a bound


class Matrix:
    """y = x Wᵀ + b in the precision of W [out, in], and ∂x = ∂y W.

    In bfloat16 on a processor both layouts of W are made once by the library that computes the products (oneDNN), which
    would else rearrange W in every one of them: with few tokens that takes longer than the product. The numbers are the
    same.
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.shape, self._dtype, self._bias = tuple(weight.shape), weight.dtype, bias
        self._packed: tuple[Any, Any] | None = None
        self._weight: Tensor | None = weight
        if weight.dtype is torch.bfloat16 and weight.device.type == "cpu" and torch.backends.mkldnn.is_available():
            self._packed = _pack(weight), _pack(weight.T.contiguous())
            self._weight = None

    def __call__(self, x: Tensor) -> Tensor:
        """[..., in] to [..., out], in the precision of W."""
        x = x.to(self._dtype)
        if self._weight is not None:
            return functional.linear(x, self._weight, self._bias)
        assert self._packed is not None
        return _product(x, self._packed[0], self._bias)

    def back(self, g: Tensor) -> Tensor:
        """[..., out] to [..., in], in the precision of W."""
        g = g.to(self._dtype)
        if self._weight is not None:
            return g @ self._weight
        assert self._packed is not None
        return _product(g, self._packed[1], None)


def _pack(weight: Tensor) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight.default(weight, _TOKENS)
    return packed


def _product(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise.default(x, packed, bias, "none", [], "")
    return out
