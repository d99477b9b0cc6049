"""A rehearsal between real processes, and then the real run with the same clients."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.deployment import Deployment

pytestmark = [pytest.mark.timeout(900), pytest.mark.slow]

LONG = 300.0  # seconds; each site starts a process of its own and builds a model in it


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    made = Deployment(tmp_path_factory.mktemp("rehearsal"), ("clinic", "ward"), {"timeout = 600.0": "timeout = 120.0"})
    try:
        yield made
    finally:
        made.close()


def _ledgers(deployment: Deployment) -> dict[str, str]:
    """The digest of every ledger's file, without what SQLite keeps beside it."""
    found = sorted((deployment.folder / "state").rglob("*.sqlite"))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def test_a_rehearsal_spends_nothing_and_the_same_clients_then_run_the_federation(deployment: Deployment) -> None:
    clients = {name: deployment.client(name) for name in deployment.sites}
    for client in clients.values():
        client.until(lambda event: event["event"] == "link" and event["state"] == "connecting")
    before = _ledgers(deployment)
    assert len(before) == 2

    server = deployment.server("--rehearse", "2")
    told = server.until(lambda event: event["event"] == "rehearsed", LONG)
    assert server.wait() == 0, server.words
    assert told["rehearsal"] is True
    assert told["estimate_seconds"] > 0
    for name in deployment.sites:
        site = told["sites"][name]
        assert site["passed"]
        assert [row["code"] for row in site["rounds"]] == ["ok", "ok"]
        assert all(row["bytes_up"] == row["bytes_down"] > 0 and row["peak_bytes"] > 1e8 for row in site["rounds"])
    folder = Path(str(told["run"]))
    assert [path.name for path in folder.iterdir()] == ["rehearsal.json"]
    assert json.loads((folder / "rehearsal.json").read_text())["rehearsal"] is True
    assert [path.name for path in (deployment.home / "runs").iterdir()] == [folder.name]
    assert not (deployment.home / "state" / "heads.json").exists()

    assert _ledgers(deployment) == before
    for name, client in clients.items():
        assert client.child.poll() is None, client.words
        assert not [event for event in client.events if event["event"] in ("approved", "training", "pending")]
        ledger = deployment.ledger(name)
        assert ledger["spent"]["epsilon"] == ledger["reserved"]["epsilon"] == 0
        assert not ledger["events"]
        assert not ledger["plans"]

    server = deployment.server()
    server.until(lambda event: event["event"] == "finished", LONG)
    assert server.wait() == 0
    assert [client.wait() for client in clients.values()] == [0, 0], [client.words for client in clients.values()]
    rounds = [event for event in server.events if event["event"] == "round"]
    assert [event["answered"] for event in rounds] == [["clinic", "ward"]] * 3
    assert all(deployment.ledger(name)["spent"]["epsilon"] > 0 for name in deployment.sites)
    assert not deployment.guard.exists()


def test_a_site_that_does_not_consent_is_named_and_stays(deployment: Deployment) -> None:
    deployment.edit("ward", "rehearsal = true", "rehearsal = false")
    clients = {name: deployment.client(name) for name in deployment.sites}
    server = deployment.server("--rehearse", "1")
    told = server.until(lambda event: event["event"] == "rehearsed", LONG)
    assert server.wait() == 1
    assert "ward: no consent" in server.words
    assert told["sites"]["clinic"]["passed"]
    assert told["sites"]["ward"]["code"] == "refused_policy"
    refusal = clients["ward"].until(lambda event: event["event"] == "refused")
    assert "federation.tiny.rehearsal" in refusal["text"]
    assert all(client.child.poll() is None for client in clients.values())
