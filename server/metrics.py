"""One evaluation at the sites: whom to ask, which replies are sound, and what their pooled counts tell.

A site's counts are held against what it stated before: how many validation units it declared, and its noise. Neither
is counted by anybody: within what it declares, a site's counts are its word.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from flwr.app import Message
from flwr.serverapp import Grid

from privet.common.adapter import Floats
from privet.common.config import Plan
from privet.common.errors import Code
from privet.common.messages import COUNTS
from privet.common.privacy.statement import Statement
from privet.common.tasks.base import Noised, task_of
from privet.server.roster import Roster, sound_reply

_MAX_COUNT = 2.0**31  # no site has as many units
_DECLARED_OFF = 2.0  # by which factor a declared number may lie under the true one: `check` warns beyond it
_DEVIATIONS = 6.0  # within which noise lies, but for one cell in a thousand million


def evaluation_number(plan: Plan, completed: int, *, last: bool) -> int | None:
    """Which of the plan's evaluations is due once `completed` rounds were aggregated; None where none is.

    One after every `every` rounds and one after the last: a function of the rounds alone, so that no number comes
    twice and none exceeds `plan.num_evaluations`, also where a run stops early or goes on from a checkpoint.
    """
    every = plan.evaluation.every
    if plan.evaluation.release == "none" or completed == 0 or (completed % every and not last):
        return None
    return -(-completed // every)


@dataclass(frozen=True)
class Stated:
    """What a site's statement says of its counts."""

    noise_multiplier: float  # σ, on each cell
    units: float  # validation units that it implies: declared, not counted
    most: tuple[float, float] = (1.0, 1.0)  # what a unit adds to the sum of all cells, and to one, at most

    def allows(self, counts: Floats) -> bool:
        """Whether counts [cells] may be those of so many units and such noise, had it declared half of its units.

        The total: at most 2 N + 6 √N + 6 σ √cells, √N for units that are parted at random, and at least -6 σ √cells;
        N and √N times what a unit may add. Each cell: at least -6 σ, and at most what the total may be, with what a
        unit may add to a cell: else one could grow at another's expense.
        """
        noise = _DEVIATIONS * self.noise_multiplier
        spread = noise * math.sqrt(counts.size)
        slack = 1e-3 + 1e-6 * spread  # float32
        units = _DECLARED_OFF * self.units + _DEVIATIONS * math.sqrt(self.units)
        most, most_of_one = (part * units + spread + slack for part in self.most)
        cells = counts.astype(np.float64)
        total = float(cells.sum())
        sound = (cells >= -noise - slack) & (cells <= most_of_one)
        return -spread - slack <= total <= most and bool(sound.all())


def stated(statement: Statement, most: tuple[float, float] = (1.0, 1.0)) -> Stated:
    """From the statement of a site that releases metrics: N = B / (q f) (1 - f), f the part of units that train.

    most: of the plan's task."""
    if statement.evaluation is None:
        raise ValueError("Expected a statement with an evaluation.")
    fraction = statement.train_fraction
    declared = statement.expected_batch / statement.sample_rate / (fraction or 1.0)  # 0: all of them judge
    units = declared * (1 - fraction)
    return Stated(statement.evaluation.noise_multiplier, min(units, _MAX_COUNT), most)


@dataclass
class Evaluation:
    """One evaluation under way."""

    number: int
    asked: dict[int, str] = field(default_factory=dict)  # names by node
    stated: dict[str, Stated] = field(default_factory=dict)  # by name
    answered: dict[str, Floats] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)  # answered, but would drown the others in noise

    def ask(self, plan: Plan, roster: Roster, grid: Grid) -> list[int]:
        """The nodes to ask: sites that are ready and stated that they release just what the plan asks for."""
        release, statements = plan.evaluation.release, roster.statements
        most = (1.0, 1.0) if release == "none" else task_of(plan.task).most(release)
        for name, node in roster.ready(grid).items():
            part = statements[name].evaluation
            if release in statements[name].released and part is not None and part.release == release:
                self.asked[node] = name
                self.stated[name] = stated(statements[name], most)
        return list(self.asked)

    def collect(self, replies: Iterable[Message], plan: Plan, roster: Roster) -> None:
        """Check each reply on its own; of several of one site the first counts. None raises for what it holds."""
        shape = (plan_cells(plan),)
        for message in replies:
            name = self.asked.get(message.metadata.src_node_id)
            if name is None or name in self.answered or name in self.failed:
                continue
            reply = sound_reply(message, roster.digest, self.number)
            roster.heard(name, reply)
            code = Code.UNAVAILABLE if reply is None else reply.code
            if reply is not None and code is Code.OK:
                counts = reply.arrays.get(COUNTS)
                if counts is not None and len(reply.arrays) == 1 and _sound(counts, shape, self.stated[name]):
                    self.answered[name] = counts
                    continue
                code = Code.BAD_REQUEST
            self.failed[name] = str(code)

    def pooled(self, plan: Plan) -> Noised | None:
        """Metrics of the cells summed over the sites that answered and are not left out; None where none answered."""
        release = plan.evaluation.release
        if not self.answered or release == "none":
            return None
        names = pool({name: self.stated[name] for name in self.answered}, plan)
        self.left_out = sorted(set(self.answered) - set(names))
        total = np.sum([self.answered[name].astype(np.float64) for name in names], axis=0)
        variance = math.fsum(self.stated[name].noise_multiplier ** 2 for name in names)
        return task_of(plan.task).noised_metrics(release, total, variance)

    def to_json(self) -> dict[str, object]:
        """Who answered, for the round's event."""
        names = set(self.asked.values())
        return {
            "number": self.number,
            "answered": sorted(self.answered),
            "missing": sorted(names - set(self.answered) - set(self.failed)),
            "failed": self.failed,
            "left_out": self.left_out,
        }


def pool(sites: dict[str, Stated], plan: Plan) -> list[str]:
    """Whose counts to sum, by name: those with which the pooled accuracy's predicted standard error is least.

    Sites come in by σ / N, the least first, and as many are taken as make the error least: of privacy noise and of
    sampling, √(p (1 - p) / N) at p = 1/2, so that a small site without noise does not shut out all others. It goes by
    statements and by who answered alone: no count has a part in it, so that the choice itself tells nothing of any
    site's units and cannot favour a result.
    """
    release = plan.evaluation.release
    if release == "none" or not sites:
        return []
    order = sorted(sites, key=lambda name: (sites[name].noise_multiplier / max(sites[name].units, 1.0), name))
    errors: list[float] = []
    task, variance, units = task_of(plan.task), 0.0, 0.0
    for name in order:
        variance += sites[name].noise_multiplier ** 2
        units += sites[name].units
        whole = max(1, round(units))
        noise = task.predicted_standard_error(release, math.sqrt(variance), whole)
        errors.append(math.hypot(noise, 0.5 / math.sqrt(whole)))
    least = min(errors)
    taken = max(index for index, error in enumerate(errors, start=1) if error <= least)
    return sorted(order[:taken])  # a fixed order: sums do not depend on who answered first


def plan_cells(plan: Plan) -> int:
    """Numbers in one reply to an evaluation; 0 where the plan asks for none."""
    release = plan.evaluation.release
    return 0 if release == "none" else task_of(plan.task).num_cells(release)


def _sound(counts: Floats, shape: tuple[int, ...], stated: Stated) -> bool:
    if counts.shape != shape or not np.isfinite(counts).all():
        return False
    return bool((np.abs(counts) <= _MAX_COUNT).all()) and stated.allows(counts)
