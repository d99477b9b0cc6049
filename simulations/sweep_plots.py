"""The plots of a sweep: trials in order, all settings side by side, and the effect of each key."""

import io
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from privet.common.errors import ConfigError
from privet.common.tasks.score import key_words
from privet.simulations.sweep_space import Axis, setting_text

if TYPE_CHECKING:
    from privet.simulations.sweep_run import Sweep, Trial

_MAX_TRIALS = 60  # of the ranked list; the best
_MAX_TICKS = 8


@dataclass(frozen=True)
class Palette:
    """Colours; those of a page's SVG are stand-ins, exchanged for the page's own."""

    ink: str
    rule: str
    line: str
    accent: str
    ground: str


PAPER = Palette("#3c453e", "#dcdfd6", "#2c6a3f", "#a8691a", "#ffffff")
_STAND_INS = Palette("#010101", "#020202", "#030303", "#040404", "none")
_VARIABLES = {"#010101": "var(--soft)", "#020202": "var(--rule)", "#030303": "var(--first)", "#040404": "var(--second)"}


@dataclass(frozen=True)
class Plot:
    """One figure in both forms."""

    name: str
    title: str
    svg: str
    png: bytes


def plots(found: "Sweep") -> list[Plot]:
    """Those for which there are enough finished trials. Raises: ConfigError where matplotlib is missing."""
    done = [trial for trial in found.trials if trial.spread(found.metric) is not None]
    if not done:
        return []
    drawings: list[tuple[str, str, Callable[[Any, Palette], None]]] = [
        ("sweep-trials", "Trials, the best first", lambda figure, palette: _ranked(figure, palette, found, done))
    ]
    if len(found.axes) > 1 and len(done) > 1:
        drawings.append(("sweep-parallel", "Settings side by side", lambda f, p: _parallel(f, p, found, done)))
    if len(done) > 1:
        drawings.append(("sweep-effects", "Effect of each key", lambda f, p: _effects(f, p, found, done)))
    return [Plot(name, title, *_drawn(draw)) for name, title, draw in drawings]


def _drawn(draw: Callable[[Any, Palette], None]) -> tuple[str, bytes]:
    try:
        from matplotlib import rc_context
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("plots need matplotlib.", mend='pip install "privet[simulation]"') from error
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "privet", "font.size": 10}):
        page, paper = io.StringIO(), io.BytesIO()
        for canvas, palette, stream, kind in (
            (FigureCanvasSVG, _STAND_INS, page, "svg"),
            (FigureCanvasAgg, PAPER, paper, "png"),
        ):
            figure = Figure(figsize=(7.2, 4.2), dpi=150, facecolor=palette.ground, layout="constrained")
            canvas(figure)
            draw(figure, palette)
            tags = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
            figure.savefig(stream, format=kind, facecolor=palette.ground, metadata=tags)
    text = page.getvalue()
    text = text[text.index("<svg") :]
    for stand_in, variable in _VARIABLES.items():
        text = text.replace(stand_in, variable)
    return text, paper.getvalue()


def _axes(place: Any, palette: Palette) -> Any:
    place.set_facecolor("none")
    place.tick_params(colors=palette.ink, which="both")
    place.grid(color=palette.rule, linewidth=0.6)
    place.set_axisbelow(True)
    for spine in place.spines.values():
        spine.set_color(palette.rule)
    return place


def _ranked(figure: Any, palette: Palette, found: "Sweep", done: Sequence["Trial"]) -> None:
    shown = done[:_MAX_TRIALS]
    figure.set_size_inches(7.2, max(2.2, 0.9 + 0.22 * len(shown)))
    place = _axes(figure.add_subplot(), palette)
    for row, trial in enumerate(shown):
        value = trial.spread(found.metric)
        assert value is not None
        error = None if value.sd is None else value.sd
        place.errorbar(value.mean, row, xerr=error, fmt="o", color=palette.line, markersize=4, linewidth=1.4, capsize=2)
    place.set_yticks(range(len(shown)), [f"#{rank}" for rank in range(1, len(shown) + 1)])
    place.invert_yaxis()
    spread = " (± sample standard deviation over seeds)" if len(found.seeds) > 1 else ""
    place.set_xlabel(_title(found) + spread, color=palette.ink)


