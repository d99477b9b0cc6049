"""`--ray-address`: a cluster that somebody else started computes the same, and is as it was afterwards."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from privet.common.errors import ConfigError
from privet.server.export import plan_toml
from privet.simulations.corpus.hospital import LABELS
from privet.simulations.engines.ray_cluster import join
from tests.tiny_models import tiny_base, tiny_plan

PRIVET = (sys.executable, "-m", "privet.common.cli")


# What is not there


class Unreachable:
    """In the place of Ray: never asked."""

    def init(self, *_: Any, **__: Any) -> None:
        raise AssertionError("Ray was asked to connect")


@pytest.mark.parametrize("address", ["", "here", "127.0.0.1", "127.0.0.1:", ":6379", "ray://h:10001", "h:0", "h:70000"])
def test_what_is_no_address_is_told(address: str) -> None:
    with pytest.raises(ConfigError, match="got") as caught:
        join(Unreachable(), address)
    assert (caught.value.where, caught.value.exit_code) == ("--ray-address", 2)
    assert "HOST:PORT" in caught.value.mend


def test_where_nothing_listens_it_is_told_at_once() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        began = time.monotonic()
        with pytest.raises(ConfigError, match=r"no Ray cluster answers at 127\.0\.0\.1") as caught:
            join(Unreachable(), f"127.0.0.1:{taken.getsockname()[1]}")
    assert time.monotonic() - began < 9.0
    assert "ray start --head" in caught.value.mend


def test_another_server_is_told_from_a_cluster() -> None:
    import grpc

    server = grpc.server(futures.ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with pytest.raises(ConfigError, match="no head of a Ray cluster"):
            join(Unreachable(), f"127.0.0.1:{port}")
    finally:
        server.stop(None).wait()


def test_a_port_that_is_silent_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("privet.simulations.engines.ray_cluster._ANSWER_SECONDS", 0.5)
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(ConfigError, match="no Ray cluster answers"),
    ):
        join(Unreachable(), f"127.0.0.1:{silent.getsockname()[1]}")


# A real one


@dataclass(frozen=True)
class Cluster:
    """A head with two cores, on the loopback interface alone."""

    address: str
    head: "subprocess.Popen[str]"
    environment: dict[str, str]

    @property
    def token(self) -> dict[str, str]:
        """The environment of a machine that has the cluster's token."""
        return {"RAY_AUTH_TOKEN_PATH": self.environment["RAY_AUTH_TOKEN_PATH"]}

    def actors(self) -> list[str]:
        """Processes of the cluster in which an actor of privet lives."""
        return [name for name in _titles(self.head.pid) if "Actor" in name]

    def is_as_it_was(self) -> None:
        """Up, and without an actor of privet, soon."""
        end = time.monotonic() + 30
        while self.actors():
            assert time.monotonic() < end, self.actors()
            time.sleep(0.2)
        assert self.head.poll() is None


def _titles(parent: int) -> list[str]:
    psutil: Any = pytest.importorskip("psutil")
    found = []
    for child in psutil.Process(parent).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            found.append(" ".join(child.cmdline()))
    return found


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    pytest.importorskip("ray", reason="needs the extra privet[ray]")
    psutil: Any = pytest.importorskip("psutil")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # a short path: Ray's sockets lie under it
    # An environment that is not privet's: what workers need must come with them.
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "HF_", "RAY_", "TOKENIZERS_"))}
    token = Path(folder) / "token"
    token.write_text(uuid.uuid4().hex)
    environment |= {"HOME": folder, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    environment |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "OMP_NUM_THREADS": "3", "RAY_USAGE_STATS_ENABLED": "0"}
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--num-cpus", "2"]
    command += ["--node-ip-address", "127.0.0.1", "--port", str(port), "--include-dashboard", "false"]
    command += ["--temp-dir", folder, "--object-store-memory", str(10**8), "--disable-usage-stats"]
    with open(f"{folder}/head.log", "w") as log:
        head = subprocess.Popen(command, env=environment, stdout=log, stderr=log, text=True, start_new_session=True)
    try:
        end = time.monotonic() + 60
        while "Ray runtime started" not in Path(f"{folder}/head.log").read_text():
            assert head.poll() is None, Path(f"{folder}/head.log").read_text()
            assert time.monotonic() < end
            time.sleep(0.2)
        yield Cluster(f"127.0.0.1:{port}", head, environment)
        assert head.poll() is None
    finally:
        family = [psutil.Process(head.pid), *psutil.Process(head.pid).children(recursive=True)]
        head.send_signal(signal.SIGTERM)
        _, alive = psutil.wait_procs(family, timeout=20)
        for process in alive:
            process.kill()
        psutil.wait_procs(alive, timeout=10)
        head.wait(10)
        subprocess.run(["rm", "-rf", folder], check=True)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("federation")
    plan = tiny_plan(
        tiny_base(folder / "base"),
        task={"labels": list(LABELS), "max_length": 64},
        method={"kind": "fedavg"},
        training={"rounds": 2, "local_steps": 2, "expected_batch": 8, "learning_rate": 0.03, "train_fraction": 0.8},
        evaluation={"release": "accuracy", "every": 1},
    )
    path = folder / "federation.toml"
    tables = '\n[server]\nruns = "runs"\n\n[simulation]\nseed = 5\ndropout = 0.2\nunit = "patient"\n'
    path.write_text(plan_toml(plan) + tables, encoding="utf-8")
    return path


