"""The gradients of a group of units, in the forms in which they can be clipped and summed.

A unit's gradient is the same to the last bit whatever else is in its group: it is added up alone, in float64, in the
order of its windows.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from privet.common.examples import Integers

_AT_ONCE = 2_000_000  # values of units' gradients in float64

Flatten = Callable[[Tensor, Tensor], Tensor]  # weight [L, d] and bias [L] to [P]


@dataclass(frozen=True)
class Members:
    """The drawn windows of a group of units: window windows[i] belongs to unit 0 ≤ slots[i] < num_units of the group
    and has shares[i] = 1 / (windows of its record · records of that unit) of its gradient. Slots ascend.

    owners: of each unit, which of several sites trained together it belongs to, ascending; None where there is one."""

    windows: Integers
    slots: Integers
    shares: NDArray[np.float64]
    num_units: int
    owners: Integers | None = None
    num_owners: int = 1

    def only(self, chosen: NDArray[np.bool_]) -> "Members":
        """The units for which chosen[slot] holds, numbered anew."""
        mine, number = chosen[self.slots], np.cumsum(chosen) - 1
        owners = None if self.owners is None else self.owners[chosen]
        return Members(
            self.windows[mine], number[self.slots[mine]], self.shares[mine], int(chosen.sum()), owners, self.num_owners
        )

    def parts(self) -> Iterator[tuple[int, int, int]]:
        """Slot, first and last + 1 place of each unit that has windows."""
        starts = np.searchsorted(self.slots, np.arange(self.num_units + 1)).tolist()
        for slot, (start, end) in enumerate(pairwise(starts)):
            if start < end:
                yield slot, start, end


def together(groups: Iterable[tuple[int, Members]], num_owners: int, max_windows: int) -> Iterator[Members]:
    """Groups of single owners, ascending, joined while they have at most `max_windows` windows; unchanged where there
    is one owner. Which of an owner's units share a group is its own affair: its groups are joined whole."""
    if num_owners == 1:
        yield from (members for _, members in groups)
        return
    held: list[tuple[int, Members]] = []
    size = 0
    for owner, members in groups:
        if held and size + len(members.windows) > max_windows:
            yield _joined(held, num_owners)
            held, size = [], 0
        held.append((owner, members))
        size += len(members.windows)
    if held:
        yield _joined(held, num_owners)


def _joined(groups: Sequence[tuple[int, Members]], num_owners: int) -> Members:
    before = np.cumsum([0] + [members.num_units for _, members in groups])
    return Members(
        np.concatenate([members.windows for _, members in groups]),
        np.concatenate([members.slots + start for (_, members), start in zip(groups, before, strict=False)]),
        np.concatenate([members.shares for _, members in groups]),
        int(before[-1]),
        np.repeat([owner for owner, _ in groups], np.diff(before)),
        num_owners,
    )


class UnitGradients(Protocol):
    """g_u of a group of units; every value is finite."""

    def norms(self) -> Tensor:
        """‖g_u‖, float64 [units], of the very values that `weighted_sum` adds."""
        ...

    def weighted_sum(self, factors: Tensor) -> Tensor:
        """Σ_u factors[u] g_u, float64 [P], or [K, P] over the units of each of K owners."""
        ...


