"""Per-window gradients held against brute force, on rows that belong to nobody, before they see a record."""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from privet.client.unit_gradients import Members, UnitGradients
from privet.common.batch import Batch
from privet.common.errors import PrivetError
from privet.common.examples import Examples, Integers
from privet.common.grouping import Units, Windows


class Checked(Protocol):
    """An engine, and the oracle it is held against."""

    def unit_gradients(self, data: Examples, members: Members) -> UnitGradients: ...
    def alone(self, batch: Batch, row: int) -> Tensor:
        """One row's gradient [P] by a plain backward."""


class _Given:
    """A batch that is asked for as it is, as data of one unit a row."""

    def __init__(self, batch: Batch) -> None:
        rows = np.arange(len(batch.labels))
        self._batch, self.labels = batch, batch.labels.numpy()
        self.units, self.windows = Units(rows, len(rows)), Windows(np.ones(len(rows), np.int64))

    def batches(self, windows: Integers) -> Iterator[Batch]:
        yield self._batch

    def for_inference(self) -> Iterator[Batch]:
        yield self._batch


def self_test(engine: Checked, batch: Batch, tolerance: float = 1e-4) -> None:
    """Compare the units' gradients with one plain backward a row, on rows that belong to nobody: each alone in its
    unit, and all in one.

    Known to go wrong in other versions of the libraries underneath, and silently (Opacus issue 820).
    Raises: PrivetError.
    """
    count = len(batch.labels)
    expected = torch.stack([engine.alone(batch, row).double() for row in range(count)])
    rows = np.arange(count)
    apart = engine.unit_gradients(_Given(batch), Members(rows, rows, np.ones(count), count))
    shares = np.full(count, 1 / count)
    together = engine.unit_gradients(_Given(batch), Members(rows, np.zeros(count, np.int64), shares, 1))
    found = [(apart.norms(), expected.norm(dim=1)), (together.norms(), expected.mean(0).norm().unsqueeze(0))]
    found += [
        (apart.weighted_sum(factor), row) for factor, row in zip(torch.eye(count).double(), expected, strict=True)
    ]
    found.append((together.weighted_sum(torch.ones(1).double()), expected.mean(0)))
    for value, truth in found:
        if not float((value - truth).abs().max()) <= tolerance * max(1.0, float(truth.abs().max())):
            raise PrivetError(
                "per-record gradients do not agree with brute force; training here would not be private.",
                mend="install the library versions that privet pins.",
            )
