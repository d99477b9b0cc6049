"""The words that both ends of the wire must spell alike: one header and the reasons for refusing a site."""

from enum import StrEnum

SESSION_HEADER = "privet-session"
"""Metadata key of the random token by which a server tells one process of a site from the next."""


class Refusal(StrEnum):
    """The details of an RPC that the server refused. The last two are worded as Flower words them."""

    NOT_ENROLLED = "key not enrolled"
    TAKEN_OVER = "another instance of this site took over"
    NOT_OFFERED = "not offered by this server"
    MALFORMED = "malformed request"
    WRONG_NODE = "Invalid node ID"
    WRONG_CLOCK = "Invalid timestamp"
