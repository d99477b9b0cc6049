"""A model that no public text can be judged by is told so, with a reason; what is no number passes for no score."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from privet.common.config import SimulationSpec, TaskSpec
from privet.common.model import Classifier, load_tokenizer
from privet.common.tasks.base import task_of
from privet.server.evaluation import PublicEvaluator
from privet.server.live import View
from privet.server.public_metrics import NotJudgedError, judge_public
from privet.simulations import SimulationData, simulate
from privet.simulations.engines.sequential import SequentialWork
from tests.server.scripted import Site, plan, scene
from tests.simulations.small_runs import LABELS, plan_of, texts_of
from tests.tiny_models import tiny_base, tiny_plan, trained

TEXTS = ["a rash", "the patient has a fever", "card", "please refund"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base"))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_only_texts_that_are_computed_are_judged(value: float) -> None:
    task = task_of(LABELS)
    logits = np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]
    truth = np.array([0, 1, 1, 0])
    logits[3, 1] = value
    found: Any = judge_public(task, logits, truth)
    assert found == task.public_metrics(logits[:3], truth[:3])
    assert found.num_records == 3
    assert np.isfinite(found.loss)


@pytest.mark.parametrize("kind", ["classification", "multilabel", "tokens"])
def test_where_none_is_computed_there_is_no_score(kind: Any) -> None:
    task = task_of(TaskSpec(kind=kind, labels=LABELS))
    width = getattr(task, "record_width", task.num_outputs)
    truth: Any = np.zeros((2, 3), np.int8) if kind == "multilabel" else np.zeros(2, np.int64)
    with pytest.raises(NotJudgedError, match="any of 2 public texts"):
        judge_public(task, np.full((2, width), np.nan, np.float32), truth)


@pytest.mark.parametrize("frozen", [True, False])
def test_a_model_that_always_raises_is_not_judged(base: Path, monkeypatch: pytest.MonkeyPatch, frozen: bool) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("no kernel for this")

    made = tiny_plan(base, method={"kind": "head" if frozen else "fedavg"})
    classifier = trained(made, base)
    monkeypatch.setattr(Classifier, "features" if frozen else "forward", broken)
    evaluate = PublicEvaluator(made, classifier, load_tokenizer(base), TEXTS, np.arange(4) % 3, frozen)
    with pytest.raises(NotJudgedError, match="no finite output"):
        evaluate(classifier.read())


def test_the_history_says_none_and_why_and_the_best_is_one_that_was_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the start, and in a round in the middle."""
    calls: list[int] = []

    def judge(_arrays: Any) -> Any:
        calls.append(len(calls))
        if calls[-1] in (0, 2):
            raise NotJudgedError("the model has no finite output.", mend="lower the rate.")
        score = 0.9 - 0.1 * calls[-1]
        return SimpleNamespace(to_json=lambda: {"accuracy": score, "macro_f1": score, "loss": 1.0, "num_records": 4})

    the_plan = plan(training={"rounds": 3}, evaluation={"keep": "best"})
    ran = scene(monkeypatch, [Site("north"), Site("south")], the_plan, evaluate=judge).run()
    rows = ran.rounds()
    assert [row["public"] and row["public"]["accuracy"] for row in rows] == [0.8, None, pytest.approx(0.6)]
    assert ["not_judged" in row for row in rows] == [False, True, False]
    assert "no finite output" in rows[1]["not_judged"]
    assert not [event for event in ran.events if event["event"] == "initial"]
    warned = [event["text"] for event in ran.events if event["event"] == "warning"]
    assert len(warned) == 2
    assert all("lower the rate" in text for text in warned)
    assert [event["best"] for event in ran.events if event["event"] == "kept"] == [1]
    view = View("x")
    lines = [view.feed(event) for event in ran.events]
    assert any("not judged on public text" in str(line) for line in lines if str(line).startswith("round 2"))
    assert view.accuracy == [0.8, pytest.approx(0.6)]
    for event in ran.events:
        json.dumps(event, allow_nan=False)


def test_a_simulation_is_not_judged_either(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts, labels, units = texts_of(40, 0)
    data = SimulationData(texts, labels, units, {}, texts[:20], labels[:20])
    nothing = np.full((20, 3), np.nan, np.float32)
    monkeypatch.setattr(SequentialWork, "logits", lambda _self, _arrays, records: nothing[records.start : records.stop])
    ran = simulate(plan_of(base), data, sites=2, epsilon=8.0, workers=0, spec=SimulationSpec(engine="opacus"))
    assert ran.final is None
    assert np.isnan(ran.accuracy)
    assert [row["public"] for row in ran.rounds] == [None, None]
    assert all("public texts" in str(row["not_judged"]) for row in ran.rounds)
    assert ran.history["accuracy"].isna().all()
