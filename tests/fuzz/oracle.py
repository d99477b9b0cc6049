"""Sound messages, both ways of parsing what arrives, and an oracle of their own that says what may get past.

Accepted is what passes the parser and then the checks that strategy and agent make before they use anything: this plan,
this round, the plan's arrays, finite and bounded. The oracle says the same from the bytes, without the parser's code.
"""

import json
import re
import tracemalloc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import Message, Metadata, RecordDict

from privet.client import flower as site_flower
from privet.common.adapter import MAX_WEIGHT, Arrays
from privet.common.errors import Code, WireError
from privet.common.inflation import inflate_message
from privet.common.messages import (
    Reply,
    ReplyBody,
    Request,
    TrainBody,
    max_reply_bytes,
    max_request_bytes,
    parse_reply,
    parse_request,
    to_record,
)
from privet.server.fleet import flower as server_flower
from privet.server.fleet.reply import assemble
from tests.server.scripted import SPEC, plan, update_of
from tests.server.statements import stated

PLAN, ROUND = plan().digest, 2
STYPE = "privet.float32.le"
LISTING = json.dumps(
    sorted([entry.name, list(entry.shape)] for entry in SPEC.entries), separators=(",", ":")
)  # of the plan's arrays
PEAK_BYTES = 8 << 20
"""Most memory that the parsing of one of these messages may take; none has more than 200 kB."""
_WORDS = re.compile(r"[A-Za-z0-9 .,;:()=%'_-]{0,300}")
_STATEMENT_KEYS = set(stated().to_json())
_REPLY_KEYS = {"kind", "code", "plan_digest", "round", "statement", "head"}

Contents = dict[str, bytes]


def sound_reply(round: int = ROUND) -> RecordDict:
    """What an honest site answers to that round."""
    head = "A" * 80
    return to_record(
        Reply(
            ReplyBody(code=Code.OK, plan_digest=PLAN, round=round, statement=stated(), head=head),
            update_of("x", round),
        )
    )


def sound_request(round: int = ROUND) -> RecordDict:
    """What an honest server asks in that round."""
    return to_record(Request(TrainBody(plan_digest=PLAN, round=round), update_of("y", round)))


@dataclass(frozen=True)
class Side:
    """One end's way with what arrives.

    accept: the parsed message if it gets past the parser and every check; None where a check refuses it. Raises:
    WireError, and nothing else, where the parser does. inflate: a message from its objects, as that end does it.
    is_sound: the oracle.
    """

    name: str
    sound: Callable[[], RecordDict]
    accept: Callable[[RecordDict], Reply | Request | None]
    inflate: Callable[[str, Contents], Message]
    is_sound: Callable[[RecordDict], bool]


def _accept_reply(record: RecordDict) -> Reply | None:
    reply = parse_reply(record)
    if reply.body.plan_digest != PLAN or reply.body.round != ROUND or reply.code is not Code.OK:
        return None
    return reply if _passes(reply.arrays, 2 * MAX_WEIGHT) else None


def _accept_request(record: RecordDict) -> Request | None:
    request = parse_request(record, max_values=SPEC.size)
    if not isinstance(request.body, TrainBody) or request.body.plan_digest != PLAN:
        return None
    return request if _passes(request.arrays, MAX_WEIGHT) else None


def _passes(arrays: Arrays, bound: float) -> bool:
    try:
        SPEC.check(arrays, bound=bound)
    except WireError:
        return False
    return True


def _inflate_reply(root: str, contents: Contents) -> Message:
    row = Metadata(1, root, 7, 1, "asked", "3", 0.0, 60.0, "train")
    return assemble(row, contents, max_reply_bytes(SPEC.size))


def _inflate_request(root: str, contents: Contents) -> Message:
    message = inflate_message(root, contents, max_request_bytes(SPEC.size), site_flower.inflate_object_from_contents)
    if not message.has_content():
        raise WireError("the request is no message with content")
    return message


def _reply_is_sound(record: Any) -> bool:
    body = _body(record, 2 * MAX_WEIGHT)
    return (
        body is not None
        and set(body) <= _REPLY_KEYS
        and body.get("kind", "reply") == "reply"
        and body.get("code") == "ok"
        and body.get("plan_digest") == PLAN
        and type(body.get("round")) is int
        and body["round"] == ROUND
        and (body.get("statement") is None or _statement_is_sound(body["statement"]))
        and (body.get("head") is None or _is_head(body["head"]))
    )


