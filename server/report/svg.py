"""A figure's places in an SVG's viewBox, as the template draws them. Colours are the page's, by class."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from privet.server.report.axes import Axis, counting, linear, logarithmic
from privet.server.report.figure import Columns, Figure, Line
from privet.server.report.words import shortened

T = TypeVar("T")
Place = Callable[[float], float]
_CHARACTER = 7.2  # units: the mean width of a character, in a wide font
_TOP, _BOTTOM = 30, 40
_LINE_HEIGHT = 15
_MAX_DOTS = 60  # beyond these the line alone is clearer
_MAX_POINTS = 600  # of one line: more than a screen has pixels for


@dataclass(frozen=True)
class Size:
    """Of a viewBox, and the longest label beside a line."""

    name: str
    width: int
    height: int
    label: int  # characters


WIDE, NARROW = Size("wide", 920, 340, 24), Size("narrow", 448, 270, 17)


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
    """One value's error bar: its place, upper and lower end."""

    x: float
    top: float
    bottom: float


@dataclass(frozen=True)
class Label:
    """A name where its line ends."""

    y: float
    text: str
    whole: str
    style: int


@dataclass(frozen=True)
class Path:
    """A line or the outline of an area."""

    name: str
    d: str
    style: int
    dots: tuple[Dot, ...] = ()
    bars: tuple[Bar, ...] = ()
    strong: bool = False


@dataclass(frozen=True)
class Legend:
    """A sample of what is drawn, and its name. kind: line, area, column or mark."""

    kind: str
    name: str
    style: int
    strong: bool = False


@dataclass(frozen=True)
class Drawing:
    """All that the template draws."""

    figure: Figure
    size: Size
    left: float
    right: float
    top: float
    bottom: float
    lines: tuple[Path, ...]
    areas: tuple[Path, ...]
    columns: tuple[Path, ...]
    labels: tuple[Label, ...]
    legend: tuple[Legend, ...]
    xs: tuple[Tick, ...]
    ys: tuple[Tick, ...]
    marks: tuple[float, ...]


def draw(figure: Figure, size: Size) -> Drawing | None:
    """None where the figure holds no value."""
    axes = axes_of(figure)
    if axes is None:
        return None
    across, up = axes
    labels = [_short(line, size.label) for line in figure.lines]
    num_labels = int((size.height - _TOP - _BOTTOM) / _LINE_HEIGHT)
    said = len(labels) == 1 and figure.lines[0].name.lower() in figure.title.lower()  # then the title names the line
    beside = 1 <= len(labels) <= num_labels and not said
    left = 14 + _CHARACTER * max(len(text) for _, text in up.ticks)
    right = size.width - (12 + 1.07 * _CHARACTER * max(map(len, labels)) if beside else 14)
    bottom = size.height - _BOTTOM

    def x(value: float) -> float:
        return round(left + across.place(value) * (right - left), 1)

    def y(value: float) -> float:
        return round(bottom - up.place(value) * (bottom - _TOP), 1)

    lines = tuple(
        Path(
            line.name,
            " ".join(f"{x(a)},{y(b)}" for a, b in thinned(line.points, _MAX_POINTS)),
            line.style,
            dots=tuple(Dot(x(a), y(b), _told(figure, line, i)) for i, (a, b) in enumerate(line.points))
            if len(line.points) <= _MAX_DOTS
            else (),
            bars=tuple(
                Bar(x(a), y(b + error), y(b - error))
                for (a, b), error in thinned(tuple(zip(line.points, line.errors, strict=True)), 2 * _MAX_DOTS)
            )
            if line.errors
            else (),
        )
        for line in figure.lines
    )
    areas = []
    for band in figure.bands:
        points = thinned(band.points, _MAX_POINTS)
        there = [f"{x(a)},{y(high)}" for a, _, high in points]
        back = [f"{x(a)},{y(low)}" for a, low, _ in reversed(points)]
        areas.append(Path(band.name, f"M{' '.join(there + back)}Z", band.style, strong=band.strong))
    placed = _placed([y(line.points[-1][1]) for line in figure.lines], _TOP, bottom) if beside else []
    return Drawing(
        figure=figure,
        size=size,
        left=round(left, 1),
        right=round(right, 1),
        top=_TOP,
        bottom=bottom,
        lines=lines,
        areas=tuple(areas),
        columns=_columns(figure.columns, x, y) if figure.columns is not None else (),
        labels=tuple(
            Label(at, text, _label(line), line.style)
            for at, text, line in zip(placed, labels, figure.lines, strict=True)
        )
        if beside
        else (),
        legend=_legend(figure, lines=not beside),
        xs=tuple(Tick(x(value), text) for value, text in across.ticks),
        ys=tuple(Tick(y(value), text) for value, text in up.ticks),
        marks=tuple(sorted({x(value) for value in figure.marks})),
    )


