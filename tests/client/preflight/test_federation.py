"""The way to a server, step by step, against real sockets on the loopback."""

import base64
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from privet.client.preflight.federation import STEPS, federation_steps
from privet.client.preflight.results import Status, Step
from privet.client.preflight.tls import fingerprint
from privet.common.config.site import MembershipSpec
from tests.client.preflight.peers import HOST, Issuer, answering, black_hole, closed_port, serving, tls, tunnel

KEY = ec.generate_private_key(ec.SECP384R1())
CA = Issuer()
CORP = Issuer("Corp Inspection CA")
PASSWORD = "s3cret-of-the-proxy"


@dataclass(frozen=True)
class Said:
    """What a server might say to the key."""

    finding: str = "accepted"
    reason: str = ""
    mend: str = ""
    clock_behind: int | None = 0


def member(port: int, host: str = HOST, **more: Any) -> MembershipSpec:
    return MembershipSpec(address=f"{host}:{port}", ca=Path("ca"), key=Path("key"), epsilon=1.0, delta=1e-6, **more)


def walk(
    membership: MembershipSpec, *, ca: bytes | None = None, said: Said | None = None, seconds: float = 3
) -> dict[str, Step]:
    steps = federation_steps(
        "tiny", membership, CA.pem if ca is None else ca, KEY, ask=lambda *_: said or Said(), seconds=seconds
    )
    assert [step.step for step in steps] == [one for one in STEPS if one in {step.step for step in steps}]
    assert all(step.federation == "tiny" for step in steps)
    assert all(step.mend for step in steps if step.status in (Status.FAILED, Status.WARNING))
    return {step.step: step for step in steps}


def fault(steps: dict[str, Step], name: str) -> str:
    """The words of the one step that failed; every later one was skipped."""
    assert [step.step for step in steps.values() if step.status is Status.FAILED] == [name]
    order = list(steps)
    assert all(steps[one].status is Status.SKIPPED for one in order[order.index(name) + 1 :])
    assert all(steps[one].status is Status.PASSED for one in order[: order.index(name)])
    return f"{steps[name].what} Mend: {steps[name].mend}"


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as entered:
        yield entered


Serve = Callable[..., int]


@pytest.fixture
def serve(tmp_path: Path, stack: ExitStack) -> Serve:
    """A TLS server with this certificate; its port."""

    def start(pem: bytes, **options: Any) -> int:
        return stack.enter_context(serving(tls(tmp_path, pem, **options)))

    return start


def test_a_sound_server_passes_every_step(serve: Serve) -> None:
    steps = walk(member(serve(CA.issue())))
    assert list(steps) == ["name", "connect", "TLS", "ALPN", "key", "clock"]
    assert {step.status for step in steps.values()} == {Status.PASSED}
    assert steps["TLS"].numbers["version"] == "TLSv1.3"


# The network


def test_a_closed_port() -> None:
    assert "refuses the connection" in fault(walk(member(closed_port())), "connect")


def test_a_black_hole_is_left_in_time() -> None:
    with black_hole() as port:
        began = time.monotonic()
        words = fault(walk(member(port), seconds=0.3), "connect")
    assert time.monotonic() - began < 10
    assert f"allow TCP from this machine to {HOST}:{port}" in words


def test_a_name_that_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    words = fault(walk(member(9092, "nowhere.example")), "name")
    assert "nowhere.example cannot be resolved" in words


def test_a_name_server_that_says_nothing_is_left_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: over.wait(30) and [])
    try:
        assert "no answer from this machine's name server" in fault(
            walk(member(9092, "a.example"), seconds=0.1), "name"
        )
    finally:
        over.set()


def test_no_port() -> None:
    assert "99999 is no port" in fault(walk(member(99_999)), "name")


# The certificate


