"""Whether a server would have this site, found out without registering: a running agent is not disturbed."""

import time
from dataclasses import dataclass
from enum import StrEnum

import grpc
from cryptography.hazmat.primitives.asymmetric import ec

from privet.client.channel import open_channel
from privet.client.flower import FleetStub, GetRunRequest
from privet.client.proxy import Proxy
from privet.client.refusal import clock_behind, code_of, details_of, judge, proxy_status, reason
from privet.common.errors import TransportError
from privet.common.handshake import Refusal

_ANSWER_BYTES = 1 << 16


class Finding(StrEnum):
    """What a server said to this site, or why it did not."""

    ACCEPTED = "accepted"
    NOT_ENROLLED = "not enrolled"
    WRONG_CLOCK = "wrong clock"
    NOT_PRIVET = "not a privet server"
    UNTRUSTED = "not trusted"  # its certificate: authority, name or dates; or no TLS at all
    REFUSED = "refused"  # by the proxy, or for a reason that this release does not know
    UNREACHABLE = "unreachable"


@dataclass(frozen=True)
class Probe:
    """The finding, with a sentence and a mend for people (both empty where the key is accepted).

    clock_behind: seconds by which this machine's clock is behind the server's, where the server told its own; negative
    where it is ahead. Sites up to 5 s ahead or 5 min behind are accepted.
    """

    finding: Finding
    reason: str = ""
    mend: str = ""
    clock_behind: int | None = None


def probe(
    address: str, ca: bytes, key: ec.EllipticCurvePrivateKey, *, proxy: Proxy | None = None, seconds: float = 10
) -> Probe:
    """Ask the server at `address` ("host:port"), signed, for something that no privet server offers.

    It looks at key, signature and clock before it says so. Returns within about `seconds`; never raises for what is
    found.

    Args:
        ca: PEM of the CA, or of several.
        proxy: as `load_proxy` gives it.
    """
    end = time.monotonic() + seconds
    try:
        channel = open_channel(address, ca, key, proxy, _ANSWER_BYTES)
    except TransportError as error:
        return Probe(Finding.UNTRUSTED, error.what, error.mend)
    try:
        FleetStub(channel).GetRun(GetRunRequest(), timeout=max(0.1, end - time.monotonic()))
    except grpc.RpcError as error:
        return _found(error, address)
    finally:
        channel.close()
    return Probe(Finding.NOT_PRIVET, "What answers there is not a privet server.", "Check the address in site.toml.")


def _found(error: grpc.RpcError, address: str) -> Probe:
    code, details, behind = code_of(error), details_of(error), clock_behind(error)
    if code is grpc.StatusCode.UNIMPLEMENTED and details == Refusal.NOT_OFFERED:
        return Probe(Finding.ACCEPTED, clock_behind=behind)
    if code is grpc.StatusCode.UNAUTHENTICATED and details == Refusal.WRONG_NODE:  # of an older release
        return Probe(Finding.ACCEPTED, clock_behind=behind)
    verdict = judge(error, address, known=False)
    if not isinstance(verdict, TransportError):
        return Probe(
            Finding.UNREACHABLE,
            f"The server {reason(error)}.",
            "Check name, port and the firewall: the site must be able to open a TCP connection to the server.",
            behind,
        )
    finding = Finding.REFUSED
    if code is grpc.StatusCode.UNIMPLEMENTED:
        finding = Finding.NOT_PRIVET
    elif code is grpc.StatusCode.UNAVAILABLE and not proxy_status(details):
        finding = Finding.UNTRUSTED
    elif code is grpc.StatusCode.UNAUTHENTICATED:
        finding = {
            Refusal.NOT_ENROLLED.value: Finding.NOT_ENROLLED,
            Refusal.WRONG_CLOCK.value: Finding.WRONG_CLOCK,
        }.get(details, Finding.REFUSED)
    return Probe(finding, verdict.what, verdict.mend, behind)
