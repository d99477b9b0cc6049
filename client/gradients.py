"""Per-window gradients: Opacus' GradSampleModule for a whole model, the closed form for a linear layer alone.

Both are compared with brute force, on rows that belong to nobody, before they see a record.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from opacus.grad_sample import GradSampleModule
from torch import Tensor, nn

from privet.client.unit_gradients import Members, Outer, Rows, UnitGradients, Whole, add_shares, zero_unless_finite
from privet.common.adapter import AdapterSpec, Floats
from privet.common.errors import PrivetError
from privet.common.examples import FEATURE_ROWS, TRAINING_ROWS, Batch, Examples, Integers, Units, Windows, fill

_HELD_ROWS = 16_000_000  # values of windows' gradients that are held at once, float32
_HELD_FACTORS = 2_000_000  # values of their factors under a linear layer, float64

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]  # logits, labels, weights -> one loss a row


class GradientEngine(Protocol):
    """What the trainer needs of a model: its flat weights, and the units' gradients."""

    spec: AdapterSpec
    max_windows: int  # whose gradients are held at once: a group has no more, unless it is one unit

    def parameters(self) -> Sequence[nn.Parameter]: ...
    def unit_gradients(self, data: Examples, members: Members) -> UnitGradients: ...
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
        self.max_windows = max(TRAINING_ROWS, _HELD_ROWS // spec.size)
        self._module = GradSampleModule(module, batch_first=True, loss_reduction="sum", strict=False)

    def unit_gradients(self, data: Examples, members: Members) -> UnitGradients:
        """A window that cannot be computed counts as zero."""
        size, count = self.max_windows, len(members.windows)
        if count <= size or members.num_units > 1:
            return Rows(self._rows(data, members.windows), members)
        gradient = torch.zeros(self.spec.size, dtype=torch.float64)
        for start in range(0, count, size):
            rows = zero_unless_finite(self._rows(data, members.windows[start : start + size]))
            add_shares(gradient, rows, members.shares[start : start + size])
        return Whole(gradient)

    def _rows(self, data: Examples, windows: Integers) -> Tensor:
        """float32 [windows, P]."""
        rows = torch.zeros(len(windows), self.spec.size)
        for batch in data.batches(windows):
            fill(rows, batch, self.per_row, 0.0)
        return rows

    def per_row(self, batch: Batch) -> Tensor:
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
        """As before any batch: one that raised leaves behind what its forward pass recorded."""
        for module in self._module.modules():
            for name in ("activations", "max_batch_len"):  # its own: a wrapper answers for the module within
                module.__dict__.pop(name, None)
        for parameter in self._parameters:
            parameter.grad = None
            parameter.grad_sample = None  # type: ignore[attr-defined]
            parameter._forward_counter = 0  # type: ignore[attr-defined]
            if hasattr(parameter, "_current_grad_sample"):
                del parameter._current_grad_sample


class LinearEngine(_Engine):
    """A linear layer on frozen features: the gradient of window i is δ_i ⊗ [x_i, 1], with δ_i = ∂ loss_i / ∂ logits_i.
    All in float64."""

    def __init__(self, layer: nn.Linear, parameters: Mapping[str, nn.Parameter], spec: AdapterSpec, loss: Loss) -> None:
        super().__init__(parameters, spec, loss)
        self._layer = layer
        self.max_windows = max(FEATURE_ROWS, _HELD_FACTORS // (layer.in_features + layer.out_features))

    def unit_gradients(self, data: Examples, members: Members) -> UnitGradients:
        """A window that cannot be computed counts as zero."""
        size, count = self.max_windows, len(members.windows)
        if count <= size or members.num_units > 1:
            return Outer(*self._factors(data, members.windows, members.shares), members, self._flatten)
        weight = torch.zeros(self._layer.weight.shape, dtype=torch.float64)
        bias = torch.zeros(self._layer.out_features, dtype=torch.float64)
        for start in range(0, count, size):
            part = slice(start, start + size)
            delta, inputs = self._factors(data, members.windows[part], members.shares[part])
            weight += delta.T @ inputs
            bias += delta.sum(0)
        return Whole(self._flatten(weight, bias))

    def _factors(self, data: Examples, windows: Integers, shares: NDArray[np.float64]) -> tuple[Tensor, Tensor]:
        """δ times its share [windows, L] and x [windows, d]."""
        delta = torch.zeros(len(windows), self._layer.out_features, dtype=torch.float64)
        inputs = torch.zeros(len(windows), self._layer.in_features, dtype=torch.float64)
        for batch in data.batches(windows):
            places, rows = torch.from_numpy(batch.places), torch.from_numpy(batch.rows)
            fill(delta, batch, lambda given: self._delta(given.inputs[0].double(), given.labels, given.weights), 0.0)
            inputs[places] = batch.inputs[0][rows].double()
        return zero_unless_finite(delta) * torch.from_numpy(shares).unsqueeze(1), zero_unless_finite(inputs)

    def _flatten(self, weight: Tensor, bias: Tensor) -> Tensor:
        """[L, d] and [L] to [P] in the spec's layout."""
        parts = [weight if parameter is self._layer.weight else bias for parameter in self._parameters]
        return torch.cat([part.reshape(-1) for part in parts])

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


class _Given:
    """A batch that is asked for as it is, as data of one unit a row."""

    def __init__(self, batch: Batch) -> None:
        rows = np.arange(len(batch.labels))
        self._batch, self.labels = batch, batch.labels.numpy()
        self.units, self.windows = Units(rows, len(rows)), Windows(np.ones(len(rows), np.int64))

    def batches(self, windows: Integers) -> Iterator[Batch]:
        yield self._batch

    def for_inference(self) -> Iterator[Batch]:
        yield self._batch


def self_test(engine: OpacusEngine | LinearEngine, batch: Batch, tolerance: float = 1e-4) -> None:
    """Compare the units' gradients with one plain backward a row, on rows that belong to nobody: each alone in its
    unit, and all in one.

    Known to go wrong in other versions of the libraries underneath, and silently (Opacus issue 820).
    Raises: PrivetError.
    """
    count = len(batch.labels)
    expected = torch.stack([engine.alone(batch, row).double() for row in range(count)])
    rows = np.arange(count)
    apart = engine.unit_gradients(_Given(batch), Members(rows, rows, np.ones(count), count))
    shares = np.full(count, 1 / count)
    together = engine.unit_gradients(_Given(batch), Members(rows, np.zeros(count, np.int64), shares, 1))
    found = [(apart.norms(), expected.norm(dim=1)), (together.norms(), expected.mean(0).norm().unsqueeze(0))]
    found += [
        (apart.weighted_sum(factor), row) for factor, row in zip(torch.eye(count).double(), expected, strict=True)
    ]
    found.append((together.weighted_sum(torch.ones(1).double()), expected.mean(0)))
    for value, truth in found:
        if not float((value - truth).abs().max()) <= tolerance * max(1.0, float(truth.abs().max())):
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
