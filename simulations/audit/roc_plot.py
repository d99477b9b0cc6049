"""ROC curves as one inline SVG that takes its colours from the page, in light and dark."""

import io
from collections.abc import Sequence

from privet.common.errors import ConfigError
from privet.simulations.audit.findings import RocFinding

_INK, _RULE = "#010101", "#020202"  # stand-ins, exchanged for the page's own
_LINES = ("#030303", "#040404", "#050505", "#060606")
_VARIABLES = {
    _INK: "var(--soft)",
    _RULE: "var(--rule)",
    _LINES[0]: "var(--first)",
    _LINES[1]: "var(--second)",
    _LINES[2]: "var(--third)",
    _LINES[3]: "var(--fourth)",
}
_STYLES = ("-", "--", "-.", ":")
_LEAST = 1e-3  # of a logarithmic axis


def roc_svg(findings: Sequence[RocFinding], *, log: bool) -> str:
    """True against false positive rate, one line a finding, beside chance.

    Raises: ConfigError where matplotlib is missing.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError(
            "the report's curves need matplotlib.", where="--report", mend='pip install "privet[simulation]"'
        ) from error
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "privet", "font.size": 10}):
        figure = Figure(figsize=(7.2, 4.6), facecolor="none", layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot(facecolor="none")
        axes.plot([_LEAST, 1], [_LEAST, 1], color=_RULE, linewidth=1.0, label="chance")
        for index, finding in enumerate(findings):
            name = "noise removed" if finding.arm.asked is None else f"ε {finding.arm.asked:g}"
            axes.step(
                finding.roc.false_positive,
                finding.roc.true_positive,
                where="post",
                color=_LINES[index % len(_LINES)],
                linestyle=_STYLES[index % len(_STYLES)],
                linewidth=1.8,
                label=f"{name} (AUC {finding.roc.auc:.3f})",
            )
        if log:
            axes.set_xscale("log")
            axes.set_yscale("log")
        axes.set_xlim(_LEAST if log else 0, 1)
        axes.set_ylim(_LEAST if log else 0, 1.02)
        axes.set_xlabel("false positive rate", color=_INK)
        axes.set_ylabel("true positive rate", color=_INK)
        axes.tick_params(colors=_INK, which="both")
        axes.grid(color=_RULE, linewidth=0.6)
        for spine in axes.spines.values():
            spine.set_color(_RULE)
        axes.legend(labelcolor=_INK, frameon=False, loc="lower right")
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    for stand_in, variable in _VARIABLES.items():
        text = text.replace(stand_in, variable)
    return text.replace("<svg", '<svg role="img" aria-label="Receiver operating characteristic"', 1)
