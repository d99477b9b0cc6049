"""What a failed call means: try again, give up the message, register anew, or tell the operator and stop."""

import re
import time
from enum import Enum, auto
from typing import Any

import grpc

from privet.common.errors import TransportError
from privet.common.handshake import Refusal, server_time


class Verdict(Enum):
    """What to do about a call that failed and is no reason to stop."""

    RETRY = auto()  # the server cannot be reached, or not now
    DROP = auto()  # the message is over, or the server will not have the reply; go on with the next
    REGISTER = auto()  # the server knows this site under another node id: its database is new


_DROP = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.PERMISSION_DENIED,  # Flower's word for a run that ended
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.OUT_OF_RANGE,
}


def judge(error: grpc.RpcError, address: str, *, known: bool) -> Verdict | TransportError:
    """Sort a failed call.

    Args:
        error: the error, with gRPC's `code()` and `details()`.
        address: the server's, for the text.
        known: whether this server answered before. If so, a bad certificate or a foreign answer is taken for a
            passing fault of the network rather than for a wrong configuration.

    Returns:
        A verdict, or the error to raise.
    """
    code, details = code_of(error), details_of(error)
    if code is grpc.StatusCode.UNAUTHENTICATED:
        return _unauthenticated(details, address, known, clock_behind(error))
    if code is grpc.StatusCode.ABORTED and details == Refusal.TAKEN_OVER:
        return TransportError(
            "Another instance of this site connected with the same key, and the server now speaks to that one.",
            where=address,
            mend="Run one `privet client` per site, or make a key of its own for the other machine.",
        )
    if code is grpc.StatusCode.UNIMPLEMENTED and not known:
        return TransportError(
            "What answers there is not a privet server.", where=address, mend="Check the address in site.toml."
        )
    if code is grpc.StatusCode.UNAVAILABLE and not known:
        return _proxy_fault(details, address) or _certificate_fault(details, address) or Verdict.RETRY
    if code in _DROP or (code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in details):
        return Verdict.DROP
    return Verdict.RETRY


def reason(error: grpc.RpcError) -> str:
    """Why a call is tried again, as the end of a sentence that starts with the server's address."""
    code, details = code_of(error), details_of(error).lower()
    if "handshake failed" in details or "verification check" in details:
        return "shows a certificate that cannot be trusted"
    if proxy_status(details):
        return "cannot be reached by the proxy"
    if "lookup" in details or "name not found" in details:
        return "cannot be found by name"
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED):
        return "cannot be reached"
    return "cannot serve this site now"


def why_dropped(error: grpc.RpcError) -> str:
    """Why the server will not have a message, as the end of a sentence."""
    code = code_of(error)
    if code is grpc.StatusCode.PERMISSION_DENIED:
        return "the run that it belongs to is over"
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return "it is too large"
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        return "the server finds it malformed"
    return "the server cannot process it"


def code_of(error: grpc.RpcError) -> Any:
    """gRPC's status code, or None for an error of the local machine."""
    return error.code() if hasattr(error, "code") else None


def details_of(error: grpc.RpcError) -> str:
    """gRPC's details, never None."""
    return str((error.details() if hasattr(error, "details") else "") or "")


def clock_behind(error: grpc.RpcError) -> int | None:
    """Seconds by which this machine's clock is behind the server's, by the time that came with a refusal; or None."""
    then = server_time(error.trailing_metadata() if hasattr(error, "trailing_metadata") else None)
    return None if then is None else then - int(time.time())


def clock_words(behind: int | None) -> str:
    """How far the clocks are apart, as a sentence.

    >>> clock_words(410)
    "This machine's clock is 410 s behind the server's (5 s ahead or 5 min behind at most)."
    >>> clock_words(None)
    "This machine's clock and the server's are too far apart (5 s ahead or 5 min behind at most)."
    """
    apart = "and the server's are too far apart"
    if behind is not None:
        apart = f"is {abs(behind)} s {'behind' if behind >= 0 else 'ahead of'} the server's"
    return f"This machine's clock {apart} (5 s ahead or 5 min behind at most)."


def _unauthenticated(details: str, address: str, known: bool, behind: int | None) -> Verdict | TransportError:
    if details == Refusal.WRONG_NODE:
        return Verdict.REGISTER
    if details == Refusal.WRONG_CLOCK:
        return TransportError(
            clock_words(behind),
            where=address,
            mend="Set this machine's clock, best by NTP.",
        )
    if details == Refusal.NOT_ENROLLED and known:
        return TransportError(
            "The server withdrew this site's key.",
            where=address,
            mend="Ask the server's operator why; a key that is enrolled again works at once.",
        )
    if details == Refusal.NOT_ENROLLED:
        return TransportError(
            "The server does not know this site's key.",
            where=address,
            mend="Send the site's .pub file to the server's operator and ask for it to be enrolled.",
        )
    return TransportError(
        "The server refused this site's signature.",
        where=address,
        mend="Check that site.toml names the key that belongs to the enrolled .pub file.",
    )


def proxy_status(details: str) -> int:
    """The status with which an HTTP proxy refused a tunnel; 0 where none did."""
    found = re.search(r"http proxy returned response code ([0-9]{3})", details.lower())
    return int(found[1]) if found else 0


def _proxy_fault(details: str, address: str) -> TransportError | None:
    """The clear case of a proxy that will not have this site; None for one that may change its mind."""
    status = proxy_status(details)
    if status == 407:
        return TransportError(
            "The proxy wants a user and a password, or other ones.",
            where=address,
            mend="Write them as user:password into the file that `proxy_auth` in site.toml names.",
        )
    if 400 <= status < 500:
        return TransportError(
            f"The proxy does not let this site through to the server ({status}).",
            where=address,
            mend="Ask who runs the proxy to allow CONNECT to this name and port.",
        )
    return None


def _certificate_fault(details: str, address: str) -> TransportError | None:
    """The clear case of a server that is there and cannot be trusted; None for one that just is not there."""
    text = details.lower()
    host = address.rpartition(":")[0]
    if "hostname verification" in text:
        return TransportError(
            f"The server's certificate is not for {host}.",
            where=address,
            mend="Use the name or the number that the certificate was made for, or ask the server's operator for one "
            "with this name.",
        )
    if "certificate has expired" in text or "certificate is not yet valid" in text:
        return TransportError(
            "The server's certificate is out of its dates.",
            where=address,
            mend="Check this machine's clock; if it is right, the server's operator must renew the certificate.",
        )
    if "certificate" in text and "ssl_error_ssl" in text and "wrong_version" not in text:
        return TransportError(
            "The server's certificate is not signed by the CA that site.toml names.",
            where=address,
            mend="Take the CA file from the server's operator anew. If it is the right one, somebody sits in between.",
        )
    if "ssl_error_ssl" in text:  # a peer that went away in the handshake is another error, and tried again
        return TransportError(
            "What answers there does not speak TLS as a privet server does.",
            where=address,
            mend="Check the address and the port in site.toml.",
        )
    return None
