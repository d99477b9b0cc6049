"""Which records belong to which unit, and which windows to which record."""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from privet.common.tasks.targets import UNKNOWN as UNKNOWN

Integers = NDArray[np.int64]


class Units:
    """Which records belong to which unit, in compressed rows."""

    def __init__(self, units: Integers, num_units: int) -> None:
        self.num_units = num_units
        self._order = np.argsort(units, kind="stable")
        self._start = np.searchsorted(units[self._order], np.arange(num_units + 1))

    @classmethod
    def view(cls, order: Integers, start: Integers) -> "Units":
        """Units of which number u has the records order[start[u]:start[u + 1]]: those of one site among many."""
        units = cls.__new__(cls)
        units.num_units, units._order, units._start = len(start) - 1, order, start
        return units

    def records(self, unit: int) -> Integers:
        """The records of one unit."""
        return self._order[self._start[unit] : self._start[unit + 1]]

    def of(self, units: NDArray[np.intp]) -> tuple[Integers, Integers]:
        """The records of these units one after the other, and how many each has."""
        counts = self._start[units + 1] - self._start[units]
        before = np.cumsum(counts) - counts
        return self._order[np.repeat(self._start[units] - before, counts) + np.arange(int(counts.sum()))], counts


class Windows:
    """Which windows belong to which record, in compressed rows: those of record 0 first, each record at least one."""

    def __init__(self, counts: Integers) -> None:
        self.counts = counts  # [N]
        self.start = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])  # [N + 1]
        self.record = np.repeat(np.arange(len(counts)), counts)  # [W], whose a window is

    def of(self, records: Integers) -> tuple[Integers, Integers]:
        """The windows of these records one after the other, and how many each has."""
        counts = self.counts[records]
        before = np.cumsum(counts) - counts
        return np.repeat(self.start[records] - before, counts) + np.arange(int(counts.sum())), counts

    def mean(self, values: Tensor) -> NDArray[np.float32]:
        """Mean over each record's windows: values [W, L] to float32 [N, L], record by record in float64."""
        table: NDArray[np.float32] = values.numpy()
        if len(self.counts) == len(table):
            return table
        with np.errstate(invalid="ignore", over="ignore"):  # what is not finite stays so, without a word
            sums = np.add.reduceat(table.astype(np.float64), self.start[:-1], axis=0)
            return np.asarray(sums / self.counts[:, None], np.float32)
