"""How many coins an auditor guesses: settled before the audited training, from what an ideal attack would see.

The bound's theorem asks for a number of guesses that does not depend on the outcome. Here it is a function of the
canaries' number, q, sigma and the steps alone: scores of an ideal white-box attack are drawn by a seed of their own,
and the numbers with the best expected bound are taken.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from privet.common.privacy.events import TrainEvent
from privet.simulations.audit.bound import Tally, cap, lower_bound, p_value

Scores = NDArray[np.float64]
Coins = NDArray[np.bool_]

_FRACTIONS = (0.0, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
_MARGIN = 1.25  # so many times the claim must be within reach of the guesses, else no fault could show
_MOST_DRAWS = 20_000_000  # normals drawn to settle the numbers
LEAST_SPREAD = 0.05  # of a score's noise where none is added: what real records may leave behind


@dataclass(frozen=True)
class Guesses:
    """Of all canaries, the `num_in` with the largest scores are guessed in, the `num_out` with the smallest out."""

    num_in: int
    num_out: int

    @property
    def total(self) -> int:
        return self.num_in + self.num_out

    def tally(self, scores: Scores, coins: Coins) -> Tally:
        """Scores [m] against coins [m]: how many guesses are right."""
        order = np.argsort(-scores, kind="stable")
        right = coins[order[: self.num_in]].sum() + (~coins[order[len(order) - self.num_out :]]).sum()
        return Tally(len(coins), self.total, int(right))


def log_likelihood_ratio(seen: Scores, sample_rate: float, spread: float | Scores) -> Scores:
    """Of one step: log of how much likelier `seen` is with the canary than without, by the Neyman-Pearson lemma.

    Without it `seen` is N(0, spread^2); with it, N(1, spread^2) at the chance of `sample_rate`, in units of what a
    clipped canary adds.
    """
    drawn = (seen - 0.5) / spread**2 + math.log(sample_rate)
    return drawn if sample_rate == 1 else np.logaddexp(math.log1p(-sample_rate), drawn)


def settle(event: TrainEvent, rounds: int, num_canaries: int, claim: float, delta: float, spread: float) -> Guesses:
    """The numbers of guesses for a training of `rounds` equal events that claims `claim`.

    Among the numbers whose cap lies a quarter above the claim (or near the cap of guessing every coin, where that is
    out of reach), those for which the ideal attack's bound is the largest.
    """
    num_in, num_out = _ideal(event, rounds, num_canaries, spread)
    counts = sorted({round(fraction * num_canaries) for fraction in _FRACTIONS})
    within_reach = min(_MARGIN * claim, 0.97 * cap(num_canaries, num_canaries, delta))
    if event.noise_multiplier == 0:
        within_reach = 0.0  # nothing is claimed
    best, best_key = Guesses(num_canaries // 2, num_canaries - num_canaries // 2), (-1.0, 0.0)
    for first in counts:
        for second in counts:
            total = first + second
            if not 0 < total <= num_canaries or cap(num_canaries, total, delta) < within_reach:
                continue
            right = math.floor(num_in[first] + num_out[second] + 1e-9)
            tally = Tally(num_canaries, total, right)
            key = lower_bound(tally, delta), -p_value(tally, 0.0, delta)
            if key > best_key:
                best, best_key = Guesses(first, second), key
    return best


def _ideal(event: TrainEvent, rounds: int, num_canaries: int, spread: float) -> tuple[Scores, Scores]:
    """Expected right guesses [m + 1] by the number of guesses "in", and of guesses "out"."""
    steps = rounds * event.steps
    repeats = int(np.clip(_MOST_DRAWS // (steps * num_canaries), 2, 40))
    random = np.random.Generator(np.random.PCG64(num_canaries))
    coins = random.random((repeats, num_canaries)) < 0.5
    scores = np.zeros(coins.shape)
    for _ in range(steps):
        drawn = coins & (random.random(coins.shape) < event.sample_rate)
        seen = drawn + spread * random.standard_normal(coins.shape)
        scores += log_likelihood_ratio(seen, event.sample_rate, spread)
    order = np.argsort(-scores, axis=1, kind="stable")
    best_first = np.take_along_axis(coins, order, axis=1)
    return _cumulated(best_first), _cumulated(~best_first[:, ::-1])


def _cumulated(right: Coins) -> Scores:
    return np.concatenate([[0.0], np.cumsum(right, axis=1).mean(axis=0)])
