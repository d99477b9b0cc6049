"""What the trainer needs of a model: its flat weights and the units' gradients. Needs no gradient library."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from privet.client.unit_gradients import Members, UnitGradients
from privet.common.adapter import AdapterSpec, Floats
from privet.common.examples import Examples

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]  # logits, labels, weights -> one loss a row


class GradientEngine(Protocol):
    """The trainable weights of K sites (one, where nothing else is said), and the units' gradients."""

    spec: AdapterSpec
    max_windows: int  # whose gradients are held at once: a group has no more, unless it is one unit

    @property
    def num_sites(self) -> int:
        """K."""

    def parameters(self) -> Sequence[nn.Parameter]: ...
    def unit_gradients(self, data: Examples, members: Members) -> UnitGradients: ...
    def assign(self, gradients: Tensor) -> None:
        """Set the parameters' gradients from float32 [K, P]."""

    def read(self) -> Floats:
        """The trainable weights, [P] where there is one site, else [K, P] (a copy)."""

    def write(self, flat: Floats) -> None:
        """Set them, in the form in which `read` gave them."""


class FlatEngine:
    """The flat weights [P] of a model's trainable parameters, in the spec's layout."""

    num_sites = 1

    def __init__(self, parameters: Mapping[str, nn.Parameter], spec: AdapterSpec, loss: Loss) -> None:
        self.spec, self._loss = spec, loss
        self._parameters = [parameters[name] for name in spec.names]

    def parameters(self) -> Sequence[nn.Parameter]:
        return self._parameters

    def assign(self, gradients: Tensor) -> None:
        parts = gradients.reshape(-1).split([p.numel() for p in self._parameters])
        for parameter, part in zip(self._parameters, parts, strict=True):
            parameter.grad = part.reshape(parameter.shape).clone()

    def read(self) -> Floats:
        """The trainable weights as one vector [P] (a copy)."""
        flat = torch.cat([parameter.detach().reshape(-1) for parameter in self._parameters])
        return flat.cpu().numpy().astype("float32", copy=True)

    def write(self, flat: Floats) -> None:
        """Set the trainable weights from one vector [P]."""
        with torch.no_grad():
            for parameter, part in zip(
                self._parameters, torch.from_numpy(flat).split([p.numel() for p in self._parameters]), strict=True
            ):
                parameter.copy_(part.reshape(parameter.shape))
