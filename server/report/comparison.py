"""Several runs on one page: their curves in one figure, their results in one table, and where their plans differ."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import median
from typing import Any

from privet.common.tasks.score import score_key, scored_as
from privet.server.report.curves import at_sites, score_name, shares
from privet.server.report.figure import NUM_STYLES, Figure, Line, Point
from privet.server.report.folder import Run
from privet.server.report.losses import losses
from privet.server.report.page import environment
from privet.server.report.words import SECONDS, unit_of

_MAX_SHOWN = 200  # characters of a plan's value
_LOG_FROM = 10.0


@dataclass(frozen=True)
class Summary:
    """One run's line in the table; None where it has no such figure."""

    name: str
    style: int
    round: int | None  # that is kept
    score_name: str
    score: float | None
    macro_f1: float | None
    loss: float | None
    at_sites: float | None
    at_sites_error: float | None
    epsilon: float | None  # the largest of a site over its horizon; inf where none is finite
    simulated: bool
    finished: bool
    num_sites: int
    num_rounds: int  # aggregated
    seconds: float
    median_seconds: float
    bytes_down: int
    bytes_up: int

    def to_json(self) -> dict[str, Any]:
        """Of JSON's types: an infinite epsilon is the word "inf"; the score as in rows (`common.tasks.score`)."""
        found = {key: value for key, value in vars(self).items() if key != "style"}
        for key in ("score", "macro_f1", "loss", "at_sites", "at_sites_error"):
            if found[key] is not None and not math.isfinite(found[key]):
                found[key] = None
        found |= scored_as(found.pop("score_name"), found.pop("score"))
        if self.epsilon == math.inf:
            found["epsilon"] = "inf"
        return found


def summary(run: Run, name: str, style: int = 0) -> Summary:
    """What a run came to."""
    kept = run.kept
    public = None if kept is None else kept.public
    noised = None if kept is None else kept.sites
    seconds = [row.seconds for row in run.history]
    return Summary(
        name=name,
        style=style,
        round=None if kept is None else kept.round,
        score_name=score_name(run),
        score=None if public is None else public.accuracy,
        macro_f1=None if public is None else public.macro_f1,
        loss=None if public is None else public.loss,
        at_sites=None if noised is None else noised.accuracy,
        at_sites_error=None if noised is None else noised.error,
        epsilon=max((math.inf if s.epsilon is None else s.epsilon for s in run.statements.values()), default=None),
        simulated=run.simulated,
        finished=run.finished,
        num_sites=len(run.site_names),
        num_rounds=sum(row.aggregated for row in run.history),
        seconds=run.seconds,
        median_seconds=median(seconds) if seconds else 0.0,
        bytes_down=run.bytes_down,
        bytes_up=run.bytes_up,
    )


def names_of(runs: Sequence[Run]) -> list[str]:
    """One for each: the folder's, with as many of its parents' as tell them apart."""
    for depth in range(1, max(len(run.path.resolve().parts) for run in runs) + 1):
        names = ["/".join(run.path.resolve().parts[-depth:]) for run in runs]
        if len(set(names)) == len(names):
            return names
    return [f"{i}: {run.name}" for i, run in enumerate(runs, start=1)]


def comparison_html(runs: Sequence[Run], drawn: Sequence[Figure] | None = None) -> str:
    """The page's text. drawn: what `overlays` gave, where it was called already."""
    named = list(zip(names_of(runs), runs, strict=True))
    drawn = overlays(runs) if drawn is None else drawn
    return (
        environment()
        .get_template("comparison.html.j2")
        .render(
            score=_shared_name(runs),
            summaries=[summary(run, name, i % NUM_STYLES) for i, (name, run) in enumerate(named)],
            notes=[(name, note) for name, run in named for note in run.notes],
            simulated=[name for name, run in named if run.simulated],
            figures=drawn,
            differences=differences(runs),
            commands=[(name, run.command) for name, run in named if run.command],
            levels=1,
        )
    )


def _shared_name(runs: Sequence[Run]) -> str:
    """What the runs' score is; "score" where they have several."""
    names = {score_name(run) for run in runs}
    return names.pop() if len(names) == 1 else "score"


def _note(runs: Sequence[tuple[str, Run]]) -> str:
    """Each run's own score, where they are not one."""
    names = [score_name(run) for _, run in runs]
    if len(set(names)) < 2:
        return ""
    return "Unlike tasks: " + "; ".join(f"{name}: {score}" for (name, _), score in zip(runs, names, strict=True)) + "."


