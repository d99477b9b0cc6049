"""report.html: one page that tells a run's result, privacy, sites and cost; it loads nothing from anywhere."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import median

from jinja2 import Environment, PackageLoader, StrictUndefined

from privet.common.config import Plan
from privet.common.privacy.statement import Statement
from privet.server.card import loss_text, number_text
from privet.server.report import curves
from privet.server.report.confusion import LEVELS, HeatMap, heat_map
from privet.server.report.figure import Figure
from privet.server.report.folder import Run
from privet.server.report.losses import Losses, losses
from privet.server.report.rows import Row
from privet.server.report.sites import answered_words, site_tables, statement_groups
from privet.server.report.spread import SpreadPart, spread_part
from privet.server.report.svg import NARROW, WIDE, draw
from privet.server.report.words import duration_text, share_text, size_text

_MAX_ROWS = 200  # rounds listed one by one
_MAX_RECALLS = 300  # labels listed
_MAX_UNGUARANTEED = 12


@dataclass(frozen=True)
class Figures:
    """Everything that is drawn, for the page and the PNGs alike."""

    metrics: Figure | None
    loss: Figure | None
    epsilon: Figure | None
    spread: SpreadPart | None
    cost: tuple[Figure, ...]
    heat: HeatMap | None
    losses: Losses | None

    @property
    def plots(self) -> list[Figure]:
        """All but the heat map, in the page's order."""
        spread = () if self.spread is None else self.spread.figures
        found = [self.metrics, self.loss, self.epsilon, *spread, *self.cost]
        return [figure for figure in found if figure is not None]


def figures(run: Run) -> Figures:
    """What there is to draw of a run."""
    found = losses(run.history, run.statements)
    made = (curves.rate_figure(run), curves.time_figure(run), curves.bytes_figure(run), curves.sites_figure(run))
    return Figures(
        metrics=curves.metrics_figure(run),
        loss=curves.loss_figure(run),
        epsilon=None if found is None else curves.epsilon_figure(found, _deltas(run.statements)),
        spread=spread_part(run),
        cost=tuple(figure for figure in made if figure is not None),
        heat=_heat(run.kept, run.plan),
        losses=found,
    )


def report_html(run: Run, drawn: Figures | None = None) -> str:
    """The page's text. drawn: what `figures` gave, where it was called already."""
    drawn = drawn or figures(run)
    kept = run.kept
    groups, num_unshown = statement_groups(run.statements, run.plan.task.kind)
    seconds = [row.seconds for row in run.history]
    unguaranteed = [name for name, statement in run.statements.items() if not statement.guarantee]
    recall = kept.public.recall if kept is not None and kept.public is not None else {}
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            run=run,
            plan=run.plan,
            score=curves.score_name(run),
            kept=kept,
            final=None if kept is None else kept.public,
            at_sites=None if kept is None else kept.sites,
            measured=thinned([row for row in run.history if row.evaluation is not None]),
            history=thinned(run.history),
            rounds_done=sum(row.aggregated for row in run.history),
            num_sites=len(run.site_names),
            figures=drawn,
            heat=drawn.heat,
            spread=drawn.spread,
            spent=drawn.losses is not None and bool(drawn.losses.groups),
            tables=site_tables(run, {} if drawn.losses is None else drawn.losses.spent),
            answered=answered_words(run),
            largest=max((math.inf if s.epsilon is None else s.epsilon for s in run.statements.values()), default=None),
            unguaranteed=unguaranteed[:_MAX_UNGUARANTEED],
            num_unguaranteed=len(unguaranteed),
            groups=groups,
            num_unshown=num_unshown,
            recall=list(recall.items())[:_MAX_RECALLS],
            median_seconds=median(seconds) if seconds else 0.0,
            levels=LEVELS,
        )
    )


def thinned(history: Sequence[Row]) -> list[Row]:
    """At most _MAX_ROWS rounds, evenly spread; the last is always there."""
    stride = max(1, math.ceil(len(history) / _MAX_ROWS))
    return [row for i, row in enumerate(history) if (len(history) - 1 - i) % stride == 0]


@cache
def environment() -> Environment:
    """Where the pages' templates are; everything that is put into them is escaped."""
    made = Environment(
        loader=PackageLoader("privet.server.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "loss": loss_text,
        "num": number_text,
        "bytes": size_text,
        "duration": duration_text,
        "share": share_text,
    }
    made.globals |= {"draw": draw, "WIDE": WIDE, "NARROW": NARROW}
    return made


def _heat(kept: Row | None, plan: Plan) -> HeatMap | None:
    """Of the public file, else of the sites' noised counts."""
    if kept is None:
        return None
    if kept.public is not None and kept.public.confusion:
        return heat_map(kept.public.confusion, plan.task.labels)
    if kept.sites is not None and kept.sites.confusion is not None:
        return heat_map(kept.sites.confusion, plan.task.labels, noised=True)
    return None


def _deltas(statements: Mapping[str, Statement]) -> str:
    found = {statement.delta for statement in statements.values()}
    return f"δ {number_text(found.pop())}" if len(found) == 1 else "each site's δ"
