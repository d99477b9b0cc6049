"""Requests and replies, and their strict passage through Flower's RecordDict.

On the wire a message is one RecordDict with at most two records: `privet`, a ConfigRecord with the single key `body`
(canonical JSON of a known schema), and `arrays`, an ArrayRecord whose arrays are raw little-endian float32. Nothing is
ever unpickled; an array's size is checked against its declared shape before it is read.

The allowed fields of a reply are those of `Reply`, and nothing else leaves a site.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from pydantic import Field, ValidationError

from privet.common.adapter import Arrays, Floats
from privet.common.config.plan import Table
from privet.common.errors import Code, WireError
from privet.common.privacy.statement import Statement

_STYPE = "privet.float32.le"
_MAX_BODY = 4 << 20
_MAX_ARRAYS = 4096
_MAX_VALUES = 1 << 26  # of all arrays of a message together: 256 MiB of float32

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Head = Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]{40,200}={0,2}$")]  # base64; always of one length

COUNTS = "counts"  # the array of an evaluation's reply: noised cells, float32 [cells]


class _Body(Table):
    """A body's common part."""


class OfferBody(_Body):
    """Here is the plan: will you take part?"""

    kind: Literal["offer"] = "offer"
    plan: Annotated[str, Field(max_length=_MAX_BODY)]  # canonical JSON
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


def _canonical(body: _Body) -> str:
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
    """What a site answers: the only shape in which anything leaves."""

    body: ReplyBody
    arrays: Arrays = field(default_factory=dict)

    @property
    def code(self) -> Code:
        return self.body.code


def content_digest(body: str, arrays: Arrays) -> str:
    """SHA-256 over the canonical body and the arrays' names, shapes and bytes; 64 hex digits."""
    state = hashlib.sha256(len(body.encode()).to_bytes(8, "big") + body.encode())
    for name in sorted(arrays):
        array = np.asarray(arrays[name], dtype="<f4", order="C")
        header = json.dumps([name, list(array.shape)]).encode()
        state.update(len(header).to_bytes(8, "big") + header)
        state.update(array.tobytes())
    return state.hexdigest()


def to_record(message: Request | Reply) -> RecordDict:
    """To Flower's record."""
    record = RecordDict({"privet": ConfigRecord({"body": _canonical(message.body)})})
    if message.arrays:
        record["arrays"] = ArrayRecord(
            {
                name: Array(
                    dtype="float32",
                    shape=tuple(array.shape),
                    stype=_STYPE,
                    data=np.asarray(array, dtype="<f4", order="C").tobytes(),
                )
                for name, array in sorted(message.arrays.items())
            }
        )
    return record


def parse_request(record: RecordDict, *, max_values: int | None = None) -> Request:
    """From Flower's record, strictly. More than `max_values` values in all arrays together are refused uncopied.

    Raises: WireError.
    """
    text, carried = _split(record, _MAX_VALUES if max_values is None else min(max_values, _MAX_VALUES))
    try:
        kind = json.loads(text).get("kind")
        body = _BODIES[kind].model_validate_json(text)
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        raise WireError("The request's body is not of a known schema.") from None
    if carried and not isinstance(body, TrainBody | EvaluateBody):
        raise WireError("Arrays come with a request to train or to evaluate only.")
    return Request(body, _copied(carried))


def parse_reply(record: RecordDict) -> Reply:
    """From Flower's record, strictly. Names and shapes of the arrays are checked against the plan by the strategy.

    Raises: WireError.
    """
    text, carried = _split(record, _MAX_VALUES)
    try:
        body = ReplyBody.model_validate_json(text)
    except (ValidationError, ValueError, RecursionError):
        raise WireError("The reply's body is not of the known schema.") from None
    if carried and body.code is not Code.OK:
        raise WireError("Arrays come with the code ok only.")
    return Reply(body, _copied(carried))


def _split(record: RecordDict, max_values: int) -> tuple[str, dict[str, Array]]:
    """The body's text, and the arrays: sound and bounded, not copied yet."""
    if not isinstance(record, RecordDict) or not set(record) <= {"privet", "arrays"}:
        raise WireError("The message holds an unknown record.")
    config = record.get("privet")
    if type(config) is not ConfigRecord or set(config) != {"body"} or type(config["body"]) is not str:
        raise WireError("The message has no body.")
    text = config["body"]
    if len(text) > _MAX_BODY:
        raise WireError("The message's body is too long.")
    carried = record.get("arrays")
    if carried is None:
        return text, {}
    if type(carried) is not ArrayRecord or len(carried) > _MAX_ARRAYS:
        raise WireError("The message's arrays are not an ArrayRecord of bounded length.")
    left = max_values
    for name, array in carried.items():
        left -= _count_values(name, array)
        if left < 0:
            raise WireError(f"The message's arrays hold more than {max_values:,} values.")
    return text, dict(carried.items())


def _count_values(name: str, array: Any) -> int:
    """How many values a sound array holds. Raises: WireError where it is not sound."""
    if type(array) is not Array or type(name) is not str or len(name) > 300:
        raise WireError("An array is not of Flower's plain kind.")
    shape = tuple(array.shape)
    if (
        array.stype != _STYPE
        or array.dtype != "float32"
        or len(shape) > 8
        or not all(type(n) is int and 0 < n <= _MAX_VALUES for n in shape)
    ):
        raise WireError("An array is not raw float32 of a sound shape.")
    count: int = math.prod(shape)
    if count > _MAX_VALUES or type(array.data) is not bytes or len(array.data) != 4 * count:
        raise WireError("An array's bytes do not fill its shape.")
    return count


def _copied(carried: Mapping[str, Array]) -> dict[str, Floats]:
    """Arrays of this process's own, that can be written to."""
    return {
        name: np.frombuffer(array.data, dtype="<f4").reshape(array.shape).astype(np.float32)
        for name, array in carried.items()
    }


def pack(reply: Reply) -> bytes:
    """A reply as bytes, for the ledger's store."""
    from safetensors.numpy import save

    arrays = {name: np.asarray(array, dtype=np.float32, order="C") for name, array in reply.arrays.items()}
    packed: bytes = save(arrays, metadata={"body": _canonical(reply.body)})
    return packed


def unpack(data: bytes) -> Reply:
    """A stored reply.

    Raises: WireError where the bytes are not what `pack` wrote.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        size = int.from_bytes(data[:8], "little")
        body = json.loads(data[8 : 8 + size])["__metadata__"]["body"]
        arrays: Mapping[str, Floats] = load(data)
        if any(array.dtype != np.float32 for array in arrays.values()):
            raise ValueError("another type")
        return Reply(ReplyBody.model_validate_json(body), dict(arrays))
    except (SafetensorError, ValidationError, ValueError, KeyError, TypeError, RecursionError):
        raise WireError("A stored reply cannot be read.") from None
