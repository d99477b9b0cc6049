"""The figures of a page as PNGs, for a paper or a slide, by matplotlib; without it there are none."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from privet.common.errors import RunError
from privet.server.report.confusion import HeatMap
from privet.server.report.figure import Figure
from privet.server.report.svg import axes_of, thinned
from privet.server.report.words import shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = ("#2c6a3f", "#a8691a", "#33589c", "#8a3d76", "#16777c", "#b0392c", "#6a6f1c", "#6b5a8e", "#a9b1aa")
_DASHES: tuple[Any, ...] = ("-", "--", "-", ":", "-.", (0, (8, 3)), (0, (3, 2)), (0, (1, 2)))
_INK, _SOFT, _RULE, _HAIR = "#1c231e", "#5b665e", "#dcdfd6", "#e9ebe4"
_SETTINGS: Any = {
    "font.size": 9,
    "axes.edgecolor": _RULE,
    "axes.labelcolor": _SOFT,
    "text.color": _SOFT,
    "xtick.color": _RULE,
    "ytick.color": _RULE,
    "xtick.labelcolor": _SOFT,
    "ytick.labelcolor": _SOFT,
    "text.parse_math": False,  # a dollar in a site's name is a dollar
}
_MAX_POINTS = 2_000
_MAX_NAMED = 100  # labels beside a heat map


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def write_pngs(figures: Sequence[Figure], heat: HeatMap | None, folder: Path) -> list[Path]:
    """One file a figure, named by its key, and confusion.png. Raises: RunError where the folder cannot be written."""
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _quiet():
            for figure in figures:
                if axes_of(figure) is not None:
                    written.append(folder / f"{figure.key}.png")
                    _plot(figure, written[-1])
            if heat is not None:
                written.append(folder / "confusion.png")
                _heat(heat, written[-1])
    except OSError as error:
        raise RunError(
            f"cannot be written ({error.strerror or error}).", where=str(folder), mend="give a writable place."
        ) from None
    return written


@contextmanager
def _quiet() -> Iterator[None]:
    """A sign that no font has is drawn as a box, and that is all there is to say of it."""
    import matplotlib

    fonts = logging.getLogger("matplotlib.font_manager")
    level = fonts.level
    fonts.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), matplotlib.rc_context(_SETTINGS):
            warnings.simplefilter("ignore")
            yield
    finally:
        fonts.setLevel(level)


def _plot(figure: Figure, path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    axes_ = axes_of(figure)
    assert axes_ is not None
    across, up = axes_
    canvas = Canvas(figsize=(7.2, 4.0), facecolor="white", layout="constrained", dpi=160)
    FigureCanvasAgg(canvas)
    axes = canvas.add_subplot()
    for band in figure.bands:
        x, low, high = zip(*thinned(band.points, _MAX_POINTS), strict=True)
        colour = _COLOURS[band.style % len(_COLOURS)]
        alpha = 0.26 if band.strong else 0.14
        axes.fill_between(x, low, high, color=colour, alpha=alpha, linewidth=0, label=band.name)
    if figure.columns is not None:
        below = [0.0] * len(figure.columns.at)
        for i, (name, style) in enumerate(zip(figure.columns.names, figure.columns.styles, strict=True)):
            heights = [parts[i] for parts in figure.columns.heights]
            if any(heights):
                width = figure.columns.width * 0.9
                axes.bar(figure.columns.at, heights, width, below, color=_COLOURS[style], label=name)
            below = [a + b for a, b in zip(below, heights, strict=True)]
    for line in figure.lines:
        points = thinned(line.points, _MAX_POINTS)
        x, y = zip(*points, strict=True)
        colour, dash = _COLOURS[line.style % len(_COLOURS)], _DASHES[line.style % len(_DASHES)]
        name = shortened(f"{line.name} {line.note}".strip(), 40)
        marker = "o" if len(points) <= 60 else ""
        axes.plot(x, y, color=colour, linestyle=dash, linewidth=1.6, marker=marker, markersize=3, label=name)
        if line.errors:
            axes.errorbar(
                [a for a, _ in line.points],
                [b for _, b in line.points],
                line.errors,
                fmt="none",
                ecolor=colour,
                elinewidth=1,
                capsize=2,
            )
    _dress(axes, figure)
    if up.log:
        axes.set_yscale("log")
    axes.set_ylim(up.low, up.high)
    axes.set_yticks([value for value, _ in up.ticks], [text for _, text in up.ticks], minor=False)
    axes.set_yticks([], minor=True)
    pad = 0.0 if figure.columns is not None else 0.01 * (across.high - across.low)
    axes.set_xlim(across.low - pad, across.high + pad)
    axes.set_xticks([value for value, _ in across.ticks], [text for _, text in across.ticks])
    _save(canvas, path)


def _dress(axes: "Axes", figure: Figure) -> None:
    from matplotlib.lines import Line2D

    axes.set_title(figure.title, loc="left", color=_INK, fontsize=11, fontweight="semibold")
    axes.set_xlabel(figure.x)
    axes.set_ylabel(figure.y)
    axes.grid(axis="y", color=_HAIR, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    for mark in figure.marks:
        axes.axvline(mark, 0, 0.03, color=_COLOURS[1], linewidth=1.5)
    handles, names = axes.get_legend_handles_labels()
    if figure.marks:
        handles.append(Line2D([], [], color=_COLOURS[1], marker="|", linestyle="none"))
        names.append(figure.marks_name)
    if len(handles) > 1 or figure.bands:
        axes.legend(handles, names, frameon=False, labelcolor=_SOFT, ncols=1 if len(handles) <= 8 else 2)


def _heat(heat: HeatMap, path: Path) -> None:
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure as Canvas

    num = len(heat.labels)
    side = max(3.2, min(14.0, 0.14 * num if num > 16 else 0.45 * num))
    canvas = Canvas(figsize=(side + 3.2, side + 0.8), facecolor="white", layout="constrained", dpi=160)
    FigureCanvasAgg(canvas)
    axes = canvas.add_subplot()
    shares = np.sqrt(np.array(heat.shares))
    diagonal = np.eye(num, dtype=bool)
    for mask, colour in ((~diagonal, _COLOURS[0]), (diagonal, _COLOURS[1])):
        shades = LinearSegmentedColormap.from_list("shades", ["white", colour])
        axes.imshow(np.ma.masked_array(shares, mask), cmap=shades, vmin=0, vmax=1)
    for cell in heat.cells:
        ink = "white" if cell.level >= 5 else _INK
        axes.text(cell.column, cell.row, cell.text, ha="center", va="center", color=ink, fontsize=8)
    size = 8 if num <= 16 else 5
    stride = 1 if num <= 40 else 5
    axes.set_xticks(range(0, num, stride), [str(number) for number in heat.numbers[::stride]], fontsize=size)
    if num <= _MAX_NAMED:
        names = [f"{short} {number}" for short, number in zip(heat.short, heat.numbers, strict=True)]
        axes.set_yticks(range(num), names, fontsize=size)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.set_title("True label by row, label given by column", loc="left", color=_INK, fontsize=10)
    _save(canvas, path)


def _save(canvas: Any, path: Path) -> None:
    partial = path.with_suffix(".partial")
    canvas.savefig(partial, format="png", metadata={"Software": None})
    partial.replace(path)
