"""privet's Flower Strategy: choose the cohort, check replies one by one, aggregate what is sound, go on.

One bad reply never ends a round. Every wait is bounded: a round by the plan's time-out, a missing quorum by the
server's. A round with fewer sound updates than `min_sites` changes nothing.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from privet.common.adapter import MAX_WEIGHT, AdapterSpec, Arrays, Floats
from privet.common.config import Plan
from privet.common.errors import Code, RunError, WireError
from privet.common.messages import FinishBody, Request, TrainBody, to_record
from privet.common.methods import Stated, Update, aggregation_weights, method_for
from privet.common.tasks.classification import PublicMetrics
from privet.server.checkpoint import Checkpoint
from privet.server.roster import Event, Listener, Roster, sound_reply

_FINISH_TIMEOUT = 15.0  # seconds for the sites to hear that it is over


@dataclass
class _Round:
    """One round under way."""

    number: int
    cohort: dict[int, str]
    started: float
    bytes_down: int


class PrivetStrategy(Strategy):  # type: ignore[misc]
    """Runs a plan over whatever Grid it is given: the fleet's, or one in this process.

    pause(seconds) returns early when something changed; evaluate judges the global adapter on public text; keep stores
    a checkpoint. Raises: RunError where the quorum is not reached within `wait` seconds.
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
        evaluate: Callable[[dict[str, Floats]], PublicMetrics] | None = None,
        keep: Callable[[Checkpoint], object] | None = None,
    ) -> None:
        self.plan, self.spec, self.method = plan, spec, method_for(plan)
        self.state = self.method.init(initial)
        self.roster = Roster(plan, initial, name_of, on_event)
        self.history: list[Event] = []
        self.completed = 0
        self._sampler = np.random.Generator(np.random.PCG64(plan.method.seed))
        self._pause, self._wait, self._on_event = pause, wait, on_event
        self._evaluate, self._keep = evaluate, keep
        self._round: _Round | None = None

    # Flower's interface

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Wait for the quorum, draw the cohort, make its requests."""
        ready = self._quorum(server_round, grid)
        size = max(self.plan.cohort.min_sites, round(self.plan.cohort.fraction * len(ready)))
        names = sorted(self._sampler.choice(sorted(ready), size=min(size, len(ready)), replace=False).tolist())
        body = TrainBody(plan_digest=self.plan.digest, round=server_round)
        sent = self.method.broadcast(self.spec, self.state, server_round)
        record = to_record(Request(body, sent))
        weight = sum(array.nbytes for array in sent.values())
        self._round = _Round(server_round, {ready[n]: n for n in names}, time.monotonic(), weight * len(names))
        self._on_event({"event": "round_started", "round": server_round, "cohort": names})
        return [grid.create_message(record, MessageType.TRAIN, ready[name], str(server_round)) for name in names]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Check each reply on its own; aggregate the sound ones if they make the quorum."""
        if self._round is None or self._round.number != server_round:
            raise RuntimeError("aggregate_train before configure_train")
        now, expected = self._round, self.method.trainable(self.spec, server_round)
        updates: dict[str, dict[str, Floats]] = {}
        failed: dict[str, str] = {}
        for message in replies:
            name = now.cohort.get(message.metadata.src_node_id)
            if name is None or name in updates or name in failed:
                continue
            reply = sound_reply(message, self.plan, server_round)
            code = Code.UNAVAILABLE if reply is None else reply.code
            if reply is not None and code is Code.OK:
                try:
                    expected.check(reply.arrays, bound=2 * MAX_WEIGHT)
                    updates[name] = dict(reply.arrays)
                    continue
                except WireError:
                    code = Code.BAD_REQUEST
            failed[name] = str(code)
            if code in (Code.UNKNOWN_PLAN, Code.PENDING, Code.REFUSED_BUDGET, Code.REFUSED_POLICY):
                self.roster.withdraw(name, code)
        aggregated = len(updates) >= self.plan.cohort.min_sites
        if aggregated:
            self._aggregate(server_round, updates)
            self.completed += 1
        self._finish_round(now, updates, failed, aggregated)
        return None, None

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """No metrics leave the sites."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """No metrics leave the sites."""
        return None

    def summary(self) -> None:
        """Tell the listener what is about to run."""
        self._on_event(
            {
                "event": "started",
                "federation": self.plan.name,
                "plan": self.plan.digest,
                "rounds": self.plan.training.rounds,
            }
        )

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
        empty, config = ArrayRecord(), ConfigRecord()
        self._judge(0)
        number = 0
        while self.completed < self.plan.training.rounds and number < self.plan.training.horizon:
            number += 1
            messages = self.configure_train(number, empty, config, grid)
            replies = grid.send_and_receive(messages, timeout=self.plan.cohort.timeout)
            self.aggregate_train(number, replies)
        self.finish(grid)
        return Result()

    # Steps

    def finish(self, grid: Grid) -> None:
        """Tell every site that is here that the federation is over."""
        record = to_record(Request(FinishBody(plan_digest=self.plan.digest)))
        messages = [grid.create_message(record, MessageType.QUERY, node, "finish") for node in grid.get_node_ids()]
        grid.send_and_receive(messages, timeout=_FINISH_TIMEOUT)

    def _quorum(self, number: int, grid: Grid) -> dict[str, int]:
        needed, end, told = self.plan.cohort.min_sites, time.monotonic() + self._wait, -1
        while True:
            self.roster.ask(grid)
            ready = self.roster.ready(grid)
            if len(ready) >= needed:
                return ready
            if len(ready) != told:
                told = len(ready)
                self._on_event({"event": "waiting", "round": number, "ready": sorted(ready), "needed": needed})
            left = end - time.monotonic()
            if left <= 0:
                raise RunError(
                    f"{len(ready)} of at least {needed} sites were ready for round {number} within {self._wait:g} s"
                    f" ({self._absent(ready)}).",
                    where="cohort.min_sites",
                    mend="see to the sites named here, then start the server again.",
                )
            self._pause(min(left, 2.0))

    def _absent(self, ready: dict[str, int]) -> str:
        others = [
            f"{name}: {'away' if verdict.code is Code.OK else verdict.code}"
            for name, verdict in sorted(self.roster.verdicts.items())
            if name not in ready
        ]
        others += [f"{name}: no answer" for name in sorted(self.roster.silent)]
        return "; ".join(others) or "no other site answered"

    def _aggregate(self, number: int, updates: dict[str, dict[str, Floats]]) -> None:
        names = sorted(updates)  # a fixed order: sums do not depend on who answered first
        stated = []
        for name in names:
            statement = self.roster.statements[name]
            stated.append(
                Stated(
                    statement.noise_multiplier,
                    statement.max_grad_norm,
                    statement.expected_batch,
                    statement.declared_weight,
                )
            )
        weights = aggregation_weights(self.plan.cohort.weight, stated)
        weighted = [Update(updates[name], weight) for name, weight in zip(names, weights, strict=True)]
        self.state = self.method.aggregate(self.spec, self.state, number, weighted)

    def _finish_round(
        self, now: _Round, updates: dict[str, dict[str, Floats]], failed: dict[str, str], aggregated: bool
    ) -> None:
        answered = sorted(updates)
        public = self._judge(now.number) if aggregated else None
        if self._keep is not None:
            sampler = dict(self._sampler.bit_generator.state)
            self._keep(Checkpoint(self.plan.digest, now.number, self.completed, self.state, sampler))
        event: Event = {
            "event": "round",
            "round": now.number,
            "seconds": round(time.monotonic() - now.started, 3),
            "cohort": sorted(now.cohort.values()),
            "answered": answered,
            "missing": sorted(set(now.cohort.values()) - set(answered) - set(failed)),
            "failed": failed,
            "aggregated": aggregated,
            "bytes_down": now.bytes_down,
            "bytes_up": sum(array.nbytes for update in updates.values() for array in update.values()),
            "public": public,
        }
        self.history.append(event)
        self._on_event(event)

    def _judge(self, number: int) -> dict[str, object] | None:
        if self._evaluate is None:
            return None
        public = asdict(self._evaluate(self.state.arrays))
        if number == 0:
            self._on_event({"event": "initial", "public": public})
        return public
