"""Intervals: of a statistic by the bootstrap over units, of a share by Wilson (1927), of two shares' difference by
Newcombe (1998).

Units are resampled whole, for a person's records are alike: n records of one person are worth less than n persons.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

NUM_RESAMPLES = 1000
_WEIGHTS_AT_ONCE = 4_000_000  # numbers: 32 MB


@dataclass(frozen=True)
class Interval:
    """An estimate and the ends of its interval: low <= value <= high."""

    value: float
    low: float
    high: float


def resamples(
    num_units: int, seed: int, *, width: int = 1, num_resamples: int = NUM_RESAMPLES
) -> Iterator[tuple[slice, Floats]]:
    """How often each unit is drawn: (which rows, float64 [rows, num_units]), `num_resamples` rows in all, num_units
    draws with replacement a row. The rows hang on the seed and the number of units alone.

    width: how many sums the caller makes of a row; so much fits into memory at once.
    """
    random = np.random.Generator(np.random.PCG64([seed, 1]))
    at_once = max(1, _WEIGHTS_AT_ONCE // max(1, num_units, width))
    for begin in range(0, num_resamples, at_once):
        end = min(begin + at_once, num_resamples)
        rows = [np.bincount(random.integers(0, num_units, num_units), minlength=num_units) for _ in range(begin, end)]
        yield slice(begin, end), np.array(rows, np.float64)


def bootstrap_interval(value: float, drawn: Floats, confidence: float) -> Interval:
    """Of a statistic's value and its values on resamples; those that are not finite are left out.

    Percentiles, corrected for the median's bias (Efron 1981), and widened to hold the value itself where a statistic
    is so biased that they would not.
    """
    drawn = np.sort(drawn[np.isfinite(drawn)])
    if not math.isfinite(value) or not len(drawn):
        return Interval(value, value, value)
    from scipy.special import ndtr, ndtri

    below = (np.count_nonzero(drawn < value) + 0.5 * np.count_nonzero(drawn == value)) / len(drawn)
    shift = float(ndtri(min(max(below, 0.025), 0.975)))
    half = float(ndtri(0.5 + confidence / 2))
    low, high = (float(np.quantile(drawn, ndtr(2 * shift + sign * half))) for sign in (-1, 1))
    return Interval(value, min(low, value), max(high, value))


def wilson(right: float, total: float, confidence: float) -> Interval:
    """Of the share right / total; total may be an effective number. Never of no width: 20 of 20 is no certainty."""
    if total <= 0:
        return Interval(math.nan, 0.0, 1.0)
    from scipy.special import ndtri

    share, square = right / total, float(ndtri(0.5 + confidence / 2)) ** 2
    middle = (share + square / (2 * total)) / (1 + square / total)
    half = math.sqrt(square * (share * (1 - share) / total + square / (4 * total**2))) / (1 + square / total)
    return Interval(share, min(share, max(0.0, middle - half)), max(share, min(1.0, middle + half)))


def share_interval(right: Floats, total: Floats, confidence: float) -> Interval:
    """Of sum(right) / sum(total) over units, both [U]: Wilson's with the number of records that independent ones would
    have to be (Kish 1965). Where no unit errs, or all do, the data tell no spread: then that number is the units'."""
    used = total > 0
    right, total = right[used], total[used]
    num = float(total.sum())
    if not num:
        return wilson(0, 0, confidence)
    share, units = float(right.sum()) / num, len(total)
    effective = num**2 / float((total**2).sum()) if share in (0.0, 1.0) else num
    if 0 < share < 1 and units > 1:
        variance = units / (units - 1) * float(((right - share * total) ** 2).sum()) / num**2
        effective = min(num, max(1.0, share * (1 - share) / variance)) if variance > 0 else float(units)
    return wilson(share * effective, effective, confidence)


def difference(first: Interval, second: Interval) -> Interval:
    """Of first - second, two independent shares, out of the intervals of each."""
    value = first.value - second.value
    low = value - math.hypot(first.value - first.low, second.high - second.value)
    high = value + math.hypot(first.high - first.value, second.value - second.low)
    return Interval(value, max(-1.0, low), min(1.0, high))
