"""Worst-case canaries: units whose gradient is one large entry, each in a coordinate of its own.

They stand among the real units of the data: masked, chosen from, clipped, summed and noised by the trainer itself. No
unit can move a clipped sum further than they do, and no two of them get in each other's way.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from privet.client.flat_engine import GradientEngine
from privet.client.unit_gradients import Members, UnitGradients
from privet.common.adapter import Floats
from privet.common.batch import Batch
from privet.common.errors import InputError
from privet.common.examples import Examples, Integers
from privet.common.grouping import Units, Windows

_FIRST_RECORD = 1 << 40  # of the canaries' record numbers: beyond any real one
_LENGTH = 100.0  # of a canary's gradient, in units of the clip norm


def coordinates(num_canaries: int, size: int, seed: int) -> NDArray[np.int64]:
    """A coordinate of the flat vector [size] for each canary, all distinct. Raises InputError where there are fewer."""
    if num_canaries > size:
        raise InputError(
            f"{num_canaries:,} canaries need as many trained parameters, and this plan trains {size:,}.",
            where="--canaries",
            mend=f"give at most {size:,}, or audit a plan that trains more (more labels, or a LoRA method).",
        )
    order = np.random.Generator(np.random.PCG64([seed, size])).permutation(size)
    return order[:num_canaries].astype(np.int64)


class CanaryUnits(Units):
    """The real units, then the canaries that are in: each with `records_each` records."""

    def __init__(self, real: Units, num_canaries: int, records_each: int) -> None:
        self._real, self._records_each = real, records_each
        self.num_units = real.num_units + num_canaries

    def records(self, unit: int) -> Integers:
        """The records of one unit."""
        place = unit - self._real.num_units
        if place < 0:
            return self._real.records(unit)
        return _FIRST_RECORD + place * self._records_each + np.arange(self._records_each, dtype=np.int64)

    def of(self, units: NDArray[np.intp]) -> tuple[Integers, Integers]:
        """The records of these units one after the other, and how many each has."""
        records = [self.records(int(unit)) for unit in units]
        return np.concatenate([np.zeros(0, np.int64), *records]), np.array([len(part) for part in records], np.int64)


class CanaryWindows(Windows):
    """The real records' windows; a canary's record is one window of the same number."""

    def __init__(self, real: Windows) -> None:
        super().__init__(real.counts)

    def of(self, records: Integers) -> tuple[Integers, Integers]:
        """The windows of these records one after the other, and how many each has."""
        planted = records >= _FIRST_RECORD
        counts = np.ones(len(records), np.int64)
        counts[~planted] = self.counts[records[~planted]]
        windows = np.empty(int(counts.sum()), np.int64)
        is_planted = np.repeat(planted, counts)
        windows[is_planted], windows[~is_planted] = records[planted], super().of(records[~planted])[0]
        return windows, counts


class WithCanaries:
    """Real examples with the canaries that are in.

    included: index of each such canary among all of them. records_each: above the trainer's most records of a unit, so
    that its choice among a unit's records is passed too.
    """

    def __init__(self, real: Examples, included: Integers, records_each: int) -> None:
        self.real, self._included, self._records_each = real, included, records_each
        self.labels = real.labels
        self.windows: Windows = CanaryWindows(real.windows)
        self.units: Units = CanaryUnits(real.units, len(included), records_each)

    def batches(self, windows: Integers) -> Iterator[Batch]:
        """Of real windows; a canary has no text."""
        return self.real.batches(windows)

    def for_inference(self) -> Iterator[Batch]:
        """Of real records."""
        return self.real.for_inference()

    def canary_of(self, windows: Integers) -> Integers:
        """Which canary each window belongs to, -1 for a real one."""
        found = np.full(len(windows), -1, np.int64)
        planted = windows >= _FIRST_RECORD
        found[planted] = self._included[(windows[planted] - _FIRST_RECORD) // self._records_each]
        return found


class CanaryEngine:
    """A gradient engine for `WithCanaries`: real units by the engine it wraps, canaries by their coordinates."""

    def __init__(self, engine: GradientEngine, places: Integers, max_grad_norm: float) -> None:
        self.engine, self.spec, self.max_windows = engine, engine.spec, engine.max_windows
        self._places, self._length = places, _LENGTH * max_grad_norm

    num_sites = 1

    def parameters(self) -> Sequence[nn.Parameter]:
        return self.engine.parameters()

    def assign(self, gradients: Tensor) -> None:
        self.engine.assign(gradients)

    def read(self) -> Floats:
        return self.engine.read()

    def write(self, flat: Floats) -> None:
        self.engine.write(flat)

    def unit_gradients(self, data: Examples, members: Members) -> UnitGradients:
        """Of a group of real units and canaries, in the group's order."""
        if not isinstance(data, WithCanaries):
            return self.engine.unit_gradients(data, members)
        canary = data.canary_of(members.windows)
        is_real = canary < 0
        place = np.full(members.num_units, -1, np.int64)  # in the flat vector, of each unit that is a canary
        place[members.slots[~is_real]] = self._places[canary[~is_real]]
        real_slots = np.flatnonzero(place < 0)
        position = np.cumsum(place < 0) - 1  # of each real slot among the real ones
        real = Members(
            members.windows[is_real], position[members.slots[is_real]], members.shares[is_real], len(real_slots)
        )
        lengths = np.bincount(
            members.slots[~is_real], weights=members.shares[~is_real], minlength=members.num_units
        ).astype(np.float64)
        inner = self.engine.unit_gradients(data.real, real) if len(real_slots) else None
        return _Mixed(
            inner, torch.from_numpy(real_slots), torch.from_numpy(place), self._length * lengths, self.spec.size
        )


class _Mixed:
    """Gradients of real units beside those of canaries."""

    def __init__(
        self, inner: UnitGradients | None, real: Tensor, place: Tensor, lengths: NDArray[np.float64], size: int
    ) -> None:
        self._inner, self._real, self._size = inner, real, size
        self._slots = torch.nonzero(place >= 0)[:, 0]
        self._places = place[self._slots]
        self._lengths = torch.from_numpy(lengths)[self._slots]
        self._num_units = len(place)

    def norms(self) -> Tensor:
        norms = torch.zeros(self._num_units, dtype=torch.float64)
        if self._inner is not None:
            norms[self._real] = self._inner.norms()
        norms[self._slots] = self._lengths
        return norms

    def weighted_sum(self, factors: Tensor) -> Tensor:
        total = torch.zeros(self._size, dtype=torch.float64)
        if self._inner is not None:
            total += self._inner.weighted_sum(factors[self._real])
        total.index_add_(0, self._places, factors[self._slots].double() * self._lengths)
        return total
