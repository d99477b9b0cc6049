"""Per-record gradients by Opacus' GradSampleModule: the reference engine."""

import warnings
from collections.abc import Callable, Iterator, Sequence
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
    def per_record(self, batch: Batch) -> Tensor: ...
    def read(self) -> Floats: ...
    def write(self, flat: Floats) -> None: ...


class OpacusEngine:
    """`module` with hooks on the layers that hold the trainable parameters.

    spec: the trainable part, in the layout of the flat vector [P]; all else in the module is frozen here.
    Raises: PrivetError where the self-test finds gradients that brute force does not confirm.
    """

    def __init__(self, module: nn.Module, parameters: dict[str, nn.Parameter], spec: AdapterSpec, loss: Loss) -> None:
        self.spec, self._loss = spec, loss
        self._parameters = [parameters[name] for name in spec.names]
        for parameter in module.parameters():
            parameter.requires_grad_(False)
        for parameter in self._parameters:
            parameter.requires_grad_(True)
        module.train()  # Opacus records activations in training mode only; dropout is off in every model here
        self._module = GradSampleModule(module, batch_first=True, loss_reduction="sum", strict=False)

    def parameters(self) -> Sequence[nn.Parameter]:
        return self._parameters

    def per_record(self, batch: Batch) -> Tensor:
        """Gradients of each row's loss, float32 [rows, P]; dummy rows are zero."""
        self._clear()
        with torch.enable_grad(), _first_layer_needs_no_input_gradient():
            losses = self._loss(self._module(*batch.inputs), batch.labels, batch.weights)
            losses.sum().backward()
        rows = len(batch.labels)
        flat = torch.cat([self._sampled(parameter).reshape(rows, -1) for parameter in self._parameters], dim=1)
        self._clear()
        return flat

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

    def self_test(self, batch: Batch, tolerance: float = 1e-4) -> None:
        """Compare with brute force, one backward a row, on rows that belong to nobody.

        Known to go wrong in other versions of these libraries, and silently (Opacus issue 820).
        Raises: PrivetError.
        """
        sampled = self.per_record(batch)
        for row in range(len(batch.labels)):
            self._module.zero_grad()
            self._module.disable_hooks()
            try:
                with _first_layer_needs_no_input_gradient():
                    logits = self._module(*(tensor[row : row + 1] for tensor in batch.inputs))
                    self._loss(logits, batch.labels[row : row + 1], batch.weights[row : row + 1]).sum().backward()
            finally:
                self._module.enable_hooks()
            alone = torch.cat(
                [torch.zeros_like(p).reshape(-1) if p.grad is None else p.grad.reshape(-1) for p in self._parameters]
            )
            error = float((alone - sampled[row]).abs().max())
            if not error <= tolerance * max(1.0, float(alone.abs().max())):
                raise PrivetError(
                    "per-record gradients do not agree with brute force; training here would not be private.",
                    mend="install the library versions that privet pins.",
                )
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


@contextmanager
def _first_layer_needs_no_input_gradient() -> Iterator[None]:
    """As meant: the base below is frozen, and torch's remark on it is left out."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        yield
