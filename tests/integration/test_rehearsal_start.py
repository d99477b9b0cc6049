"""A rehearsal of a plan that starts from a trained adapter under other labels, between real processes; then the run."""

import json
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from privet.common.adapter import digest
from privet.common.config import load_federation
from privet.common.model import build_classifier, load_tokenizer
from privet.common.prediction import Predictor
from privet.server.evaluation import PublicEvaluator, load_public
from privet.server.relabel import relabelled
from privet.simulations import SimulationData, simulate
from privet.simulations.corpus import hospital_notes, public_sample
from tests.integration.deployment import Deployment
from tests.integration.test_rehearsal import LONG, _ledgers
from tests.tiny_models import tiny_base, tiny_plan

pytestmark = [pytest.mark.timeout(900), pytest.mark.slow]

SITES = ("north", "south")


@dataclass(frozen=True)
class Started:
    """A federation whose plan goes on from `run`, whose first label was another word and whose last one is new."""

    deployment: Deployment
    run: Path
    mapping: dict[str, str]
    arrays: dict[str, Any]

    @property
    def digest(self) -> str:
        return digest(self.arrays)

    def public(self) -> dict[str, Any]:
        """What the server's public file says of these arrays, under the new labels: loss and accuracy."""
        federation = load_federation(self.deployment.home / "federation.toml")
        base, plan = self.deployment.folder / "base", federation.plan
        assert federation.server.public is not None
        texts, truth = load_public(federation.server.public, plan.task)
        judge = PublicEvaluator(plan, build_classifier(plan, base), load_tokenizer(base), texts, truth, False)
        found: Any = judge(self.arrays)
        return {"accuracy": found.accuracy, "loss": found.loss}


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    folder = tmp_path_factory.mktemp("start")
    corpus = hospital_notes(num_sites=2, num_patients=60)
    now = list(corpus.labels)
    names = {now[0]: "an earlier word", now[-1]: now[-2]}  # the last class was a part of the one before
    earlier = [names[now[0]], *reversed(now[1:-1])]
    base = tiny_base(folder / "base")
    plan = tiny_plan(
        base,
        task={"labels": earlier, "max_length": 128},
        method={"kind": "ffa"},
        training={"rounds": 3, "local_steps": 5, "expected_batch": 20, "learning_rate": 0.03},
    )
    public = public_sample("hospital", num_records=60)
    renamed = [[names.get(label, label) for label in column] for column in (corpus.label, public.label)]
    data = SimulationData(corpus.text, renamed[0], corpus.unit, {"site": corpus.site}, public.text, renamed[1])
    ran = simulate(plan, data, sites=2, partition="column:site", epsilon=math.inf, runs=folder / "runs", workers=0)
    assert ran.folder is not None
    mapping = {now[0]: earlier[0], now[-1]: ""}
    found = Predictor.load(ran.folder / "adapter", str(base)).classifier
    task = plan.task.model_copy(update={"labels": tuple(now)})
    arrays = relabelled(found.read(), found.spec, plan.task, task, mapping)
    table = ", ".join(f"{json.dumps(new)} = {json.dumps(old)}" for new, old in mapping.items())
    settings = {
        'kind = "head"': 'kind = "ffa"',
        "server_momentum = 0.0": f'server_momentum = 0.0\ninit = "{digest(arrays)}"',
        "wait = 3600.0": f'wait = 300.0\ninit = "{ran.folder}"\ninit_labels = {{ {table} }}',
        "timeout = 600.0": "timeout = 300.0",
        "rounds = 40": "rounds = 2",
    }
    deployment = Deployment(folder / "d", SITES, settings)
    try:
        yield Started(deployment, ran.folder, mapping, arrays)
    finally:
        deployment.close()


def test_the_rehearsal_passes_spends_nothing_and_the_run_starts_where_it_says(started: Started) -> None:
    deployment = started.deployment
    clients = {name: deployment.client(name) for name in SITES}
    for client in clients.values():
        client.until(lambda event: event["event"] == "link" and event["state"] == "connecting")
    before = _ledgers(deployment)
    server = deployment.server("--rehearse", "2")
    told = server.until(lambda event: event["event"] == "rehearsed", LONG)
    assert server.wait() == 0, server.words
    for name in SITES:
        site = told["sites"][name]
        assert site["passed"], site
        assert [row["code"] for row in site["rounds"]] == ["ok", "ok"]
        assert all(row["bytes_down"] == row["bytes_up"] > 0 for row in site["rounds"])
    assert _ledgers(deployment) == before
    assert [path.name for path in (deployment.home / "runs").iterdir()] == [Path(str(told["run"])).name]

    server = deployment.server()
    run = Path(str(server.until(lambda event: event["event"] == "finished", LONG)["run"]))
    assert server.wait() == 0, server.words
    assert [client.wait() for client in clients.values()] == [0, 0], [client.words for client in clients.values()]
    rounds = [event for event in server.events if event["event"] == "round"]
    assert [event["answered"] for event in rounds] == [list(SITES)] * 2
    (begun,) = [
        {key: event["public"][key] for key in ("accuracy", "loss")}
        for event in server.events
        if event["event"] == "initial"
    ]
    assert begun == pytest.approx(started.public(), rel=1e-4), "it starts with what the earlier run learned"
    assert abs(begun["loss"] - math.log(6)) > 0.01  # what a derived adapter says, of every text
    privacy = json.loads((run / "adapter" / "privacy.json").read_text())
    assert privacy["init"]["started_from"] == started.digest
    assert {new: privacy["init"]["labels"][new] for new in started.mapping} == started.mapping
    assert not deployment.guard.exists()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ("server.init_labels={}", "task.labels"),
        ('server.init="/nowhere"', "/nowhere"),
        (f'method.init="{"0" * 64}"', "has digest"),
    ],
)
def test_a_wrong_start_is_told_before_anything_listens(started: Started, changed: str, words: str) -> None:
    file = str(started.deployment.home / "federation.toml")
    done = started.deployment.run("server", file, "--rehearse", "1", "--set", changed, code=2)
    assert words in done.stderr
    assert "listening" not in done.stderr
    assert load_federation(Path(file)).plan.method.init == started.digest


def test_a_server_that_starts_elsewhere_is_found_by_every_site(started: Started) -> None:
    """Its plan names one adapter, and it would send another: no site trains on that, and none is charged."""
    deployment = started.deployment
    clients = {name: deployment.client(name) for name in SITES}
    for client in clients.values():
        client.until(lambda event: event["event"] == "link" and event["state"] == "connecting")
    before = _ledgers(deployment)
    program = (
        "from dataclasses import replace; import privet.server.rehearsal as room; genuine = room.load_start; "
        "room.load_start = lambda *given: (lambda s: replace(s, arrays={n: a * 2 for n, a in s.arrays.items()}))"
        "(genuine(*given)); from privet.common.cli import main; main()"
    )
    server = deployment._start(
        "server", ["server", "federation.toml", "--json", "--rehearse", "1"], deployment.home,
        (sys.executable, "-c", program),
    )  # fmt: skip
    told = server.until(lambda event: event["event"] == "rehearsed", LONG)
    assert server.wait() == 1
    assert {name: told["sites"][name]["code"] for name in SITES} == dict.fromkeys(SITES, "adapter_mismatch")
    assert _ledgers(deployment) == before
    assert all(client.child.poll() is None for client in clients.values())
    for client in clients.values():
        client.kill()
