"""A Grid in this process whose sites follow a script, and a clock that only moves when someone waits."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from flwr.app import Error, Message, Metadata, RecordDict
from flwr.serverapp import Grid

from privet.common.adapter import AdapterSpec, Arrays, Entry, Role
from privet.common.config import Plan
from privet.common.errors import Code
from privet.common.messages import (
    COUNTS,
    EvaluateBody,
    OfferBody,
    Reply,
    ReplyBody,
    Request,
    TrainBody,
    parse_request,
    to_record,
)
from privet.common.methods import State, Update, method_for
from privet.common.privacy.statement import Statement
from privet.server.checkpoint import Checkpoint
from privet.server.strategy import PrivetStrategy
from tests.server.statements import stated

SPEC = AdapterSpec(
    (
        Entry("head.bias", (3,), Role.HEAD),
        Entry("head.weight", (3, 4), Role.HEAD),
        Entry("q.lora_A.weight", (2, 4), Role.LORA_A),
        Entry("q.lora_B.weight", (4, 2), Role.LORA_B),
    )
)
Answer = Callable[["Site", Message, Request], list[Message]]


def plan(**tables: dict[str, Any]) -> Plan:
    """A plan for SPEC; `tables` are merged into its tables."""
    raw: dict[str, Any] = {
        "format": 1,
        "name": "scripted",
        "task": {"labels": ["p", "q", "r"]},
        "model": {"base": "nowhere", "sha256": "0" * 64},
        "method": {"kind": "fedavg"},
        "training": {"rounds": 2, "expected_batch": 64, "learning_rate": 0.1},
        "cohort": {"min_sites": 2, "weight": "uniform"},
    }
    for name, table in tables.items():
        raw[name] = raw.get(name, {}) | table
    return Plan.model_validate(raw)


def initial() -> dict[str, Any]:
    random = np.random.default_rng(0)
    return {entry.name: random.normal(size=entry.shape).astype(np.float32) for entry in SPEC.entries}


def update_of(name: str, round: int) -> dict[str, Any]:
    """What a sound site answers: a function of its name and the round."""
    random = np.random.default_rng([round, *name.encode()])
    return {entry.name: random.normal(size=entry.shape).astype(np.float32) for entry in SPEC.entries}


def reply_to(message: Message, content: RecordDict | Error) -> Message:
    return Message(content, reply_to=message)


def from_node(message: Message, content: RecordDict, node: int) -> Message:
    """A reply that says it comes from `node`."""
    metadata = Metadata(
        run_id=1,
        message_id="",
        src_node_id=node,
        dst_node_id=1,
        reply_to_message_id=message.metadata.message_id,
        group_id=message.metadata.group_id,
        created_at=time.time(),
        ttl=1e6,
        message_type=message.metadata.message_type,
    )
    return Message(content, metadata=metadata)


def record(plan_digest: str, round: int, arrays: Arrays | None = None, code: Code = Code.OK) -> RecordDict:
    return to_record(Reply(ReplyBody(code=code, plan_digest=plan_digest, round=round), arrays or {}))


def claimless(**changes: Any) -> Statement:
    """A statement that guarantees nothing: its figures need not be those of a mechanism, or fit a plan."""
    return stated(**({"guarantee": False, "reason": "A scripted site."} | changes))


def sound(site: "Site", message: Message, request: Request) -> list[Message]:
    """The answer of a site that does as it should."""
    body = request.body
    if isinstance(body, OfferBody):
        reply = Reply(ReplyBody(code=Code.OK, plan_digest=body.plan_digest, statement=site.statement))
        return [reply_to(message, to_record(reply))]
    if isinstance(body, TrainBody):
        return [reply_to(message, record(body.plan_digest, body.round, update_of(site.name, body.round)))]
    if isinstance(body, EvaluateBody):
        return [reply_to(message, record(body.plan_digest, body.round, {COUNTS: site.counts(body.after)}))]
    return [reply_to(message, record(body.plan_digest, 0))]


def coded(code: Code) -> Answer:
    """The answer of a site that says `code` to everything."""

    def answer(site: "Site", message: Message, request: Request) -> list[Message]:
        body = request.body
        number = body.round if isinstance(body, TrainBody | EvaluateBody) else 0
        return [reply_to(message, record(body.plan_digest, number, code=code))]

    return answer


def silent(site: "Site", message: Message, request: Request) -> list[Message]:
    return []


@dataclass
class Site:
    """One scripted site: `offer`, `train`, `evaluate` and `finish` say how it answers; `heard` is what it was asked.

    counts: the cells that it releases after a training round.
    """

    name: str
    offer: Answer = sound
    train: Answer = sound
    evaluate: Answer = sound
    finish: Answer = sound
    counts: Callable[[int], Any] = lambda after: np.array([80.0, 20.0], np.float32)
    statement: Statement | None = field(default_factory=claimless)
    online: bool = True
    heard: list[Request] = field(default_factory=list)

    def answer(self, message: Message) -> list[Message]:
        request = parse_request(message.content)
        self.heard.append(request)
        return getattr(self, request.body.kind)(self, message, request)  # type: ignore[no-any-return]

    def count(self, kind: str) -> int:
        return sum(request.body.kind == kind for request in self.heard)


class ScriptedGrid(Grid):  # type: ignore[misc]
    """Delivers to `sites`, whose node ids are 11, 12, … in their order."""

    def __init__(self, sites: Sequence[Site]) -> None:
        self.nodes = dict(enumerate(sites, start=11))
        self.timeouts: list[float | None] = []
        self._replies: list[Message] = []
        self._count = 0

    def set_run(self, run: object) -> None: ...

    @property
    def run(self) -> Any:
        return None

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        self._count += 1
        metadata = Metadata(
            run_id=1,
            message_id=f"m{self._count}",
            src_node_id=1,
            dst_node_id=dst_node_id,
            reply_to_message_id="",
            group_id=group_id,
            created_at=time.time(),
            ttl=1e6,
            message_type=message_type,
        )
        return Message(content, metadata=metadata)

    def get_node_ids(self) -> list[int]:
        return [node for node, site in self.nodes.items() if site.online]

    def get_nodes(self) -> Any:
        return []

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        ids = []
        for message in messages:
            site = self.nodes[message.metadata.dst_node_id]
            if site.online:
                self._replies += site.answer(message)
            ids.append(message.metadata.message_id if site.online else "")
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        wanted = set(message_ids)
        found = [reply for reply in self._replies if reply.metadata.reply_to_message_id in wanted]
        self._replies = [reply for reply in self._replies if reply not in found]
        return found

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        self.timeouts.append(timeout)
        sent = list(messages)
        online = [(self.nodes[message.metadata.dst_node_id], message) for message in sent]
        return [reply for site, message in reversed(online) if site.online for reply in site.answer(message)]


class Clock:
    """Stands in for the module `time`: a wait is over at once."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.on_wait: Callable[[float], None] | None = None

    def monotonic(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds
        if self.on_wait is not None:
            self.on_wait(self.now - 1000.0)


@dataclass
class Scene:
    """A strategy on a scripted grid, and what it told."""

    strategy: PrivetStrategy
    grid: ScriptedGrid
    clock: Clock
    events: list[dict[str, Any]]
    checkpoints: list[Checkpoint]

    def run(self) -> "Scene":
        self.strategy.start(self.grid)
        return self

    def rounds(self) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == "round"]