def test_a_proxy_that_inspects_tls_is_named_with_its_certificate(serve: Serve) -> None:
    pem = CORP.issue(subject="appliance 7")
    port = serve(pem)
    steps = walk(member(port))
    words = fault(steps, "TLS")
    assert (
        "a proxy inspects TLS here: the certificate is issued by 'Corp Inspection CA', not by the federation's 'the "
        "federation's CA'." in words
    )
    assert f"ask the network team to exempt {HOST}:{port}" in words
    from cryptography import x509

    shown = x509.load_pem_x509_certificate(pem[pem.index(b"-----BEGIN CERTIFICATE") :])
    assert f"subject 'appliance 7', issuer 'Corp Inspection CA', SHA-256 {fingerprint(shown)}" in words
    assert steps["TLS"].numbers["issuer"] == "CN=Corp Inspection CA"


@pytest.mark.parametrize(
    ("issuer", "options", "words"),
    [
        (CORP, {"names": ["other.example"]}, "is for other.example, not for 127.0.0.1"),
        (CA, {"names": ["other.example", "10.0.0.9"]}, "not for 127.0.0.1 but for other.example, 10.0.0.9"),
        (CA, {"until": -1}, "the server's certificate expired on"),
        (CA, {"since": 1}, "is not valid before"),
        (Issuer(), {}, "another key than the one of the CA file"),
        (Issuer("a server"), {}, "is signed by itself"),
    ],
)
def test_each_wrong_certificate_is_told_apart(
    serve: Serve, issuer: Issuer, options: dict[str, Any], words: str
) -> None:
    told = fault(walk(member(serve(issuer.issue(**options)))), "TLS")
    assert words in told
    assert "a proxy inspects" not in told
    if "until" in options or "since" in options:
        assert "clock says" in told


def test_a_ca_file_that_holds_none(serve: Serve) -> None:
    assert "CA file holds no certificate" in fault(walk(member(serve(CA.issue())), ca=b"nothing"), "TLS")


def test_several_authorities_in_the_file(serve: Serve) -> None:
    assert walk(member(serve(CA.issue())), ca=CORP.pem + CA.pem)["TLS"].status is Status.PASSED


def test_a_certificate_that_ends_soon_is_warned_of(serve: Serve) -> None:
    steps = walk(member(serve(CA.issue(until=9))))
    assert steps["TLS"].status is Status.WARNING
    assert steps["key"].status is Status.PASSED


def test_a_certificates_names_cannot_steer_the_terminal(serve: Serve) -> None:
    told = fault(walk(member(serve(Issuer("\x1b[2J evil\nPASSED  all").issue()))), "TLS")
    assert "\x1b" not in told
    assert "\n" not in told
    assert "evil" in told


# TLS without a certificate's fault


def test_a_server_without_http2(serve: Serve) -> None:
    for protocols in ((), ("http/1.1",)):
        assert "does not agree on HTTP/2" in fault(walk(member(serve(CA.issue(), protocols=protocols))), "ALPN")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_server_of_old_tls(serve: Serve) -> None:
    port = serve(CA.issue(), most=ssl.TLSVersion.TLSv1_1)
    assert "speaks no TLS 1.2" in fault(walk(member(port)), "TLS")


