"""The gradients of a group of units, in the two forms in which they can be clipped and summed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from privet.common.examples import Integers

_EXACT_ROWS = 16  # unit gradients that are held in float64 at once


@dataclass(frozen=True)
class Members:
    """The drawn records of a group of units: record slots[i] belongs to unit 0 ≤ slots[i] < num_units of the group and
    has shares[i] = 1 / (records of that unit) of its gradient."""

    records: Integers
    slots: Integers
    shares: NDArray[np.float32]
    num_units: int

    def of(self, records: Integers) -> tuple[Tensor, Tensor]:
        """Slots and shares of some of them."""
        order = np.argsort(self.records)
        place = order[np.searchsorted(self.records[order], records)]
        return torch.from_numpy(self.slots[place]), torch.from_numpy(self.shares[place])


class UnitGradients(Protocol):
    """g_u of a group of units; every value is finite."""

    def norms(self) -> Tensor:
        """‖g_u‖, float64 [units], of the very values that `weighted_sum` adds."""
        ...

    def weighted_sum(self, factors: Tensor) -> Tensor:
        """Σ_u factors[u] g_u, float64 [P]."""
        ...


class Dense:
    """Unit gradients held whole, [units, P]. A unit with a value that is not finite is exactly zero."""

    def __init__(self, gradients: Tensor) -> None:
        self._gradients = zero_unless_finite(gradients)

    def norms(self) -> Tensor:
        """In float64: a float32 norm of millions of values can fall short by more than the clip's margin."""
        parts = [torch.linalg.vector_norm(part.double(), dim=1) for part in self._gradients.split(_EXACT_ROWS)]
        return torch.cat(parts)

    def weighted_sum(self, factors: Tensor) -> Tensor:
        total = torch.zeros(self._gradients.shape[1], dtype=torch.float64)
        for part, weights in zip(self._gradients.split(_EXACT_ROWS), factors.split(_EXACT_ROWS), strict=True):
            total += weights @ part.double()
        return total


class Outer:
    """Units of one record each under a linear layer: g_u = δ_u ⊗ x_u (and δ_u for the bias), float64, never built.

    ‖δ ⊗ [x, 1]‖ = ‖δ‖ ‖[x, 1]‖, and the weighted sum is one matrix product.
    """

    def __init__(self, delta: Tensor, inputs: Tensor, flatten: Callable[[Tensor, Tensor], Tensor]) -> None:
        self._delta, self._inputs, self._flatten = delta, inputs, flatten

    def norms(self) -> Tensor:
        ones = torch.ones(len(self._inputs), 1, dtype=torch.float64)
        extended = torch.cat([self._inputs, ones], dim=1)
        norms: Tensor = torch.linalg.vector_norm(self._delta, dim=1) * torch.linalg.vector_norm(extended, dim=1)
        return norms

    def weighted_sum(self, factors: Tensor) -> Tensor:
        scaled = self._delta * factors.unsqueeze(1)
        flat: Tensor = self._flatten((scaled.T @ self._inputs).unsqueeze(0), scaled.sum(0, keepdim=True))[0]
        return flat


def zero_unless_finite(rows: Tensor) -> Tensor:
    """Rows with a value that is not finite become zero; selected, not multiplied, since 0 · inf is not 0."""
    finite = torch.isfinite(rows.sum(dim=1, keepdim=True))  # a value that is not finite makes the sum so
    return rows if bool(finite.all()) else torch.where(finite, rows, torch.zeros_like(rows))
