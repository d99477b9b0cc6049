"""The words that both ends of the wire must spell alike: two headers and the reasons for refusing a site."""

from collections.abc import Iterable
from enum import StrEnum

SESSION_HEADER = "privet-session"
"""Metadata key of the random token by which a server tells one process of a site from the next."""

CLOCK_HEADER = "privet-clock"
"""Trailing metadata key of the server's Unix time in whole seconds, sent with every refusal."""


class Refusal(StrEnum):
    """The details of an RPC that the server refused. The last two are worded as Flower words them."""

    NOT_ENROLLED = "key not enrolled"
    TAKEN_OVER = "another instance of this site took over"
    NOT_OFFERED = "not offered by this server"
    MALFORMED = "malformed request"
    NOT_IN_HAND = "no message in hand that this could answer, or more than a site may send"
    RUN_OVER = "the run is over"
    TOO_MANY_CALLS = "too many calls at a time"
    WRONG_NODE = "Invalid node ID"
    WRONG_CLOCK = "Invalid timestamp"


def server_time(metadata: Iterable[tuple[str, str | bytes]] | None) -> int | None:
    """The server's Unix time in a refusal's trailing metadata; None where there is none, or no plain number.

    >>> server_time([("privet-clock", "1800000000")]), server_time([("privet-clock", "soon")]), server_time(None)
    (1800000000, None, None)
    """
    for key, value in metadata or ():
        if key == CLOCK_HEADER and isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 12:
            return int(value)
    return None
