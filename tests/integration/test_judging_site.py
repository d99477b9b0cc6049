"""A site that only evaluates, as people run it: real processes, gRPC and TLS from end to end."""

import json
from pathlib import Path

import pytest

from tests.integration.deployment import Deployment


@pytest.mark.slow
def test_a_site_that_only_evaluates_takes_part(tmp_path: Path) -> None:
    settings = {
        "timeout = 600.0": "timeout = 120.0",
        "wait = 3600.0": "wait = 200.0",
        'release = "none"': 'release = "accuracy"',
        "every = 5 ": "every = 1 ",
        "train_fraction = 1.0": 'train_fraction = 0.7\ncompression = "int8"\nschedule = "linear"',
    }
    deployment = Deployment(tmp_path, ("clinic", "judge", "ward"), settings)
    try:
        for name in ("clinic", "ward"):
            deployment.edit(name, 'release = ["update"]', 'release = ["update", "accuracy"]')
        deployment.edit("judge", 'release = ["update"]', 'release = ["accuracy"]\nevaluate_only = true')
        server = deployment.server()
        clients = {name: deployment.client(name) for name in deployment.sites}
        assert server.wait() == 0, server.words
        for name, client in clients.items():
            assert client.wait() == 0, (name, client.words)
        (run,) = (deployment.home / "runs").glob("tiny-*")
        events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        rounds = [event for event in events if event["event"] == "round"]
        assert len(rounds) == 3
        for row in rounds:
            assert set(row["cohort"]) <= {"clinic", "ward"}
            assert len(row["cohort"]) == 2
            assert set(row["evaluation"]["answered"]) == {"clinic", "judge", "ward"}
            assert row["compression"]["kind"] == "int8"
            assert 0 < row["compression"]["error_bound"] < 0.05
        kinds = {name: {e["kind"] for e in deployment.ledger(name)["events"]} for name in deployment.sites}
        assert kinds == {"clinic": {"train", "evaluate"}, "judge": {"evaluate"}, "ward": {"train", "evaluate"}}
        privacy = json.loads((run / "adapter" / "privacy.json").read_text())
        judge = privacy["sites"]["judge"]
        assert (judge["rounds"], judge["train_fraction"], judge["released"]) == (0, 0.0, ["accuracy"])
        assert privacy["guarantee"] is True
        assert 0 < deployment.ledger("judge")["spent"]["epsilon"] <= 8.0
        assert "only evaluates" in (run / "adapter" / "README.md").read_text()
        assert "sent as int8" in (run / "report.html").read_text()
        assert "Learning rate by round" in (run / "report.html").read_text()
        assert not deployment.guard.exists()
    finally:
        deployment.close()
