"""How much privacy a list of events costs, all of them composed: upper bounds, up to float64.

Compose events; never sum their epsilons. What one plan costs, whose training and validation units are disjoint, is in
`privet.common.privacy.horizon`.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from privet.common.privacy.distribution import Distribution, Groups, Step, collect, compose
from privet.common.privacy.events import Adjacency, Event, TrainEvent

if TYPE_CHECKING:
    from privet.common.privacy.distribution import Floats

_NUM_POINTS = 4000  # of a grid of epsilon


def epsilon(events: Sequence[Event], delta: float, adjacency: Adjacency = Adjacency.ADD_OR_REMOVE) -> float:
    """The epsilon at `delta` of all `events` together; 0 for none, inf where an event has no noise.

    The unit that comes, goes or changes is taken to be in every event. The events must have been fixed in advance
    (sizes, rates and noise not chosen after seeing a result). Raises ValueError unless 0 < delta < 1.
    """
    return epsilon_of(_groups(events, adjacency), delta)


def delta(events: Sequence[Event], epsilon: float, adjacency: Adjacency = Adjacency.ADD_OR_REMOVE) -> float:
    """The delta at `epsilon` of all `events` together, at most 1. Raises ValueError unless epsilon >= 0."""
    if not epsilon >= 0:
        raise ValueError(f"Expected epsilon >= 0, got {epsilon!r}.")
    return Profile([_groups(events, adjacency)]).delta(epsilon)


def advantage(events: Sequence[Event]) -> float:
    """Bound on true minus false positive rate of any test whether one unit took part: delta at epsilon 0."""
    return delta(events, 0.0)


def true_positive_bound(events: Sequence[Event], alpha: float) -> float:
    """Bound on the true positive rate, at false positive rate `alpha`, of any test whether one unit took part.

    Raises ValueError unless 0 < alpha <= 1.
    """
    return Profile([_groups(events, Adjacency.ADD_OR_REMOVE)]).true_positive_bound(alpha)


def step(event: Event, *, replace: bool = False, records: int = 1) -> tuple[Step, int]:
    """The mechanism that an event runs and how often, for `records` that come or go, or one that is replaced.

    Clipped gradients lie up to 2 apart, the cells of two validation units (of no negative entry) up to the square root
    of 2; both in units of the norm to which they are limited.
    """
    if isinstance(event, TrainEvent):
        if event.sample_rate == 1:
            return Step(1.0, event.noise_multiplier / (2 if replace else records)), event.steps
        return Step(float(event.sample_rate), float(event.noise_multiplier), records, replace), event.steps
    return Step(1.0, event.noise_multiplier / (math.sqrt(2) if replace else records)), 1


@lru_cache(maxsize=1024)
def epsilon_of(groups: Groups, delta: float) -> float:
    """The epsilon at `delta` of composed steps. Raises ValueError unless 0 < delta < 1."""
    if not 0 < delta < 1:
        raise ValueError(f"Expected 0 < delta < 1, got {delta!r}.")
    if not groups:
        return 0.0
    if any(mechanism.sigma == 0 for mechanism, _ in groups):
        return math.inf
    return max(part.epsilon(delta) for part in compose(groups))


class Profile:
    """delta as a function of epsilon >= 0: the greatest of several compositions', one for each place a unit may have.

    An attacker who does not know the place meets a mixture of them, whose divergences are at most the greatest (they
    are jointly convex).
    """

    def __init__(self, alternatives: Sequence[Groups]) -> None:
        self._unbounded = any(mechanism.sigma == 0 for groups in alternatives for mechanism, _ in groups)
        self._parts: list[Distribution] = []
        if not self._unbounded:
            self._parts = [part for groups in alternatives if groups for part in compose(groups)]

    def delta(self, epsilon: float) -> float:
        """At one epsilon."""
        import numpy as np

        return float(self._deltas(np.full(1, float(epsilon)))[0])

    def true_positive_bound(self, alpha: float) -> float:
        """The least over a grid of epsilon of e^epsilon alpha + delta and 1 - e^-epsilon (1 - delta - alpha).

        Each point of either is a bound (Dong et al. 2022, proposition 2.5), so is the least of them.
        Raises ValueError unless 0 < alpha <= 1.
        """
        import numpy as np

        if not 0 < alpha <= 1:
            raise ValueError(f"Expected 0 < alpha <= 1, got {alpha!r}.")
        grid = np.linspace(0.0, max(-math.log(alpha), 1.0), _NUM_POINTS + 1)
        deltas = self._deltas(grid)
        rising = np.exp(grid) * alpha + deltas
        falling = 1 - np.exp(-grid) * np.maximum(1 - deltas - alpha, 0.0)
        return float(min(1.0, rising.min(), falling.min()))

    def mu(self, delta: float) -> float | None:
        """The smallest mu whose Gaussian profile is nowhere under this one, on a grid, until this one is at `delta`.

        Dong et al. 2022, corollary 2.13, rounded up to three decimals. Approximate: it says nothing of smaller deltas.
        None where no mu up to 1,000 will do. Raises ValueError unless 0 < delta < 1.
        """
        import numpy as np

        if not 0 < delta < 1:
            raise ValueError(f"Expected 0 < delta < 1, got {delta!r}.")
        last = max((part.epsilon(delta) for part in self._parts), default=0.0)
        if self._unbounded or not math.isfinite(last):
            return None
        grid = np.linspace(0.0, last, _NUM_POINTS + 1)
        deltas = self._deltas(grid)
        low, high = 0, 1_000_001  # thousandths: fails (or nothing), passes
        while high - low > 1:
            middle = math.isqrt(low * high) if low else high // 2
            middle = min(max(middle, low + 1), high - 1)
            low, high = (low, middle) if (gaussian_deltas(middle / 1000, grid) >= deltas).all() else (middle, high)
        if not deltas.any():
            return 0.0
        return high / 1000 if high <= 1_000_000 else None

    def _deltas(self, epsilons: "Floats") -> "Floats":
        import numpy as np

        if self._unbounded:
            return np.ones_like(epsilons)
        found = np.zeros_like(epsilons)
        for part in self._parts:
            found = np.maximum(found, part.delta(epsilons))
        return found


def gaussian_deltas(mu: float, epsilons: "Floats") -> "Floats":
    """delta of mu-Gaussian differential privacy at each epsilon (Dong et al. 2022, corollary 2.13); mu > 0."""
    import numpy as np
    from scipy.special import log_ndtr, ndtr

    return np.asarray(
        ndtr(mu / 2 - epsilons / mu) - np.exp(epsilons + log_ndtr(-mu / 2 - epsilons / mu)), dtype=np.float64
    )


def _groups(events: Sequence[Event], adjacency: Adjacency) -> Groups:
    return collect(step(event, replace=adjacency is Adjacency.REPLACE) for event in events)
