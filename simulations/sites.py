"""The virtual sites of a simulation, ready to run: numbers in the store, a row in a few arrays each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from privet.simulations.data import Records
from privet.simulations.engines.store import Store

_OVERHEAD = 32.0  # what a site costs in a step beside its tokens, in tokens


@dataclass(frozen=True, eq=False)
class Sites:
    """names, as in the data's order; numbers: [N], each one's in the store; num_units: [N], of both parts together;
    tokens: [N], of all its training windows."""

    names: Sequence[str]
    numbers: NDArray[np.int64]
    num_units: NDArray[np.int64]
    tokens: NDArray[np.int64]

    @classmethod
    def of(cls, store: Store, records: Mapping[str, Records]) -> "Sites":
        """Those of `records`, which the store was filled from."""
        first = store.window_start[store.record_start]
        held = np.concatenate([np.zeros(1, np.int64), np.cumsum(first[store.train.rows + 1] - first[store.train.rows])])
        return cls(
            names=tuple(records),
            numbers=np.arange(store.num_sites),
            num_units=np.array([part.num_units for part in records.values()], np.int64),
            tokens=np.diff(held[store.train.start]),
        )

    def only(self, *names: str) -> "Sites":
        """Some of them, in the order given."""
        kept = [self.names.index(name) for name in names]
        return Sites(names, self.numbers[kept], self.num_units[kept], self.tokens[kept])

    def load(self, rates: NDArray[np.float64]) -> NDArray[np.float64]:
        """What one step of each costs on average, in tokens; rates: at which their units are drawn."""
        return np.asarray(self.tokens * rates + _OVERHEAD, np.float64)