def axes_of(figure: Figure) -> tuple[Axis, Axis] | None:
    """Along and up; None where there is no value."""
    xs = [x for line in figure.lines for x, _ in line.points] + [x for band in figure.bands for x, *_ in band.points]
    ys = [y for line in figure.lines for _, y in line.points]
    ys += [end for band in figure.bands for _, *ends in band.points for end in ends]
    for line in figure.lines:
        for (_, value), error in zip(line.points, line.errors, strict=False):
            ys += [value - error, value + error]
    if figure.columns is not None:
        ys += [sum(heights) for heights in figure.columns.heights]
        xs += list(figure.columns.at)
    if not ys:
        return None
    if figure.scale == "log":
        up = logarithmic([value for value in ys if value > 0])
    else:
        floor, ceiling = figure.limits
        ys = [min(max(value, value if floor is None else floor), value if ceiling is None else ceiling) for value in ys]
        up = linear(ys, figure.limits, from_zero=figure.from_zero)
    xs += list(figure.marks)
    across = counting(int(min(xs)), int(max(xs))) if figure.whole else _across(xs, figure)
    if figure.columns is not None:
        half = figure.columns.width / 2
        across = replace(across, low=min(across.low, min(xs) - half), high=max(across.high, max(xs) + half))
    return across, up


def thinned(items: Sequence[T], most: int) -> Sequence[T]:
    """At most so many, evenly spread; the first and the last are there."""
    if len(items) <= most:
        return items
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def _across(xs: Sequence[float], figure: Figure) -> Axis:
    half = figure.columns.width / 2 if figure.columns is not None else 0.0
    return linear([min(xs) - half, max(xs) + half], figure.across)


def _columns(columns: Columns, x: Place, y: Place) -> tuple[Path, ...]:
    """One path for each part of the stack: a few bytes a column."""
    parts: list[list[str]] = [[] for _ in columns.names]
    for at, heights in zip(columns.at, columns.heights, strict=True):
        left, right = x(at - columns.width / 2), x(at + columns.width / 2)
        gap = min(1.0, (right - left) / 5)
        below = 0.0
        for index, height in enumerate(heights):
            if height > 0:
                low, high = y(below), y(below + height)
                parts[index].append(f"M{left + gap / 2:.1f} {low:.1f}V{high:.1f}H{right - gap / 2:.1f}V{low:.1f}Z")
            below += height
    return tuple(
        Path(name, "".join(part), style)
        for name, part, style in zip(columns.names, parts, columns.styles, strict=True)
        if part
    )


def _legend(figure: Figure, *, lines: bool) -> tuple[Legend, ...]:
    """What no label beside its end names."""
    found = [Legend("line", _label(line), line.style) for line in figure.lines] if lines else []
    found += [Legend("area", band.name, band.style, band.strong) for band in figure.bands]
    if figure.columns is not None:
        used = [any(heights[i] > 0 for heights in figure.columns.heights) for i in range(len(figure.columns.names))]
        named = zip(figure.columns.names, figure.columns.styles, used, strict=True)
        found += [Legend("column", name, style) for name, style, is_used in named if is_used]
    if figure.marks:
        found.append(Legend("mark", figure.marks_name, 0))
    return tuple(found) if figure.bands or figure.marks or len(found) > 1 else ()


def _label(line: Line) -> str:
    return f"{line.name} {line.note}" if line.note else line.name


def _short(line: Line, most: int) -> str:
    """The label beside a line's end: of a long name the note is kept."""
    return f"{shortened(line.name, most - len(line.note) - 1)} {line.note}" if line.note else shortened(line.name, most)


def _told(figure: Figure, line: Line, index: int) -> str:
    at, value = line.points[index]
    error = f" ± {line.errors[index]:.3g}" if line.errors else ""
    return f"{figure.x} {at:,.6g}, {line.name}: {value:.4g}{error}"


def _placed(wished: Sequence[float], top: float, bottom: float) -> list[float]:
    """Baselines as near to those wished as a line's height between them allows."""
    order = sorted(range(len(wished)), key=lambda i: wished[i])
    places = [min(max(wished[i], top), bottom) for i in order]
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + _LINE_HEIGHT)
    if places and places[-1] > bottom:
        places[-1] = bottom
        for i in range(len(places) - 2, -1, -1):
            places[i] = min(places[i], places[i + 1] - _LINE_HEIGHT)
    found = [0.0] * len(wished)
    for i, place in zip(order, places, strict=True):
        found[i] = round(place, 1)
    return found
