"""Small charts on two logarithmic axes as PNG, each with the digest of its numbers inside."""

import logging
import struct
import warnings
import zlib
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from privet.common.errors import ConfigError

_COLOURS = ("#2c6a3f", "#a8691a", "#33589c", "#8a3d76")
_DASHES = ("-", "--", "-.", ":")
_INK, _SOFT, _RULE, _HAIR = "#1c231e", "#5b665e", "#dcdfd6", "#e9ebe4"
_MARK = "Comment"  # keyword of the PNG's text chunk


@dataclass(frozen=True)
class Series:
    """One line; `low` and `high` are its points' spread, where there is one."""

    name: str
    points: tuple[tuple[float, float], ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Chart:
    """`ticks`: names of x values in place of the numbers."""

    key: str
    title: str
    note: str
    x: str
    y: str
    lines: tuple[Series, ...]
    log_y: bool = True
    ticks: tuple[tuple[float, str], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Of JSON's types."""
        return asdict(self)


def draw(chart: Chart, path: Path, mark: str) -> None:
    """Write the PNG, which carries `mark`. Raises: ConfigError where matplotlib is missing."""
    if find_spec("matplotlib") is None:
        raise ConfigError("matplotlib is not installed.", mend="pip install 'privet[simulation]'")
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    fonts = logging.getLogger("matplotlib.font_manager")
    level = fonts.level
    fonts.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), matplotlib.rc_context({"font.size": 9, "text.parse_math": False}):
            warnings.simplefilter("ignore")
            canvas = Figure(figsize=(6.4, 3.6), facecolor="white", layout="constrained", dpi=100)
            FigureCanvasAgg(canvas)
            _plot(canvas.add_subplot(), chart)
            partial = path.with_suffix(".partial")
            canvas.savefig(partial, format="png", metadata={"Software": None, _MARK: mark})
            partial.replace(path)
    finally:
        fonts.setLevel(level)


def _plot(axes: Any, chart: Chart) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    for number, line in enumerate(chart.lines):
        x, y = zip(*line.points, strict=True)
        colour, dash = _COLOURS[number % len(_COLOURS)], _DASHES[number % len(_DASHES)]
        axes.plot(x, y, color=colour, linestyle=dash, linewidth=1.6, marker="o", markersize=3.5, label=line.name)
        if line.low:
            axes.fill_between(x, line.low, line.high, color=colour, alpha=0.15, linewidth=0)
    axes.set_xscale("log")
    ticks = chart.ticks or tuple(sorted({(x, f"{x:g}") for line in chart.lines for x, _ in line.points}))
    axes.set_xticks([x for x, _ in ticks], [name for _, name in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    if chart.log_y:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_title(chart.title, loc="left", color=_INK, fontsize=11, fontweight="semibold")
    axes.set_title(chart.note, loc="right", color=_SOFT, fontsize=8)
    axes.set_xlabel(chart.x, color=_SOFT)
    axes.set_ylabel(chart.y, color=_SOFT)
    axes.tick_params(colors=_RULE, labelcolor=_SOFT)
    axes.grid(axis="both", color=_HAIR, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_color(_RULE)
    axes.legend(frameon=False, labelcolor=_SOFT)


def mark_in(path: Path) -> str | None:
    """What `draw` put into a PNG; None where there is nothing of it. Raises: ValueError where it is no whole PNG."""
    data = path.read_bytes()
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        raise ValueError(f"{path} is no PNG.")
    at = 8
    while at + 12 <= len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        if struct.unpack(">I", data[at + 8 + length : at + 12 + length])[0] != zlib.crc32(kind + body):
            raise ValueError(f"{path} is damaged.")
        if kind == b"tEXt" and body.startswith(_MARK.encode() + b"\0"):
            return body.partition(b"\0")[2].decode("latin-1")
        at += 12 + length
    return None
