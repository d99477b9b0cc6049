"""A rehearsal over a Grid: the real network, keys and shapes on text that the sites generate.

Nothing is trained on and nothing is spent: sites answer in kinds of message of their own, each synthetic update is
checked and thrown away.
"""

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from flwr.app import Message, MessageType
from flwr.serverapp import Grid

from privet.common.adapter import MAX_WEIGHT, AdapterSpec, Arrays, digest
from privet.common.config import Plan
from privet.common.errors import Code, WireError
from privet.common.live import Listener
from privet.common.messages import parse_reply, to_record
from privet.common.methods import method_for
from privet.common.rehearsal import (
    RehearsalBody,
    RehearsalEndBody,
    RehearsalOfferBody,
    RehearsalReply,
    RehearsalRequest,
    RehearsalRoundBody,
    parse_rehearsal_reply,
)
from privet.server.rehearsal_words import AWAY, LEFT, OLD, SILENT, UNSOUND, in_words

_OFFER_SECONDS = 300.0  # a site starts a process and builds its model before it answers
_END_SECONDS = 15.0


@dataclass
class Found:
    """What was found of one site. Times in seconds; bytes of arrays."""

    code: str = AWAY
    prepare_seconds: float = 0.0
    rounds: list[dict[str, Any]] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return bool(self.rounds) and not self.fault

    @property
    def fault(self) -> str:
        """The first thing that is wrong, in words; empty where nothing is."""
        codes = [self.code, *(row["code"] for row in self.rounds)] if self.code != Code.OK or self.rounds else [LEFT]
        return next((in_words(code) for code in codes if code != Code.OK), "")


