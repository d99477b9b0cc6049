"""FedProx in a real deployment: server and sites as processes, over gRPC and TLS, where it is installed and listed."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.deployment import Deployment
from tests.plugins import install_fedprox

pytestmark = [pytest.mark.timeout(300), pytest.mark.slow]

LISTED = 'methods = ["head", "fedavg", "ffa", "fedprox"]'
OWN = 'methods = ["head", "fedavg", "ffa"]'


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    """A plan of FedProx for two sites that have the package and list it, and two that lack one of both."""
    made = Deployment(
        tmp_path / "deployment",
        ("clinic", "ward", "lacking", "unlisted"),
        {'kind = "head" ': 'kind = "fedprox" ', "# options = { mu = 0.1 }": "options = { mu = 0.5 }"},
    )
    yield made
    made.close()


def test_sites_that_have_and_list_it_train_by_it_and_the_others_refuse(deployment: Deployment, tmp_path: Path) -> None:
    bare = dict(deployment.environment)
    packages = install_fedprox(tmp_path / "packages")
    module = packages / "privet_fedprox.py"
    module.write_text(
        "import os, pathlib\n"
        "pathlib.Path(os.environ['PRIVET_TEST_IMPORTED'], str(os.getpid())).touch()\n" + module.read_text()
    )
    having = bare | {"PYTHONPATH": os.pathsep.join([str(packages), bare["PYTHONPATH"]])}

    def imported(name: str) -> bool:
        return any((tmp_path / f"imported-{name}").iterdir())

    def start(name: str, environment: dict[str, str]) -> None:
        folder = tmp_path / f"imported-{name}"
        folder.mkdir()
        deployment.environment = environment | {"PRIVET_TEST_IMPORTED": str(folder)}
        deployment.server() if name == "server" else deployment.client(name)

    for name in ("clinic", "ward", "lacking"):
        deployment.edit(name, OWN, LISTED)
    start("server", having)
    start("unlisted", having)
    start("lacking", bare)
    server, unlisted, lacking = deployment.started
    refusals = [process.until(lambda event: event["event"] == "refused")["text"] for process in (unlisted, lacking)]
    assert "is not among policy.methods" in refusals[0]
    assert "privet-fedprox 0.1.0" in refusals[0]
    assert "no method fedprox is installed here" in refusals[1]
    assert [process.wait() for process in (unlisted, lacking)] == [3, 3]
    start("clinic", having)
    start("ward", having)
    run = Path(str(server.until(lambda event: event["event"] == "finished")["run"]))
    assert [process.wait() for process in (server, *deployment.started[3:])] == [0, 0, 0]
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [event["answered"] for event in events if event["event"] == "round"] == [["clinic", "ward"]] * 3
    codes = {event["site"]: event["code"] for event in events if event["event"] == "offer"} or {
        event["site"]: event["code"] for event in server.events if event["event"] == "offer"
    }
    assert codes == {"clinic": "ok", "ward": "ok", "lacking": "refused_policy", "unlisted": "refused_policy"}
    assert [imported(name) for name in ("server", "clinic", "ward", "unlisted")] == [True, True, True, False]
    assert "mu = 0.5" in (run / "plan.toml").read_text()
    assert not deployment.guard.exists()


def test_a_server_that_lacks_it_says_so_before_it_listens(deployment: Deployment) -> None:
    done = deployment.run("server", str(deployment.home / "federation.toml"), code=2)
    assert "no method fedprox is installed here; there are: head, ffa, fedavg" in " ".join(done.stderr.split())
    site = deployment.folder / "clinic" / "site.toml"
    checked = deployment.run("check", str(site), "--plan", str(deployment.home / "invite.toml"), "--offline", "--json")
    assert json.loads(checked.stdout)["plan"]["decision"] == "refused"
