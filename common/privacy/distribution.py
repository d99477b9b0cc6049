"""Privacy loss distributions on a grid: one step's from dp-accounting's mechanisms, composed by Fourier transform.

Every figure is an upper bound, up to float64. A step is put on the grid by "connect the dots" (Doroshenko et al. 2022),
which rounds pessimistically whatever the grid. Composition multiplies characteristic functions over a window outside
of which Chernoff's inequality leaves a mass of at most 1e-15; that mass counts as certain loss.
"""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

INTERVAL = 1e-3  # of the grid of losses at most
_MANY_KINDS = 16  # of steps in one composition; from there on, as for several records, it may be coarser
_FINENESS = 10  # an interval goes at least so often into the root mean square of a step's loss
_LEAST_INTERVAL = 1e-9  # below, the differences that are taken drown in float64
_MAX_POINTS_PER_STEP = 5e4  # of one step's grid; beyond, a coarser grid is still an upper bound
_MAX_POINTS = 1e6  # of the composed grid, about
_TAIL = 1e-15  # mass that a window may leave out
_NEGLIGIBLE = -80.0  # logarithm of a characteristic function's size that counts as zero


class Step(NamedTuple):
    """One noisy sum, in units of what one record may add to it."""

    rate: float  # at which each record is sampled on its own; at rate 1 it is the plain Gaussian
    sigma: float  # 0: without noise
    records: int = 1  # that come or go at once
    replace: bool = False  # a record put in another's place; never at rate 1, where sigma says it all


Groups = tuple[tuple[Step, int], ...]


def collect(steps: Iterable[tuple[Step, int]]) -> Groups:
    """Equal steps counted, in a fixed order, and all plain Gaussians as one: what the composition depends on."""
    counts: Counter[Step] = Counter()
    for step, count in steps:
        if count:
            counts[step] += count
    plain = sorted((step.sigma, count) for step, count in counts.items() if step.rate == 1)
    groups = sorted((step, count) for step, count in counts.items() if step.rate != 1)
    if plain:
        without_noise = plain[0][0] == 0
        sigma = 0.0 if without_noise else 1 / math.sqrt(math.fsum(count / sigma**2 for sigma, count in plain))
        groups.append((Step(1.0, sigma), 1))
    return tuple(groups)


@dataclass(frozen=True, eq=False)
class Distribution:
    """A privacy loss distribution: `probs[i]` at loss `(lower + i) * interval`, and `infinity` at infinite loss."""

    interval: float
    lower: int
    probs: "Floats"
    infinity: float

    @cached_property
    def _tails(self) -> "tuple[Floats, Floats]":
        """At each point: the mass from there on, and that mass with each loss beyond discounted by e^-loss."""
        import numpy as np
        from scipy.signal import lfilter

        backwards = self.probs[::-1]
        discounted = lfilter([1.0], [1.0, -math.exp(-self.interval)], backwards)
        above: Floats = np.cumsum(backwards)[::-1] + self.infinity
        return above, np.asarray(discounted, dtype=np.float64)[::-1]

    def delta(self, epsilons: "Floats") -> "Floats":
        """The hockey-stick divergence at each epsilon, of any shape."""
        import numpy as np

        above, discounted = self._tails
        index = np.clip(np.floor(epsilons / self.interval) - self.lower + 1, 0, len(self.probs)).astype(np.int64)
        inside = np.minimum(index, len(self.probs) - 1)
        distance = np.minimum(epsilons - (inside + self.lower) * self.interval, 0.0)
        values = above[inside] - np.exp(distance) * discounted[inside]
        return np.clip(np.where(index < len(self.probs), values, self.infinity), 0.0, 1.0)

    def epsilon(self, delta: float) -> float:
        """The least epsilon >= 0 whose divergence is at most `delta`; inf where there is none."""
        import numpy as np

        if self.infinity > delta:
            return math.inf
        if self.delta(np.zeros(1))[0] <= delta:
            return 0.0
        above, discounted = self._tails
        over = np.flatnonzero(above - discounted > delta)
        first = min(int(over[-1]) + 1 if len(over) else 0, len(self.probs) - 1)
        loss = (first + self.lower) * self.interval
        if above[first] <= delta or discounted[first] <= 0:
            return max(0.0, loss)
        return max(0.0, loss + min(0.0, math.log((above[first] - delta) / discounted[first])))


