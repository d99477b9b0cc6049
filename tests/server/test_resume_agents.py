"""A server that is killed over real agents, ledgers and trainers: the same adapter, and no round spent twice."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from flwr.app import RecordDict

from privet.client import preparation
from privet.client.agent import Agent
from privet.client.training import RoundTrainer
from privet.common import adapter
from privet.common.adapter import digest
from privet.common.config import Plan
from privet.common.live import Event
from privet.common.messages import EvaluateBody, TrainBody, parse_request, to_record
from privet.common.model import build_classifier, initial_arrays
from privet.common.privacy.noise import SeededNoise
from privet.server import run_folder
from privet.server.exporting import draft
from privet.server.resume import choose_run
from privet.server.run_folder import RunFolder
from privet.server.strategy import PrivetStrategy
from tests.client import agent_bench
from tests.client.agent_bench import Bench, SeededAgent
from tests.server.local_grid import LocalGrid
from tests.server.restarts import Killed
from tests.tiny_models import tiny_plan

ROWS = {
    "north": [("the patient has a fever", "calm", "p1"), ("chest pain", "urgent", "p2"), ("a rash", "other", "p3")],
    "south": [("no pain in the heart", "calm", "a"), ("a cough and a fever", "urgent", "b"), ("skin", "other", "c")],
}
SETTINGS: dict[str, Any] = {
    "training": {"rounds": 3, "local_steps": 2, "train_fraction": 0.6},
    "evaluation": {"release": "accuracy", "every": 2, "metric": "sites", "keep": "best"},
    "cohort": {"weight": "uniform"},
}


class Village:
    """Two agents that stay up, a run folder, and a server that is killed at one named moment."""

    def __init__(self, patch: pytest.MonkeyPatch, folder: Path, plan: Plan, base: Path, trainer: RoundTrainer) -> None:
        self._patch, self.runs, self.plan, self._base, self._trainer = patch, folder / "runs", plan, base, trainer
        self.moment, self.seen = "", Counter[str]()
        self.sites: dict[str, Bench] = {}
        for name, rows in ROWS.items():
            (folder / name).mkdir(parents=True)
            release = {"federation__tiny__release": ("update", "accuracy")}
            self.sites[name] = Bench(folder / name, plan, base, rows, **release)

    def close(self) -> None:
        for site in self.sites.values():
            site.close()

    def pass_by(self, moment: str) -> None:
        """A moment at which a server may be killed: its name and how often it came."""
        self.seen[moment] += 1
        if f"{moment} {self.seen[moment]}" == self.moment:
            raise Killed

    def serve(self, *, resume: bool = False, until: str = "") -> PrivetStrategy | None:
        self.moment, self.seen = until, Counter()
        going = choose_run(self.runs, self.plan, resume=resume, command="")
        folder = RunFolder.new(self.runs, self.plan) if going is None else RunFolder(going.path, self.plan, again=True)
        try:
            return self._serve(folder, None if going is None else going.progress)
        except Killed:
            return None
        finally:
            folder.close()

    def _serve(self, folder: RunFolder, progress: Any) -> PrivetStrategy:
        def keep(checkpoint: Any) -> None:
            self.pass_by("before a checkpoint")
            folder.keep(checkpoint)
            self.pass_by("after a checkpoint")

        def asking(asked: Any) -> None:
            folder.ask(asked)
            self.pass_by(f"asked to {asked.kind}")

        def listen(event: Event) -> None:
            folder.record(event)

        names = dict(enumerate(self.sites, start=1))
        classifier = build_classifier(self.plan, self._base)
        strategy = PrivetStrategy(
            self.plan,
            classifier.spec,
            initial_arrays(classifier),
            name_of=names.__getitem__,
            pause=lambda _seconds: None,
            wait=0.0,
            on_event=listen,
            keep=keep,
            asking=asking,
            progress=progress,
        )
        strategy.start(LocalGrid({node: self._answering(name) for node, name in names.items()}))
        with self._patch.context() as patch:
            patch.setattr(draft, "flush", lambda _path: self.pass_by("in the export"))
            if self.moment.startswith("in the export"):  # a kill clears nothing away
                patch.setattr(shutil, "rmtree", lambda *_, **__: None)
            folder.finish(
                classifier,
                self._base,
                strategy.state.arrays,
                statements=strategy.roster.statements,
                history=strategy.history,
                simulated=False,
                command="",
            )
        folder.record({"event": "finished"})
        return strategy

    def _answering(self, name: str) -> Any:
        agent = self.sites[name].agent
        assert isinstance(agent, SeededAgent)

        def answer(record: RecordDict) -> RecordDict:
            request = parse_request(record)
            reply = agent._answer(request, SeededNoise(0, name, request.sha256))
            if isinstance(request.body, TrainBody | EvaluateBody):
                self.pass_by(f"a reply to {request.body.kind}")
            return to_record(reply)

        return answer

    def outcome(self, strategy: PrivetStrategy) -> dict[str, Any]:
        (run,) = self.runs.iterdir()
        return {
            "arrays": digest(strategy.state.arrays),
            "history": [{key: row[key] for key in row if key not in ("seconds", "time")} for row in strategy.history],
            "statements": strategy.roster.statements,
            "adapter": digest(adapter.load(run / "adapter" / "adapter_model.safetensors")),
            "head": digest(adapter.load(run / "adapter" / "head.safetensors")),
            "card": (run / "adapter" / "README.md").read_text(),
            "files": sorted(path.name for path in run.iterdir()),
            "spent": {
                name: sorted((row.kind, row.round, row.request_sha256, row.state) for row in site.ledger.events())
                for name, site in self.sites.items()
            },
        }


@pytest.fixture(autouse=True)
def _seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_bench, "Agent", SeededAgent)
    assert issubclass(SeededAgent, Agent)
    monkeypatch.setattr(run_folder, "report_html", lambda *_, **__: "")


@pytest.mark.parametrize("kind", ["head", pytest.param("fedavg", marks=pytest.mark.slow)])
def test_a_killed_server_over_real_agents(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, base: Path, kind: str
) -> None:
    plan = tiny_plan(base, method={"kind": kind, "server_momentum": 0.5}, **SETTINGS)
    trainer = RoundTrainer(plan, base)
    for room in (preparation, agent_bench):
        monkeypatch.setattr(room, "RoundTrainer", lambda *_, **__: trainer)

    def village(name: str) -> Village:
        return Village(monkeypatch, tmp_path / name, plan, base, trainer)

    whole = village("whole")
    ended = whole.serve()
    assert ended is not None
    expected = whole.outcome(ended)
    assert [(kind, round) for kind, round, _, _ in expected["spent"]["north"]] == [
        *(("evaluate", 1), ("evaluate", 2), ("train", 1), ("train", 2), ("train", 3)),
    ]
    assert {state for site in expected["spent"].values() for *_, state in site} == {"stored"}
    whole.close()
    moments = [
        *("asked to train 1", "a reply to train 3", "a reply to train 4", "before a checkpoint 3"),
        *("after a checkpoint 3", "asked to evaluate 1", "a reply to evaluate 1", "before a checkpoint 4"),
        *("after a checkpoint 6", "in the export 1", "in the export 20"),
    ]
    for moment in moments:
        killed = village(moment)
        assert killed.serve(until=moment) is None, moment
        again = killed.serve(resume=True)
        assert again is not None
        assert killed.outcome(again) == expected, moment
        killed.close()