def overlays(runs: Sequence[Run]) -> list[Figure]:
    """Score by round and by time, macro F1, score at the sites, the largest epsilon: a line a run in each."""
    score = _shared_name(runs)
    key, unit_of_score = score_key(score).replace("_", "-"), shares(score)
    named = list(zip(names_of(runs), runs, strict=True))
    slowest = max((run.seconds for run in runs), default=0.0)
    size, unit = unit_of(slowest, SECONDS)
    noised = [at_sites(run.history) for run in runs]
    trails = [_trail(run) for run in runs]
    tops = [points[-1][1] for points in trails if points]
    found = [
        _figure(
            key,
            f"Public {score} by round",
            unit_of_score or score,
            named,
            [_public(run, 0) for run in runs],
            note=_note(named),
        ),
        _figure(
            f"{key}-by-time",
            f"Public {score} by time",
            unit_of_score or score,
            named,
            [_by_time(run, size) for run in runs],
            x=unit,
            note=_note(named),
        ),
        _figure("macro-f1", "Public macro F1 by round", "macro F1", named, [_public(run, 1) for run in runs]),
        _figure(
            f"{key}-at-sites",
            f"{score[0].upper()}{score[1:]} at the sites by round",
            shares(score, "units") or score,
            named,
            [tuple((float(n), value) for n, value, _ in part) for part in noised],
            errors=[tuple(error for *_, error in part) for part in noised],
            note=_note(named),
        ),
        _figure(
            "epsilon",
            "Largest ε of a site by round",
            "ε spent so far, at each site's δ",
            named,
            trails,
            limits=(None, None),
            log=bool(tops) and max(tops) > _LOG_FROM * min(tops),
            note="Not drawn: runs with a site without a finite ε. Of very many unlike sites a sample is composed.",
        ),
    ]
    return [figure for figure in found if figure is not None]


def differences(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """The plans' keys whose values are not all equal, and each run's value; nothing of what is the same."""
    plans = [_flat(run.plan.model_dump(mode="json")) for run in runs]
    keys = sorted(set().union(*plans))
    told = [(key, [_value(plan[key]) if key in plan else "–" for plan in plans]) for key in keys]
    return [(key, values) for key, values in told if len({repr(plan.get(key)) for plan in plans}) > 1]


def _figure(
    key: str,
    title: str,
    y: str,
    named: Sequence[tuple[str, Run]],
    series: Sequence[tuple[Point, ...]],
    *,
    errors: Sequence[tuple[float, ...]] | None = None,
    x: str = "round",
    limits: tuple[float | None, float | None] = (0.0, 1.0),
    log: bool = False,
    note: str = "",
) -> Figure | None:
    """A line for each run that has a point; None where no run has one."""
    lines = tuple(
        Line(name, points, errors[i] if errors is not None else (), i % NUM_STYLES)
        for i, ((name, _), points) in enumerate(zip(named, series, strict=True))
        if points
    )
    if not lines:
        return None
    ends = "; ".join(f"{line.name} {line.points[-1][1]:.3g}" for line in lines)
    return Figure(
        key=key,
        title=title,
        x=x,
        y=y,
        summary=f"{title}, one line a run. At last: {ends}.",
        lines=lines,
        scale="log" if log else "linear",
        limits=limits,
        from_zero=limits == (None, None),
        whole=x == "round",
        note=note,
    )


def _public(run: Run, which: int) -> tuple[Point, ...]:
    """The score (0) or macro F1 (1) by round."""
    start = [] if run.initial is None else [(0, run.initial)]
    parts = start + [(row.round, row.public) for row in run.history if row.public is not None]
    return tuple((float(n), (part.accuracy, part.macro_f1)[which]) for n, part in parts)


def _by_time(run: Run, size: float) -> tuple[Point, ...]:
    """The score by the time that the rounds so far took together."""
    passed = accumulate(row.seconds for row in run.history)
    start = ((0.0, run.initial.accuracy),) if run.initial is not None else ()
    judged = zip(run.history, passed, strict=True)
    return start + tuple((at / size, row.public.accuracy) for row, at in judged if row.public is not None)


def _trail(run: Run) -> tuple[Point, ...]:
    found = losses(run.history, run.statements)
    if found is None or found.unbounded:  # then the largest is infinite
        return ()
    return tuple((float(n), value) for n, value in zip(found.rounds, found.largest, strict=True) if value > 0)


def _flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in table.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def _value(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 1]}…"