@lru_cache(maxsize=16)
def compose(groups: Groups) -> tuple[Distribution, ...]:
    """The distributions of all steps together, at least one and all noised: to remove, and to add where it differs."""
    interval = grid(groups)
    directions = ("remove", "add") if any(step.rate != 1 and not step.replace for step, _ in groups) else ("remove",)
    return tuple(_convolve([(_single(step, interval, way), count) for step, count in groups]) for way in directions)


def _convolve(parts: list[tuple[Distribution, int]]) -> Distribution:
    """Each distribution taken so many times, all of them composed."""
    import numpy as np
    from scipy.fft import irfft, next_fast_len, rfft

    if len(parts) == 1 and parts[0][1] == 1:
        return parts[0][0]
    lower, upper = _window(parts)
    length = next_fast_len(upper - lower + 1, real=True)
    logarithm, alive = np.zeros(length // 2 + 1, dtype=np.complex128), np.arange(length // 2 + 1)
    for part, count in parts:
        places = (np.arange(len(part.probs)) + part.lower) % length
        found = rfft(np.bincount(places, weights=part.probs, minlength=length))[alive]
        held = np.abs(found) > 1e-300
        alive, found = alive[held], found[held]
        logarithm[alive] += count * np.log(found)  # any branch will do: the counts are whole
        alive = alive[logarithm[alive].real > _NEGLIGIBLE]
    spectrum = np.zeros_like(logarithm)
    spectrum[alive] = np.exp(logarithm[alive])
    probs = np.roll(irfft(spectrum, length), -(lower % length))[: upper - lower + 1]
    survives = math.fsum(count * math.log1p(-part.infinity) for part, count in parts)
    return Distribution(parts[0][0].interval, lower, np.maximum(probs, 0.0), min(1.0, _TAIL - math.expm1(survives)))


def _window(parts: list[tuple[Distribution, int]]) -> tuple[int, int]:
    """First and last place on the grid between which all but a mass of 1e-15 of the sum lies."""
    import numpy as np

    lower = sum(count * part.lower for part, count in parts)
    upper = sum(count * (part.lower + len(part.probs) - 1) for part, count in parts)
    means, variance = [], 0.0
    for part, count in parts:
        places = np.arange(len(part.probs), dtype=np.float64)
        means.append(float(part.probs @ places / part.probs.sum()))
        variance += count * float(part.probs @ (places - means[-1]) ** 2)
    centre = math.fsum(count * (part.lower + mean) for (part, count), mean in zip(parts, means, strict=True))
    orders = 2.0 ** np.arange(-6, 4.5, 0.5) / math.sqrt(max(variance, 1.0))
    orders = np.concatenate([-orders, orders])
    log_moments = np.zeros(len(orders))
    for (part, count), mean in zip(parts, means, strict=True):
        held = np.flatnonzero(part.probs)
        exponents = np.multiply.outer(orders, held - mean) + np.log(part.probs[held])
        largest = exponents.max(axis=1)
        log_moments += count * (np.log(np.exp(exponents - largest[:, None]).sum(axis=1)) + largest)
    bounds = centre + (log_moments + math.log(2 / _TAIL)) / orders
    return max(lower, math.floor(bounds[orders < 0].max())), min(upper, math.ceil(bounds[orders > 0].min()))


@lru_cache(maxsize=256)
def _single(step: Step, interval: float, way: str) -> Distribution:
    """One step's distribution by connecting the dots of its exact profile."""
    import numpy as np

    loss = _loss(step, way)
    bounds = loss.connect_dots_bounds()
    lower, upper = math.floor(bounds.epsilon_lower / interval), math.ceil(bounds.epsilon_upper / interval)
    epsilons = np.arange(lower, upper + 1) * interval
    if step.records > 1 and step.rate != 1:
        cutoffs = _cutoffs(step, way, epsilons)
        deltas = loss.mu_upper_cdf(cutoffs) - np.exp(epsilons + loss.mu_lower_log_cdf(cutoffs))
    else:
        deltas = np.asarray(loss.get_delta_for_epsilon(epsilons), dtype=np.float64)
    deltas = np.minimum.accumulate(np.clip(deltas, 0.0, 1.0))
    if len(deltas) == 1:
        return Distribution(interval, lower, 1 - deltas, float(deltas[0]))
    fall, growth = np.diff(deltas), math.expm1(interval)
    probs = np.empty_like(deltas)
    probs[0] = 1 - deltas[0] + fall[0] / growth
    probs[1:-1] = (fall[1:] - fall[:-1] * math.exp(interval)) / growth
    probs[-1] = fall[-1] / math.expm1(-interval)
    return Distribution(interval, lower, np.maximum(probs, 0.0), float(deltas[-1]))


def _loss(step: Step, way: str) -> Any:
    """dp-accounting's privacy loss of one step."""
    from dp_accounting.pld import privacy_loss_mechanism as mechanisms  # seconds to import, with scipy

    kind = mechanisms.AdjacencyType
    if step.records > 1 and step.rate != 1:  # Choquette-Choo et al. 2024, corollary 4.7
        numbers, chances = zip(*_jumps(step), strict=True)
        return mechanisms.MixtureGaussianPrivacyLoss(
            step.sigma,
            [float(number) for number in numbers],
            chances,
            adjacency_type=kind.REMOVE if way == "remove" else kind.ADD,
        )
    adjacency = kind.REPLACE if step.replace else kind.REMOVE if way == "remove" or step.rate == 1 else kind.ADD
    return mechanisms.GaussianPrivacyLoss(step.sigma, sampling_prob=step.rate, adjacency_type=adjacency)


def _cutoffs(step: Step, way: str, losses: "Floats") -> "Floats":
    """Where a mixture's loss, which falls with the outcome, is as given: by bisection, all at once.

    To remove, the loss at x is log of sum_j w_j exp(-(j x + j^2 / 2) / sigma^2); to add, it is minus that at -x.
    """
    import numpy as np

    wanted = losses if way == "remove" else -losses
    numbers, chances = (np.array(column, dtype=np.float64) for column in zip(*_jumps(step), strict=True))
    numbers, chances = numbers[chances > 0], chances[chances > 0]
    farthest = 45 * step.sigma  # where the normal distribution is 0 or 1 in float64
    low, high = np.full_like(wanted, -farthest - step.records), np.full_like(wanted, farthest)
    for _ in range(60):
        middle = (low + high) / 2
        exponents = -(np.multiply.outer(middle, numbers) + numbers**2 / 2) / step.sigma**2 + np.log(chances)
        largest = exponents.max(axis=1)
        above = np.log(np.exp(exponents - largest[:, None]).sum(axis=1)) + largest > wanted
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return high if way == "remove" else -high


@lru_cache(maxsize=256)
def _jumps(step: Step) -> tuple[tuple[int, float], ...]:
    """How far a sampled step's sum moves, ascending from 0, and how likely it does: the binomial number of records.

    Exact up to 16; beyond, numbers are rounded up to some fifty ones in all, which only adds to the loss.
    """
    m, q = step.records, step.rate
    found, number = [(0, (1 - q) ** m)], 0
    while number < m:
        first, number = number + 1, min(m, number + max(1, number // 8))
        chances = [math.comb(m, k) * q**k * (1 - q) ** (m - k) for k in range(first, number + 1)]
        found.append((number, math.fsum(chances)))
    return tuple((number, chance) for number, chance in found if chance > 0 or number == 0)


def grid(groups: Groups) -> float:
    """The interval for these steps; all of a composition must share one.

    Rounding to a grid h adds about h^2/6 to the variance of every step's loss, so h stays under a tenth of that loss's
    root mean square: some 0.1 per cent of epsilon.
    """
    num_composed, variance, mean, widest = 0, 0.0, 0.0, 0.0
    for step, count in groups:
        (_, absent), *jumps = _jumps(step) if step.rate != 1 else ((0, 0.0), (1, 1.0))
        farthest = [10 * n / step.sigma + n * n / (2 * step.sigma**2) for n, _ in jumps]
        if step.rate == 1:
            square = 1 / step.sigma**2
            widest = max(widest, 2 * farthest[0])
        else:
            # chi-square divergence of a step, the loss's mean square where small; the cut only keeps exp finite
            square = sum(a * b * math.expm1(min(i * j / step.sigma**2, 600.0)) for i, a in jumps for j, b in jumps)
            positive = max(math.log(b) + far for (_, b), far in zip(jumps, farthest, strict=True))
            negative = -math.log(absent + sum(b * math.exp(-f) for (_, b), f in zip(jumps, farthest, strict=True)))
            widest = max(widest, max(positive, 0.0) + math.log(1 + len(jumps)) + negative)
        num_composed += count
        variance += count * square
        mean += count * min(sum(b * n * n for n, b in jumps) / (2 * step.sigma**2), math.log1p(square))
    interval = math.sqrt(variance / num_composed) / _FINENESS
    several = any(step.records > 1 for step, _ in groups)
    coarsest = INTERVAL * (4 if several else 2 if len(groups) >= _MANY_KINDS else 1)
    return max(min(coarsest, interval), widest / _MAX_POINTS_PER_STEP, mean / _MAX_POINTS, _LEAST_INTERVAL)
