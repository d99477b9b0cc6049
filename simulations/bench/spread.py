"""What repeated measurements come to: a median and how far they lie apart."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """The median of some values, the lowest and the highest, and all of them in the order of measurement.

    >>> Spread.of([3.0, 1.0, 2.0])
    Spread(median=2.0, low=1.0, high=3.0, values=(3.0, 1.0, 2.0))
    >>> print(Spread.of([0.5, 0.25]))
    0.375 (0.25..0.5)
    """

    median: float
    low: float
    high: float
    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Raises: ValueError where there is no value."""
        if not values:
            raise ValueError("Expected at least one value.")
        return cls(statistics.median(values), min(values), max(values), tuple(values))

    def __str__(self) -> str:
        return f"{self.median:.3g} ({self.low:.3g}..{self.high:.3g})"


def ratios(over: Sequence[float], under: Sequence[float]) -> Spread:
    """over / under, repeat by repeat: what slows the machine in one repeat slows both sides of its ratio.

    >>> ratios([2.0, 6.0, 9.0], [1.0, 3.0, 3.0]).median
    2.0

    Raises: ValueError where they differ in number.
    """
    return Spread.of([a / b for a, b in zip(over, under, strict=True)])


def rotated(names: Sequence[str], repeat: int) -> list[str]:
    """The order of a repeat's turns: each starts with another arm, so that none always follows the same one.

    >>> rotated(["a", "b", "c"], 1)
    ['b', 'c', 'a']
    """
    start = repeat % len(names)
    return [*names[start:], *names[:start]]
