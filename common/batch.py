"""What a training step reads at once, and what happens where one window of it fails."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from privet.common.tasks.targets import UNKNOWN as UNKNOWN

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """Model inputs of one shape. `rows` says where the windows lie that stand at `places` of those asked for; all other
    rows are dummies of weight 0."""

    inputs: tuple[Tensor, ...]
    labels: Tensor  # the task's targets: int64 [rows], float32 [rows, L] of 0 and 1, or int64 [rows, T]
    weights: Tensor  # float32 [rows], 0 or 1
    places: Integers
    rows: Integers
    blank: tuple[Tensor, ...] | None = None  # of each input the row of a dummy; None where a failure is to be raised
    owners: Integers | None = None  # [rows], which of several sites trained together a row belongs to; None for one

    def apart(self) -> Iterator["Batch"]:
        """Each window in a batch of its own: same shape, same row, dummies elsewhere."""
        assert self.blank is not None
        for place, row in zip(self.places.tolist(), self.rows.tolist(), strict=True):
            inputs = tuple(
                dummy.expand_as(tensor).clone() for tensor, dummy in zip(self.inputs, self.blank, strict=True)
            )
            for tensor, own in zip(inputs, self.inputs, strict=True):
                tensor[row] = own[row]
            labels, weights = torch.zeros_like(self.labels), torch.zeros_like(self.weights)
            labels[row], weights[row] = self.labels[row], self.weights[row]
            yield Batch(inputs, labels, weights, np.array([place]), np.array([row]), self.blank, self.owners)


class Part(Protocol):
    """What `fill` reads of a batch, or of a pass."""

    @property
    def places(self) -> Integers: ...
    @property
    def rows(self) -> Integers: ...
    @property
    def blank(self) -> object | None: ...
    def apart(self) -> Iterator[Self]: ...


_Part = TypeVar("_Part", bound=Part)


def fill(table: Tensor, batch: _Part, compute: Callable[[_Part], Tensor], failed: float) -> None:
    """Set the rows of `table` [windows asked for, width] that the batch holds to those of compute(batch) [rows, width].

    Where that raises, each window is computed in a batch of its own; one that raises even so gets a row of `failed`,
    and the others get what they would have got, to the last bit. So no window can make another fail, nor the whole.
    A batch without `blank` raises what `compute` does.
    """
    try:
        table[torch.from_numpy(batch.places)] = compute(batch)[torch.from_numpy(batch.rows)].to(table.dtype)
        return
    except Exception:  # memory errors too
        if batch.blank is None:
            raise
    for part in batch.apart():
        try:
            table[torch.from_numpy(part.places)] = compute(part)[torch.from_numpy(part.rows)].to(table.dtype)
        except Exception:
            table[torch.from_numpy(part.places)] = failed
