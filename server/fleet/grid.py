"""A Flower Grid straight on the server's own link state: bounded waits, redelivery, and no site can stop a round."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from privet.common.errors import WireError
from privet.server.fleet.flower import (
    DEFAULT_TTL,
    SUPERLINK_NODE_ID,
    ErrorCode,
    Grid,
    LinkState,
    Message,
    Metadata,
    NodeInfo,
    RecordDict,
    Run,
    get_all_nested_objects,
    get_object_tree,
    no_object_id_recompute,
    remove_content_from_message,
    seal,
)
from privet.server.fleet.reply import assemble, failure
from privet.server.fleet.service import MALFORMED_REPLY
from privet.server.fleet.store import MemoryStore
from privet.server.fleet.traffic import Traffic

SITE_LEFT = "site left"
SITE_REMOVED = "site removed"
NOT_REPLIED = "no reply in time"
_LOOK_SECONDS = 1.0

_GONE = (ErrorCode.NODE_UNAVAILABLE, ErrorCode.MESSAGE_UNAVAILABLE, ErrorCode.REPLY_MESSAGE_UNAVAILABLE)


class FleetState(Protocol):
    """What the Grid needs of the Fleet."""

    state: LinkState
    store: MemoryStore
    traffic: Traffic
    max_reply_bytes: int

    @property
    def closing(self) -> bool:
        """Whether the server is shutting down."""

    def online(self) -> dict[int, str]:
        """node id -> site name of the sites that are connected and allowed."""


@dataclass
class _Delivery:
    """One message on its way to one site and back."""

    message: Message
    tries: int = 0
    until: float = 0.0  # while it waits for its site to come back: time.monotonic() at which that ends

    @property
    def node_id(self) -> int:
        return int(self.message.metadata.dst_node_id)


class FleetGrid(Grid):  # type: ignore[misc]
    """Sends messages to sites and collects their replies.

    Attributes:
        on_reply: called with each reply, or error standing for one, as it is collected.
        grace: seconds for which a message waits for a site that left to come back.
        retries: how many times a message is sent again to a site that restarted or came back.
    """

    def __init__(self, fleet: FleetState, run: Run, *, grace: float = 90.0, retries: int = 2) -> None:
        self._fleet, self._run = fleet, run
        self._sent: dict[str, Metadata] = {}
        self._pulled: dict[str, Message] = {}
        self._look_at = 0.0  # time.monotonic() of the next look at all that is under way
        self.on_reply: Callable[[Message], None] | None = None
        self.grace, self.retries = grace, retries

    def set_run(self, run: Run) -> None:
        """Part of Flower's interface; `Fleet.run` has set the run."""
        self._run = run

    @property
    def run(self) -> Run:
        """Flower's record of the run."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """A message to one site; the group id is commonly the round."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        """The ids of the sites that are connected and allowed, sorted."""
        return sorted(self._fleet.online())

    def get_nodes(self) -> list[NodeInfo]:
        """Flower's records of those sites."""
        return list(self._fleet.state.get_node_info(node_ids=self.get_node_ids()))

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Make messages ready to be pulled. Their ids, in order; "" for one that its site cannot get."""
        ids: list[str] = []
        nodes: list[int] = []
        state, store, run_id = self._fleet.state, self._fleet.store, self._run.run_id
        with no_object_id_recompute():  # what goes to all sites is hashed once
            for message in messages:
                message_id = seal(message)
                missing = set(store.preregister(run_id, get_object_tree(message)))
                for object_id, part in get_all_nested_objects(message).items():
                    if object_id in missing:
                        store.put(object_id, part.deflate())
                with self._fleet.traffic.database:
                    stored = state.store_message_ins(remove_content_from_message(message)) is not None
                if not stored:
                    store.delete(message_id)
                    message_id = ""
                else:
                    self._sent[message_id] = message.metadata
                    nodes.append(message.metadata.dst_node_id)
                ids.append(message_id)
        self._fleet.traffic.post(nodes)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """The replies to these messages that are complete by now."""
        wanted = {message_id for message_id in message_ids if message_id}
        claimed = {name: self._pulled.pop(name) for name in wanted & self._pulled.keys()}
        collected = self._collect(wanted, claimed)
        self._pulled |= claimed  # still being uploaded
        return collected

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Send messages and return the replies that arrive within `timeout` seconds (default: Flower's 12 h).

        A site that restarts or comes back gets its message again, at most `retries` times; one that stays away for
        `grace` seconds, leaves the allow-list or replies unsoundly is an error in its own name. A site that just does
        not answer is absent from what is returned. Returns early when the server closes. Never raises for a site.
        """
        end = time.monotonic() + (DEFAULT_TTL if timeout is None else timeout)
        live: dict[str, _Delivery] = {}
        parked: list[_Delivery] = []
        claimed: dict[str, Message] = {}
        replies: list[Message] = []
        traffic = self._fleet.traffic
        try:
            self._send([_Delivery(message) for message in messages], live, parked, end)
            while (live or parked) and time.monotonic() < end and not self._fleet.closing:
                version = traffic.version
                for reply in self._collect(set(live), claimed):
                    delivery = live.pop(reply.metadata.reply_to_message_id)
                    if reply.has_error() and reply.error.code in _GONE:
                        self._park(delivery, parked)
                    else:
                        self._finish(reply, replies)
                for message_id in traffic.take_lost(live.keys()):
                    claimed.pop(message_id, None)
                    self._withdraw(message_id)
                    self._park(live.pop(message_id), parked)
                self._resume(live, parked, replies, end)
                if live or parked:
                    traffic.wait(version, min(1.0, end - time.monotonic()))
        finally:
            for message_id in live:
                self._withdraw(message_id)
        return replies

    # Deliveries

    def _send(
        self, deliveries: list[_Delivery], live: dict[str, _Delivery], parked: list[_Delivery], end: float
    ) -> None:
        for delivery in deliveries:
            metadata = delivery.message.metadata
            metadata.ttl = max(1.0, time.time() - metadata.created_at + end - time.monotonic())  # until the deadline
        for delivery, message_id in zip(
            deliveries, self.push_messages(delivery.message for delivery in deliveries), strict=True
        ):
            if message_id:
                live[message_id] = delivery
            else:
                self._park(delivery, parked)

    def _park(self, delivery: _Delivery, parked: list[_Delivery]) -> None:
        delivery.until = time.monotonic() + self.grace
        parked.append(delivery)

    def _resume(self, live: dict[str, _Delivery], parked: list[_Delivery], replies: list[Message], end: float) -> None:
        """Send parked messages to sites that are back; give up those that will not be answered."""
        if not parked:
            return
        online, again = self._fleet.online(), []
        for delivery in list(parked):
            metadata = delivery.message.metadata
            if delivery.node_id not in self._fleet.traffic.allowed:
                self._finish(failure(metadata, ErrorCode.NODE_UNAVAILABLE, SITE_REMOVED), replies)
            elif delivery.tries >= self.retries or time.monotonic() > delivery.until:
                self._finish(failure(metadata, ErrorCode.NODE_UNAVAILABLE, SITE_LEFT), replies)
            elif delivery.node_id in online:
                renewed = self.create_message(
                    delivery.message.content, metadata.message_type, delivery.node_id, metadata.group_id
                )
                again.append(_Delivery(renewed, delivery.tries + 1))
            else:
                continue
            parked.remove(delivery)
        if again:
            self._send(again, live, parked, end)

    def _finish(self, reply: Message, replies: list[Message]) -> None:
        replies.append(reply)
        if self.on_reply is not None:
            self.on_reply(reply)

    # Replies

    def _collect(self, message_ids: set[str], claimed: dict[str, Message]) -> list[Message]:
        """Replies to `message_ids` that are complete; those still being uploaded stay in `claimed`."""
        self._fleet.traffic.expire()
        for row in self._claim(self._due(message_ids) - claimed.keys()):
            claimed[row.metadata.reply_to_message_id] = row
        collected = []
        for message_id, row in list(claimed.items()):
            reply = self._reply_to(message_id, row)
            if reply is not None:
                del claimed[message_id]
                self._fleet.traffic.end(row.metadata.message_id)
                self._withdraw(message_id)
                collected.append(reply)
        return collected

    def _due(self, message_ids: set[str]) -> set[str]:
        """Those of `message_ids` worth a look into the database: answered, or all of them once a second.

        Nobody tells of what Flower itself finds there: a message that expired, a site that fell silent.
        """
        now = time.monotonic()
        if now < self._look_at:
            return self._fleet.traffic.answered(message_ids)
        self._look_at = now + _LOOK_SECONDS
        return set(message_ids)

    def _claim(self, message_ids: set[str]) -> list[Message]:
        """Rows of replies in the database, or of Flower's own errors. One bad row does not hide the others."""
        state, run_id = self._fleet.state, self._run.run_id
        if not message_ids:
            return []
        try:
            with self._fleet.traffic.database:
                return list(state.get_message_res(set(message_ids), run_id))
        except Exception:  # Flower reads every row of the set before it returns one
            rows = []
            for message_id in message_ids:
                try:
                    rows += state.get_message_res({message_id}, run_id)
                except Exception:
                    if message_id in self._sent:
                        rows.append(failure(self._sent[message_id], ErrorCode.UNKNOWN, MALFORMED_REPLY))
            return rows

    def _reply_to(self, message_id: str, row: Message) -> Message | None:
        """The reply that a row stands for; None while its objects are on their way."""
        instruction = self._sent.get(message_id, row.metadata)
        if row.has_error() and (row.metadata.src_node_id == SUPERLINK_NODE_ID or not row.metadata.message_id):
            reason = NOT_REPLIED if row.error.code in _GONE else MALFORMED_REPLY
            return failure(instruction, row.error.code, reason)
        upload = self._fleet.traffic.upload(row.metadata.message_id)
        if upload is not None and not upload.complete:
            return None
        fault = MALFORMED_REPLY if upload is None else upload.fault
        contents = self._fleet.store.contents(row.metadata.message_id)
        try:
            if fault or contents is None:
                raise WireError(fault or MALFORMED_REPLY)
            return assemble(row.metadata, contents, self._fleet.max_reply_bytes)
        except WireError as error:
            return failure(instruction, ErrorCode.UNKNOWN, error.what)

    def _withdraw(self, message_id: str) -> None:
        """Forget a message and what was uploaded in answer to it; a reply that comes later is refused."""
        self._sent.pop(message_id, None)
        self._fleet.traffic.withdraw(message_id)
        with self._fleet.traffic.database:
            self._fleet.state.delete_messages({message_id})
        self._fleet.store.delete(message_id)
