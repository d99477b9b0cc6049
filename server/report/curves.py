"""A run's figures by round: its metrics, its sites' epsilon, and what it cost."""

import math
from collections.abc import Callable, Sequence

from privet.common.schedule import in_words, is_constant, learning_rate
from privet.common.tasks.base import task_of
from privet.common.tasks.score import ACCURACY
from privet.server.card import loss_text
from privet.server.report.figure import GREY, NUM_STYLES, Band, Columns, Figure, Line, Point
from privet.server.report.folder import Run
from privet.server.report.losses import Group, Losses
from privet.server.report.rows import AtSites, Row
from privet.server.report.words import BYTES, SECONDS, unit_of

_MAX_COLUMNS = 100  # rounds beyond these share columns
_LOG_FROM = 10.0  # how many times the least epsilon the greatest is, for a logarithmic axis
_SAME = 0.01  # relative: lines so near are one
SKIPPED = "round without enough answers"


def metrics_figure(run: Run) -> Figure | None:
    """Public metrics, and those of the sites' noised counts with a standard error to either side."""
    start = [] if run.initial is None else [(0, run.initial)]
    public = start + [(row.round, row.public) for row in run.history if row.public is not None]
    noised = at_sites(run.history)
    name = score_name(run)
    lines = [
        Line(name, tuple((n, part.accuracy) for n, part in public), style=0),
        Line("macro F1", tuple((n, part.macro_f1) for n, part in public), style=1),
        Line(
            f"{name} at the sites",
            tuple((n, value) for n, value, _ in noised),
            errors=tuple(error for *_, error in noised),
            style=2,
        ),
    ]
    drawn = tuple(line for line in lines if line.points)
    if not drawn:
        return None
    ends = ", ".join(f"{line.name} {line.points[-1][1]:.3f} after round {line.points[-1][0]:g}" for line in drawn)
    return Figure(
        key="metrics",
        title="Metrics by round",
        y=shares(name) or "score",
        summary=f"Metrics by round; at last {ends}.",
        lines=drawn,
        marks=skipped(run.history),
        marks_name=SKIPPED,
        limits=(0.0, 1.0),
    )


def loss_figure(run: Run) -> Figure | None:
    """The mean loss on the public file, where it is a number."""
    start = [] if run.initial is None else [(0, run.initial)]
    public = start + [(row.round, row.public) for row in run.history if row.public is not None]
    points = tuple((float(n), part.loss) for n, part in public if math.isfinite(part.loss))
    if not points:
        return None
    return Figure(
        key="loss",
        title="Public loss by round",
        y="mean cross-entropy",
        summary=f"Mean loss on the public file by round; at last {points[-1][1]:.3f}.",
        lines=(Line("loss", points),),
        from_zero=True,
    )


def rate_figure(run: Run) -> Figure | None:
    """The sites' learning rate in each round so far, by the plan's schedule; None where it is one rate."""
    training = run.plan.training
    if is_constant(training) or not run.history:
        return None
    points = tuple((float(row.round), learning_rate(training, row.round)) for row in run.history if row.round)
    return Figure(
        key="rate",
        title="Learning rate by round",
        y="local learning rate",
        summary=f"The sites' learning rate by round: {in_words(training)}.",
        lines=(Line("learning rate", points),),
        marks=skipped(run.history),
        marks_name=SKIPPED,
        from_zero=True,
        note="By the round's number: a round without enough answers uses its rate up.",
    )


def epsilon_figure(found: Losses, delta_text: str) -> Figure:
    """Every site's epsilon where they are few, else quantiles of them."""
    rounds = [float(n) for n in found.rounds]
    if found.groups:
        drawn = tuple(
            Line(_names(names), _positive(rounds, epsilons), style=i % NUM_STYLES, note=loss_text(epsilons[-1]))
            for i, (names, epsilons) in enumerate(_merged(found.groups))
        )
        lines = tuple(line for line in drawn if line.points)
        bands: tuple[Band, ...] = ()
        values = [value for line in lines for _, value in line.points[-1:]]
    else:
        least, low, middle, high, most = (_positive(rounds, part) for part in zip(*found.quantiles, strict=True))
        lines = (Line("median", middle, note=loss_text(middle[-1][1])),) if middle else ()
        bands = tuple(
            Band(name, _between(lower, upper), strong=strong)
            for name, lower, upper, strong in (
                ("least to greatest", least, most, False),
                ("middle half of the sites", low, high, True),
            )
            if lower
        )
        values = [part[-1][1] for part in (least, most) if part]
    log = bool(values) and max(values) > _LOG_FROM * min(values)
    sampled = f" over {found.num_sampled} of {found.num_sites:,} sites" if found.num_sampled < found.num_sites else ""
    return Figure(
        key="epsilon",
        title="ε by round",
        y=f"ε spent so far, at {delta_text}",
        summary=f"Epsilon by round{sampled}; at last between {min(values):.3g} and {max(values):.3g}."
        if values
        else "No site has been asked yet.",
        lines=lines,
        bands=bands,
        scale="log" if log else "linear",
        from_zero=True,
        note=_epsilon_note(found, sampled),
    )


def time_figure(run: Run) -> Figure | None:
    """How long each round took."""
    if not run.history:
        return None
    size, unit = unit_of(max(row.seconds for row in run.history), SECONDS)
    columns, note = _binned(run.history, (("time", lambda row: row.seconds / size, 0),))
    return Figure(
        key="time",
        title="Time by round",
        y=unit,
        summary=f"Time by round, in {unit}.",
        columns=columns,
        from_zero=True,
        note=note,
    )


