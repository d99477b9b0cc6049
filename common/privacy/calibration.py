"""The least noise that keeps a fixed number of steps within (epsilon, delta)."""

import math
from collections.abc import Callable

from privet.common.errors import InputError
from privet.common.privacy.accountant import epsilon as composed_epsilon
from privet.common.privacy.events import TrainEvent

MAX_NOISE_MULTIPLIER = 10_000
_UNIT = 1000  # the search runs over whole thousandths


def noise_multiplier(*, sample_rate: float, steps: int, epsilon: float, delta: float) -> float:
    """The smallest sigma of three decimals for which `steps` equal steps stay within (epsilon, delta), add or remove.

    `steps` is the whole horizon: rounds times local steps. The sigma that is returned was itself put to the accountant.
    Raises InputError where more than 10,000 would be needed, ValueError where an argument is out of range.
    """
    if not (0 < epsilon < math.inf and 0 < delta < 1):
        raise ValueError(f"Expected 0 < epsilon < inf and 0 < delta < 1, got {epsilon!r} and {delta!r}.")

    def event(thousandths: int) -> TrainEvent:
        return TrainEvent(
            sample_rate=sample_rate,
            noise_multiplier=thousandths / _UNIT,
            steps=steps,
            max_grad_norm=1.0,
            expected_batch=1,
            unit="unit",
            max_records=1,
        )

    def spent(thousandths: int) -> float:
        return composed_epsilon([event(thousandths)], delta)

    event(_UNIT)  # judges the other arguments
    guess = _central_limit(sample_rate, steps, epsilon, delta)
    enough = _search(spent, epsilon, max(1, min(MAX_NOISE_MULTIPLIER * _UNIT, round(guess * _UNIT))))
    if enough is None:
        raise InputError(
            f"{steps:,} steps at sample rate {sample_rate:g} cannot stay within epsilon {epsilon:g} at delta {delta:g}:"
            f" a noise multiplier above {MAX_NOISE_MULTIPLIER:,} would be needed.",
            mend="ask for fewer rounds or local steps, a smaller expected batch, or grant a larger epsilon.",
        )
    return enough / _UNIT


def _search(spent: Callable[[int], float], target: float, guess: int) -> int | None:
    """The least m in 1..MAX whose `spent(m)`, falling in m, is at most `target`; None where MAX is not enough.

    Secants in log m and log epsilon, close to straight, with a bisection every fifth time; a few evaluations each.
    """
    largest = MAX_NOISE_MULTIPLIER * _UNIT
    low, low_epsilon = 0, math.inf  # fails
    high, high_epsilon = largest + 1, 0.0  # passes, or is out of range
    m, num_evaluations = guess, 0
    while high - low > 1:
        value = spent(m)
        num_evaluations += 1
        if value <= target:
            high, high_epsilon = m, value
        else:
            low, low_epsilon = m, value
        if low == 0 or high > largest:  # one-sided: epsilon falls at least like 1/m, so this factor soon crosses over
            factor = min(max(value / target, 1 / 1.5), 1.5)
            m = math.floor(m * factor) - 1 if value <= target else math.ceil(m * factor) + 1
        elif num_evaluations % 5 and high_epsilon > 0 and low_epsilon < math.inf:
            slope = math.log(high / low) / math.log(low_epsilon / high_epsilon)
            m = math.ceil(low * math.exp(slope * math.log(low_epsilon / target)))
        else:
            m = math.isqrt(low * high)
        m = min(max(m, low + 1), high - 1)
    return high if high <= largest else None


def _central_limit(sample_rate: float, steps: int, epsilon: float, delta: float) -> float:
    """Where to start: the sigma of the Gaussian limit (Bu et al. 2020), right to some tens of per cent, no bound."""
    low, high = 1e-3, 1e3  # mu, log-bisected
    for _ in range(40):
        mu = math.sqrt(low * high)
        low, high = (low, mu) if _gaussian_delta(mu, epsilon) > delta else (mu, high)
    if sample_rate == 1:
        return math.sqrt(steps) / low
    ratio = low / sample_rate / math.sqrt(steps)
    return 1 / math.sqrt(math.log1p(ratio * ratio))


def _gaussian_delta(mu: float, epsilon: float) -> float:
    """delta of mu-Gaussian differential privacy (Dong et al. 2022, corollary 2.13)."""
    root = math.sqrt(2)
    first = math.erfc((epsilon / mu - mu / 2) / root) / 2
    second = math.erfc((epsilon / mu + mu / 2) / root) / 2
    return first - (math.exp(epsilon + math.log(second)) if second > 0 else 0.0)
