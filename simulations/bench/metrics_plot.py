"""The curves of `bench metrics` as a picture: a row a kind of task, a panel a curve."""

import hashlib
import io
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from privet.common.errors import ConfigError

if TYPE_CHECKING:
    from privet.simulations.bench.metrics import Curve, MetricsBench

_COLOURS = 128


def mark_of(document: dict[str, object]) -> str:
    """Of the numbers that a picture shows: it carries it, so that a test tells one of other numbers."""
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def picture(found: "MetricsBench") -> bytes:
    """A PNG. Raises: ConfigError where matplotlib is missing."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from PIL import Image
        from PIL.PngImagePlugin import PngInfo
    except ImportError as error:
        raise ConfigError(
            "the plot needs matplotlib.", where="--out", mend='pip install "privet[simulation]"'
        ) from error
    kinds = list(dict.fromkeys(curve.kind for curve in found.curves))
    rows = [[curve for curve in found.curves if curve.kind == kind] for kind in kinds]
    width = max(map(len, rows))
    figure = Figure(figsize=(4.4 * width, 3.6 * len(rows)), layout="constrained")
    for place, curves in enumerate(rows):
        for column, curve in enumerate(curves, start=1):
            _panel(figure.add_subplot(len(rows), width, place * width + column), curve, found.epsilon)
    FigureCanvasAgg(figure)
    drawn, stream = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=80)
    told = PngInfo()
    told.add_text("Comment", mark_of(found.to_json()))
    with Image.open(drawn) as image:  # few colours: a third of the size
        image.convert("RGB").quantize(_COLOURS).save(stream, format="png", optimize=True, pnginfo=told)
    return stream.getvalue()


def _panel(axes: Any, curve: "Curve", epsilon: float) -> None:
    series: dict[str, tuple[Sequence[float | None], str]] = {
        "error against the truth": ([point.error for point in curve.points], "o-"),
        "stated with the result": ([point.stated for point in curve.points], "s--"),
        "error of the noise alone": ([point.noise for point in curve.points], "^-"),
        "noise predicted before, at worst": ([point.predicted_noise for point in curve.points], ":"),
    }
    for name, (values, style) in series.items():
        known = [(point.units, value) for point, value in zip(curve.points, values, strict=True) if value]
        if known:
            axes.plot(*zip(*known, strict=True), style, label=name, markersize=4)
    bound = ""
    if curve.clipped is not None:
        name = f"bias: {100 * curve.clipped:.0f} % of units are clipped"
        axes.axhline(abs(curve.bias), color="#8a3d76", linestyle="-.", linewidth=1.2, label=name)
        bound = f", bound {curve.bound:g}"
    axes.set(xscale="log", yscale="log", xlabel="validation units", ylabel=f"error of {curve.score}")
    axes.set_title(f"{curve.kind}, {curve.release}{bound} ({curve.num_cells} cells), ε {epsilon:g}", fontsize=9)
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=7)