@pytest.mark.parametrize(
    ("talk", "words"),
    [
        (lambda c: (c.recv(100), c.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")), "does not speak TLS"),
        (lambda c: c.recv(1000), "ends the connection in the middle"),
        (lambda c: threading.Event().wait(0.8), "takes the connection and then says nothing"),
    ],
)
def test_what_is_no_tls_server(talk: Callable[[socket.socket], None], words: str) -> None:
    with serving(talk) as port:
        assert words in fault(walk(member(port), seconds=0.4), "TLS")


# The proxy


def proxied(port: int, proxy: int, auth: Path | None = None) -> MembershipSpec:
    return member(port, proxy=f"http://{HOST}:{proxy}", proxy_auth=auth)


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "proxy.auth"
    path.write_text(f"north:{PASSWORD}\n")
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("wanted", [None, base64.b64encode(f"north:{PASSWORD}".encode()).decode()])
def test_a_proxy_is_gone_through(serve: Serve, secret: Path, wanted: str | None) -> None:
    port = serve(CA.issue())
    with serving(tunnel(wanted)) as proxy:
        steps = walk(proxied(port, proxy, secret if wanted else None))
    assert list(steps) == list(STEPS)
    assert {step.status for step in steps.values()} == {Status.PASSED}
    assert str(proxy) in steps["connect"].what
    assert PASSWORD not in str(list(steps.values()))


def test_a_proxy_that_wants_a_name_and_gets_none_or_a_wrong_one(serve: Serve, secret: Path) -> None:
    port = serve(CA.issue())
    with serving(tunnel("another")) as proxy:
        assert "set `proxy_auth`" in fault(walk(proxied(port, proxy)), "proxy")
        words = fault(walk(proxied(port, proxy, secret)), "proxy")
    assert "does not take the name and the password" in words
    assert PASSWORD not in words
    assert base64.b64encode(f"north:{PASSWORD}".encode()).decode() not in words


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", "allow CONNECT to"),
        (b"HTTP/1.0 502 Bad Gateway\r\n\r\n", "cannot reach"),
        (b"HTTP/1.1 405 \r\n\r\n", "offers no tunnels"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://login\r\n\r\n", "answers 302"),
        (b"SSH-2.0-x\r\n\r\n", "not an HTTP proxy"),
        (b"", "without an answer"),
    ],
)
def test_what_a_proxy_may_answer(answer: bytes, words: str) -> None:
    with serving(answering(answer)) as proxy:
        assert words in fault(walk(proxied(9092, proxy)), "proxy")


def test_a_proxy_that_says_nothing_or_without_end_is_left_in_time() -> None:
    with serving(lambda c: time.sleep(0.8)) as proxy:
        assert "does not answer within" in fault(walk(proxied(9092, proxy), seconds=0.3), "proxy")
    with serving(answering(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000)) as proxy:
        walk(proxied(9092, proxy), seconds=0.5)


def test_a_proxy_that_inspects_tls_behind_its_tunnel(tmp_path: Path) -> None:
    inspecting = answering(b"HTTP/1.1 200 OK\r\n\r\n", then=tls(tmp_path, CORP.issue()))
    with serving(inspecting) as proxy:
        words = fault(walk(proxied(9092, proxy)), "TLS")
    assert f"exempt {HOST}:9092" in words
    assert "'Corp Inspection CA'" in words


def test_a_file_of_a_password_that_others_may_read_is_refused(secret: Path) -> None:
    secret.chmod(0o644)
    steps = walk(proxied(9092, closed_port(), secret))
    assert steps["proxy"].status is Status.FAILED
    assert steps["connect"].status is Status.SKIPPED
    assert PASSWORD not in str(list(steps.values()))


# What the server says to the key


@pytest.mark.parametrize(
    ("said", "key", "clock"),
    [
        (Said(), Status.PASSED, Status.PASSED),
        (Said(clock_behind=None), Status.PASSED, Status.PASSED),
        (Said(clock_behind=40), Status.PASSED, Status.WARNING),
        (Said(clock_behind=-31), Status.PASSED, Status.WARNING),
        (Said("wrong clock", "apart", "set it", 400), Status.SKIPPED, Status.FAILED),
        (Said("wrong clock", "apart", "set it", None), Status.SKIPPED, Status.FAILED),
        (Said("not enrolled", "unknown", "send it", 3), Status.FAILED, Status.PASSED),
        (Said("not a privet server", "other", "look", None), Status.FAILED, Status.SKIPPED),
    ],
)
def test_what_the_server_says_to_the_key(serve: Serve, said: Said, key: Status, clock: Status) -> None:
    steps = walk(member(serve(CA.issue())), said=said)
    assert (steps["key"].status, steps["clock"].status) == (key, clock)
