"""The container's health check: gRPC's own, over TLS that is verified."""

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health import HealthServicer
from grpc_health.v1.health_pb2 import HealthCheckResponse

from deploy import health
from privet.server.enrolment import create_authority


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("federation") / "keys"
    create_authority(folder, ["fl.example.org"])
    return folder


@pytest.fixture
def serve(keys: Path, tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Starts a server that answers the health check so, beside a federation.toml that names its port."""
    running = []

    def start(status: int) -> Path:
        server = grpc.server(ThreadPoolExecutor(1))
        servicer = HealthServicer()
        servicer.set("", status)
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        pair = ((keys / "server.key").read_bytes(), (keys / "server.crt").read_bytes())
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials((pair,)))
        server.start()
        running.append(server)
        shutil.copytree(keys, tmp_path / "keys")
        (tmp_path / "federation.toml").write_text(f'[server]\naddress = "0.0.0.0:{port}"\n')
        return tmp_path / "federation.toml"

    yield start
    for server in running:
        server.stop(0).wait()


def test_a_server_that_serves(serve: Callable[[int], Path]) -> None:
    assert health.main(serve(HealthCheckResponse.SERVING)) == 0


def test_a_server_that_closes(serve: Callable[[int], Path]) -> None:
    assert health.main(serve(HealthCheckResponse.NOT_SERVING)) == 1


def test_another_server_on_that_port(serve: Callable[[int], Path], capsys: pytest.CaptureFixture[str]) -> None:
    file = serve(HealthCheckResponse.SERVING)
    create_authority(file.parent / "other", ["fl.example.org"])
    shutil.copy(file.parent / "other" / "ca.crt", file.parent / "keys" / "ca.crt")
    assert health.main(file) == 1
    assert "UNAVAILABLE" in capsys.readouterr().err


def test_nobody_on_that_port(keys: Path, tmp_path: Path) -> None:
    (tmp_path / "federation.toml").write_text('[server]\naddress = "0.0.0.0:1"\nca = "keys/ca.crt"\n')
    shutil.copytree(keys, tmp_path / "keys")
    assert health.main(tmp_path / "federation.toml") == 1
