"""Frozen linear layers in bfloat16: the one part of a model that may leave float32.

The weight is stored once, in bfloat16; the input is cast to it and the output back, so that LoRA, norms, softmax, head,
loss and every gradient around it stay as they were. torch.autocast would reach LoRA's own linear layers too.
"""

from typing import Any

import torch
from torch import Tensor, nn

from privet.common.model import Classifier
from privet.common.precision import Precision

__all__ = ["FrozenLinear", "freeze"]


class FrozenLinear(nn.Module):
    """y = x Wᵀ + b with W [out, in] and b [out] in bfloat16; x and y float32. Only x has a gradient.

    Its tensors have other names than nn.Linear's: whoever means to merge LoRA into the weight fails, for the weight
    that the base's file holds is not here.
    """

    stored: Tensor
    stored_bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.register_buffer("stored", linear.weight.detach().to(torch.bfloat16).contiguous())
        bias = None if linear.bias is None else linear.bias.detach().to(torch.bfloat16)
        self.register_buffer("stored_bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = _Product.apply(x, self.stored, self.stored_bias)  # type: ignore[no-untyped-call]
        return out

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.stored_bias is not None}"


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return nn.functional.linear(x.to(weight.dtype), weight, bias).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, None]:
        (weight,) = ctx.saved_tensors
        if not ctx.needs_input_grad[0]:
            return None, None, None
        (gradient,) = gradients
        return (gradient.to(weight.dtype) @ weight).to(gradient.dtype), None, None


def freeze(classifier: Classifier, precision: Precision) -> int:
    """Put a FrozenLinear in the place of every linear layer of the base that no method trains; how many that were.

    Nothing happens in float32. What the adapter holds stays, as does what PEFT keeps beside it and never computes.
    """
    if precision == "float32":
        return 0
    trained = {id(classifier.parameter(name)) for name in classifier.spec.names}
    count = 0
    for name, parent in list(classifier.encoder.named_modules()):
        if "original_module" in name.split("."):
            continue
        for child, module in list(parent.named_children()):
            if child == "original_module" or type(module) is not nn.Linear:
                continue
            if any(id(parameter) in trained for parameter in module.parameters()):
                continue
            setattr(parent, child, FrozenLinear(module))
            count += 1
    return count
