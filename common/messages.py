"""Requests and replies: bodies of known schemas, and named arrays. `record` passes them through Flower's RecordDict.

The allowed fields of a reply are those of `Reply`, and nothing else leaves a site.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Annotated, Any, Literal, Protocol

import numpy as np
from flwr.app import RecordDict
from pydantic import Field, ValidationError

from privet.common.adapter import Arrays, Floats
from privet.common.compression import Coded, Compression, Rounding, coded_bytes, encode
from privet.common.config.table import Table
from privet.common.errors import Code, WireError
from privet.common.privacy.statement import Statement
from privet.common.record import (
    MAX_VALUES,
    carried_bytes,
    carry,
    carry_coded,
    listing_of,
    read,
    shapes_of,
    unpack_arrays,
)

MAX_BODY = 4 << 20  # characters of a request's: it may hold a plan
MAX_REPLY_BODY = 64 << 10  # a code, a statement, a sealed head

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Head = Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]{40,200}={0,2}$")]  # base64; always of one length

_CODED = "coded"
COUNTS = "counts"  # the array of an evaluation's reply: noised cells, float32 [cells]


class _Body(Table):
    """A body's common part."""


class OfferBody(_Body):
    """Here is the plan: will you take part?"""

    kind: Literal["offer"] = "offer"
    plan: Annotated[str, Field(max_length=MAX_BODY)]  # canonical JSON
    plan_digest: Digest
    adapter_digest: Digest  # of the initial adapter that both sides derive
    head: Head | None = None  # the newest that the server saw of this site


class TrainBody(_Body):
    """Train this round from these arrays."""

    kind: Literal["train"] = "train"
    plan_digest: Digest
    round: Annotated[int, Field(ge=1, le=1_000_000)]


class EvaluateBody(_Body):
    """Measure these arrays on the validation units."""

    kind: Literal["evaluate"] = "evaluate"
    plan_digest: Digest
    round: Annotated[int, Field(ge=1, le=1_000_000)]  # the number of the evaluation: 1, 2, …
    after: Annotated[int, Field(ge=1, le=1_000_000)]  # the training round that made the arrays


class FinishBody(_Body):
    """The federation is over."""

    kind: Literal["finish"] = "finish"
    plan_digest: Digest


class ReplyBody(_Body):
    """What a site says, beside the update's arrays."""

    kind: Literal["reply"] = "reply"
    code: Annotated[Code, Field(strict=False)]
    plan_digest: Digest
    round: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    statement: Statement | None = None
    head: Head | None = None  # the site's ledger, sealed: only the site can read it


RequestBody = OfferBody | TrainBody | EvaluateBody | FinishBody
_BODIES: dict[str, type[RequestBody]] = {
    "offer": OfferBody,
    "train": TrainBody,
    "evaluate": EvaluateBody,
    "finish": FinishBody,
}


def _canonical(body: Table) -> str:
    return json.dumps(body.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), allow_nan=False)


@dataclass(frozen=True)
class Request:
    """What the server asks."""

    body: RequestBody
    arrays: Arrays = field(default_factory=dict)

    @property
    def sha256(self) -> str:
        """Digest of the whole content, arrays and all: what a request is known by, whatever carried it."""
        return content_digest(_canonical(self.body), self.arrays)


@dataclass(frozen=True)
class Reply:
    """What a site answers: the only shape in which anything leaves.

    coded: the arrays as they leave, where the plan compresses them; `arrays` holds what they decode to on arrival, and
    nothing at the site.
    """

    body: ReplyBody
    arrays: Arrays = field(default_factory=dict)
    coded: Coded | None = None

    @property
    def code(self) -> Code:
        return self.body.code

    @property
    def num_bytes(self) -> int:
        """Of the arrays, as they leave."""
        return sum(array.nbytes for array in self.arrays.values()) if self.coded is None else len(self.coded.data)


def update_reply(body: ReplyBody, arrays: Arrays, compression: Compression, rounding: Rounding) -> Reply:
    """A noised update as the plan has it sent. rounding: of int8."""
    if compression == "none":
        return Reply(body, arrays)
    return Reply(body, coded=encode(compression, arrays, rounding))


def content_digest(body: str, arrays: Arrays) -> str:
    """SHA-256 over the canonical body and the arrays' names, shapes and bytes; 64 hex digits."""
    state = hashlib.sha256(len(body.encode()).to_bytes(8, "big") + body.encode())
    for name in sorted(arrays):
        array = np.asarray(arrays[name], dtype="<f4", order="C")
        header = json.dumps([name, list(array.shape)]).encode()
        state.update(len(header).to_bytes(8, "big") + header)
        state.update(array.tobytes())
    return state.hexdigest()


class Message(Protocol):
    """What goes over the wire: a body and arrays."""

    @property
    def body(self) -> Table: ...
    @property
    def arrays(self) -> Arrays: ...