class Rows:
    """A gradient for each window, float32 [windows, P], of which a unit's is the weighted sum in float64.

    In float64 also the norm: a float32 norm of millions of values can fall short by more than the clip's margin.
    Units are taken together, at most `_AT_ONCE` values of them, and never those of two owners: what an owner's sum
    comes to is a function of its own units. Each unit is added up alone; n clipped ones, added in whatever order, are
    off by at most about n² 2^-53 C (see `Outer`).
    """

    def __init__(self, rows: Tensor, members: Members) -> None:
        self._rows, self._members = zero_unless_finite(rows), members

    def norms(self) -> Tensor:
        norms = torch.zeros(self._members.num_units, dtype=torch.float64)
        for _, start, gradients in self._parts():
            norms[start : start + len(gradients)] = torch.linalg.vector_norm(gradients, dim=1)
        return norms

    def weighted_sum(self, factors: Tensor) -> Tensor:
        total = torch.zeros(self._members.num_owners, self._rows.shape[1], dtype=torch.float64)
        for owner, start, gradients in self._parts():
            total[owner] += factors[start : start + len(gradients)] @ gradients
        return total if self._members.owners is not None else total[0]

    def _parts(self) -> Iterator[tuple[int, int, Tensor]]:
        """Owner, first unit, and the gradients of some of its units, float64 [some, P]."""
        members = self._members
        starts = np.searchsorted(members.slots, np.arange(members.num_units + 1))
        owners = np.zeros(members.num_units, np.int64) if members.owners is None else members.owners
        most = max(1, _AT_ONCE // max(1, self._rows.shape[1]))
        edges = np.flatnonzero(np.diff(owners, prepend=-1, append=-1)).tolist() if members.num_units else [0]
        for first, last in pairwise(edges):
            for start in range(first, last, most):
                end = min(last, start + most)
                yield int(owners[start]), start, self._units(starts[start : end + 1])

    def _units(self, starts: NDArray[np.intp]) -> Tensor:
        """The gradients, float64 [units, P], of units whose windows begin at starts[:-1] and end at starts[1:]."""
        first, last = int(starts[0]), int(starts[-1])
        rows, shares = self._rows[first:last], self._members.shares[first:last]
        if last - first == len(starts) - 1 and bool((np.diff(starts) == 1).all()):
            doubled = rows.double()
            return doubled if bool((shares == 1).all()) else doubled * torch.from_numpy(shares).unsqueeze(1)
        gradients = torch.zeros(len(starts) - 1, rows.shape[1], dtype=torch.float64)
        for unit, (start, end) in enumerate(pairwise((starts - first).tolist())):
            add_shares(gradients[unit], rows[start:end], shares[start:end])
        return gradients


class Whole:
    """One unit's gradient, float64 [P]: of a unit whose windows are too many to be held at once."""

    def __init__(self, gradient: Tensor, members: Members) -> None:
        self._gradient, self._members = gradient, members

    def norms(self) -> Tensor:
        norm: Tensor = torch.linalg.vector_norm(self._gradient)
        return norm.unsqueeze(0)

    def weighted_sum(self, factors: Tensor) -> Tensor:
        scaled = self._gradient * factors[0]
        if self._members.owners is None:
            return scaled
        total = torch.zeros(self._members.num_owners, len(scaled), dtype=torch.float64)
        total[int(self._members.owners[0])] = scaled
        return total


class Outer:
    """Units under a linear layer: g_u = Σ_i δ_i ⊗ [x_i, 1] over the unit's windows, δ times its share, all float64.

    Units of one window go into one matrix product: ‖g_u‖ = ‖δ‖ ‖[x, 1]‖, and a factor that bounds it by C bounds what
    the product adds of it. N such terms, added in whatever order, are off by at most about N² 2^-53 C: for a million
    units a few tenths of the trainer's margin of C / 1000, also where two neighbours differ in all their rounding.
    Where a unit has more windows, each may be huge and their sum small. Such a unit is added up alone, into the very
    matrix that was normed, and only then scaled and added: what its windows lose to each other, nobody else loses.
    """

    def __init__(self, delta: Tensor, inputs: Tensor, members: Members, flatten: Flatten) -> None:
        self._delta, self._inputs, self._members, self._flatten = delta, inputs, members, flatten
        counts = np.bincount(members.slots, minlength=members.num_units)
        self._single = torch.from_numpy(np.flatnonzero(counts[members.slots] == 1))  # windows that are a whole unit
        self._single_slots = torch.from_numpy(members.slots)[self._single]

    def norms(self) -> Tensor:
        norms = torch.zeros(self._members.num_units, dtype=torch.float64)
        lengths = torch.linalg.vector_norm(self._inputs[self._single], dim=1)
        lengths = torch.hypot(lengths, torch.ones_like(lengths))
        norms[self._single_slots] = torch.linalg.vector_norm(self._delta[self._single], dim=1) * lengths
        for slot, built in self._several():
            norms[slot] = torch.linalg.vector_norm(built)
        return norms

    def weighted_sum(self, factors: Tensor) -> Tensor:
        scaled = self._delta[self._single] * factors[self._single_slots].unsqueeze(1)
        total = self._flatten(scaled.T @ self._inputs[self._single], scaled.sum(0))
        for slot, gradient in self._several():
            total += gradient * factors[slot]
        return total

    def _several(self) -> Iterator[tuple[int, Tensor]]:
        """Slot and gradient, float64 [P], of each unit of several windows; the same to the last bit at every call.

        Element by element, window after window: each product and each sum is rounded as IEEE 754 says. A library's
        matrix product may be another one at the next call.
        """
        for slot, start, end in self._members.parts():
            if end - start == 1:
                continue
            weight = torch.zeros(self._delta.shape[1], self._inputs.shape[1], dtype=torch.float64)
            bias = torch.zeros(self._delta.shape[1], dtype=torch.float64)
            for delta, inputs in zip(self._delta[start:end], self._inputs[start:end], strict=True):
                weight += delta.unsqueeze(1) * inputs
                bias += delta
            yield slot, self._flatten(weight, bias)


def add_shares(gradient: Tensor, rows: Tensor, shares: NDArray[np.float64]) -> None:
    """Add each row times its share, one after the other: the result is a function of these rows alone."""
    for row, share in zip(rows, shares.tolist(), strict=True):
        gradient += row.double() * share


def zero_unless_finite(rows: Tensor) -> Tensor:
    """Rows with a value that is not finite become zero; selected, not multiplied, since 0 · inf is not 0."""
    if bool(torch.isfinite(rows.sum(dim=1)).all()):  # a sum that is finite has no other terms
        return rows
    finite = torch.isfinite(rows).all(dim=1, keepdim=True)
    return rows if bool(finite.all()) else torch.where(finite, rows, torch.zeros_like(rows))
