"""How much privacy a list of events costs: privacy loss distributions, composed by dp-accounting.

Every figure is an upper bound, up to float64: "connect the dots" (Doroshenko et al. 2022) rounds pessimistically,
whatever the grid. The grid is 1e-3, and finer where one step loses so little that 1e-3 would show: rounding to a grid h
adds about h^2/6 to the variance of every step's loss, so h stays under a tenth of that loss's root mean square. Compose
events; never sum their epsilons.
"""

import math
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from privet.common.privacy.events import Adjacency, TrainEvent

INTERVAL = 1e-3  # of the grid of losses, where nothing asks for another
_LEAST_INTERVAL = 1e-9  # below, the differences that dp-accounting takes drown in float64
_MAX_POINTS_PER_STEP = 5e4  # of one step's grid; beyond, a coarser grid is still an upper bound
_MAX_STEPS_AT_ONCE = 10_000
_MAX_POINTS = 1e6  # of the composed grid, about

Group = tuple[float, float, int]  # sample_rate, noise_multiplier, steps


def epsilon(events: Sequence[TrainEvent], delta: float, adjacency: Adjacency = Adjacency.ADD_OR_REMOVE) -> float:
    """The epsilon at `delta` of all `events` together; 0 for none, inf where an event has no noise.

    The events must have been fixed in advance (sizes, rates and noise not chosen after seeing a result).
    Raises ValueError unless 0 < delta < 1.
    """
    if not 0 < delta < 1:
        raise ValueError(f"Expected 0 < delta < 1, got {delta!r}.")
    return _epsilon(_groups(events), delta, adjacency)


def delta(events: Sequence[TrainEvent], epsilon: float, adjacency: Adjacency = Adjacency.ADD_OR_REMOVE) -> float:
    """The delta at `epsilon` of all `events` together, at most 1. Raises ValueError unless epsilon >= 0."""
    if not epsilon >= 0:
        raise ValueError(f"Expected epsilon >= 0, got {epsilon!r}.")
    return _delta(_groups(events), epsilon, adjacency)


def advantage(events: Sequence[TrainEvent]) -> float:
    """Bound on true minus false positive rate of any test whether one unit took part: delta at epsilon 0."""
    return delta(events, 0.0)


def true_positive_bound(events: Sequence[TrainEvent], alpha: float) -> float:
    """Bound on the true positive rate, at false positive rate `alpha`, of any test whether one unit took part.

    The least of e^epsilon alpha + delta(epsilon) over a grid of epsilon: each point of it is a bound, so is the least.
    Raises ValueError unless 0 < alpha <= 1.
    """
    if not 0 < alpha <= 1:
        raise ValueError(f"Expected 0 < alpha <= 1, got {alpha!r}.")
    groups, num_points = _groups(events), 100
    grid = [-math.log(alpha) * i / num_points for i in range(num_points + 1)]
    return min(1.0, *(math.exp(point) * alpha + _delta(groups, point, Adjacency.ADD_OR_REMOVE) for point in grid))


def _groups(events: Sequence[TrainEvent]) -> tuple[Group, ...]:
    """Equal mechanisms with their steps summed, in a fixed order: what the composition, and its cache, depend on."""
    steps: Counter[tuple[float, float]] = Counter()
    for event in events:
        steps[float(event.sample_rate), float(event.noise_multiplier)] += event.steps
    return tuple(sorted((rate, sigma, count) for (rate, sigma), count in steps.items()))


@lru_cache(maxsize=1024)
def _epsilon(groups: tuple[Group, ...], delta: float, adjacency: Adjacency) -> float:
    if not groups:
        return 0.0
    if any(sigma == 0 for _, sigma, _ in groups):
        return math.inf
    return float(_composed(groups, adjacency).get_epsilon_for_delta(delta))


def _delta(groups: tuple[Group, ...], epsilon: float, adjacency: Adjacency) -> float:
    if not groups:
        return 0.0
    if any(sigma == 0 for _, sigma, _ in groups):
        return 1.0
    value = float(_composed(groups, adjacency).get_delta_for_epsilon(float(epsilon)))
    return min(1.0, max(0.0, value))  # floating point may go over


@lru_cache(maxsize=16)
def _composed(groups: tuple[Group, ...], adjacency: Adjacency) -> Any:
    """The composed privacy loss distribution of at least one mechanism, all of them noised."""
    interval = _interval(groups)
    total = None
    for rate, sigma, steps in groups:
        if rate == 1:  # Gaussians add up: nothing to compose
            part = _mechanism(rate, sigma / math.sqrt(steps), interval, adjacency)
        else:
            part = _repeated(_mechanism(rate, sigma, interval, adjacency), steps)
        total = part if total is None else total.compose(part)
    return total


def _repeated(part: Any, steps: int) -> Any:
    """`part` composed with itself; in two stages for many steps, where one would make a needlessly long grid."""
    if steps <= _MAX_STEPS_AT_ONCE:
        return part.self_compose(steps)
    root = math.isqrt(steps)
    total = part.self_compose(root).self_compose(steps // root)
    rest = steps % root
    return total.compose(part.self_compose(rest)) if rest else total


@lru_cache(maxsize=64)
def _mechanism(rate: float, sigma: float, interval: float, adjacency: Adjacency) -> Any:
    """The privacy loss distribution of one step: Gaussian noise on the sum of a Poisson sample."""
    from dp_accounting import NeighboringRelation  # seconds to import, with scipy
    from dp_accounting.pld import privacy_loss_distribution

    return privacy_loss_distribution.from_gaussian_mechanism(
        sigma,
        sampling_prob=rate,
        value_discretization_interval=interval,
        neighboring_relation=(
            NeighboringRelation.ADD_OR_REMOVE_ONE
            if adjacency is Adjacency.ADD_OR_REMOVE
            else NeighboringRelation.REPLACE_ONE
        ),
    )


def _interval(groups: tuple[Group, ...]) -> float:
    """The grid for these mechanisms; all of a composition must share one."""
    num_composed, variance, mean, widest = 0, 0.0, 0.0, 0.0
    for rate, sigma, steps in groups:
        if rate == 1:
            num_composed += 1
            variance += steps / sigma**2
            mean += steps / (2 * sigma**2)
            widest = max(widest, 20 * math.sqrt(steps) / sigma + steps / sigma**2)
            continue
        # chi-square divergence of a step, the loss's mean square where it is small; the cut only keeps exp finite
        divergence = rate**2 * math.expm1(min(1 / sigma**2, 600.0))
        farthest = 10 / sigma + 1 / (2 * sigma**2)  # of the unsampled loss, ten standard deviations out
        num_composed += steps
        variance += steps * divergence
        mean += steps * min(rate / (2 * sigma**2), math.log1p(divergence))
        positive = math.log1p(rate * math.exp(farthest)) if farthest < 600 else farthest + math.log(rate)
        negative = -math.log1p(rate * math.expm1(-farthest))
        widest = max(widest, positive + negative)
    step = math.sqrt(variance / num_composed) / 10
    return max(min(INTERVAL, step), widest / _MAX_POINTS_PER_STEP, mean / _MAX_POINTS, _LEAST_INTERVAL)
