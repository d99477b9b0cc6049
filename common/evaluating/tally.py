"""What every task's metrics are made of: for each record and label, whether it was there, was given, and both."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from privet.common.evaluating.intervals import Floats, Integers


@dataclass(frozen=True)
class Tally:
    """hits, actual, said: scipy.sparse CSR [N, L], how often a label is rightly given, true and given; right: [N], 1
    for a record without a mistake; units: [N], dense, from 0."""

    hits: Any
    actual: Any
    said: Any
    right: Floats
    units: Integers

    @property
    def num_units(self) -> int:
        return int(self.units.max()) + 1 if len(self.units) else 0

    @property
    def num_labels(self) -> int:
        return int(self.actual.shape[1])

    def taken(self, kept: Integers) -> "Tally":
        """Of the records at these places alone, their units numbered anew."""
        units = np.unique(self.units[kept], return_inverse=True)[1].ravel()
        return Tally(self.hits[kept], self.actual[kept], self.said[kept], self.right[kept], units)

    def sums(self, rows: Integers, num_rows: int, columns: Integers | None = None, num_columns: int = 1) -> Any:
        """The three counts of the records with equal (row, column), CSR [num_rows, 3 num_columns L]: hits of every
        column, then actual, then said."""
        from scipy import sparse

        column = np.zeros(len(rows), np.int64) if columns is None else columns
        parts = []
        for counts in (self.hits, self.actual, self.said):
            found = counts.tocoo()
            at = (rows[found.row], column[found.row] * self.num_labels + found.col)
            parts.append(sparse.coo_array((found.data, at), shape=(num_rows, num_columns * self.num_labels)).tocsr())
        return sparse.hstack(parts, format="csr")


def table_of(sums: Floats, num_columns: int) -> Floats:
    """Rows of `Tally.sums` [..., 3 num_columns L] as [3, ..., num_columns, L]."""
    return np.moveaxis(sums.reshape(*sums.shape[:-1], 3, num_columns, -1), -3, 0)


def f1_of(hits: Floats, actual: Floats, said: Floats) -> Floats:
    """2 hits / (actual + said), elementwise; nan where both are 0."""
    whole = np.asarray(actual + said)
    return np.asarray(np.divide(2 * hits, whole, out=np.full(whole.shape, np.nan), where=whole > 0), np.float64)


def macro(values: Floats) -> Floats:
    """The mean over the last axis of what is not nan; nan where nothing is."""
    there = np.isfinite(values)
    num = np.asarray(there.sum(-1))
    found = np.where(there, values, 0).sum(-1)
    return np.asarray(np.divide(found, num, out=np.full(num.shape, np.nan), where=num > 0), np.float64)
