"""Per-record gradients: Opacus' GradSampleModule for a whole model, the closed form for a linear layer alone.

Both are compared with brute force, on rows that belong to nobody, before they see a record.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from opacus.grad_sample import GradSampleModule
from torch import Tensor, nn

from privet.common.adapter import AdapterSpec, Floats
from privet.common.errors import PrivetError
from privet.common.examples import Batch

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]  # logits, labels, weights -> one loss a row


class GradientEngine(Protocol):
    """What the trainer needs of a model: its flat weights, and one gradient a record."""

    spec: AdapterSpec

    def parameters(self) -> Sequence[nn.Parameter]: ...
    def per_record(self, batch: Batch) -> Tensor:
        """[rows, P], float32 or float64."""
        ...

    def read(self) -> Floats: ...
    def write(self, flat: Floats) -> None: ...


class _Engine:
    """The flat weights [P] of the trainable parameters, in the spec's layout."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], spec: AdapterSpec, loss: Loss) -> None:
        self.spec, self._loss = spec, loss
        self._parameters = [parameters[name] for name in spec.names]

    def parameters(self) -> Sequence[nn.Parameter]:
        return self._parameters

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


class OpacusEngine(_Engine):
    """`module` with hooks on the layers that hold the trainable parameters; all else in it is frozen here."""

    def __init__(
        self, module: nn.Module, parameters: Mapping[str, nn.Parameter], spec: AdapterSpec, loss: Loss
    ) -> None:
        super().__init__(parameters, spec, loss)
        for parameter in module.parameters():
            parameter.requires_grad_(False)
        for parameter in self._parameters:
            parameter.requires_grad_(True)
        module.train()  # Opacus records activations in training mode only; dropout is off in every model here
        self._module = GradSampleModule(module, batch_first=True, loss_reduction="sum", strict=False)

    def per_record(self, batch: Batch) -> Tensor:
        """Gradients of each row's loss, float32 [rows, P]; dummy rows are zero."""
        self._clear()
        try:
            with torch.enable_grad(), _first_layer_needs_no_input_gradient():
                losses = self._loss(self._module(*batch.inputs), batch.labels, batch.weights)
                losses.sum().backward()
            rows = len(batch.labels)
            return torch.cat([self._sampled(parameter).reshape(rows, -1) for parameter in self._parameters], dim=1)
        finally:
            self._clear()

    def alone(self, batch: Batch, row: int) -> Tensor:
        """One row's gradient [P] by a plain backward, without hooks: the oracle."""
        self._module.zero_grad()
        self._module.disable_hooks()
        try:
            with torch.enable_grad(), _first_layer_needs_no_input_gradient():
                logits = self._module(*(tensor[row : row + 1] for tensor in batch.inputs))
                self._loss(logits, batch.labels[row : row + 1], batch.weights[row : row + 1]).sum().backward()
            parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in self._parameters]
            return torch.cat([part.reshape(-1) for part in parts])
        finally:
            self._module.enable_hooks()
            self._clear()

    def _sampled(self, parameter: nn.Parameter) -> Tensor:
        sample = getattr(parameter, "grad_sample", None)
        if not isinstance(sample, Tensor):  # missing, or a list after several backward passes
            raise PrivetError("a trainable parameter has no per-record gradient.", mend="report this model to privet.")
        return sample.detach()

    def _clear(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None
            parameter.grad_sample = None  # type: ignore[attr-defined]


class LinearEngine(_Engine):
    """A linear layer on frozen features: the gradient of record i is δ_i ⊗ [x_i, 1], with δ_i = ∂ loss_i / ∂ logits_i.

    Logits are computed in float64. What a row's place in the product changes there is below 1e-8 of a gradient for all
    weights that are let in, far inside the clip's margin of 1e-3: rows need no fixed places.
    """

    def __init__(
        self, layer: nn.Linear, parameters: Mapping[str, nn.Parameter], spec: AdapterSpec, loss: Loss
    ) -> None:
        super().__init__(parameters, spec, loss)
        self._layer = layer

    def per_record(self, batch: Batch) -> Tensor:
        """Gradients of each row's loss, float64 [rows, P]; dummy rows are zero."""
        inputs = batch.inputs[0].double()
        delta = self._delta(inputs, batch.labels, batch.weights)
        rows = torch.empty(len(inputs), self.spec.size, dtype=torch.float64)
        start = 0
        for entry, parameter in zip(self.spec.entries, self._parameters, strict=True):
            part = rows[:, start : start + entry.size]
            if parameter is self._layer.weight:
                shaped = part.unflatten(1, (delta.shape[1], inputs.shape[1]))
                torch.mul(delta.unsqueeze(2), inputs.unsqueeze(1), out=shaped)
            else:
                part.copy_(delta)
            start += entry.size
        return rows

    def alone(self, batch: Batch, row: int) -> Tensor:
        """One row's gradient [P] by a plain backward: the oracle."""
        with torch.enable_grad():
            weight = self._layer.weight.detach().requires_grad_(True)
            bias = self._layer.bias.detach().requires_grad_(True)
            logits = nn.functional.linear(batch.inputs[0][row : row + 1], weight, bias)
            loss = self._loss(logits, batch.labels[row : row + 1], batch.weights[row : row + 1]).sum()
            by_weight, by_bias = torch.autograd.grad(loss, (weight, bias))
        parts = [by_weight if parameter is self._layer.weight else by_bias for parameter in self._parameters]
        return torch.cat([part.reshape(-1) for part in parts])

    def _delta(self, inputs: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        with torch.enable_grad():
            layer = self._layer
            logits = inputs @ layer.weight.detach().double().T + layer.bias.detach().double()
            logits.requires_grad_(True)
            (delta,) = torch.autograd.grad(self._loss(logits, labels, weights).sum(), logits)
        return delta


def self_test(engine: OpacusEngine | LinearEngine, batch: Batch, tolerance: float = 1e-4) -> None:
    """Compare per-record gradients with one backward a row.

    Known to go wrong in other versions of the libraries underneath, and silently (Opacus issue 820).
    Raises: PrivetError.
    """
    sampled = engine.per_record(batch)
    for row in range(len(batch.labels)):
        expected = engine.alone(batch, row)
        error = float((expected - sampled[row]).abs().max())
        if not error <= tolerance * max(1.0, float(expected.abs().max())):
            raise PrivetError(
                "per-record gradients do not agree with brute force; training here would not be private.",
                mend="install the library versions that privet pins.",
            )


@contextmanager
def _first_layer_needs_no_input_gradient() -> Iterator[None]:
    """As meant: the base below is frozen, and torch's remark on it is left out."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        yield
