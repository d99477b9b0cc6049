"""The gradients of a group of units, in the forms in which they can be clipped and summed.

A unit's gradient is the same to the last bit whatever else is in its group: it is added up alone, in float64, in the
order of its windows.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from privet.common.examples import Integers

Flatten = Callable[[Tensor, Tensor], Tensor]  # weight [L, d] and bias [L] to [P]


@dataclass(frozen=True)
class Members:
    """The drawn windows of a group of units: window windows[i] belongs to unit 0 ≤ slots[i] < num_units of the group
    and has shares[i] = 1 / (windows of its record · records of that unit) of its gradient. Slots ascend."""

    windows: Integers
    slots: Integers
    shares: NDArray[np.float64]
    num_units: int

    def parts(self) -> Iterator[tuple[int, int, int]]:
        """Slot, first and last + 1 place of each unit that has windows."""
        starts = np.searchsorted(self.slots, np.arange(self.num_units + 1)).tolist()
        for slot, (start, end) in enumerate(pairwise(starts)):
            if start < end:
                yield slot, start, end


class UnitGradients(Protocol):
    """g_u of a group of units; every value is finite."""

    def norms(self) -> Tensor:
        """‖g_u‖, float64 [units], of the very values that `weighted_sum` adds."""
        ...

    def weighted_sum(self, factors: Tensor) -> Tensor:
        """Σ_u factors[u] g_u, float64 [P]."""
        ...


class Rows:
    """A gradient for each window, float32 [windows, P], of which a unit's is the weighted sum."""

    def __init__(self, rows: Tensor, members: Members) -> None:
        self._rows, self._members = zero_unless_finite(rows), members

    def norms(self) -> Tensor:
        """In float64: a float32 norm of millions of values can fall short by more than the clip's margin."""
        norms = torch.zeros(self._members.num_units, dtype=torch.float64)
        for slot, gradient in self._each():
            norms[slot] = torch.linalg.vector_norm(gradient)
        return norms

    def weighted_sum(self, factors: Tensor) -> Tensor:
        total = torch.zeros(self._rows.shape[1], dtype=torch.float64)
        for slot, gradient in self._each():
            total += gradient * factors[slot]
        return total

    def _each(self) -> Iterator[tuple[int, Tensor]]:
        for slot, start, end in self._members.parts():
            gradient = torch.zeros(self._rows.shape[1], dtype=torch.float64)
            add_shares(gradient, self._rows[start:end], self._members.shares[start:end])
            yield slot, gradient


class Whole:
    """One unit's gradient, float64 [P]: of a unit whose windows are too many to be held at once."""

    def __init__(self, gradient: Tensor) -> None:
        self._gradient = gradient

    def norms(self) -> Tensor:
        norm: Tensor = torch.linalg.vector_norm(self._gradient)
        return norm.unsqueeze(0)

    def weighted_sum(self, factors: Tensor) -> Tensor:
        return self._gradient * factors[0]


class Outer:
    """Units under a linear layer: g_u = Σ_i δ_i ⊗ [x_i, 1] over the unit's windows, δ times its share, all float64.

    Only one unit's is ever built, for its norm; where a unit has one window ‖δ ⊗ [x, 1]‖ = ‖δ‖ ‖[x, 1]‖. The weighted
    sum over all units is one matrix product.
    """

    def __init__(self, delta: Tensor, inputs: Tensor, members: Members, flatten: Flatten) -> None:
        self._delta, self._inputs, self._members, self._flatten = delta, inputs, members, flatten

    def norms(self) -> Tensor:
        lengths = torch.linalg.vector_norm(self._inputs, dim=1)
        single = torch.linalg.vector_norm(self._delta, dim=1) * torch.hypot(lengths, torch.ones_like(lengths))
        norms = torch.zeros(self._members.num_units, dtype=torch.float64)
        for slot, start, end in self._members.parts():
            if end - start == 1:
                norms[slot] = single[start]
                continue
            delta = self._delta[start:end].clone()  # a copy: where it begins in memory does not depend on the group
            weight = delta.T @ self._inputs[start:end].clone()
            norms[slot] = torch.hypot(torch.linalg.vector_norm(weight), torch.linalg.vector_norm(delta.sum(0)))
        return norms

    def weighted_sum(self, factors: Tensor) -> Tensor:
        scaled = self._delta * factors[torch.from_numpy(self._members.slots)].unsqueeze(1)
        return self._flatten(scaled.T @ self._inputs, scaled.sum(0))


def add_shares(gradient: Tensor, rows: Tensor, shares: NDArray[np.float64]) -> None:
    """Add each row times its share, one after the other: the result is a function of these rows alone."""
    for row, share in zip(rows, shares.tolist(), strict=True):
        gradient += row.double() * share


def zero_unless_finite(rows: Tensor) -> Tensor:
    """Rows with a value that is not finite become zero; selected, not multiplied, since 0 · inf is not 0."""
    finite = torch.isfinite(rows).all(dim=1, keepdim=True)
    return rows if bool(finite.all()) else torch.where(finite, rows, torch.zeros_like(rows))
