"""How a failed call is judged. The details are gRPC's own, as seen on real connections."""

import re
import time

import grpc
import pytest

from privet.client.refusal import Verdict, judge, reason, why_dropped
from privet.common.errors import TransportError
from privet.common.handshake import CLOCK_HEADER, Refusal

CODE = grpc.StatusCode
TLS = "failed to connect to all addresses; last error: UNKNOWN: ipv4:10.0.0.1:9092: Tls handshake failed "
UNTRUSTED = TLS + (
    "(TSI_PROTOCOL_FAILURE): SSL_ERROR_SSL: error:1000007d:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED: "
    "unable to get local issuer certificate: OK"
)
OTHER_KEY = TLS + (
    "(TSI_PROTOCOL_FAILURE): SSL_ERROR_SSL: error:1a000064:ECDSA routines:OPENSSL_internal:BAD_SIGNATURE: certificate "
    "signature failure: OK"
)
EXPIRED = UNTRUSTED.replace("unable to get local issuer certificate", "certificate has expired")
NOT_TLS = TLS + (
    "(TSI_PROTOCOL_FAILURE): SSL_ERROR_SSL: error:100000f7:SSL routines:OPENSSL_internal:WRONG_VERSION_NUMBER: Invalid "
    "certificate verification context: OK"
)
OTHER_NAME = (
    "failed to connect to all addresses; last error: UNKNOWN: ipv4:10.0.0.1:9092: Custom verification check failed "
    "with error: UNAUTHENTICATED: Hostname Verification Check failed."
)
REFUSED = "failed to connect to all addresses; last error: UNKNOWN: ipv4:10.0.0.1:9092: Connection refused"
HUNG_UP = TLS + "(TSI_HANDSHAKE_SHUTDOWN): Handshake read failed: Socket closed"
BY_PROXY = "failed to connect to all addresses; last error: UNKNOWN: HTTP proxy returned response code "
NO_NAME = "errors resolving hub.example:9092: [address lookup failed for hub.example:9092: Domain name not found]"


class Failure(grpc.RpcError):  # type: ignore[misc]
    def __init__(self, code: grpc.StatusCode, details: str = "") -> None:
        self._code, self._details = code, details

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details


@pytest.mark.parametrize(
    ("code", "details", "words"),
    [
        (CODE.UNAVAILABLE, UNTRUSTED, "not signed by the CA"),
        (CODE.UNAVAILABLE, OTHER_KEY, "not signed by the CA"),
        (CODE.UNAVAILABLE, EXPIRED, "out of its dates"),
        (CODE.UNAVAILABLE, OTHER_NAME, "not for hub.example"),
        (CODE.UNAVAILABLE, NOT_TLS, "does not speak TLS"),
        (CODE.UNAVAILABLE, BY_PROXY + "407", "user and a password"),
        (CODE.UNAVAILABLE, BY_PROXY + "403", "does not let this site through to the server (403)"),
        (CODE.UNIMPLEMENTED, "unknown service", "not a privet server"),
        (CODE.UNAUTHENTICATED, Refusal.NOT_ENROLLED, "does not know this site's key"),
        (CODE.UNAUTHENTICATED, Refusal.WRONG_CLOCK, "clock"),
        (CODE.UNAUTHENTICATED, "Invalid signature", "signature"),
        (CODE.ABORTED, Refusal.TAKEN_OVER, "Another instance"),
    ],
)
def test_clear_refusals_are_errors_with_a_mend(code: grpc.StatusCode, details: str, words: str) -> None:
    error = judge(Failure(code, details), "hub.example:9092", known=False)
    assert isinstance(error, TransportError)
    assert words in error.what
    assert error.mend
    assert error.where == "hub.example:9092"


@pytest.mark.parametrize("details", [UNTRUSTED, OTHER_KEY, EXPIRED, OTHER_NAME, NOT_TLS])
def test_bad_certificate_of_a_server_known_from_before_is_tried_again(details: str) -> None:
    assert judge(Failure(CODE.UNAVAILABLE, details), "hub.example:9092", known=True) is Verdict.RETRY
    assert reason(Failure(CODE.UNAVAILABLE, details)) == "shows a certificate that cannot be trusted"


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(
    ("code", "details", "verdict"),
    [
        (CODE.UNAVAILABLE, REFUSED, Verdict.RETRY),
        (CODE.UNAVAILABLE, HUNG_UP, Verdict.RETRY),
        (CODE.UNAVAILABLE, NO_NAME, Verdict.RETRY),
        (CODE.UNAVAILABLE, BY_PROXY + "502", Verdict.RETRY),
        (CODE.UNAVAILABLE, "recvmsg:Connection reset by peer", Verdict.RETRY),
        (CODE.DEADLINE_EXCEEDED, "", Verdict.RETRY),
        (CODE.CANCELLED, "", Verdict.RETRY),
        (CODE.INTERNAL, "", Verdict.RETRY),
        (CODE.RESOURCE_EXHAUSTED, "Concurrent RPC limit exceeded!", Verdict.RETRY),
        (CODE.FAILED_PRECONDITION, "", Verdict.RETRY),
        (CODE.RESOURCE_EXHAUSTED, "Received message larger than max (9 vs. 8)", Verdict.DROP),
        (CODE.PERMISSION_DENIED, "", Verdict.DROP),
        (CODE.INVALID_ARGUMENT, Refusal.MALFORMED, Verdict.DROP),
        (CODE.UNAUTHENTICATED, Refusal.WRONG_NODE, Verdict.REGISTER),
    ],
)
def test_the_rest_is_no_reason_to_stop(code: grpc.StatusCode, details: str, verdict: Verdict, known: bool) -> None:
    assert judge(Failure(code, details), "hub.example:9092", known=known) is verdict


def test_key_refused_after_it_was_accepted_was_withdrawn() -> None:
    error = judge(Failure(CODE.UNAUTHENTICATED, Refusal.NOT_ENROLLED), "hub.example:9092", known=True)
    assert isinstance(error, TransportError)
    assert "withdrew" in error.what


def test_a_clock_is_told_by_how_much_it_is_off() -> None:
    class Refused(Failure):
        def trailing_metadata(self) -> list[tuple[str, str]]:
            return [("other", "x"), (CLOCK_HEADER, str(int(time.time()) + 410))]

    error = judge(Refused(CODE.UNAUTHENTICATED, Refusal.WRONG_CLOCK), "hub.example:9092", known=False)
    assert isinstance(error, TransportError)
    assert re.fullmatch(r"This machine's clock is 4(10|09) s behind the server's \(.*\)\.", error.what)


def test_error_without_a_code_is_tried_again() -> None:
    assert judge(grpc.RpcError(), "hub.example:9092", known=False) is Verdict.RETRY


def test_reasons() -> None:
    assert reason(Failure(CODE.UNAVAILABLE, REFUSED)) == "cannot be reached"
    assert reason(Failure(CODE.UNAVAILABLE, NO_NAME)) == "cannot be found by name"
    assert reason(Failure(CODE.INTERNAL)) == "cannot serve this site now"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (CODE.PERMISSION_DENIED, "over"),
        (CODE.RESOURCE_EXHAUSTED, "too large"),
        (CODE.INVALID_ARGUMENT, "malformed"),
        (CODE.INTERNAL, "cannot process"),
    ],
)
def test_dropped_messages_have_a_reason_of_our_own_words(code: grpc.StatusCode, words: str) -> None:
    assert words in why_dropped(Failure(code, '{"code": 7, "public_message": "of another program"}'))
