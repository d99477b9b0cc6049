"""privet's Flower Strategy: choose the cohort, check replies one by one, aggregate what is sound, go on.

One bad reply never ends a round. Every wait is bounded: a round by the plan's time-out, a missing quorum by the
server's. A round with fewer sound updates than `min_sites` changes nothing.

A round, and an evaluation, has one content for ever: what is asked is recorded before it goes out. A server that is
started again asks the same sites the same bytes, which they answer from what they stored. Where its own state is not
what it was (it went back by a round, and another set of sites answered this time), the same number would come with
other content, which every site refuses. Such a round is lost: it is told so, nobody is asked, the next number comes.
"""

import time
from collections.abc import Callable, Iterable

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from privet.common.adapter import AdapterSpec, Arrays, Floats
from privet.common.config import Plan
from privet.common.errors import Code
from privet.common.live import Event, Listener
from privet.common.messages import EvaluateBody, FinishBody, Request, TrainBody, to_record
from privet.common.methods import State, method_for
from privet.common.tasks.base import Public
from privet.server.asked import Asked
from privet.server.checkpoint import Checkpoint
from privet.server.heads import Heads
from privet.server.judgement import Judge
from privet.server.metrics import Evaluation, evaluation_number
from privet.server.progress import Due, Past, Progress, Round
from privet.server.quorum import await_online, await_quorum
from privet.server.roster import Roster, sound_reply
from privet.server.updates import collect, weighted

_FINISH_TIMEOUT = 15.0  # seconds for the sites to hear that it is over
_BACK_TIMEOUT = 30.0  # seconds for them to come back first, where the server was started again for that


