"""Several codes a note, over gRPC and TLS: training, noised counts of codes, and nothing of a code on the wire."""

import json
from pathlib import Path

import pytest

from privet.common.tasks.score import score_of
from privet.simulations.corpus import write_csv
from privet.simulations.corpus.codes import coded_notes, public_coded_notes
from tests.integration.deployment import Deployment

pytestmark = [pytest.mark.timeout(1800), pytest.mark.slow]
LONG = 900.0  # seconds: on a machine that does much else


def test_notes_with_several_codes_are_learned_and_judged_at_the_sites(tmp_path: Path) -> None:
    sites = ("clinic", "ward")
    settings = {
        'kind = "classification"': 'kind = "multilabel"\nthresholds = { cardiology = 0.4 }',
        'release = "none"': 'release = "per_class"',
        "every = 5": "every = 1",
        "train_fraction = 1.0": "train_fraction = 0.5",
        "timeout = 600.0": "timeout = 600.0",
        "wait = 3600.0": "wait = 900.0",
    }
    deployment = Deployment(tmp_path / "federation", sites, settings)
    try:
        corpus = coded_notes(num_sites=len(sites), num_patients=60)
        for name, source in zip(sites, corpus.sites, strict=True):
            file = deployment.folder / name / "notes.csv"
            write_csv(corpus, source, file)
            with file.open("a") as notes:  # an unknown code adds nothing, and is told to the operator only
                notes.write(f"a note that nobody can code,cardiology;unheard,{source}-9999\n")
            deployment.edit(name, 'release = ["update"]', 'release = ["update", "per_class"]')
        write_csv(public_coded_notes(num_records=60), None, deployment.home / "public.csv")
        server = deployment.server()
        clients = [deployment.client(name) for name in sites]
        run = Path(str(server.until(lambda event: event["event"] == "finished", LONG)["run"]))
        assert server.wait(LONG) == 0
        assert [client.wait(LONG) for client in clients] == [0, 0], [client.words for client in clients]
        events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        rounds = [event for event in events if event["event"] == "round"]
        assert len(rounds) == 3
        for event in rounds:
            assert event["evaluation"]["answered"] == list(sites)
            assert event["public"]["score_name"] == "micro F1"
            assert event["sites"]["num_units_error"] > 0
            value = score_of(event["sites"])
            assert value is None or 0 <= value <= 1
        assert "unheard" not in (run / "metrics.jsonl").read_text() + server.words
        status = deployment.run("status", str(deployment.home / "federation.toml"), code=1)
        assert "Public micro F1" in status.stdout + status.stderr
    finally:
        deployment.close()