def _is_head(head: Any) -> bool:
    return isinstance(head, str) and re.fullmatch(r"[A-Za-z0-9+/]{40,200}={0,2}", head) is not None


def _statement_is_sound(statement: Any) -> bool:
    """Of the known fields, with numbers that are finite and words that no terminal or page could take for markup."""
    if type(statement) is not dict or not set(statement) <= _STATEMENT_KEYS:
        return False
    leaves = list(statement.values())
    while leaves:
        leaf = leaves.pop()
        if isinstance(leaf, dict):
            leaves += leaf.values()
        elif isinstance(leaf, list):
            leaves += leaf
        elif isinstance(leaf, str) and not _WORDS.fullmatch(leaf):
            return False
        if isinstance(leaf, float) and not 0 <= leaf <= 1e7:
            return False
    return True


def _request_is_sound(record: Any) -> bool:
    body = _body(record, MAX_WEIGHT)
    return (
        body is not None
        and set(body) == {"kind", "plan_digest", "round"}
        and body["kind"] == "train"
        and body["plan_digest"] == PLAN
        and type(body["round"]) is int
        and 1 <= body["round"] <= 1_000_000
    )


def _body(record: Any, bound: float) -> dict[str, Any] | None:
    """The body of a message whose form, listing and values are exactly those of the plan; None for any other."""
    try:
        config, carried = dict(record["privet"]), dict(record["arrays"])
        flat = carried["flat"]
        values = np.frombuffer(flat.data, "<f4")
        sound = (
            set(record) == {"privet", "arrays"}
            and set(config) == {"body", "arrays"}
            and set(carried) == {"flat"}
            and config["arrays"] == LISTING
            and (flat.stype, flat.dtype, tuple(flat.shape)) == (STYPE, "float32", (SPEC.size,))
            and len(values) == SPEC.size
            and bool(np.isfinite(values).all())
            and float(np.abs(values).max()) <= bound
        )
        body = json.loads(config["body"]) if sound else None
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return None
    return body if isinstance(body, dict) else None


REPLY = Side("reply", sound_reply, _accept_reply, _inflate_reply, _reply_is_sound)
REQUEST = Side("request", sound_request, _accept_request, _inflate_request, _request_is_sound)


@dataclass
class Tally:
    """What became of the messages: every one is refused, or accepted and sound."""

    traced: bool = True  # whether memory is watched
    refused: int = 0
    sound: int = 0
    peak: int = 0  # bytes

    @property
    def seen(self) -> int:
        return self.refused + self.sound


def try_record(side: Side, record: Any, tally: Tally) -> None:
    """Hand a record to a parser. Raises: AssertionError where an unsound one gets past; whatever is no WireError."""
    _measured(tally, lambda: _judge(side, record, tally))


def try_objects(side: Side, root: str, contents: Contents, tally: Tally) -> None:
    """Hand a message's objects to the end that inflates and parses them."""

    def act() -> None:
        try:
            message = side.inflate(root, contents)
        except WireError:
            tally.refused += 1
            return
        if message.has_error():  # an error stands for itself: it is no answer
            tally.refused += 1
            return
        _judge(side, message.content, tally)

    _measured(tally, act)


def _judge(side: Side, record: Any, tally: Tally) -> None:
    try:
        accepted = side.accept(record)
    except WireError:
        accepted = None
    if accepted is None:
        tally.refused += 1
        return
    assert side.is_sound(record), f"an unsound {side.name} got past: {record!r}"
    again = side.accept(to_record(accepted))
    assert again is not None
    assert again.body == accepted.body
    assert {n: a.tobytes() for n, a in again.arrays.items()} == {n: a.tobytes() for n, a in accepted.arrays.items()}
    tally.sound += 1


def _measured(tally: Tally, act: Callable[[], None]) -> None:
    if not tally.traced:
        act()
        return
    tracemalloc.start()
    try:
        act()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    tally.peak = max(tally.peak, peak)
    assert peak < PEAK_BYTES, f"parsing took {peak:,} bytes"


def objects_of(record: RecordDict) -> tuple[str, Contents]:
    """A message with this content as (root, objects by id), children first."""
    message = server_flower.make_message(
        metadata=Metadata(1, "", 7, 1, "asked", "3", 0.0, 60.0, "train"), content=record
    )
    parts: Mapping[str, Any] = server_flower.get_all_nested_objects(message)
    return message.object_id, {name: part.deflate() for name, part in parts.items()}
