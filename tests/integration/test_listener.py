"""The one public port: TLS 1.2 or newer, no weak cipher, a health check without a key, and nothing else."""

import os
import resource
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from privet.client.door import Door
from privet.client.wire import Wire
from privet.common.handshake import CLOCK_HEADER, Refusal
from privet.server.fleet import listener
from tests.integration.sites import Scene, SiteThread, eventually
from tests.integration.tls import new_key

_TCP_LISTEN = "0A"
_WEAK = ("ECDHE-ECDSA-AES128-SHA", "ECDHE-ECDSA-AES128-SHA256", "ECDHE-ECDSA-AES256-SHA384")  # CBC with SHA-1, SHA-2


def handshake(address: str, ca: bytes, version: ssl.TLSVersion, ciphers: str) -> tuple[str, str]:
    """Version and cipher of a connection by a client that speaks this version alone."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=ca.decode())
    context.set_ciphers(f"{ciphers}:@SECLEVEL=0")
    context.set_alpn_protocols(["h2"])
    context.minimum_version = context.maximum_version = version
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as plain, context.wrap_socket(plain) as secure:
        chosen = secure.cipher()
        assert chosen is not None
        return str(secure.version()), chosen[0]


@contextmanager
def lax_server(scene: Scene, folder: Path) -> Iterator[str]:
    """A server that speaks whatever it is offered: where it is spoken to, a refusal was the other server's."""
    _, certificate, key = scene.hall.authority.server()
    (folder / "pair.pem").write_bytes(certificate + key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.load_cert_chain(folder / "pair.pem")

    def serve() -> None:
        client, _ = lax.accept()
        with client, context.wrap_socket(client, server_side=True):
            pass

    with socket.create_server(("127.0.0.1", 0)) as lax:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{lax.getsockname()[1]}"
        thread.join(10)


def assert_refused(scene: Scene, folder: Path, version: ssl.TLSVersion, ciphers: str) -> None:
    with lax_server(scene, folder) as lax:
        handshake(lax, scene.ca, version, ciphers)
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        handshake(scene.address, scene.ca, version, ciphers)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1:DeprecationWarning")
def test_older_versions_of_tls_are_refused(scene: Scene, tmp_path: Path, version: ssl.TLSVersion) -> None:
    assert_refused(scene, tmp_path, version, "ALL")


def test_tls_1_2_and_1_3_are_spoken_with_authenticated_encryption(scene: Scene) -> None:
    version, cipher = handshake(scene.address, scene.ca, ssl.TLSVersion.TLSv1_2, "ALL")
    assert version == "TLSv1.2"
    assert cipher.startswith("ECDHE-ECDSA-")
    assert "GCM" in cipher or "CHACHA20" in cipher
    version, cipher = handshake(scene.address, scene.ca, ssl.TLSVersion.TLSv1_3, "ALL")
    assert (version, cipher[:4]) == ("TLSv1.3", "TLS_")


@pytest.mark.parametrize("cipher", _WEAK)
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1:DeprecationWarning")
def test_weak_ciphers_are_refused(scene: Scene, tmp_path: Path, cipher: str) -> None:
    assert_refused(scene, tmp_path, ssl.TLSVersion.TLSv1_2, cipher)


def test_plain_text_gets_no_answer_in_plain_text(scene: Scene) -> None:
    with grpc.insecure_channel(scene.address) as channel, pytest.raises(grpc.RpcError) as caught:
        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def listening(pid: int) -> set[str]:
    """Local addresses (hexadecimal) at which a process listens by TCP or can be sent UDP."""
    inodes = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        target = os.readlink(descriptor)
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    found = set()
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[9] in inodes and (table.startswith("udp") or fields[3] == _TCP_LISTEN):
                found.add(f"{table} {fields[1]}")
    return found


_SERVER = """
import sys
from pathlib import Path
from privet.server.fleet import Fleet
folder = Path(sys.argv[1])
pems = tuple((folder / name).read_bytes() for name in ("ca", "crt", "key"))
fleet = Fleet(address="127.0.0.1:0", certificates=pems, database=folder / "fleet.db", allowed={})
fleet.start()
with fleet.run():
    print(fleet.port, flush=True)
    sys.stdin.readline()
fleet.close()
"""


@pytest.mark.skipif(not Path("/proc/self/net/tcp").exists(), reason="needs Linux's /proc")
@pytest.mark.slow
def test_a_server_with_a_run_under_way_listens_at_one_port(scene: Scene, tmp_path: Path) -> None:
    for name, pem in zip(("ca", "crt", "key"), scene.hall.authority.server(), strict=True):
        (tmp_path / name).write_bytes(pem)
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        (address,) = listening(process.pid)
        assert address.startswith("tcp")
        assert address.endswith(f"0100007F:{port:04X}")
        process.communicate("\n", timeout=60)
    assert process.returncode == 0


# Without a key


def channel_of(scene: Scene) -> grpc.Channel:
    return grpc.secure_channel(scene.address, grpc.ssl_channel_credentials(scene.ca))


def refused(call: Any, request: Any) -> tuple[grpc.StatusCode, str, dict[str, str]]:
    with pytest.raises(grpc.RpcError) as caught:
        call(request, timeout=10)
    error = caught.value
    return error.code(), error.details(), dict(error.trailing_metadata())


def test_health_is_told_without_a_key(scene: Scene) -> None:
    with channel_of(scene) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        assert check(health_pb2.HealthCheckRequest(), timeout=10).status == health_pb2.HealthCheckResponse.SERVING
        code, _, _ = refused(check, health_pb2.HealthCheckRequest(service="flwr.proto.Fleet"))
        assert code is grpc.StatusCode.NOT_FOUND
        scene.fleet.traffic.close()
        assert check(health_pb2.HealthCheckRequest(), timeout=10).status == health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.mark.parametrize(
    "method",
    [
        "/grpc.health.v1.Health/Watch",
        "/grpc.health.v1.Health/List",
        "/grpc.health.v1.Health/Check/",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        "/grpc.channelz.v1.Channelz/GetServers",
        "/flwr.proto.Fleet/GetRun",
        "/flwr.proto.Fleet/PullMessages",
        "/flwr.proto.Control/StartRun",
        "/x",
    ],
)
def test_everything_else_wants_a_key(scene: Scene, method: str) -> None:
    with channel_of(scene) as channel:
        code, details, trailing = refused(channel.unary_unary(method), b"")
    assert (code, details) == (grpc.StatusCode.UNAUTHENTICATED, Refusal.NOT_ENROLLED)
    assert trailing[CLOCK_HEADER].isdigit()


@pytest.mark.parametrize("method", ["/grpc.health.v1.Health/Watch", "/flwr.proto.Fleet/Unheard", "/x/y"])
def test_what_is_not_offered_is_not_offered_to_sites_either(scene: Scene, method: str) -> None:
    wire = Wire(scene.address, Door(scene.ca, scene.keys["north"]), threading.Event(), 64 << 20)
    code, details, _ = refused(wire._channel.unary_unary(method), b"")
    wire.close()
    assert (code, details) == (grpc.StatusCode.UNIMPLEMENTED, Refusal.NOT_OFFERED)


def test_slow_and_large_health_checks_of_a_stranger_hold_nobody_up(scene: Scene) -> None:
    release = threading.Event()

    def never() -> Any:
        release.wait(30)
        yield from ()

    with channel_of(scene) as channel:
        slow = channel.stream_unary("/grpc.health.v1.Health/Check")
        hanging = [slow.future(never(), timeout=30) for _ in range(40)]
        assert eventually(lambda: sum(one.done() for one in hanging) == 36)  # four are read, the others answered unread
        check = health_pb2_grpc.HealthStub(channel).Check
        for _ in range(20):
            assert check(health_pb2.HealthCheckRequest(), timeout=10).status == health_pb2.HealthCheckResponse.SERVING
        scene.site("north")
        scene.gather("north")
        release.set()
        assert [one.result() is not None for one in hanging] == [True] * 40


def test_a_strangers_connections_leave_the_server_its_files(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server without a free descriptor could write no checkpoint: its run would end."""

    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    monkeypatch.setattr(listener, "_max_connections", lambda: 40)
    key = new_key()
    fleet = scene.hall.fleet({"north": key})
    fleet.start()
    scene.on_end(fleet.close)
    before, number = descriptors(), 120
    strangers = [socket.create_connection(("127.0.0.1", fleet.port), timeout=5) for _ in range(number)]
    try:
        assert not eventually(lambda: descriptors() - before - number > 60, timeout=1.0)
    finally:
        for stranger in strangers:
            stranger.close()
    scene.on_end(SiteThread(f"127.0.0.1:{fleet.port}", scene.ca, key).close)
    assert eventually(lambda: list(fleet.online().values()) == ["north"])


@pytest.mark.parametrize(
    ("soft", "hard", "most"), [(1024, 524_288, 1024), (300, 300, 44), (64, 4096, 1024), (20_000, 20_000, 1024)]
)
def test_the_most_connections_go_by_the_descriptors_of_the_process(
    soft: int, hard: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = [(soft, hard)]
    monkeypatch.setattr(resource, "getrlimit", lambda _what: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _what, new: limits.append(new))
    assert listener._max_connections() == most
    assert limits[-1][1] == hard  # only raised within what this account may have
    assert limits[-1][0] >= most + 256


def test_the_pair_in_use_is_not_given_to_grpc_again(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be put in place of itself under the feet of other handshakes: a crash that strangers could cause."""
    asked: list[Callable[[], Any]] = []
    genuine = grpc.dynamic_ssl_server_credentials

    def noted(first: Any, fetch: Callable[[], Any]) -> Any:
        asked.append(fetch)
        return genuine(first, fetch)

    monkeypatch.setattr(grpc, "dynamic_ssl_server_credentials", noted)
    fleet = scene.hall.fleet({})
    fleet.start()
    scene.on_end(fleet.close)
    (fetch,) = asked
    assert [fetch(), fetch()] == [None, None]
    fleet.renew(scene.hall.authority.server())
    fleet.renew(scene.hall.authority.server())
    assert fetch() is not None
    assert [fetch(), fetch()] == [None, None]
