"""One evaluation at the sites: whom to ask, which replies are sound, and what their pooled counts tell."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from flwr.app import Message
from flwr.serverapp import Grid

from privet.common.adapter import Floats
from privet.common.config import Plan
from privet.common.errors import Code
from privet.common.messages import COUNTS
from privet.common.tasks.classification import NoisedMetrics, noised_metrics, num_cells
from privet.server.roster import Roster, sound_reply

_MAX_COUNT = 2.0**31  # no site has as many units


def evaluation_number(plan: Plan, completed: int, *, last: bool) -> int | None:
    """Which of the plan's evaluations is due once `completed` rounds were aggregated; None where none is.

    One after every `every` rounds and one after the last: a function of the rounds alone, so that no number comes
    twice and none exceeds `plan.num_evaluations`, also where a run stops early or goes on from a checkpoint.
    """
    every = plan.evaluation.every
    if plan.evaluation.release == "none" or completed == 0 or (completed % every and not last):
        return None
    return -(-completed // every)


@dataclass
class Evaluation:
    """One evaluation under way."""

    number: int
    asked: dict[int, str] = field(default_factory=dict)  # names by node
    variances: dict[str, float] = field(default_factory=dict)  # of the noise that each stated, by name
    answered: dict[str, Floats] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def ask(self, plan: Plan, roster: Roster, grid: Grid) -> list[int]:
        """The nodes to ask: sites that are ready and stated that they release just what the plan asks for."""
        release, statements = plan.evaluation.release, roster.statements
        for name, node in roster.ready(grid).items():
            stated = statements[name].evaluation
            if release in statements[name].released and stated is not None and stated.release == release:
                self.asked[node] = name
                self.variances[name] = stated.noise_multiplier**2
        return list(self.asked)

    def collect(self, replies: Iterable[Message], plan: Plan, roster: Roster) -> None:
        """Check each reply on its own; of several of one site the first counts. None raises for what it holds."""
        shape = (plan_cells(plan),)
        for message in replies:
            name = self.asked.get(message.metadata.src_node_id)
            if name is None or name in self.answered or name in self.failed:
                continue
            reply = sound_reply(message, plan, self.number)
            roster.heard(name, reply)
            code = Code.UNAVAILABLE if reply is None else reply.code
            if reply is not None and code is Code.OK:
                counts = reply.arrays.get(COUNTS)
                if counts is not None and len(reply.arrays) == 1 and _sound(counts, shape):
                    self.answered[name] = counts
                    continue
                code = Code.BAD_REQUEST
            self.failed[name] = str(code)

    def pooled(self, plan: Plan) -> NoisedMetrics | None:
        """Metrics of the cells summed over the sites that answered; None where none did."""
        release = plan.evaluation.release
        if not self.answered or release == "none":
            return None
        names = sorted(self.answered)  # a fixed order: sums do not depend on who answered first
        total = np.sum([self.answered[name].astype(np.float64) for name in names], axis=0)
        variance = sum(self.variances[name] for name in names)
        return noised_metrics(release, total, variance, plan.task.labels)

    def to_json(self) -> dict[str, object]:
        """Who answered, for the round's event."""
        names = set(self.asked.values())
        return {
            "number": self.number,
            "answered": sorted(self.answered),
            "missing": sorted(names - set(self.answered) - set(self.failed)),
            "failed": self.failed,
        }


def plan_cells(plan: Plan) -> int:
    """Numbers in one reply to an evaluation; 0 where the plan asks for none."""
    release = plan.evaluation.release
    return 0 if release == "none" else num_cells(release, len(plan.task.labels))


def _sound(counts: Floats, shape: tuple[int, ...]) -> bool:
    return counts.shape == shape and bool(np.isfinite(counts).all()) and bool((np.abs(counts) <= _MAX_COUNT).all())
