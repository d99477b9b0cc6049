"""The curve of metrics by round: lines, error bars, ticks and marks of an SVG, as a template draws them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 720, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 14, 14, 40
_MAX_DOTS = 60  # beyond these the line alone is clearer


@dataclass(frozen=True)
class Tick:
    """A line of the grid: its place on the axis and its text."""

    at: float
    text: str


@dataclass(frozen=True)
class Dot:
    """One value: place, and what a pointer resting there is told."""

    x: float
    y: float
    text: str


@dataclass(frozen=True)
class Bar:
    """One value's error bar, a standard error to either side: its place, upper and lower end."""

    x: float
    top: float
    bottom: float


@dataclass(frozen=True)
class Line:
    """One metric: SVG points, dots and error bars."""

    name: str
    points: str
    dots: tuple[Dot, ...]
    bars: tuple[Bar, ...] = ()


@dataclass(frozen=True)
class Curve:
    """All that the template draws, in the units of a viewBox of WIDTH by HEIGHT."""

    lines: tuple[Line, ...]
    rounds: tuple[Tick, ...]  # along x
    values: tuple[Tick, ...]  # along y
    skipped: tuple[float, ...]  # x of rounds whose answers did not suffice
    left: float = _LEFT
    right: float = WIDTH - _RIGHT
    top: float = _TOP
    bottom: float = HEIGHT - _BOTTOM
    width: int = WIDTH
    height: int = HEIGHT


def draw(
    metrics: Sequence[tuple[str, Sequence[tuple[int, float]]]],
    skipped: Sequence[int],
    errors: Mapping[str, Mapping[int, float]] | None = None,
) -> Curve | None:
    """Lines of (name, [(round, value in [0, 1])]); None where no line has a point.

    errors: standard errors of a line's values by round, for its error bars; they end at 0 and 1.
    """
    errors = errors or {}
    drawn = [(name, series) for name, series in metrics if series]
    if not drawn:
        return None
    every = [number for _, series in drawn for number, _ in series] + list(skipped)
    first, last = min(every), max(every)
    spans = {
        name: [(n, max(0.0, value - errors[name][n]), min(1.0, value + errors[name][n])) for n, value in series]
        for name, series in drawn
        if name in errors
    }
    values = [value for _, series in drawn for _, value in series]
    values += [end for span in spans.values() for _, *ends in span for end in ends]
    step = _step(max(values) - min(values))
    low, high = max(0.0, math.floor(min(values) / step) * step), min(1.0, math.ceil(max(values) / step) * step)
    if high - low < step:
        low, high = (low, low + step) if low + step <= 1 else (high - step, high)

    def x(number: int) -> float:
        share = (number - first) / (last - first) if last > first else 0.5
        return round(_LEFT + share * (WIDTH - _LEFT - _RIGHT), 1)

    def y(value: float) -> float:
        return round(_TOP + (high - value) / (high - low) * (HEIGHT - _TOP - _BOTTOM), 1)

    lines = tuple(
        Line(
            name,
            " ".join(f"{x(number)},{y(value)}" for number, value in series),
            tuple(Dot(x(n), y(value), f"round {n}: {name} {value:.3f}") for n, value in series)
            if len(series) <= _MAX_DOTS
            else (),
            tuple(Bar(x(n), y(end), y(start)) for n, start, end in spans.get(name, ())),
        )
        for name, series in drawn
    )
    num_values = round((high - low) / step)
    return Curve(
        lines,
        tuple(Tick(x(number), str(number)) for number in _round_ticks(first, last)),
        tuple(Tick(y(low + i * step), f"{low + i * step:.{2 if step < 0.1 else 1}f}") for i in range(num_values + 1)),
        tuple(x(number) for number in skipped),
    )


def _step(spread: float) -> float:
    """The distance of the grid's lines, for three to six of them."""
    return next((step for step in (0.01, 0.02, 0.05, 0.1) if spread <= 4 * step), 0.2)


def _round_ticks(first: int, last: int) -> list[int]:
    """First, last and up to nine rounds of a round distance between them."""
    spread = last - first
    step = next(s * 10**power for power in range(6) for s in (1, 2, 5) if spread <= 10 * s * 10**power)
    between = [
        n for n in range(-(-first // step) * step, last + 1, step) if n - first >= step / 2 and last - n >= step / 2
    ]
    return [first, *between, last] if spread else [first]