def _simulated(file: Path, *flags: str, environment: dict[str, str] | None = None) -> dict[str, Any]:
    """What a run told and left."""
    before = set((file.parent / "runs").glob("*"))
    done = subprocess.run(
        [*PRIVET, "simulate", str(file), "--sites", "6", "--json", *flags],
        capture_output=True,
        text=True,
        timeout=600,
        env=os.environ | (environment or {}),
    )
    assert done.returncode == 0, done.stderr
    (run,) = set((file.parent / "runs").glob("*")) - before
    events = [json.loads(line) for line in done.stdout.splitlines()]
    rounds = [{k: v for k, v in event.items() if k != "seconds"} for event in events if event["event"] == "round"]
    (engine,) = [event for event in events if event["event"] == "engine"]
    adapter = json.loads((run / "adapter" / "privacy.json").read_text())["adapter"]
    return {"adapter": adapter, "rounds": rounds, "engine": engine["engine"], "gradients": engine["gradients"]}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_foreign_cluster_gives_what_this_machine_gives_and_is_left_as_it_was(cluster: Cluster, file: Path) -> None:
    local = _simulated(file, "--workers", "2")
    there = _simulated(file, "--engine", "ray", "--ray-address", cluster.address, environment=cluster.token)
    assert there.pop("engine") == "2 Ray actors"
    assert there == {key: value for key, value in local.items() if key != "engine"}
    cluster.is_as_it_was()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_workers_have_privets_settings_and_not_the_clusters(cluster: Cluster, file: Path) -> None:
    code = """
import os, sys
from privet.simulations.engines import open_engine
from privet.simulations.engines.local import SETTINGS
with open_engine("ray", 2, sys.argv[1]) as engine:
    assert dict(zip(SETTINGS, engine.call(os.getenv, list(SETTINGS)))) == SETTINGS
print("as they should be")
"""
    done = subprocess.run(
        [sys.executable, "-c", code, cluster.address],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | cluster.token,
    )
    assert "as they should be" in done.stdout, done.stderr
    assert cluster.environment["OMP_NUM_THREADS"] == "3"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("has_token", [False, True])
def test_who_has_no_token_of_the_cluster_is_told(cluster: Cluster, file: Path, tmp_path: Path, has_token: bool) -> None:
    """None at all, or another cluster's."""
    environment = {"HOME": str(tmp_path)}
    if has_token:
        (tmp_path / "token").write_text("0" * 32)
        environment["RAY_AUTH_TOKEN_PATH"] = str(tmp_path / "token")
    done = subprocess.run(
        [*PRIVET, "simulate", str(file), "--sites", "2", "--engine", "ray", "--ray-address", cluster.address],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | environment,
    )
    assert done.returncode == 2, done.stderr
    assert "without its token" in done.stderr
    assert "0" * 32 not in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_cluster_that_nobody_named_is_not_used(cluster: Cluster, file: Path) -> None:
    """Not even where the environment speaks of it: the sites' text would go there."""
    code = """
import ray
from privet.simulations.engines import open_engine
with open_engine("ray", 1) as engine:
    print(ray.get_runtime_context().gcs_address)
"""
    environment = os.environ | cluster.token | {"RAY_ADDRESS": cluster.address}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("127.0.0.1:")
    assert done.stdout.strip() != cluster.address


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ctrl_c_gives_the_cluster_its_actors_back(cluster: Cluster, file: Path) -> None:
    command = [*PRIVET, "simulate", str(file), "--sites", "6", "--json", "--set", "training.rounds=1000"]
    command += ["--engine", "ray", "--ray-address", cluster.address]
    environment = os.environ | cluster.token
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if json.loads(line)["event"] == "round":
                break
        assert cluster.actors()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 1, errors
    assert "--resume" in errors
    cluster.is_as_it_was()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_from_the_command_line_an_address_that_does_not_answer_is_exit_2(file: Path) -> None:
    pytest.importorskip("ray", reason="needs the extra privet[ray]")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        began = time.monotonic()
        done = subprocess.run(
            [*PRIVET, "simulate", str(file), "--sites", "2", "--engine", "ray", "--ray-address", f"127.0.0.1:{port}"],
            capture_output=True,
            text=True,
            timeout=240,
        )
        waited = time.monotonic() - began
    assert done.returncode == 2, done.stderr
    assert "no Ray cluster answers" in done.stderr
    assert waited < 90.0  # the command's own start included
    assert not list((file.parent / "runs").glob("*.partial"))
