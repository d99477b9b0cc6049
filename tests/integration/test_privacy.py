"""The privacy of a site as its operator meets it: real processes, gRPC and TLS, ledgers on disk."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from privet.common.errors import Code
from tests.integration.deployment import Deployment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

MEASURED = {
    "train_fraction = 1.0": "train_fraction = 0.6",
    'release = "none"': 'release = "accuracy"',
    "every = 5": "every = 2",
}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Deployment, Deployment, list[Path]]]:
    """Federations `one` and `other`; the site `clinic` takes part in both with one file, one agent and one ledger."""
    folder = tmp_path_factory.mktemp("two")
    one = Deployment(folder / "one", ("clinic", "ward"), MEASURED, name="one")
    other = Deployment(folder / "other", ("clinic", "lab"), name="other")
    there = (other.folder / "clinic" / "site.toml").read_text()
    table = "[federation.other]" + there.split("[federation.other]")[1]
    for name in ("ca.crt", "clinic.key"):
        table = table.replace(f'"{name}"', json.dumps(str(other.folder / "clinic" / name)))
    here = one.folder / "clinic" / "site.toml"
    budget, mine = here.read_text().split("[federation.one]")
    mine = mine.replace('release = ["update"]', 'release = ["update", "accuracy"]')
    shares = [_shared(text) for text in (mine, table)]
    here.write_text(budget + "[federation.one]" + shares[0] + "\n" + shares[1])
    try:
        servers = [one.server(), other.server()]
        clients = [one.client("clinic"), one.client("ward"), other.client("lab")]
        runs = [Path(str(server.until(lambda event: event["event"] == "finished")["run"])) for server in servers]
        assert [server.wait() for server in servers] == [0, 0]
        assert [client.wait() for client in clients] == [0, 0, 0], [client.words for client in clients]
        yield one, other, runs
    finally:
        one.close()
        other.close()


def _shared(table: str) -> str:
    """Half of the budget for this federation."""
    lines = []
    for line in table.splitlines():
        name, _, value = line.partition("=")
        if name.strip() in ("epsilon", "delta"):
            line = f"{name}= {float(value.split('#')[0]) / 2!r}"
        lines.append(line)
    return "\n".join(lines) + "\n"


def test_one_site_serves_two_federations_from_one_budget(two: tuple[Deployment, Deployment, list[Path]]) -> None:
    one, _, runs = two
    document = one.ledger("clinic")
    assert {plan["federation"]: plan["epsilon"] for plan in document["plans"]} == pytest.approx({"one": 4, "other": 4})
    assert document["reserved"]["epsilon"] == pytest.approx(8)
    assert document["left"]["epsilon"] == pytest.approx(0, abs=1e-9)
    for run in runs:
        rounds = _rounds(run)
        assert all("clinic" in event["answered"] for event in rounds)
    assert len([event for event in document["events"] if event["kind"] == "train"]) == 6


def test_only_the_site_that_releases_metrics_is_asked_and_they_say_how_much_is_noise(
    two: tuple[Deployment, Deployment, list[Path]],
) -> None:
    one, _, runs = two
    measured = [event for event in _rounds(runs[0]) if event["evaluation"] is not None]
    assert [event["round"] for event in measured] == [2, 3]
    assert all(event["evaluation"]["answered"] == ["clinic"] for event in measured)
    for event in measured:
        assert 0 < event["sites"]["noise_share"] < 1
        assert event["sites"]["error"] > 0
    kinds = [event["kind"] for event in one.ledger("clinic")["events"] if event["kind"] == "evaluate"]
    assert len(kinds) == 2
    assert not any(event["kind"] == "evaluate" for event in one.ledger("ward")["events"])
    privacy = json.loads((runs[0] / "adapter" / "privacy.json").read_text())["sites"]
    assert privacy["clinic"]["released"] == ["update", "accuracy"]
    assert privacy["ward"]["released"] == ["update"]


def test_an_operator_verifies_and_shows_all_that_left(two: tuple[Deployment, Deployment, list[Path]]) -> None:
    one, _, _ = two
    site = str(one.folder / "clinic" / "site.toml")
    one.run("ledger", site, "--verify")
    one.run("ledger", site, "--export", str(one.folder / "sent"))
    manifest = json.loads((one.folder / "sent" / "manifest.json").read_text())
    assert len(list((one.folder / "sent").glob("*.safetensors"))) == 8
    assert "clinic" not in json.dumps(manifest)


@pytest.mark.slow
def test_a_ledger_put_back_to_an_older_copy_trains_nothing_before_it_is_charged(tmp_path: Path) -> None:
    """Ledger and head file restored together: only the server knows better, and says so at the next offer."""
    slow = {"local_steps = 5": "local_steps = 30", "rounds = 40": "rounds = 60", "timeout = 600.0": "timeout = 12.0"}
    slow["spare_rounds = 0"] = "spare_rounds = 40"
    deployment = Deployment(tmp_path / "d", ("clinic", "ward", "lab"), slow)
    ledgers = Path(deployment.environment["XDG_STATE_HOME"]) / "privet" / "ledgers"
    try:
        server = deployment.server()
        for name in ("ward", "lab"):
            deployment.client(name)
        clinic = deployment.client("clinic")
        clinic.until(lambda event: event["event"] == "trained")
        clinic.kill()
        own = Path(deployment.ledger("clinic")["path"])
        copies = {path: path.read_bytes() for path in ledgers.glob(own.stem + "*") if not path.name.endswith(".lock")}
        old = {event["round"] for event in deployment.ledger("clinic")["events"]}

        clinic = deployment.client("clinic")
        newest = int(clinic.until(lambda event: event["event"] == "trained")["text"].split()[1])
        server.until(
            lambda event: event["event"] == "round" and "clinic" in event["answered"] and event["round"] >= newest
        )
        clinic.kill()
        for path in ledgers.glob(own.stem + "*"):
            path.unlink()
        for path, content in copies.items():
            path.write_bytes(content)

        clinic = deployment.client("clinic")
        clinic.until(lambda event: event["event"] == "refused" and "of this ledger's chain" in event["text"])
        assert clinic.wait() == 3
        assert "--charge-all" in clinic.words
        server.until(lambda event: event["event"] == "offer" and event["code"] == str(Code.LEDGER_BEHIND))
        assert {event["round"] for event in deployment.ledger("clinic")["events"]} == old
        assert deployment.client("clinic").wait() == 3  # it is noted: no server needs to say it again

        deployment.run("ledger", str(deployment.folder / "clinic" / "site.toml"), "--charge-all")
        document: dict[str, Any] = deployment.ledger("clinic")
        assert document["spent"]["epsilon"] == pytest.approx(document["reserved"]["epsilon"], rel=0.02)
        clinic = deployment.client("clinic")
        clinic.until(lambda event: event["event"] == "finished" or "counted as spent" in str(event.get("text")))
        assert not any(event["event"] == "trained" for event in clinic.events)
    finally:
        deployment.close()


def _rounds(run: Path) -> list[dict[str, Any]]:
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [event for event in events if event["event"] == "round"]
