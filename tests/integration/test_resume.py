"""A real server is stopped and then killed in the middle of its run: it goes on, and its sites come back to it."""

import json
from pathlib import Path

import pytest

from tests.integration.deployment import Deployment

pytestmark = [pytest.mark.timeout(900), pytest.mark.slow]
_LONG = 240.0  # seconds


def test_a_stopped_and_then_killed_server_goes_on_and_its_sites_come_back(tmp_path: Path) -> None:
    settings = {"local_steps = 5": "local_steps = 60", "rounds = 40": "rounds = 6", "wait = 3600.0": "wait = 250.0"}
    deployment = Deployment(tmp_path / "d", ("clinic", "ward"), settings)
    try:
        server = deployment.server()
        clients = [deployment.client(name) for name in deployment.sites]
        server.until(lambda event: event["event"] == "round_started" and event["round"] == 2, _LONG)
        server.child.terminate()
        assert server.wait(_LONG) == 0
        assert "continue with `privet server federation.toml --resume`" in server.words
        (run,) = (deployment.home / "runs").iterdir()
        refused = deployment.server()
        assert refused.wait(_LONG) == 2
        assert "--resume" in refused.words
        second = deployment.server("--resume")
        assert second.until(lambda event: event["event"] == "resumed", _LONG)["round"] in (1, 2)
        second.until(lambda event: event["event"] == "round_started" and event["round"] == 4, _LONG)
        second.kill()
        third = deployment.server("--resume")
        assert third.until(lambda event: event["event"] == "resumed", _LONG)["round"] >= 3
        finished = third.until(lambda event: event["event"] == "finished", _LONG)
        assert (Path(finished["run"]), finished["rounds"]) == (run.resolve(), 6)
        assert third.wait() == 0
        assert [client.wait() for client in clients] == [0, 0], [client.words for client in clients]
        assert len(deployment.started) == 6  # no client was started again
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        rounds = [row for row in rows if row["event"] == "round"]
        assert [row["round"] for row in rounds] == [1, 2, 3, 4, 5, 6]
        assert [row["answered"] for row in rounds] == [["clinic", "ward"]] * 6
        assert {path.name for path in run.iterdir()} >= {"adapter", "report.html", "sentence-transformers"}
        privacy = json.loads((run / "adapter" / "privacy.json").read_text())
        assert privacy["adapter"] == finished["adapter"]
        for name in deployment.sites:
            events = deployment.ledger(name)["events"]
            assert sorted(event["round"] for event in events) == [1, 2, 3, 4, 5, 6]
            assert {event["state"] for event in events} == {"stored"}
        over = deployment.server("--resume")
        assert over.wait(_LONG) == 2
        assert "finished" in over.words
    finally:
        deployment.close()