def scene(
    patch: pytest.MonkeyPatch, sites: Sequence[Site], the_plan: Plan | None = None, *, wait: float = 100.0, **more: Any
) -> Scene:
    """Sites on a grid under a strategy; the clock is the scene's."""
    clock = Clock()
    events: list[dict[str, Any]] = []
    checkpoints: list[Checkpoint] = []
    patch.setattr("privet.server.strategy.time", clock)
    patch.setattr("privet.server.quorum.time", clock)
    patch.setattr("privet.server.progress.time", clock)
    patch.setattr("privet.server.roster.time", clock)
    grid = ScriptedGrid(sites)
    strategy = PrivetStrategy(
        the_plan or plan(),
        SPEC,
        initial(),
        name_of=lambda node: grid.nodes[node].name,
        pause=clock.pause,
        wait=wait,
        on_event=events.append,
        keep=checkpoints.append,
        **more,
    )
    return Scene(strategy, grid, clock, events, checkpoints)


def three(**north: Any) -> list[Site]:
    """North, as told, and two others as they come."""
    return [Site("north", **north), Site("south"), Site("east")]


def aggregated(rounds: list[list[str]], the_plan: Any = None) -> State:
    """The method's own result where these sites' updates are aggregated, uniformly, round by round."""
    method = method_for(the_plan or plan())
    state = method.init(initial())
    for number, names in enumerate(rounds, start=1):
        if names:
            updates = [Update(update_of(name, number), 1 / len(names)) for name in sorted(names)]
            state = method.aggregate(SPEC, state, number, updates)
    return state
