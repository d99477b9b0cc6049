"""What the guesses of an auditor prove: a lower bound on epsilon from one training.

Steinke, Nasr and Jagielski 2023 (arXiv 2305.08846), theorem 5.2. Of m canaries each was included by a fair coin. The
auditor guesses r of the coins, abstains on the others, and is right v times. If the training is (epsilon, delta)-DP
under adding or removing one canary, then with W ~ Binomial(r, e^epsilon / (1 + e^epsilon)) and f(v) = P[W >= v]

    P[at least v right] <= f(v) + 2 m delta max over i in 1..m of (f(v - i) - f(v)) / i

whatever the auditor does, as long as r is fixed beforehand. An epsilon for which the right-hand side is below 1 minus
the confidence is refuted; the largest refuted one is the bound.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

CONFIDENCE = 0.95
_PRECISION = 1e-4
_LARGEST = 64.0  # e^-64 is below every delta that matters


@dataclass(frozen=True)
class Tally:
    """How the guesses came out: `num_right` of `num_guesses`, on `num_canaries` coins."""

    num_canaries: int
    num_guesses: int
    num_right: int

    def __post_init__(self) -> None:
        if not 0 <= self.num_right <= self.num_guesses <= self.num_canaries:
            raise ValueError(f"Expected 0 <= right <= guesses <= canaries, got {self}.")


def p_value(tally: Tally, epsilon: float, delta: float) -> float:
    """Bound on the chance of at least so many right guesses under (epsilon, delta)-DP, at most 1.

    Raises ValueError unless epsilon >= 0 and 0 <= delta <= 1.
    """
    if not (epsilon >= 0 and 0 <= delta <= 1):
        raise ValueError(f"Expected epsilon >= 0 and 0 <= delta <= 1, got {epsilon!r} and {delta!r}.")
    from scipy.stats import binom  # slow to import

    chance = 1 / (1 + math.exp(-epsilon))
    tail = float(binom.sf(tally.num_right - 1, tally.num_guesses, chance))
    if delta == 0 or tally.num_right == 0:
        return min(1.0, tail)
    # f(v - i) - f(v) = P[v - i <= W < v], of which nothing is left to gain beyond i = v
    below = np.cumsum(binom.pmf(np.arange(tally.num_right - 1, -1, -1), tally.num_guesses, chance))
    steepest = float((below / np.arange(1, tally.num_right + 1)).max())
    return min(1.0, tail + 2 * tally.num_canaries * delta * steepest)


@lru_cache(maxsize=4096)
def lower_bound(tally: Tally, delta: float, confidence: float = CONFIDENCE) -> float:
    """The largest epsilon that the tally refutes at this confidence, to 1e-4 and rounded down; 0 where it refutes none.

    Raises ValueError unless 0 < confidence < 1.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"Expected 0 < confidence < 1, got {confidence!r}.")
    allowed = 1 - confidence
    if p_value(tally, 0.0, delta) > allowed:
        return 0.0
    low, high = 0.0, 1.0
    while high < _LARGEST and p_value(tally, high, delta) <= allowed:
        low, high = high, 2 * high
    while high - low > _PRECISION:
        middle = (low + high) / 2
        low, high = (middle, high) if p_value(tally, middle, delta) <= allowed else (low, middle)
    return low


def cap(num_canaries: int, num_guesses: int, delta: float, confidence: float = CONFIDENCE) -> float:
    """The bound where every guess is right: no audit with so many guesses can show more."""
    return lower_bound(Tally(num_canaries, num_guesses, num_guesses), delta, confidence)