class PrivetStrategy(Strategy):  # type: ignore[misc]
    """Runs a plan over whatever Grid it is given: the fleet's, or one in this process.

    pause(seconds) returns early when something changed; evaluate judges the global adapter on public text; keep stores
    a checkpoint, and asking what will be asked of whom, before it goes out. progress: of a run that goes on. seed:
    another than 0 draws other cohorts than the plan's own seed, for a simulation that is repeated. further: what only a
    simulation knows of a round, for its event.
    Raises: RunError where the quorum is not reached within `wait` seconds.
    """

    def __init__(
        self,
        plan: Plan,
        spec: AdapterSpec,
        initial: Arrays,
        *,
        name_of: Callable[[int], str],
        pause: Callable[[float], None],
        wait: float,
        on_event: Listener,
        evaluate: Callable[[dict[str, Floats]], Public] | None = None,
        keep: Callable[[Checkpoint], object] | None = None,
        heads: Heads | None = None,
        session_of: Callable[[int], object] = lambda _node: None,
        asking: Callable[[Asked], object] | None = None,
        progress: Progress | None = None,
        seed: int = 0,
        further: Callable[[int], Event] = lambda _round: {},
    ) -> None:
        self.plan, self.spec, self.method = plan, spec, method_for(plan)
        self.state = self.method.init(initial)
        self.roster = Roster(plan, initial, name_of, on_event, heads, session_of)
        self.history: list[Event] = []
        self.completed = 0
        self.judge = Judge(plan, on_event, evaluate)
        drawn = (plan.method.seed, seed) if seed else plan.method.seed
        self._sampler = np.random.Generator(np.random.PCG64(drawn))
        self._pause, self._wait, self._on_event = pause, wait, on_event
        self._keep, self._asking, self._further = keep, asking, further
        self._round: Round | None = None
        self._due: Due | None = None
        self._past = Past(progress, on_event)
        if progress is not None:
            self._restore(progress)

    # Flower's interface

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Wait for the quorum, draw the cohort, make its requests; none for a round that cannot be run."""
        sent = self.method.broadcast(self.spec, self.state, server_round)
        request = Request(TrainBody(plan_digest=self.plan.digest, round=server_round), sent)
        known, is_lost = self._past.find(request)
        if known is not None and is_lost:
            failed = dict.fromkeys(known.names, str(Code.ROUND_LOST))
            self._round = Round(server_round, list(known.names), {}, time.monotonic(), 0, failed=failed)
            return []
        ready = self._gather(grid, server_round, known, needed=self.plan.cohort.min_sites)
        if known is None:
            names = self._draw(ready)
            self._record(Asked("train", server_round, tuple(names), request.sha256, self._sampler_state()))
        else:
            names = list(known.names)
            self._sampler.bit_generator.state = known.sampler or self._sampler_state()
            ready = {name: ready[name] for name in names if name in ready}
            if len(ready) < self.plan.cohort.min_sites:
                ready = {}  # too few came back, others are here: no budget is spent for what cannot be aggregated
        record = to_record(request)
        weight = sum(array.nbytes for array in sent.values())
        cohort = {ready[name]: name for name in names if name in ready}
        self._round = Round(server_round, names, cohort, time.monotonic(), weight * len(cohort))
        self._on_event({"event": "round_started", "round": server_round, "cohort": names})
        return [grid.create_message(record, MessageType.TRAIN, node, str(server_round)) for node in cohort]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Check each reply on its own; aggregate the sound ones if they make the quorum."""
        if self._round is None or self._round.number != server_round:
            raise RuntimeError("aggregate_train before configure_train")
        now, expected = self._round, self.method.trainable(self.spec, server_round)
        updates, failed = collect(now, replies, expected, self.plan, self.roster)
        aggregated = len(updates) >= self.plan.cohort.min_sites
        if aggregated:
            sound = weighted(updates, self.roster.statements, self.plan.cohort.weight)
            self.state = self.method.aggregate(self.spec, self.state, server_round, sound)
            self.completed += 1
        self._finish_round(now, updates, failed, aggregated)
        return None, None

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask the sites that release metrics, where an evaluation is due; at most `plan.num_evaluations` in a run."""
        if self._due is None or self._due.round.number != server_round:
            return []
        due, number = self._due, self._due.evaluation.number
        sent = self.method.broadcast(self.spec, self.state, server_round)
        request = Request(EvaluateBody(plan_digest=self.plan.digest, round=number, after=server_round), sent)
        known, is_lost = self._past.find(request)
        if known is not None and is_lost:
            due.evaluation.failed = dict.fromkeys(known.names, str(Code.ROUND_LOST))
            return []
        if known is not None or self._past.expected:
            self._gather(grid, server_round, known, needed=0, trains=False)
        asked = due.ask(self.plan, self.roster, grid, known)
        if known is None:
            names = tuple(sorted(due.evaluation.asked.values()))
            self._record(Asked("evaluate", number, names, request.sha256))
        record = to_record(request)
        due.round.bytes_down += len(asked) * sum(array.nbytes for array in sent.values())
        return [grid.create_message(record, MessageType.EVALUATE, node, str(server_round)) for node in asked]

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Check each reply on its own, pool the sound ones, judge the round by them and tell it."""
        due, self._due = self._due, None
        if due is None:
            return None
        due.evaluation.collect(replies, self.plan, self.roster)
        due.collected(self.plan)
        if self.plan.evaluation.metric == "sites":
            self.judge.weigh(due.row, self.state.arrays)
        row = due.round.timed(due.row)
        self._store(due.round.number, row)
        self._told(row)
        return None

    def summary(self) -> None:
        """Tell the listener what is about to run."""
        told: Event = {"federation": self.plan.name, "plan": self.plan.digest, "rounds": self.plan.training.rounds}
        self._on_event({"event": "started", **told})
        self.judge.warn()

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord | None = None,
        num_rounds: int = 0,
        timeout: float = 0.0,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: object = None,
    ) -> Result:
        """Run the plan: its rounds, and spare ones for those that found no quorum of updates.

        What the other arguments would say stands in the plan. Flower's own loop knows no spare rounds.
        """
        self.summary()
        empty, config, timeout = ArrayRecord(), ConfigRecord(), self.plan.cohort.timeout
        number = self._begin()
        while self._due is not None or not self._is_over(number):
            if self._due is None:  # else the evaluation of this round is what a stopped server left
                number += 1
                messages = list(self.configure_train(number, empty, config, grid))
                self.aggregate_train(number, grid.send_and_receive(messages, timeout=timeout) if messages else ())
            messages = list(self.configure_evaluate(number, empty, config, grid))
            self.aggregate_evaluate(number, grid.send_and_receive(messages, timeout=timeout) if messages else ())
        kept = self.judge.conclude(number, self.completed)
        if kept is not None:
            self.state = State(dict(kept))
        self.finish(grid)
        return Result()

    # Steps

    def finish(self, grid: Grid) -> None:
        """Tell every site that is here that the federation is over."""
        if self._past.expected:  # the rounds were over when the server was started again
            await_online(self.roster, grid, self._past.expected, _BACK_TIMEOUT, self._pause)
        record = to_record(Request(FinishBody(plan_digest=self.plan.digest)))
        nodes = dict.fromkeys(grid.get_node_ids())
        messages = [grid.create_message(record, MessageType.QUERY, node, "finish") for node in nodes]
        for message in grid.send_and_receive(messages, timeout=_FINISH_TIMEOUT):
            if message.metadata.src_node_id in nodes:
                name = self.roster.name_of(message.metadata.src_node_id)
                self.roster.heard(name, sound_reply(message, self.roster.digest, 0))

    def _finish_round(
        self, now: Round, updates: dict[str, dict[str, Floats]], failed: dict[str, str], aggregated: bool
    ) -> None:
        row = now.event(updates, failed, aggregated)
        if aggregated:
            row |= self.judge.measure(now.number, self.state.arrays)
        if self.plan.training.compression != "none":
            row["compression"] = {"kind": self.plan.training.compression, "error_bound": now.error_bound}
        row |= self._further(now.number)
        if self.plan.evaluation.metric == "public":
            self.judge.weigh(row, self.state.arrays)
        row = now.timed(row)
        due = evaluation_number(self.plan, self.completed, last=self._is_over(now.number)) if aggregated else None
        self._store(now.number, row, due)
        if due is None:
            self._told(row)
        else:
            self._due = Due(now, row, Evaluation(due))

    def _told(self, row: Event) -> None:
        self.history.append(row)
        self._on_event(row)

    def _store(self, number: int, row: Event | None = None, due: int | None = None) -> None:
        if self._keep is not None:
            known = self.plan.digest, number, self.completed, self.state, self._sampler_state(), self.judge.standing
            self._keep(Checkpoint(*known, row=row, due=due, statements=self.roster.statements))

    def _sampler_state(self) -> dict[str, object]:
        return dict(self._sampler.bit_generator.state)

    def _draw(self, ready: dict[str, int]) -> list[str]:
        size = max(self.plan.cohort.min_sites, round(self.plan.cohort.fraction * len(ready)))
        return sorted(self._sampler.choice(sorted(ready), size=min(size, len(ready)), replace=False).tolist())

    # Going on with a run

    def _restore(self, progress: Progress) -> None:
        checkpoint = progress.checkpoint
        self.state, self.completed, self.judge.standing = checkpoint.state, checkpoint.completed, checkpoint.standing
        self._sampler.bit_generator.state = checkpoint.sampler
        self.history, self._due = list(progress.history), progress.due
        self._past.remind(self.roster)

    def _begin(self) -> int:
        """Tell where it starts; the number of the last round that is done."""
        progress = self._past.progress
        if progress is None:
            self.judge.measure(0, self.state.arrays)
            self._store(0)
            return 0
        number, untold = progress.checkpoint.round, progress.untold
        self._on_event({"event": "resumed", "round": number, "completed": self.completed})
        if untold is not None:
            self._told(untold)
        return number

    def _record(self, asked: Asked) -> None:
        if self._asking is not None:
            self._asking(asked)

    def _gather(
        self, grid: Grid, number: int, known: Asked | None, needed: int, *, trains: bool = True
    ) -> dict[str, int]:
        """The sites that are ready, `needed` at least; after a restart those that were asked, or answered last, if
        they come back within a round's time."""
        return await_quorum(
            self.roster,
            grid,
            number,
            needed=needed,
            wait=self._wait,
            pause=self._pause,
            on_event=self._on_event,
            named=self._past.awaited(known),
            patience=self.plan.cohort.timeout,
            trains=trains,
        )

    def _is_over(self, number: int) -> bool:
        training = self.plan.training
        ran = self.completed >= training.rounds or number >= training.horizon
        return ran or self.judge.is_over
