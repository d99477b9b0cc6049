"""Units' gradients as a pass of the fused engine leaves them: a row of LoRA gradients for each window, and of the head
only δ and x, whose outer product they would be. Where the head reads tokens its gradients are in the row too.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from privet.client.fused.factors import Layout
from privet.client.unit_gradients import Members, Rows, UnitGradients
from privet.common.examples import Integers

_AT_ONCE = 2_000_000  # values of rows in float64


@dataclass(frozen=True)
class Passed:
    """What passes left: `lora` [N, Q], `delta` [N, L] and `inputs` [N, d], float32; window i lies in row order[i]. With
    a head that reads tokens, δ and x have no columns."""

    lora: Tensor
    delta: Tensor
    inputs: Tensor
    order: Integers

    def without_what_is_not_finite(self) -> "Passed":
        """Rows with such a value anywhere are zero everywhere; selected, not multiplied, since 0 · inf is not 0."""
        parts = (self.lora, self.delta, self.inputs)
        sums = torch.stack([part.sum(dim=1) for part in parts])
        if bool(torch.isfinite(sums).all()):  # a sum that is finite has no other terms
            return self
        bad = ~torch.stack([torch.isfinite(part).all(dim=1) for part in parts]).all(dim=0).unsqueeze(1)
        lora, delta, inputs = (torch.where(bad, torch.zeros_like(part), part) for part in parts)
        return Passed(lora, delta, inputs, self.order)

    def only(self, chosen: NDArray[np.bool_]) -> "Passed":
        """The windows for which `chosen` [windows] holds."""
        return Passed(self.lora, self.delta, self.inputs, self.order[chosen])

    def rows(self, layout: Layout) -> Tensor:
        """The whole gradient of each window, float32 [windows, P], in the windows' order."""
        order = torch.from_numpy(self.order)
        rows = torch.empty(len(order), layout.size)
        rows[:, torch.from_numpy(layout.places)] = self.lora[order]
        delta, inputs = self.delta[order], self.inputs[order]
        if layout.factored(layout.head):
            torch.mul(delta.unsqueeze(2), inputs.unsqueeze(1), out=layout.view(rows, layout.head))
        if layout.factored(layout.head_bias):
            layout.view(rows, layout.head_bias).copy_(delta)
        return rows


def by_own_windows(passed: Passed, members: Members, layout: Layout) -> UnitGradients:
    """`SingleWindows` of the units that have one window, `Rows` of those that have several.

    The two round otherwise. So it is a unit's own windows alone that say by which of them it is computed, and never who
    else is in its group.
    """
    several = np.bincount(members.slots, minlength=members.num_units) > 1
    several[members.slots[members.shares != 1]] = True
    if not several.any():
        return SingleWindows(passed, members, layout)
    return _Parted(passed, members, layout, several)


class _Parted:
    def __init__(self, passed: Passed, members: Members, layout: Layout, several: NDArray[np.bool_]) -> None:
        rows = Rows(passed.only(several[members.slots]).rows(layout), members.only(several))
        self._parts: list[tuple[Tensor, UnitGradients]] = [(torch.from_numpy(several), rows)]
        if not several.all():
            single = SingleWindows(passed.only(~several[members.slots]), members.only(~several), layout)
            self._parts.append((torch.from_numpy(~several), single))

    def norms(self) -> Tensor:
        norms = torch.zeros(len(self._parts[0][0]), dtype=torch.float64)
        for units, part in self._parts:
            norms[units] = part.norms()
        return norms

    def weighted_sum(self, factors: Tensor) -> Tensor:
        units, part = self._parts[0]
        total = part.weighted_sum(factors[units])
        for units, part in self._parts[1:]:
            total += part.weighted_sum(factors[units])
        return total


class SingleWindows:
    """Units of one window each: g_u is its row, and ‖g_u‖² = ‖LoRA's part‖² + ‖δ‖² (‖x‖² + 1).

    All in float64, and an owner's sum is a function of its own units. What holds for `Outer` holds for the head: n
    clipped terms, added in whatever order, are off by at most about n² 2^-53 C.
    """

    def __init__(self, passed: Passed, members: Members, layout: Layout) -> None:
        self._passed, self._members, self._layout = passed.without_what_is_not_finite(), members, layout
        self._lora_places = torch.from_numpy(layout.places)
        self._trains = layout.factored(layout.head), layout.factored(layout.head_bias)

    def norms(self) -> Tensor:
        found = self._passed
        of_delta, of_input = (
            torch.linalg.vector_norm(part, dim=1, dtype=torch.float64) for part in (found.delta, found.inputs)
        )
        weight, bias = (float(trains) for trains in self._trains)
        of_head = of_delta * torch.sqrt(weight * of_input**2 + bias)
        of_rows = torch.hypot(_norms(found.lora), of_head)[torch.from_numpy(found.order)]
        norms = torch.zeros(self._members.num_units, dtype=torch.float64)
        norms[torch.from_numpy(self._members.slots)] = of_rows
        return norms

    def weighted_sum(self, factors: Tensor) -> Tensor:
        members, found, layout = self._members, self._passed, self._layout
        total = torch.zeros(members.num_owners, layout.size, dtype=torch.float64)
        of_windows = factors[torch.from_numpy(members.slots)]
        lora = torch.zeros(members.num_owners, layout.width, dtype=torch.float64)
        for owner, start, end in self._parts():
            rows, scale = torch.from_numpy(found.order[start:end]), of_windows[start:end]
            lora[owner] += scale @ found.lora[rows].double()
            scaled = found.delta[rows].double() * scale.unsqueeze(1)
            mine = total[owner : owner + 1]
            if self._trains[0]:
                layout.view(mine, layout.head)[0].addmm_(scaled.T, found.inputs[rows].double())
            if self._trains[1]:
                layout.view(mine, layout.head_bias)[0].add_(scaled.sum(0))
        total[:, self._lora_places] = lora
        return total if members.owners is not None else total[0]

    def _parts(self) -> Iterator[tuple[int, int, int]]:
        """Owner, first and last + 1 of some windows of its units."""
        members, most = self._members, max(1, _AT_ONCE // self._layout.size)
        if not len(members.slots):
            return
        owners = np.zeros(len(members.slots), np.int64) if members.owners is None else members.owners[members.slots]
        edges = np.flatnonzero(np.diff(owners, prepend=-1, append=-1)).tolist()
        for first, last in pairwise(edges):
            for start in range(first, last, most):
                yield int(owners[start]), start, min(last, start + most)


def _norms(rows: Tensor) -> Tensor:
    """float64 [N], of rows float32 [N, Q]."""
    step = max(1, _AT_ONCE // max(1, rows.shape[1]))
    return torch.cat([torch.linalg.vector_norm(part, dim=1, dtype=torch.float64) for part in rows.split(step)])
