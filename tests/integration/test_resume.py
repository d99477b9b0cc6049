"""SIGKILL to a real server in the middle of its run: it goes on, and the sites come back to it by themselves."""

import json
from pathlib import Path

import pytest

from tests.integration.deployment import Deployment

pytestmark = [pytest.mark.timeout(300), pytest.mark.slow]


def test_a_killed_server_goes_on_and_its_sites_come_back(tmp_path: Path) -> None:
    slow = {"local_steps = 5": "local_steps = 60", "rounds = 40": "rounds = 6"}
    deployment = Deployment(tmp_path / "d", ("clinic", "ward"), slow)
    try:
        server = deployment.server()
        clients = [deployment.client(name) for name in deployment.sites]
        server.until(lambda event: event["event"] == "round_started" and event["round"] == 3)
        server.kill()
        (run,) = (deployment.home / "runs").iterdir()
        refused = deployment.server()
        assert refused.wait() == 2
        assert "--resume" in refused.words
        again = deployment.server("--resume")
        resumed = again.until(lambda event: event["event"] == "resumed")
        assert resumed["round"] >= 2
        finished = again.until(lambda event: event["event"] == "finished")
        assert (Path(finished["run"]), finished["rounds"]) == (run.resolve(), 6)
        assert again.wait() == 0
        assert [client.wait() for client in clients] == [0, 0], [client.words for client in clients]
        assert len(deployment.started) == 5  # no client was started again
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        rounds = [row for row in rows if row["event"] == "round"]
        assert [row["round"] for row in rounds] == [1, 2, 3, 4, 5, 6]
        assert [row["answered"] for row in rounds] == [["clinic", "ward"]] * 6
        assert {path.name for path in run.iterdir()} >= {"adapter", "report.html", "sentence-transformers"}
        for name in deployment.sites:
            events = deployment.ledger(name)["events"]
            assert sorted(event["round"] for event in events) == [1, 2, 3, 4, 5, 6]
            assert {event["state"] for event in events} == {"stored"}
        over = deployment.server("--resume")
        assert over.wait() == 2
        assert "finished" in over.words
    finally:
        deployment.close()


def test_a_stopped_server_says_how_to_go_on(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path / "d", ("clinic", "ward"), {"local_steps = 5": "local_steps = 60"})
    try:
        server = deployment.server()
        clients = [deployment.client(name) for name in deployment.sites]
        server.until(lambda event: event["event"] == "round_started" and event["round"] == 2)
        server.child.terminate()
        assert server.wait(30) == 1
        assert "continue with `privet server federation.toml --resume`" in server.words
        again = deployment.server("--resume")
        assert again.wait() == 0
        assert [client.wait() for client in clients] == [0, 0], [client.words for client in clients]
        for name in deployment.sites:
            assert [event["round"] for event in deployment.ledger(name)["events"]] == [1, 2, 3]
    finally:
        deployment.close()