def bytes_figure(run: Run) -> Figure | None:
    """What went to the sites and came back, round by round."""
    if not run.history:
        return None
    size, unit = unit_of(max(row.bytes_down + row.bytes_up for row in run.history), BYTES)
    parts: tuple[_PartOf, ...] = (
        ("to the sites", lambda row: row.bytes_down / size, 2),
        ("from the sites", lambda row: row.bytes_up / size, 1),
    )
    columns, note = _binned(run.history, parts)
    return Figure(
        key="bytes",
        title="Bytes by round",
        y=unit,
        summary=f"Bytes sent to the sites and received from them by round, in {unit}.",
        columns=columns,
        from_zero=True,
        note=f"{note} {_compressed(run)}".strip(),
    )


def sites_figure(run: Run) -> Figure | None:
    """How many of each round's cohort answered, failed, or did not answer."""
    if not run.history:
        return None
    parts: tuple[_PartOf, ...] = (
        ("answered", lambda row: float(len(row.answered)), 0),
        ("failed", lambda row: float(len(row.failed)), 5),
        ("no answer", lambda row: float(len(row.missing)), GREY),
    )
    columns, note = _binned(run.history, parts)
    return Figure(
        key="sites",
        title="Sites by round",
        y="sites of the cohort",
        summary="Sites that answered, failed or gave no answer, by round.",
        columns=columns,
        marks=skipped(run.history),
        marks_name=SKIPPED,
        from_zero=True,
        note=note,
    )


def score_name(run: Run) -> str:
    """What the run is judged by, for people."""
    return task_of(run.plan.task).score_name


def shares(score: str, of: str = "records") -> str:
    """What an axis of this score is in; empty for one that is no share.

    >>> shares("accuracy"), shares("micro F1")
    ('share of records', '')
    """
    return f"share of {of}" if score == ACCURACY else ""


def at_sites(history: Sequence[Row]) -> list[tuple[int, float, float]]:
    """Round, score out of noised counts, and its standard error."""
    parts: list[tuple[int, AtSites]] = [(row.round, row.sites) for row in history if row.sites is not None]
    known = [(number, part.accuracy, part.error) for number, part in parts]
    return [(number, value, error) for number, value, error in known if value is not None and error is not None]


def skipped(history: Sequence[Row]) -> tuple[float, ...]:
    """The rounds that changed nothing."""
    return tuple(float(row.round) for row in history if not row.aggregated)


def _compressed(run: Run) -> str:
    """How updates came, and what that cost."""
    bounds = [row.compression.error_bound for row in run.history if row.compression is not None]
    if not bounds:
        return ""
    words = f"Updates are sent as {run.plan.training.compression}: a relative L2 error of at most {max(bounds):.2g}"
    measured = [row.compression_error for row in run.history if row.compression_error is not None]
    return f"{words}, {max(measured):.2g} as measured." if measured else f"{words}."


_PartOf = tuple[str, Callable[[Row], float], int]


def _binned(history: Sequence[Row], parts: Sequence[_PartOf]) -> tuple[Columns, str]:
    """A column a round, or the mean of as many rounds as make _MAX_COLUMNS columns; and a word on it."""
    stride = math.ceil(len(history) / _MAX_COLUMNS)
    groups = [history[i : i + stride] for i in range(0, len(history), stride)]
    columns = Columns(
        names=tuple(name for name, _, _ in parts),
        at=tuple((group[0].round + group[-1].round) / 2 for group in groups),
        heights=tuple(tuple(sum(map(value, group)) / len(group) for _, value, _ in parts) for group in groups),
        width=float(stride),
        styles=tuple(style for *_, style in parts),
    )
    return columns, f"Each column is the mean of {stride} rounds." if stride > 1 else ""


def _positive(rounds: Sequence[float], values: Sequence[float]) -> tuple[Point, ...]:
    """From the first round in which a site was asked: a logarithm has no zero."""
    return tuple((n, value) for n, value in zip(rounds, values, strict=True) if value > 0)


def _between(lower: Sequence[Point], upper: Sequence[Point]) -> tuple[tuple[float, float, float], ...]:
    tops = dict(upper)
    return tuple((n, value, tops[n]) for n, value in lower)


def _merged(groups: Sequence[Group]) -> list[tuple[list[str], tuple[float, ...]]]:
    """One line for groups that no eye could tell apart: the greatest of them, by their first one's order."""
    found: list[tuple[list[str], tuple[float, ...]]] = []
    for group in groups:
        for names, epsilons in found:
            if all(abs(a - b) <= _SAME * a for a, b in zip(epsilons, group.epsilons, strict=True)):
                names += group.names
                break
        else:
            found.append((list(group.names), group.epsilons))
    return found


def _names(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{len(names):,} sites"


def _epsilon_note(found: Losses, sampled: str) -> str:
    words = "Composed from each site's stated noise and the rounds it was asked for, answered or not."
    if sampled:
        words += f" Quantiles{sampled}, evenly taken by the ε of their horizon."
    if found.unbounded:
        sites = "1 site" if found.unbounded == 1 else f"{found.unbounded:,} sites"
        words += f" Not drawn: {sites} without a finite ε."
    return words