def to_record(message: Message) -> RecordDict:
    """To Flower's record."""
    coded: Coded | None = getattr(message, "coded", None)
    if coded is not None:
        return carry_coded(_canonical(message.body), coded)
    return carry(_canonical(message.body), message.arrays)


def reply_text(body: ReplyBody) -> str:
    """A reply's body as `to_record` writes it: for many replies that differ in their arrays alone."""
    return _canonical(body)


def parse_request(record: RecordDict, *, max_values: int | None = None) -> Request:
    """From Flower's record, strictly. More than `max_values` values in all arrays together are refused uncopied.

    Raises: WireError.
    """
    limit = MAX_VALUES if max_values is None else min(max_values, MAX_VALUES)
    carried = read(record, max_text=MAX_BODY, max_values=limit)
    try:
        kind = json.loads(carried.text).get("kind")
        body = _BODIES[kind].model_validate_json(carried.text)
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        raise WireError("The request's body is not of a known schema.") from None
    if carried.shapes and not isinstance(body, TrainBody | EvaluateBody):
        raise WireError("Arrays come with a request to train or to evaluate only.")
    return Request(body, unpack_arrays(carried))


def parse_reply(record: RecordDict, *, compression: Compression = "none", max_values: int | None = None) -> Reply:
    """From Flower's record, strictly. Names and shapes of the arrays are checked against the plan by the strategy.

    compression: the way in which the plan has arrays sent; no other is taken. max_values: as in `parse_request`.
    Raises: WireError.
    """
    limit = MAX_VALUES if max_values is None else min(max_values, MAX_VALUES)
    carried = read(record, max_text=MAX_REPLY_BODY, max_values=limit, compression=compression)
    try:
        body = _reply_body(carried.text)
    except (ValidationError, ValueError, RecursionError):
        raise WireError("The reply's body is not of the known schema.") from None
    if carried.shapes and body.code is not Code.OK:
        raise WireError("Arrays come with the code ok only.")
    return Reply(body, unpack_arrays(carried), carried.coded if carried.shapes else None)


@lru_cache(maxsize=64)
def _reply_body(text: str) -> ReplyBody:
    """Frozen: replies of one text, as those of a round are, share it. Raises: pydantic.ValidationError."""
    return ReplyBody.model_validate_json(text)


def max_request_bytes(num_values: int) -> int:
    """Most memory, inflated, that a sound request with arrays of at most `num_values` values may take."""
    return carried_bytes(num_values, MAX_BODY)


def max_reply_bytes(num_values: int) -> int:
    """Most memory, inflated, that a sound reply with arrays of at most `num_values` values may take."""
    return carried_bytes(num_values, MAX_REPLY_BODY)


def pack(reply: Reply) -> bytes:
    """A reply as bytes, for the ledger's store."""
    from safetensors.numpy import save

    packed: bytes
    if reply.coded is not None:
        about = [_canonical(reply.body), reply.coded.kind, listing_of(reply.coded.shapes)]
        codes = {_CODED: np.frombuffer(reply.coded.data, np.uint8)}
        packed = save(codes, metadata={_CODED: json.dumps(about)})  # one entry: the library writes them in any order
        return packed
    arrays = {name: np.asarray(array, dtype=np.float32, order="C") for name, array in reply.arrays.items()}
    packed = save(arrays, metadata={"body": _canonical(reply.body)})
    return packed


def unpack(data: bytes) -> Reply:
    """A stored reply.

    Raises: WireError where the bytes are not what `pack` wrote.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        size = int.from_bytes(data[:8], "little")
        about = json.loads(data[8 : 8 + size])["__metadata__"]
        if _CODED in about:
            body, *form = json.loads(about[_CODED])
            return Reply(ReplyBody.model_validate_json(body), coded=_stored(form, load(data)))
        body = about["body"]
        arrays: Mapping[str, Floats] = load(data)
        if any(array.dtype != np.float32 for array in arrays.values()):
            raise ValueError("another type")
        return Reply(ReplyBody.model_validate_json(body), dict(arrays))
    except (SafetensorError, ValidationError, ValueError, KeyError, TypeError, RecursionError):
        raise WireError("A stored reply cannot be read.") from None


def _stored(form: list[Any], found: Mapping[str, Any]) -> Coded:
    """The codes of a stored reply, of which no value was looked at. Raises: ValueError, KeyError, WireError."""
    codes, (kind, listing) = found[_CODED], form
    if len(found) != 1 or codes.dtype != np.uint8 or codes.ndim != 1:
        raise ValueError("Expected codes alone.")
    if kind != "fp16" and kind != "int8":
        raise ValueError("Expected a known way.")
    coded = Coded(kind, shapes_of(listing), codes.tobytes())
    if len(coded.data) != coded_bytes(kind, coded.num_values):
        raise ValueError("Expected codes that fill the shapes.")
    return coded
