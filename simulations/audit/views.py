"""Parts of prepared examples, without preparing them again: some records are in no unit, so no draw finds them."""

from collections.abc import Iterator

import numpy as np

from privet.common.batch import Batch
from privet.common.examples import Examples, Integers
from privet.common.grouping import Units
from privet.simulations.audit.guesses import Coins


class Chosen:
    """The units of `examples` whose coin is True. Records keep their numbers."""

    def __init__(self, examples: Examples, unit_of: Integers, chosen: Coins) -> None:
        dense = np.cumsum(chosen, dtype=np.int64) - 1
        self._examples, self.labels, self.windows = examples, examples.labels, examples.windows
        self.units = Units(np.where(chosen[unit_of], dense[unit_of], -1), int(chosen.sum()))

    def batches(self, windows: Integers) -> Iterator[Batch]:
        """Batches of these windows, each once."""
        return self._examples.batches(windows)

    def for_inference(self) -> Iterator[Batch]:
        """Every window of the whole once, chosen or not."""
        return self._examples.for_inference()
