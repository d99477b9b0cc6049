"""Axes: where they begin and end, and the round numbers at their ticks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

_LEAST = 1e-6  # differences below this are none


@dataclass(frozen=True)
class Axis:
    """A range of values, and ticks (value, text) within it. `place` gives 0 at `low` and 1 at `high`."""

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    log: bool = False

    def place(self, value: float) -> float:
        """Within [0, 1]: what lies beyond is drawn at the edge."""
        if self.log:
            value = max(value, self.low)
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return min(1.0, max(0.0, share))


def linear(
    values: Sequence[float], limits: tuple[float | None, float | None] = (None, None), *, from_zero: bool = False
) -> Axis:
    """An axis that holds all values, three to seven ticks on it, within the limits.

    >>> [text for _, text in linear([0.12, 0.81], (0.0, 1.0)).ticks]
    ['0.0', '0.2', '0.4', '0.6', '0.8', '1.0']
    """
    least, most = min(values), max(values)
    if from_zero:
        least = min(0.0, least)
    spread = (most - least) or abs(most) or 1.0
    step = _step(max(spread, _LEAST * max(1.0, abs(most))), 5)
    low, high = math.floor(least / step + 1e-9) * step, math.ceil(most / step - 1e-9) * step
    if high - low < step / 2:  # one value alone: in the middle
        low, high = (0.0 if from_zero else low - step), high + step
    floor, ceiling = limits
    if ceiling is not None and high > ceiling:
        low, high = min(low, ceiling - step), ceiling
    if floor is not None and low < floor:
        low, high = floor, max(high, floor + step)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return Axis(low, high, tuple((i * step, f"{i * step + 0.0:,.{digits}f}") for i in range(first, last + 1)))


def logarithmic(values: Sequence[float]) -> Axis:
    """An axis that holds all values, which are above zero.

    >>> [text for _, text in logarithmic([0.4, 90]).ticks]
    ['0.1', '1', '10', '100']
    >>> [text for _, text in logarithmic([2, 30]).ticks]
    ['2', '5', '10', '20', '50']
    """
    least, most = min(values), max(values)
    wide = math.log10(most / least) > 2
    factors = (1,) if wide else (1, 2, 5)
    first, last = math.floor(math.log10(least)), math.ceil(math.log10(most))
    all_ = [factor * 10.0**power for power in range(first, last + 1) for factor in factors]
    low = max((tick for tick in all_ if tick <= least * (1 + 1e-9)), default=all_[0])
    high = min((tick for tick in all_ if tick >= most * (1 - 1e-9)), default=all_[-1])
    if high <= low:
        high = all_[all_.index(low) + 1] if low != all_[-1] else low * 10
    shown = [tick for tick in all_ if low <= tick <= high]
    stride = math.ceil(len(shown) / 7)
    return Axis(low, high, tuple((tick, f"{tick:,.10g}") for tick in shown[::stride]), log=True)


def counting(first: int, last: int) -> Axis:
    """An axis of whole numbers: the first, the last and round numbers between them.

    >>> [text for _, text in counting(1, 40).ticks]
    ['1', '10', '20', '30', '40']
    """
    spread = last - first
    if spread == 0:
        return Axis(first - 0.5, last + 0.5, ((float(first), f"{first:,}"),))
    step = max(1, round(_step(float(spread), 6)))
    between = [n for n in range(-(-first // step) * step, last, step) if n - first >= step / 2 and last - n >= step / 2]
    return Axis(first, last, tuple((float(n), f"{n:,}") for n in (first, *between, last)))


def _step(spread: float, most: int) -> float:
    """The least of 1, 2, 5 times a power of ten that divides the spread into so many parts at most."""
    power = 10.0 ** math.floor(math.log10(spread / most))
    return next(step * power for step in (1, 2, 5, 10, 20) if spread <= most * step * power * (1 + 1e-9))