def _parallel(figure: Any, palette: Palette, found: "Sweep", done: Sequence["Trial"]) -> None:
    place = _axes(figure.add_subplot(), palette)
    place.grid(visible=False)
    scales = [_scale(axis, done) for axis in found.axes]
    values = [_mean(trial, found.metric) for trial in done]
    low, high = min(values), max(values)
    for trial, value in reversed(list(zip(done, values, strict=True))):  # the best on top
        share = (value - low) / (high - low) if high > low else 1.0
        if found.metric == "loss":
            share = 1 - share if high > low else 1.0
        heights = [scale[setting_text(trial.settings[a.key])] for scale, a in zip(scales, found.axes, strict=True)]
        last = (value - low) / (high - low) if high > low else 0.5
        place.plot([*heights, last], color=palette.line, alpha=0.12 + 0.88 * share**2, linewidth=0.8 + 1.6 * share**2)
    end = len(scales)
    marks = [list(_thinned(scale, axis)) for scale, axis in zip(scales, found.axes, strict=True)]
    marks.append([(f"{low:.3f}", 0.0), (f"{high:.3f}", 1.0)] if high > low else [(f"{low:.3f}", 0.5)])
    for x, texts in enumerate(marks):
        place.axvline(x, color=palette.rule, linewidth=1)
        for text, height in texts:
            style = {"color": palette.ink, "fontsize": 8, "xytext": (3, 5), "textcoords": "offset points"}
            place.annotate(text, (x, height), **style)
    place.set_ylim(-0.04, 1.09)
    place.set_xticks(range(end + 1), [*(axis.key.replace(".", ".\n", 1) for axis in found.axes), _title(found)])
    place.set_yticks([])
    place.set_xlim(-0.15, end + 0.35)
    for side in ("left", "right", "top"):
        place.spines[side].set_visible(False)


def _effects(figure: Any, palette: Palette, found: "Sweep", done: Sequence["Trial"]) -> None:
    columns = min(3, len(found.axes))
    lines = -(-len(found.axes) // columns)
    figure.set_size_inches(7.2, 2.9 * lines)
    for index, axis in enumerate(found.axes, start=1):
        place = _axes(figure.add_subplot(lines, columns, index), palette)
        numeric = all(_is_number(trial.settings[axis.key]) for trial in done)
        texts = list(dict.fromkeys(setting_text(trial.settings[axis.key]) for trial in done))
        if not axis.is_range:
            texts = [text for value in axis.values if (text := setting_text(value)) in texts]
        x_of: Mapping[str, float] = {text: float(text) if numeric else float(i) for i, text in enumerate(texts)}
        groups: dict[float, list[float]] = {}
        for trial in done:
            groups.setdefault(x_of[setting_text(trial.settings[axis.key])], []).append(_mean(trial, found.metric))
        for x, means in groups.items():
            place.plot([x] * len(means), means, "o", color=palette.line, alpha=0.45, markersize=4)
        if not axis.is_range:
            middles = sorted((x, math.fsum(means) / len(means)) for x, means in groups.items())
            style = "-" if numeric else ""
            place.plot(*zip(*middles, strict=True), linestyle=style, marker="_", markersize=14, color=palette.accent)
        if numeric and (axis.log or (not axis.is_range and _spans(x_of.values()))):
            _log(place)
        if not numeric:
            place.set_xticks(range(len(texts)), texts, rotation=20 if max(map(len, texts)) > 8 else 0)
            place.set_xlim(-0.5, len(texts) - 0.5)
        place.set_xlabel(axis.key, color=palette.ink)
        if index % columns == 1 or columns == 1:
            place.set_ylabel(_title(found), color=palette.ink)


def _log(place: Any) -> None:
    """A logarithmic axis with few ticks, written as numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    place.set_xscale("log")
    low, high = place.get_xlim()
    steps = (1.0,) if high / low > 300 else (1.0, 3.0) if high / low > 10 else (1.0, 2.0, 5.0)
    place.xaxis.set_major_locator(LogLocator(subs=steps, numticks=6))
    place.xaxis.set_major_formatter(FuncFormatter(lambda value, _place: f"{value:g}"))
    place.xaxis.set_minor_formatter(NullFormatter())


def _spans(values: Iterable[float]) -> bool:
    known = sorted(values)
    return known[0] > 0 and known[-1] / known[0] >= 10


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _scale(axis: Axis, done: Sequence["Trial"]) -> dict[str, float]:
    """The height in [0, 1] of each value that was tried, lowest first."""
    tried = {setting_text(trial.settings[axis.key]): trial.settings[axis.key] for trial in done}
    if not all(_is_number(value) for value in tried.values()):
        texts = [setting_text(value) for value in axis.values] if axis.values else list(tried)
        kept = [text for text in texts if text in tried]
        return {text: index / max(1, len(kept) - 1) for index, text in enumerate(kept)}
    numbers = {text: float(value) for text, value in sorted(tried.items(), key=lambda item: item[1])}
    turn: Callable[[float], float] = math.log if axis.log or _spans(numbers.values()) else float
    low, high = turn(min(numbers.values())), turn(max(numbers.values()))
    return {text: (turn(value) - low) / (high - low) if high > low else 0.5 for text, value in numbers.items()}


def _thinned(scale: Mapping[str, float], axis: Axis) -> Iterator[tuple[str, float]]:
    """All values of a list, the ends of a range."""
    items = list(scale.items())
    yield from items if not axis.is_range and len(items) <= _MAX_TICKS else (items[0], items[-1])


def _mean(trial: "Trial", metric: str) -> float:
    value = trial.spread(metric)
    assert value is not None
    return value.mean


def _title(found: "Sweep") -> str:
    words = key_words(found.metric)
    return words if found.metric == found.metrics[3] else f"public {words}"
