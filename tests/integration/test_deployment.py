"""Server and clients as processes of their own, over gRPC and TLS, from the command line."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.deployment import Deployment, Tap

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Deployment, Tap, Path]]:
    """Two sites, three rounds, undisturbed; one of them through a tap. Run folder last."""
    deployment = Deployment(tmp_path_factory.mktemp("finished"), ("clinic", "ward"))
    tap = Tap(deployment.port)
    deployment.edit("clinic", f"127.0.0.1:{deployment.port}", f"127.0.0.1:{tap.port}")
    try:
        server = deployment.server()
        clients = [deployment.client(name) for name in deployment.sites]
        run = Path(str(server.until(lambda event: event["event"] == "finished")["run"]))
        assert server.wait() == 0
        assert [client.wait() for client in clients] == [0, 0], [client.words for client in clients]
        yield deployment, tap, run
    finally:
        tap.close()
        deployment.close()


def test_a_federation_runs_to_its_end(finished: tuple[Deployment, Tap, Path]) -> None:
    deployment, _, run = finished
    rounds = [e for e in _events(run) if e["event"] == "round"]
    assert [e["answered"] for e in rounds] == [["clinic", "ward"]] * 3
    assert all(e["public"]["num_records"] == 60 for e in rounds)
    for name in deployment.sites:
        document = deployment.ledger(name)
        assert [event["state"] for event in document["events"]] == ["stored"] * 3
        assert 0 < document["spent"]["epsilon"] <= document["reserved"]["epsilon"] <= 8.0


def test_every_reply_that_left_stands_in_the_audit_log(finished: tuple[Deployment, Tap, Path]) -> None:
    deployment, _, run = finished
    for name in deployment.sites:
        lines = _audited(deployment, name, "finished")
        left = [line["fields"]["reply_sha256"] for line in lines if line["fields"].get("what") == "update"]
        assert left == [event["reply_sha256"] for event in deployment.ledger(name)["events"]]
        text = json.dumps(lines)
        assert str(deployment.folder) not in text
        assert "notes" not in text
    file = str(deployment.home / "state" / "audit.jsonl")
    head = json.loads(deployment.run("log", file, "--verify", "--json").stdout)
    deployment.run("log", file, "--verify", "--head", head["head"])
    deployment.run("log", file, "--verify", "--head", "0" * 64, code=1)
    kinds = [line["kind"] for line in json.loads(deployment.run("log", file, "--json").stdout)["lines"]]
    assert kinds.count("enrolled") == kinds.count("agreed") == 2
    assert kinds[-5:] == ["round_ended", "round_started", "round_ended", "finished", "stopped"]
    done = json.loads(deployment.run("status", str(deployment.home / "federation.toml"), "--json", code=1).stdout)
    assert (done["status"]["phase"], done["status"]["completed"]) == ("finished", 3)
    assert done["status"]["run"] == str(run.resolve())


def test_the_run_folder_is_whole(finished: tuple[Deployment, Tap, Path]) -> None:
    _, _, run = finished
    wanted = {"plan.toml", "metrics.jsonl", "report.html", "adapter", "checkpoints", "sentence-transformers"}
    assert wanted <= {path.name for path in run.iterdir()}
    privacy = json.loads((run / "adapter" / "privacy.json").read_text())
    text = json.dumps(privacy)
    assert "clinic" in text
    assert "ward" in text
    assert (run / "adapter" / "README.md").read_text().startswith("---")


def test_the_wire_shows_tls_and_nothing_else(finished: tuple[Deployment, Tap, Path]) -> None:
    deployment, tap, _ = finished
    assert tap.first
    assert all(first[:1] == b"\x16" and first[1:2] == b"\x03" for first in tap.first)  # a TLS handshake record
    secrets = [b"head.weight", b"plan_digest", b"privet", b"RecordDict", b"clinic", b"statement"]
    notes = (deployment.folder / "clinic" / "notes.csv").read_text().splitlines()[1:20]
    secrets += [note.split(",")[0][:24].encode() for note in notes]
    assert len(tap.bytes) > 10_000
    assert [secret for secret in secrets if secret in tap.bytes] == []


def test_no_process_tries_to_leave_the_loopback(finished: tuple[Deployment, Tap, Path]) -> None:
    deployment, _, _ = finished
    assert not deployment.guard.exists(), deployment.guard.read_text()


def test_no_private_text_is_copied_anywhere(finished: tuple[Deployment, Tap, Path]) -> None:
    """Not into state folders, logs, caches or the run folder."""
    deployment, _, _ = finished
    notes = (deployment.folder / "clinic" / "notes.csv").read_text().splitlines()[1:]
    needles = [note.split(",")[0][:40].encode() for note in notes[:10]]
    found = [
        str(path)
        for path in deployment.folder.rglob("*")
        if path.is_file() and path.name != "notes.csv" and any(needle in path.read_bytes() for needle in needles)
    ]
    assert found == []


def test_prediction_with_the_result(finished: tuple[Deployment, Tap, Path]) -> None:
    deployment, _, run = finished
    (deployment.folder / "texts.txt").write_text("chest pain since the morning\nan itching rash\n")
    done = deployment.run("predict", str(run / "adapter"), str(deployment.folder / "texts.txt"), "--json")
    predictions = json.loads(done.stdout)["predictions"]
    assert len(predictions) == 2
    assert all(0 < one["probability"] <= 1 for one in predictions)


@pytest.mark.slow
def test_a_killed_site_is_named_and_rejoins(tmp_path: Path) -> None:
    """SIGKILL in a round: the run goes on, the ledger covers what may have been spent, the site comes back."""
    slow = {"local_steps = 5": "local_steps = 150", "rounds = 40": "rounds = 12", "timeout = 600.0": "timeout = 12.0"}
    deployment = Deployment(tmp_path / "d", ("clinic", "ward", "lab"), slow)
    try:
        server = deployment.server()
        clients = {name: deployment.client(name) for name in deployment.sites}
        whole = server.until(lambda event: event["event"] == "round_started" and len(event["cohort"]) == 3)["round"]
        clients["lab"].until(lambda event: event["event"] == "training" and f"round {whole} " in event["text"])
        clients["lab"].kill()
        missed = server.until(
            lambda event: event["event"] == "round" and "lab" in event["missing"] + list(event["failed"])
        )
        assert {"clinic", "ward"} <= set(missed["answered"])
        document = deployment.ledger("lab")
        assert any(event["round"] == missed["round"] for event in document["events"])
        assert document["spent"]["epsilon"] > 0
        again = deployment.client("lab")
        back = server.until(
            lambda event: event["event"] == "round" and "lab" in event["answered"] and event["round"] > missed["round"]
        )
        assert back["round"] > missed["round"]
        assert server.wait() == 0
        assert again.wait() == 0
        assert [clients[name].wait() for name in ("clinic", "ward")] == [0, 0]
        stored = [e["round"] for e in deployment.ledger("lab")["events"] if e["state"] == "stored"]
        assert missed["round"] not in stored
    finally:
        deployment.close()


@pytest.mark.slow
def test_refusals_and_faults_are_told_where_the_person_sits(tmp_path: Path) -> None:
    deployment = Deployment(
        tmp_path / "d", ("clinic", "ward"), {"min_sites = 2": "min_sites = 1", "wait = 3600.0": "wait = 250.0"}
    )
    try:
        stranger = deployment.folder / "ward"
        (deployment.home / "sites" / "ward.pub").unlink()
        # nobody there yet: the client waits and says so
        early = deployment.client("clinic", "--set", 'policy.approve="ask"')
        early.until(lambda event: event["event"] == "link" and event["state"] == "retrying")
        server = deployment.server()
        assert early.wait() == 3
        assert "privet approve" in early.words
        digest = deployment.ledger("clinic")["plans"][0]["digest"]
        # an unknown key, another CA
        unknown = deployment.client("ward")
        assert unknown.wait() == 1
        assert "enrol" in unknown.words or "sites" in unknown.words
        other = deployment.run("init", "federation", "--host", "localhost", "--folder", str(tmp_path / "x"), "--base",
                               str(deployment.folder / "base"), "--name", "x")  # fmt: skip
        assert other.returncode == 0
        wrong = deployment.client("ward", "--set", f'federation.tiny.ca="{tmp_path / "x" / "keys" / "ca.crt"}"')
        assert wrong.wait() == 1
        assert "certificate" in wrong.words.lower() or "ca" in wrong.words
        # a second server on the same port
        second = deployment.server()
        assert second.wait() == 1
        assert str(deployment.port) in second.words
        # approved by the operator, it takes part
        deployment.run("approve", str(deployment.folder / "clinic" / "site.toml"), digest[:12])
        joined = deployment.client("clinic", "--set", 'policy.approve="ask"')
        assert server.wait() == 0
        assert joined.wait() == 0
        assert stranger.exists()
    finally:
        deployment.close()


@pytest.mark.slow
def test_sigterm_drains_and_nothing_is_left_behind(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path / "d", ("clinic", "ward"), {"local_steps = 5": "local_steps = 300"})
    try:
        server = deployment.server()
        clients = [deployment.client(name) for name in deployment.sites]
        clients[0].until(lambda event: event["event"] == "training")
        for process in (*clients, server):
            process.child.terminate()
        assert [client.wait(30) for client in clients] == [0, 0]
        assert server.wait(30) == 0
        assert "--resume" in server.words
        states = [event["state"] for event in deployment.ledger("clinic")["events"]]
        assert states
        assert set(states) == {"stored"}  # the round under way was finished and stored
        for name in deployment.sites:
            _audited(deployment, name, "signal")
        server_log = json.loads(deployment.run("log", str(deployment.home / "state" / "audit.jsonl"), "--json").stdout)
        assert server_log["lines"][-1]["fields"]["reason"] == "signal"
        gone = json.loads(deployment.run("status", str(deployment.home / "federation.toml"), "--json", code=1).stdout)
        assert (gone["running"], gone["status"]["phase"]) == (False, "stopped")
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", deployment.port))
    finally:
        deployment.close()


def _audited(deployment: Deployment, name: str, reason: str) -> list[dict]:  # type: ignore[type-arg]
    """The lines of a site's audit log, which its ledger agrees with, and which ends with `reason`."""
    site = deployment.folder / name / "site.toml"
    ledger = Path(deployment.ledger(name)["path"])
    file = str(ledger.with_suffix(".audit.jsonl"))
    deployment.run("log", file, "--verify", "--ledger", str(site))
    lines: list[dict] = json.loads(deployment.run("log", file, "--json").stdout)["lines"]  # type: ignore[type-arg]
    assert lines[-1]["kind"] == "stopped"
    assert lines[-1]["fields"]["reason"] == reason
    return lines


def _events(run: Path) -> list[dict]:  # type: ignore[type-arg]
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
