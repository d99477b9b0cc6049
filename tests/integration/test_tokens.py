"""Named entities from end to end: server and sites as processes of their own, over gRPC and TLS."""

import json
from pathlib import Path

import pytest

from privet.simulations.corpus import write_csv
from privet.simulations.corpus.hospital import LABELS as HOSPITAL
from privet.simulations.corpus.tagged import TYPES, tagged_notes, write_conll, write_json_lines
from tests.integration.deployment import Deployment

pytestmark = [pytest.mark.timeout(1400), pytest.mark.slow]


def test_a_federation_of_tagged_texts(tmp_path: Path) -> None:
    """One site has JSON lines, the other CoNLL columns, the public text is a table; both release noised counts."""
    settings = {
        'kind = "classification"': 'kind = "tokens"',
        f"labels = {json.dumps(HOSPITAL)}": f"labels = {json.dumps(TYPES)}",
        'pooling = "mean"': 'pooling = "none"',
        'kind = "head"  ': 'kind = "ffa"  ',
        'release = "none"': 'release = "per_class"',
        "every = 5": "every = 1",
        "train_fraction = 1.0": "train_fraction = 0.7",
        "timeout = 600.0": "timeout = 120.0",
        "wait = 3600.0": "wait = 150.0",
    }
    deployment = Deployment(tmp_path / "run", ("clinic", "ward"), settings)
    try:
        public = tagged_notes(num_sites=1, num_patients=30, public=True)
        write_csv(public, None, deployment.home / "public.csv")
        corpus = tagged_notes(num_sites=2, num_patients=60)
        for name, source in zip(deployment.sites, corpus.sites, strict=True):
            folder = tmp_path / "run" / name
            if name == "clinic":
                write_json_lines(corpus, source, folder / "notes.jsonl")
                given = {"source": "notes.jsonl", "text": "tokens", "label": "tags", "format": "tokens"}
            else:
                write_conll(corpus, source, folder / "notes.conll")
                given = {"source": "notes.conll", "text": "1", "label": "-1"}
            _set(folder / "site.toml", given, release='["update", "per_class"]')
        server = deployment.server()
        clients = [deployment.client(name) for name in deployment.sites]
        run = Path(str(server.until(lambda event: event["event"] == "finished", timeout=800)["run"]))
        assert server.wait() == 0
        assert [client.wait(300) for client in clients] == [0, 0], [client.words for client in clients]
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
        rounds = [row for row in rows if row["event"] == "round"]
        assert [row["answered"] for row in rounds] == [["clinic", "ward"]] * 3
        assert all(row["public"]["score_name"] == "entity F1" for row in rounds)
        assert all(row["evaluation"]["answered"] == ["clinic", "ward"] for row in rounds)
        config = json.loads((run / "adapter" / "adapter_config.json").read_text("utf-8"))
        assert config["task_type"] == "TOKEN_CLS"
        assert not deployment.guard.exists()
    finally:
        deployment.close()


def _set(file: Path, data: dict[str, str], *, release: str) -> None:
    """Rewrite keys of [data], and what the federation may be sent."""
    lines = []
    table = ""
    for line in file.read_text("utf-8").splitlines():
        key = line.split("=")[0].strip()
        table = line.strip() if line.startswith("[") else table
        if line.strip() == "[data]":
            lines += [line, *(f'{name} = "{value}"' for name, value in data.items())]
            continue
        if table == "[data]" and key in data:
            continue
        if key in ("release", "# release"):
            continue
        if table.startswith("[federation") and line.startswith("["):
            lines += [line, f"release = {release}"]
            continue
        lines.append(line)
    file.write_text("\n".join(lines) + "\n", "utf-8")
