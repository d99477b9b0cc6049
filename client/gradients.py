"""Per-window gradients by Opacus' GradSampleModule: the reference."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from opacus.grad_sample import GradSampleModule
from torch import Tensor, nn

from privet.client.flat_engine import FlatEngine, Loss
from privet.client.unit_gradients import Members, Rows, UnitGradients, Whole, add_shares, zero_unless_finite
from privet.common.adapter import AdapterSpec
from privet.common.batch import Batch, fill
from privet.common.errors import PrivetError
from privet.common.examples import TRAINING_ROWS, Examples, Integers

_HELD_ROWS = 16_000_000  # values of windows' gradients that are held at once, float32


class OpacusEngine(FlatEngine):
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
        return Whole(gradient, members)

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


@contextmanager
def _first_layer_needs_no_input_gradient() -> Iterator[None]:
    """As meant: the base below is frozen, and torch's remark on it is left out."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        yield
