"""One round, one evaluation that is due, and how far a stopped run had come: what the strategy keeps in hand."""

import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from flwr.serverapp import Grid

from privet.common.compression import error_bound
from privet.common.config import Plan
from privet.common.errors import Code
from privet.common.live import Event, Listener
from privet.common.messages import EvaluateBody, Reply, Request, TrainBody
from privet.common.privacy.statement import Statement
from privet.server.asked import Asked, Kind
from privet.server.checkpoint import Checkpoint
from privet.server.metrics import Evaluation
from privet.server.roster import Roster, Verdict


@dataclass
class Round:
    """One round under way."""

    number: int
    names: list[str]  # of the cohort
    cohort: dict[int, str]  # of those that are asked: names by node
    started: float
    bytes_down: int
    bytes_up: int = 0
    error_bound: float = 0.0  # the largest of an update's compression, relative
    failed: dict[str, str] = field(default_factory=dict)  # codes of those that are not asked, and why

    def took(self, reply: Reply) -> None:
        """Count a sound update."""
        self.bytes_up += reply.num_bytes
        if reply.coded is not None:
            self.error_bound = max(self.error_bound, error_bound(reply.coded))

    def event(self, answered: Collection[str], failed: dict[str, str], aggregated: bool) -> Event:
        """What became of its cohort; metrics are none yet."""
        return {
            "event": "round",
            "round": self.number,
            "cohort": sorted(self.names),
            "answered": sorted(answered),
            "missing": sorted(set(self.names) - set(answered) - set(failed)),
            "failed": failed,
            "aggregated": aggregated,
            "public": None,
            "sites": None,
            "evaluation": None,
        }

    def timed(self, row: Event) -> Event:
        """The round's event as it is told."""
        seconds = round(time.monotonic() - self.started, 3)
        return row | {"seconds": seconds, "bytes_down": self.bytes_down, "bytes_up": self.bytes_up}


@dataclass
class Due:
    """A round that is told once the sites' metrics are in."""

    round: Round
    row: Event
    evaluation: Evaluation
    absent: list[str] = field(default_factory=list)  # were asked by a server that stopped, and did not come back

    def ask(self, plan: Plan, roster: Roster, grid: Grid, known: Asked | None) -> list[int]:
        """The nodes to ask: of those that were asked before, where this was: what is pooled depends on it."""
        nodes = self.evaluation.ask(plan, roster, grid)
        if known is None:
            return nodes
        asked = {node: name for node, name in self.evaluation.asked.items() if name in known.names}
        self.evaluation.asked, self.absent = asked, sorted(set(known.names) - set(asked.values()))
        return list(asked)

    def collected(self, plan: Plan) -> None:
        """Put into the row what the answers pool to, and who gave them."""
        pooled, told = self.evaluation.pooled(plan), self.evaluation.to_json()
        missing = told["missing"]
        assert isinstance(missing, list)
        told["missing"] = sorted([*missing, *self.absent])
        self.row |= {"sites": None if pooled is None else pooled.to_json(), "evaluation": told}
        self.round.bytes_up += sum(counts.nbytes for counts in self.evaluation.answered.values())


@dataclass(frozen=True)
class Progress:
    """How far a run had come when its server stopped.

    history: the events "round" that were told, up to the checkpoint's.
    asked: what may have gone out, also after the checkpoint.
    """

    checkpoint: Checkpoint
    history: Sequence[Event] = ()
    asked: Mapping[tuple[Kind, int], Asked] = field(default_factory=dict)
    sites_told: bool = False  # that it is over

    @property
    def expected(self) -> tuple[str, ...]:
        """The sites that answered last: they are likely to come back."""
        rows = [self.checkpoint.row] if self.checkpoint.row else list(self.history[-1:])
        answered = rows[-1]["answered"] if rows else ()
        return () if self.sites_told or not isinstance(answered, list) else tuple(answered)

    @property
    def untold(self) -> Event | None:
        """The checkpoint's row where it is whole and was not told."""
        row = self.checkpoint.row
        if row is None or self.checkpoint.due is not None or row["round"] in [told["round"] for told in self.history]:
            return None
        return row

    @property
    def due(self) -> Due | None:
        """The evaluation that was not collected."""
        row, number = self.checkpoint.row, self.checkpoint.due
        if row is None or number is None:
            return None
        seconds, down, up = (row[key] for key in ("seconds", "bytes_down", "bytes_up"))
        assert isinstance(seconds, int | float)
        assert isinstance(down, int)
        assert isinstance(up, int)
        round = Round(self.checkpoint.round, [], {}, time.monotonic() - seconds, down, up)
        return Due(round, dict(row), Evaluation(number))


class Past:
    """What a server that was started again knows of the one before; of a new run, nothing."""

    def __init__(self, progress: Progress | None, on_event: Listener) -> None:
        self.progress, self._on_event = progress, on_event
        self.expected = () if progress is None else progress.expected  # sites that are waited for, once

    def remind(self, roster: Roster) -> None:
        """What the sites stated stands in the report, come back or not; each is offered the plan anew."""
        stated: Mapping[str, Statement] = {} if self.progress is None else self.progress.checkpoint.statements
        another = object()  # no site's session
        for name, statement in stated.items():
            roster.verdicts[name] = Verdict(Code.OK, statement, -math.inf, another)

    def find(self, request: Request) -> tuple[Asked | None, bool]:
        """Who was asked for this round or evaluation, if it was; and whether it is lost: it had other content then."""
        body = request.body
        if self.progress is None or not isinstance(body, TrainBody | EvaluateBody):
            return None, False
        known = self.progress.asked.get((body.kind, body.round))
        if known is None or known.sha256 == request.sha256:
            return known, False
        what = "round" if body.kind == "train" else "evaluation"
        whom = ", ".join(known.names) or "nobody known"
        text = f"{what} {body.round} was asked of {whom} with other content before: it is lost."
        self._on_event({"event": "warning", "text": text})
        return known, True

    def awaited(self, known: Asked | None) -> tuple[str, ...]:
        """The sites to wait for: those that were asked, else those that answered last, once."""
        expected, self.expected = self.expected, ()
        return expected if known is None else known.names
