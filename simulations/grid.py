"""A Flower Grid whose nodes are virtual sites: the strategy's messages of one round, answered by an engine's workers.

A site is a number. What all messages of a round share is parsed once; the cohort goes to the workers in shards, and
replies are made one at a time as the strategy takes them: what is in memory grows with the cohort that is under way.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from flwr.app import Error, Message, MessageType, Metadata, RecordDict
from flwr.serverapp import Grid
from numpy.typing import NDArray

from privet.common.adapter import AdapterSpec, Arrays
from privet.common.compression import coding_error, encode_flat
from privet.common.config import Plan
from privet.common.errors import Code
from privet.common.live import Event
from privet.common.messages import (
    COUNTS,
    EvaluateBody,
    OfferBody,
    Reply,
    ReplyBody,
    Request,
    TrainBody,
    parse_request,
    reply_text,
    to_record,
)
from privet.common.methods import method_for
from privet.common.privacy.noise import SeededNoise, privatise
from privet.common.record import carry_coded, carry_flat
from privet.common.tasks.base import task_of
from privet.simulations.absence import Absence
from privet.simulations.engines.engine import Engine, Job, Shard
from privet.simulations.shards import site_shards
from privet.simulations.terms import Agreed

_RUN = _SERVER = _UNAVAILABLE = 1  # the run's and the server's numbers; Flower's code for an answer that failed


class SimulationGrid(Grid):  # type: ignore[misc]
    """Node i + 1 is the i-th of `names`.

    numbers: each site's in the engine's store. tokens: that one step of each takes on average. `trained` and `measured`
    count, for each site, the rounds and evaluations that it ran, in time or late: what it spent.
    `exact` holds the un-noised cells of the latest evaluation, summed over the sites, by its number, and `clipped` the
    share of units whose counts were clipped, where the task clips any: for the researcher, and never sent.
    `on_reply` hears of each site that answered ("train" or "evaluate"), as it does.
    """

    def __init__(
        self,
        plan: Plan,
        spec: AdapterSpec,
        initial: Arrays,
        engine: Engine,
        names: Sequence[str],
        numbers: NDArray[np.int64],
        tokens: NDArray[np.float64],
        agreed: Agreed,
        absence: Absence,
    ) -> None:
        self._plan, self._digest, self._spec, self._initial = plan, plan.digest, spec, initial
        self._engine, self._names, self._numbers, self._tokens = engine, names, numbers, tokens
        self._agreed, self._absence, self._method = agreed, absence, method_for(plan)
        self.trained = np.zeros(len(names), np.int32)
        self.measured = np.zeros(len(names), np.int32)
        self.exact: tuple[int, NDArray[np.float64]] | None = None
        self.clipped: tuple[int, float] | None = None
        self.on_reply: Callable[[str, str], None] | None = None
        self._count = 0
        self._waiting: dict[str, Message] = {}
        self._known: tuple[RecordDict, Request] | None = None
        self._said: dict[int, RecordDict] = {}
        self._errors: dict[int, list[float]] = {}

    def measured_error(self, round: int) -> Event:
        """For the round's event: the relative L2 error of compression, the mean over the sites that answered in time.
        Only a simulation has both sides of it."""
        found = self._errors.pop(round, [])
        return {"compression_error": float(np.mean(found))} if found else {}

    # Flower's interface

    def set_run(self, run: object) -> None:
        """There is one run."""

    @property
    def run(self) -> object:
        """There is no run record: nothing is served to anyone."""
        return None

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        self._count += 1
        return _message(content, str(self._count), "", _SERVER, dst_node_id, message_type, group_id)

    def get_node_ids(self) -> Iterable[int]:
        return range(1, len(self._names) + 1)

    def get_nodes(self) -> Iterable[object]:
        return []

    def push_messages(self, messages: Iterable[Message]) -> Iterator[str]:
        """Keeps each until its reply is pulled."""
        for message in messages:
            self._waiting[message.metadata.message_id] = message
            yield message.metadata.message_id

    def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
        """The replies, made one at a time."""
        found = (self._waiting.pop(name, None) for name in message_ids)
        return self._answers(message for message in found if message is not None)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        """Replies as they come; who drops out or comes late is not among them. `timeout` does not apply: a virtual
        round has the time that it needs."""
        return self._answers(messages)

    def name_of(self, node: int) -> str:
        return self._names[node - 1]

    # The sites

    def _answers(self, messages: Iterable[Message]) -> Iterator[Message]:
        """Messages that share one request and need workers are answered together, all others one by one."""
        together: list[Message] = []
        for message in messages:
            if together and message.content is not together[0].content:
                yield from self._compute(together)
                together = []
            node = message.metadata.dst_node_id
            if not 1 <= node <= len(self._names):
                yield _error(message)
            elif isinstance(self._request(message.content).body, TrainBody | EvaluateBody):
                together.append(message)
            else:
                yield _reply(message, self._say(message.content, node - 1))
        if together:
            yield from self._compute(together)

    def _request(self, record: RecordDict) -> Request:
        if self._known is None or self._known[0] is not record:
            self._known = record, parse_request(record)
        return self._known[1]

    def _say(self, record: RecordDict, index: int) -> RecordDict:
        """The answer to an offer or to the end: one record for all sites of equal terms."""
        kind = int(self._agreed.kinds[index])
        offered = isinstance(self._request(record).body, OfferBody)
        key = kind if offered or kind < 0 else -2
        if key not in self._said:
            body = ReplyBody(code=Code.OK, plan_digest=self._digest)
            if kind < 0:
                body = ReplyBody(code=Code.REFUSED_POLICY, plan_digest=self._digest)
            elif offered:
                body = body.model_copy(update={"statement": self._agreed.terms[kind].statement})
            self._said[key] = to_record(Reply(body))
        return self._said[key]

    def _compute(self, messages: Sequence[Message]) -> Iterator[Message]:
        """The replies of sites that train or measure; of those that refuse the plan their refusal."""
        request = self._request(messages[0].content)
        body = request.body
        assert isinstance(body, TrainBody | EvaluateBody)
        ordered = sorted(messages, key=lambda message: message.metadata.dst_node_id)
        nodes = [message.metadata.dst_node_id - 1 for message in ordered]
        refuses = self._agreed.kinds[nodes] < 0
        if isinstance(body, EvaluateBody) and self._plan.evaluation.release == "none":
            refuses[:] = True
        for message, refused in zip(ordered, refuses.tolist(), strict=True):
            if refused:
                code = ReplyBody(code=Code.REFUSED_POLICY, plan_digest=self._digest, round=body.round)
                yield _reply(message, to_record(Reply(code)))
        able = [message for message, refused in zip(ordered, refuses.tolist(), strict=True) if not refused]
        if isinstance(body, EvaluateBody):
            yield from self._measure(able, request.arrays, body.round)
        else:
            yield from self._train(able, request.arrays, body.round)

    def _train(self, messages: Sequence[Message], arrays: Arrays, round: int) -> Iterator[Message]:
        answering: list[Message] = []
        for message in messages:
            index = message.metadata.dst_node_id - 1
            does = self._absence.of(self._names[index], round)
            if does != "absent":
                self.trained[index] += 1
            if does == "answers":  # what comes late is of no use to anyone: it is counted, and not computed
                answering.append(message)
        trainable = self._method.trainable(self._spec, round)
        others = {name: array for name, array in arrays.items() if name not in trainable.names}
        if others:
            self._engine.hold(others)
        job = Job("train", round, trainable.flatten(arrays))
        text = reply_text(ReplyBody(code=Code.OK, plan_digest=self._digest, round=round))
        shapes = tuple((entry.name, entry.shape) for entry in trainable.entries)
        for message, update in self._rows(job, answering):
            compression = self._plan.training.compression
            if compression == "none":
                yield self._told(message, carry_flat(text, shapes, update))
                continue
            rounding = SeededNoise(self._absence.seed, self.name_of(message.metadata.dst_node_id), "rounding", round)
            coded = encode_flat(compression, shapes, update, rounding)
            self._errors.setdefault(round, []).append(coding_error(coded, update))
            yield self._told(message, carry_coded(text, coded))

    def _measure(self, messages: Sequence[Message], arrays: Arrays, number: int) -> Iterator[Message]:
        whole = self._spec.flatten({**self._initial, **arrays})
        body = ReplyBody(code=Code.OK, plan_digest=self._digest, round=number)
        total: NDArray[np.longdouble] | None = None  # so wide that the order in which sites answer does not show
        release = self._plan.evaluation.release
        width = 0 if release == "none" else task_of(self._plan.task).num_cells(release)
        clipped = np.zeros(2)  # units that were, and all
        for message, row in self._rows(Job("cells", number, whole), messages):
            cells, further = row[:width], row[width:]  # what stands behind the cells never leaves: see `site_cells`
            clipped += further if len(further) else 0
            index = message.metadata.dst_node_id - 1
            self.measured[index] += 1
            total = cells.astype(np.longdouble) if total is None else total + cells
            found = self._agreed.of(index)
            assert found is not None
            assert found.evaluation is not None
            noise = SeededNoise(self._absence.seed, self._names[index], "evaluate", number)
            sigma = found.evaluation.noise_multiplier
            released = privatise(cells, noise_multiplier=sigma, max_grad_norm=1.0, expected_batch=1.0, noise=noise)
            yield self._told(message, to_record(Reply(body, {COUNTS: released})))
        self.exact = None if total is None else (number, total.astype(np.float64))
        self.clipped = (number, float(clipped[0] / clipped[1])) if clipped[1] else None

    def _rows(self, job: Job, messages: Sequence[Message]) -> Iterator[tuple[Message, NDArray[Any]]]:
        """Each message with its row of the job's result, as the workers bring them."""
        indices = np.array([message.metadata.dst_node_id - 1 for message in messages], np.int64)
        if not len(indices):
            return
        parts = site_shards(indices.tolist(), self._tokens[indices], self._engine.num_workers)
        sites = self._numbers[indices]
        shards = [Shard(sites[part.start : part.stop].tolist()) for part in parts]
        for place, rows in self._engine.map(job, shards):
            for position, row in zip(parts[place], rows, strict=True):
                yield messages[position], row

    def _told(self, message: Message, record: RecordDict) -> Message:
        if self.on_reply is not None:
            kind = "train" if message.metadata.message_type == MessageType.TRAIN else "evaluate"
            self.on_reply(self._names[message.metadata.dst_node_id - 1], kind)
        return _reply(message, record)


def _message(
    content: RecordDict, name: str, replies_to: str, source: int, target: int, kind: str, group: str
) -> Message:
    metadata = Metadata(
        run_id=_RUN,
        message_id=name,
        src_node_id=source,
        dst_node_id=target,
        reply_to_message_id=replies_to,
        group_id=group,
        created_at=time.time(),
        ttl=1e6,
        message_type=kind,
    )
    return Message(content, metadata=metadata)


def _reply(message: Message, record: RecordDict) -> Message:
    asked = message.metadata
    return _message(record, "", asked.message_id, asked.dst_node_id, _SERVER, asked.message_type, asked.group_id)


def _error(message: Message) -> Message:
    return Message(Error(_UNAVAILABLE, "no such node"), reply_to=message)