class Rehearsal:
    """Rehearses a plan over a Grid. `found` tells of every enrolled site.

    pause(seconds) returns early when something changed. session_of tells the processes of one site apart, take_lost
    which messages their sites have lost: an offer is made again then.
    """

    def __init__(
        self,
        plan: Plan,
        spec: AdapterSpec,
        initial: Arrays,
        grid: Grid,
        *,
        enrolled: Callable[[], set[str]],
        name_of: Callable[[int], str],
        session_of: Callable[[int], object],
        pause: Callable[[float], None],
        on_event: Listener,
        take_lost: Callable[[Collection[str]], Collection[str]] = lambda _ids: (),
    ) -> None:
        self._plan, self._spec, self._method, self._grid = plan, spec, method_for(plan), grid
        self._state = self._method.init(initial)
        self._offer = RehearsalOfferBody(plan=plan.canonical(), plan_digest=plan.digest, adapter_digest=digest(initial))
        self._enrolled, self._name_of, self._session_of = enrolled, name_of, session_of
        self._pause, self._on_event, self._take_lost = pause, on_event, take_lost
        self._asked: dict[int, object] = {}  # node to the session that was asked
        self.found: dict[str, Found] = {}

    def gather(self, wait: float) -> dict[int, str]:
        """Offer it to whoever comes; node and name of those that are ready, once they make the quorum, or all have
        answered, or `wait` seconds are over. Who was asked by then is heard."""
        end = time.monotonic() + wait
        waiting: dict[str, tuple[int, float]] = {}  # by message id: node, and until when
        while True:
            for name in self._enrolled():
                self.found.setdefault(name, Found())
            now = time.monotonic()
            nodes = self._grid.get_node_ids() if now < end else []
            fresh = [node for node in nodes if self._asked.get(node) != (self._session_of(node),)]
            messages = [self._message(self._offer, {}, node, "0") for node in fresh]
            for node, message_id in zip(fresh, self._grid.push_messages(messages), strict=True):
                if message_id:
                    self._asked[node] = (self._session_of(node),)
                    waiting[message_id] = node, now + _OFFER_SECONDS
            for message in self._grid.pull_messages(list(waiting)):
                node, _ = waiting.pop(message.metadata.reply_to_message_id, (0, 0.0))
                if node and message.metadata.src_node_id == node:
                    self._take_offer(node, message)
            for message_id in self._take_lost(waiting.keys()):
                self._asked.pop(waiting.pop(message_id)[0], None)
            for message_id, (node, until) in list(waiting.items()):
                if now > until:
                    del waiting[message_id]
                    self._settle(node, SILENT)
            ready = self._ready()
            answered = all(found.code != AWAY for found in self.found.values())
            enough = len(ready) >= self._plan.cohort.min_sites or answered
            due = now < end and any(node not in self._asked for node in self._grid.get_node_ids())
            if (enough or now >= end) and not waiting and not due:
                return ready
            self._pause(2.0)

    def round(self, number: int, nodes: Mapping[int, str]) -> None:
        """One round with these sites: each synthetic update is checked, and thrown away."""
        sent = self._method.broadcast(self._spec, self._state, number)
        body = RehearsalRoundBody(plan_digest=self._plan.digest, round=number)
        messages = [self._message(body, sent, node, str(number)) for node in nodes]
        began, times = time.monotonic(), dict[int, float]()
        self._grid.on_reply = lambda message: times.setdefault(message.metadata.src_node_id, time.monotonic() - began)
        try:
            replies = list(self._grid.send_and_receive(messages, timeout=self._plan.cohort.timeout))
        finally:
            self._grid.on_reply = None
        over = time.monotonic() - began
        rows = {name: {"round": number, "code": SILENT} for name in nodes.values()}
        for message in replies:
            name = nodes.get(message.metadata.src_node_id)
            if name is None or rows[name]["code"] != SILENT:
                continue
            row = self._checked(message, number)
            whole = times.get(message.metadata.src_node_id, over)
            down = sum(array.nbytes for array in sent.values())
            rows[name] = {"round": number, "round_trip": round(whole, 3), "bytes_down": down} | row
        for name, row in sorted(rows.items()):
            self.found[name].rounds.append(row)
            self._on_event({"event": "rehearsal_round", "site": name, **row})

    def end(self, nodes: Mapping[int, str]) -> None:
        """Tell the sites that it is over, so that they give its memory back."""
        here = set(self._grid.get_node_ids())
        body = RehearsalEndBody(plan_digest=self._plan.digest)
        messages = [self._message(body, {}, node, "end") for node in nodes if node in here]
        if messages:
            list(self._grid.send_and_receive(messages, timeout=_END_SECONDS))

    def estimate(self) -> float | None:
        """Seconds that the whole plan would take at the pace of the slowest site; None where nobody answered."""
        times = [row["round_trip"] for found in self.found.values() for row in found.rounds if row["code"] == Code.OK]
        return self._plan.training.rounds * max(times) if times else None

    def _message(self, body: RehearsalBody, arrays: Arrays, node: int, group: str) -> Message:
        return self._grid.create_message(to_record(RehearsalRequest(body, arrays)), MessageType.QUERY, node, group)

    def _ready(self) -> dict[int, str]:
        here = {node: self._name_of(node) for node in self._grid.get_node_ids()}
        return {
            node: name
            for node, name in here.items()
            if name in self.found
            and self.found[name].code == Code.OK
            and self._asked.get(node) == (self._session_of(node),)
        }

    def _take_offer(self, node: int, message: Message) -> None:
        code, reply = self._read(message, 0)
        if reply is not None and reply.body.report is not None:
            self.found[self._name_of(node)].prepare_seconds = reply.body.report.prepare_seconds
        self._settle(node, code)

    def _settle(self, node: int, code: str) -> None:
        name = self._name_of(node)
        self.found.setdefault(name, Found()).code = code
        self._on_event({"event": "rehearsal_site", "site": name, "code": code})

    def _read(self, message: Message, number: int) -> tuple[str, RehearsalReply | None]:
        """What a site answered, as a code; its reply where that is one of this rehearsal."""
        if message.has_error():
            return str(Code.UNAVAILABLE), None
        try:
            compression = self._plan.training.compression
            most = None if compression == "none" else self._spec.size
            reply = parse_rehearsal_reply(message.content, compression=compression, max_values=most)
        except WireError:
            return (OLD if _is_refusal(message) else str(Code.BAD_REQUEST)), None
        if reply.body.plan_digest != self._plan.digest or reply.body.round != number:
            return str(Code.BAD_REQUEST), None
        return str(reply.body.code), reply

    def _checked(self, message: Message, number: int) -> dict[str, Any]:
        code, reply = self._read(message, number)
        if reply is None or code != Code.OK:
            return {"code": code}
        try:
            self._method.trainable(self._spec, number).check(reply.arrays, bound=2 * MAX_WEIGHT)
        except WireError:
            return {"code": UNSOUND}
        if reply.body.report is None:
            return {"code": str(Code.BAD_REQUEST)}
        told = reply.body.report.model_dump(include={"seconds", "peak_bytes"})
        return {"code": code, "bytes_up": reply.num_bytes} | told


def _is_refusal(message: Message) -> bool:
    """Whether a site took the request for malformed: it knows no such kind."""
    try:
        return parse_reply(message.content).code is Code.BAD_REQUEST
    except WireError:
        return False
