"""What server and site say to each other in a rehearsal: kinds of their own, so that none passes for a training request
and no reply for an update.

A rehearsal is the real network, the real keys and a plan's real shapes on generated text. No record is read for it and
nothing is spent.
"""

import json
from dataclasses import dataclass, field
from typing import Annotated, Literal

from flwr.app import RecordDict
from pydantic import Field, ValidationError

from privet.common.adapter import Arrays
from privet.common.compression import Coded, Compression
from privet.common.config.bounded import MAX_BYTES
from privet.common.config.table import Table
from privet.common.errors import Code, WireError
from privet.common.messages import MAX_BODY, MAX_REPLY_BODY, Digest
from privet.common.record import MAX_VALUES, read, unpack_arrays

_Seconds = Annotated[float, Field(ge=0, le=1e6)]


class RehearsalOfferBody(Table):
    """Here is a plan: will you rehearse it, and can you? Nothing about it is stored."""

    kind: Literal["rehearsal_offer"] = "rehearsal_offer"
    plan: Annotated[str, Field(max_length=MAX_BYTES)]  # canonical JSON
    plan_digest: Digest
    adapter_digest: Digest  # of the initial adapter that both sides derive


class RehearsalRoundBody(Table):
    """Train a round on generated text from these arrays."""

    kind: Literal["rehearsal_round"] = "rehearsal_round"
    plan_digest: Digest
    round: Annotated[int, Field(ge=1, le=1_000_000)]


class RehearsalEndBody(Table):
    """The rehearsal is over; the federation has not begun."""

    kind: Literal["rehearsal_end"] = "rehearsal_end"
    plan_digest: Digest


class RehearsalReport(Table):
    """Of synthetic work in a process that never had a record: no function of a site's data."""

    prepare_seconds: _Seconds = 0.0  # until the plan's model was ready
    seconds: _Seconds = 0.0  # of the round
    peak_bytes: Annotated[int, Field(ge=0, le=2**50)] | None = None  # of that process; None where it cannot be told


class RehearsalReplyBody(Table):
    """What a site says in a rehearsal, beside the arrays of a synthetic update."""

    kind: Literal["rehearsal_reply"] = "rehearsal_reply"
    code: Annotated[Code, Field(strict=False)]
    plan_digest: Digest
    round: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    report: RehearsalReport | None = None


RehearsalBody = RehearsalOfferBody | RehearsalRoundBody | RehearsalEndBody
_BODIES: dict[str, type[RehearsalBody]] = {
    "rehearsal_offer": RehearsalOfferBody,
    "rehearsal_round": RehearsalRoundBody,
    "rehearsal_end": RehearsalEndBody,
}


@dataclass(frozen=True)
class RehearsalRequest:
    """What the server asks in a rehearsal: never taken for a `Request`, nor one of those for it."""

    body: RehearsalBody
    arrays: Arrays = field(default_factory=dict)


@dataclass(frozen=True)
class RehearsalReply:
    """What a site answers in a rehearsal: never taken for a `Reply`, nor one of those for it."""

    body: RehearsalReplyBody
    arrays: Arrays = field(default_factory=dict)
    coded: Coded | None = None  # as in a `Reply`

    @property
    def num_bytes(self) -> int:
        """Of the arrays, as they leave."""
        return sum(array.nbytes for array in self.arrays.values()) if self.coded is None else len(self.coded.data)


def parse_rehearsal(record: RecordDict, *, max_values: int | None = None) -> RehearsalRequest | None:
    """From Flower's record, strictly; None for a request of another kind. `max_values` as in `parse_request`.

    Raises: WireError.
    """
    carried = read(record, max_text=MAX_BODY, max_values=MAX_VALUES)
    try:
        kind = _BODIES.get(json.loads(carried.text).get("kind"))
        if kind is None:
            return None
        if max_values is not None:
            read(record, max_text=MAX_BODY, max_values=max_values)
        body = kind.model_validate_json(carried.text)
    except (ValueError, AttributeError, TypeError, RecursionError):
        raise WireError("The request's body is not of a known schema.") from None
    if carried.shapes and not isinstance(body, RehearsalRoundBody):
        raise WireError("Arrays come with a request to rehearse a round only.")
    return RehearsalRequest(body, unpack_arrays(carried))


def parse_rehearsal_reply(
    record: RecordDict, *, compression: Compression = "none", max_values: int | None = None
) -> RehearsalReply:
    """From Flower's record, strictly. Names and shapes of the arrays are checked against the plan by the server.

    compression, max_values: as in `parse_reply`.
    Raises: WireError, also for any other reply.
    """
    limit = MAX_VALUES if max_values is None else min(max_values, MAX_VALUES)
    carried = read(record, max_text=MAX_REPLY_BODY, max_values=limit, compression=compression)
    try:
        body = RehearsalReplyBody.model_validate_json(carried.text)
    except (ValidationError, ValueError, RecursionError):
        raise WireError("The reply is none of a rehearsal.") from None
    if carried.shapes and body.code is not Code.OK:
        raise WireError("Arrays come with the code ok only.")
    return RehearsalReply(body, unpack_arrays(carried), carried.coded if carried.shapes else None)
