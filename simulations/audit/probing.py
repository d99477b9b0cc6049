"""How far the draw of real units may lead a sum astray at some coordinates: what an auditor must allow for."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from privet.client.flat_engine import GradientEngine
from privet.client.unit_gradients import Members, UnitGradients
from privet.common.adapter import Floats
from privet.common.examples import Examples, Integers


class Probing:
    """A gradient engine that notes, as clipped gradients are summed, the sum of their squares at some coordinates.

    By random signs: the mean over sign patterns of (sum of ±c_u g_u)^2 is the sum of (c_u g_u)^2, coordinate by
    coordinate (Hutchinson 1990), and no gradient has to be held.
    """

    def __init__(self, engine: GradientEngine, places: Integers, num_patterns: int) -> None:
        self._engine, self.spec, self.max_windows = engine, engine.spec, engine.max_windows
        self._places, self._random = places, torch.Generator().manual_seed(0)
        self._sums = torch.zeros(num_patterns, len(places), dtype=torch.float64)

    @property
    def squares(self) -> NDArray[np.float64]:
        """Sum over units of (c_u g_u)^2 at the coordinates, [m]; 0 without patterns."""
        found: NDArray[np.float64] = (self._sums**2).sum(0).numpy() / max(1, len(self._sums))
        return found

    num_sites = 1

    def parameters(self) -> Sequence[nn.Parameter]:
        return self._engine.parameters()

    def assign(self, gradients: Tensor) -> None:
        self._engine.assign(gradients)

    def read(self) -> Floats:
        return self._engine.read()

    def write(self, flat: Floats) -> None:
        self._engine.write(flat)

    def unit_gradients(self, data: Examples, members: Members) -> UnitGradients:
        return _Probed(self._engine.unit_gradients(data, members), self._note)

    def _note(self, gradients: UnitGradients, factors: Tensor) -> None:
        for pattern in self._sums:
            signs = 2 * torch.randint(2, factors.shape, generator=self._random) - 1
            pattern += gradients.weighted_sum(factors * signs)[self._places]


class _Probed:
    """Gradients whose weighted sum is noted."""

    def __init__(self, inner: UnitGradients, note: Callable[[UnitGradients, Tensor], None]) -> None:
        self._inner, self._note = inner, note

    def norms(self) -> Tensor:
        return self._inner.norms()

    def weighted_sum(self, factors: Tensor) -> Tensor:
        self._note(self._inner, factors)
        return self._inner.weighted_sum(factors)
