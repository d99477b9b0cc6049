"""What a site finds out about a server before it registers, and that this disturbs nobody."""

import socket
import time
from types import SimpleNamespace

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from privet.client.link import LinkEvent
from privet.client.probe import Finding, probe
from privet.common.handshake import CLOCK_HEADER
from tests.integration.sites import Scene, ask, record, texts
from tests.integration.tls import Authority, new_key


def shift_clock(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Set the clock by which the site signs and compares; the server's stays."""
    import datetime

    from flwr.client.grpc_rere_client import node_auth_client_interceptor as signing

    from privet.client import refusal

    off = datetime.timedelta(seconds=seconds)
    monkeypatch.setattr(signing, "now", lambda: datetime.datetime.now(datetime.UTC) + off)
    monkeypatch.setattr(refusal, "time", SimpleNamespace(time=lambda: time.time() + seconds))  # that module's alone


def test_an_enrolled_key_is_accepted_while_its_agent_works(scene: Scene) -> None:
    def slow(request: object) -> object:
        found.append(probe(scene.address, scene.ca, scene.keys["north"]))
        return record("done")

    found: list[object] = []
    site = scene.site("north", slow)
    scene.gather("north")
    with scene.fleet.run() as grid:
        grid.retries = 0  # a session that was taken over would lose its message
        assert texts(scene.fleet, ask(grid, "go", 20.0)) == {"north": "done"}
    assert [one.finding for one in found] == [Finding.ACCEPTED]  # type: ignore[attr-defined]
    assert [event for event, _ in site.events].count(LinkEvent.ONLINE) == 1
    assert site.error is None


def test_a_probe_alone_leaves_no_site_online(scene: Scene) -> None:
    found = probe(scene.address, scene.ca, scene.keys["north"])
    assert (found.finding, found.reason, found.mend) == (Finding.ACCEPTED, "", "")
    assert found.clock_behind is not None
    assert abs(found.clock_behind) <= 1
    assert scene.fleet.online() == {}
    assert scene.fleet.traffic.session_of(next(iter(scene.fleet.traffic.allowed))) is None


def test_a_key_that_is_not_enrolled(scene: Scene) -> None:
    found = probe(scene.address, scene.ca, new_key())
    assert found.finding is Finding.NOT_ENROLLED
    assert ".pub" in found.mend


@pytest.mark.parametrize(("seconds", "words"), [(-410, "410 s behind"), (60, "60 s ahead of")])
def test_a_clock_that_is_off_is_told_by_how_much(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, seconds: float, words: str
) -> None:
    shift_clock(monkeypatch, seconds)
    found = probe(scene.address, scene.ca, scene.keys["north"])
    assert found.finding is Finding.WRONG_CLOCK
    assert found.clock_behind is not None
    assert abs(found.clock_behind + seconds) <= 1
    assert words.replace(f"{abs(seconds):g}", str(abs(found.clock_behind))) in found.reason
    refused = scene.site("north").refusal()
    assert refused.what.startswith("This machine's clock is ")


def test_a_clock_that_is_off_within_the_tolerance_is_told_too(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    shift_clock(monkeypatch, -100)
    found = probe(scene.address, scene.ca, scene.keys["north"])
    assert found.finding is Finding.ACCEPTED
    assert found.clock_behind is not None
    assert 99 <= found.clock_behind <= 101


def test_another_authority_and_another_name(scene: Scene) -> None:
    found = probe(scene.address, Authority().pem, scene.keys["north"])
    assert (found.finding, "not signed by the CA" in found.reason) == (Finding.UNTRUSTED, True)
    found = probe(f"localhost:{scene.fleet.port}", scene.ca, scene.keys["north"])
    assert (found.finding, "not for localhost" in found.reason) == (Finding.UNTRUSTED, True)
    assert probe(scene.address, b"no certificate", scene.keys["north"]).finding is Finding.UNTRUSTED


def test_nobody_there_and_nobody_who_speaks() -> None:
    assert probe("127.0.0.1:9", Authority().pem, new_key()).finding is Finding.UNREACHABLE
    with socket.create_server(("127.0.0.1", 0)) as mute:
        began = time.monotonic()
        found = probe(f"127.0.0.1:{mute.getsockname()[1]}", Authority().pem, new_key(), seconds=1)
    assert found.finding is Finding.UNREACHABLE
    assert time.monotonic() - began < 10


def test_a_grpc_server_of_somebody_else_is_no_privet_server(scene: Scene) -> None:
    from concurrent.futures import ThreadPoolExecutor

    _, certificate, key = scene.hall.authority.server()
    server = grpc.server(ThreadPoolExecutor(2))
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, certificate)]))
    server.start()
    try:
        assert probe(f"127.0.0.1:{port}", scene.ca, new_key()).finding is Finding.NOT_PRIVET
    finally:
        server.stop(0).wait()


@pytest.mark.parametrize("value", ["", "soon", "-3", "1" * 30, "１２"])
def test_a_servers_clock_that_is_none_is_not_believed(value: str) -> None:
    from privet.client.refusal import clock_behind

    class Refused(grpc.RpcError):  # type: ignore[misc]
        def trailing_metadata(self) -> tuple[tuple[str, str], ...]:
            return ((CLOCK_HEADER, value),)

    assert clock_behind(Refused()) is None


def test_a_key_of_another_curve_is_not_enrolled(scene: Scene) -> None:
    assert probe(scene.address, scene.ca, ec.generate_private_key(ec.SECP256R1())).finding is Finding.NOT_ENROLLED
