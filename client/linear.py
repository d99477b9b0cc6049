"""The gradients of a linear layer on frozen features, in closed form."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from privet.client.flat_engine import FlatEngine, Loss
from privet.client.unit_gradients import Members, Outer, UnitGradients, Whole, zero_unless_finite
from privet.common.adapter import AdapterSpec
from privet.common.batch import Batch, fill
from privet.common.examples import FEATURE_ROWS, Examples, Integers

_HELD_FACTORS = 2_000_000  # values of windows' factors that are held at once, float64


class LinearEngine(FlatEngine):
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
        return Whole(self._flatten(weight, bias), members)

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
