"""Several labels a record, through a whole simulation: data, training, metrics, choice of the best round, report."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privet.common.config import Plan, SimulationSpec, TaskSpec
from privet.common.errors import ConfigError, DataError
from privet.common.tasks.score import score_of
from privet.common.tasks.targets import UNKNOWN
from privet.server.live import View
from privet.server.report import read_run, report_html
from privet.simulations import SimulationData
from privet.simulations.corpus.codes import coded_notes, public_coded_notes
from privet.simulations.corpus.hospital import LABELS as SPECIALTIES
from privet.simulations.data import generated, load_data
from tests.simulations.small_runs import simulate
from tests.tiny_models import WORDS, tiny_plan

LABELS = ("calm", "urgent", "other")
SAYS = {"calm": "rash skin", "urgent": "heart pain fever", "other": "card refund account"}


def _rows(count: int, seed: int) -> tuple[list[str], list[str]]:
    random = np.random.default_rng(seed)
    texts, cells = [], []
    for _ in range(count):
        stand = [label for label in LABELS if random.random() < 0.4]
        words = [word for label in stand for word in SAYS[label].split()] + ["the", "patient"]
        texts.append(" ".join([*random.permutation(words), *random.choice(WORDS, 1)]))
        cells.append(";".join(stand))
    return texts, cells


@pytest.fixture(scope="module")
def data() -> SimulationData:
    texts, cells = _rows(240, 0)
    test_texts, test_cells = _rows(80, 1)
    return SimulationData(texts, cells, [f"u{row // 2}" for row in range(240)], {}, test_texts, test_cells)


def _plan(base: Path, **tables: Any) -> Plan:
    settings = {"rounds": 4, "local_steps": 6, "expected_batch": 20, "learning_rate": 0.3, "train_fraction": 0.7}
    evaluation = {"release": "per_class", "every": 1, "keep": "best"}
    task = {"kind": "multilabel", "thresholds": {"urgent": 0.45}} | tables.pop("task", {})
    return tiny_plan(
        base,
        task=task,
        training=settings | tables.pop("training", {}),
        evaluation=evaluation | tables.pop("evaluation", {}),
        **{"method": {"kind": "head"}} | tables,
    )


def test_several_labels_are_learned_judged_and_reported(base: Path, data: SimulationData, tmp_path: Path) -> None:
    """Without privacy: the sites' metrics are the truth; the round of the best micro F1 is kept and told."""
    events: list[dict[str, Any]] = []
    ran = simulate(_plan(base), data, sites=3, epsilon=math.inf, on_event=events.append, runs=tmp_path)
    rows = [event for event in events if event["event"] == "round"]
    for row in rows:
        assert score_of(row["sites"]) == pytest.approx(row["sites_truth"], abs=1e-4)
        assert row["public"]["score_name"] == "micro F1"
        assert set(row["public"]["f1"]) == set(LABELS) == set(row["sites"]["f1"])
    best = max(row["public"]["micro_f1"] for row in rows)
    assert ran.accuracy == best > 0.75 > 0.65 > events_initial(events)
    view = View("run")
    told = [line for line in map(view.feed, events) if line]
    assert any("public micro F1" in line and "micro F1 at the sites" in line for line in told)
    assert not any("accuracy" in line for line in told)
    assert "micro F1" in repr(ran)
    assert ran.history["micro_f1"].max() == best
    assert "accuracy" not in ran.history.columns
    assert ran.folder is not None
    page = report_html(read_run(ran.folder))
    assert "Micro F1" in page
    assert "accuracy" not in page.lower().replace("accuracy-", "").split("<details")[0]
    card = (ran.folder / "adapter" / "README.md").read_text(encoding="utf-8")
    assert "| micro F1 | macro F1 | loss |" in card
    json.loads((ran.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])


def events_initial(events: list[dict[str, Any]]) -> float:
    found = score_of(next(event["public"] for event in events if event["event"] == "initial"))
    assert found is not None
    return found


@pytest.mark.parametrize("release", ["accuracy", "per_class"])
def test_noised_metrics_lie_about_the_truth_as_far_as_they_say(base: Path, data: SimulationData, release: str) -> None:
    plan = _plan(base, training={"rounds": 30, "local_steps": 2}, evaluation={"release": release})
    ran = simulate(plan, data, sites=2, epsilon=60.0)
    every: Any = ran.rounds
    rows = [row for row in every if score_of(row["sites"]) is not None]
    assert len(rows) > 20
    distances = [(row["sites"]["score"] - ran.truth[row["round"]]) / row["sites"]["noise_error"] for row in rows]
    assert 0.4 < float(np.mean(np.square(distances))) < 1.9


def test_both_engines_come_to_the_same(base: Path, data: SimulationData) -> None:
    plan = _plan(
        base,
        method={"kind": "ffa"},
        training={"rounds": 1, "local_steps": 2, "optimizer": "sgd"},
        task={"max_length": 16},
    )
    scores = []
    for engine in ("opacus", "fused"):
        spec = SimulationSpec(engine=engine)
        ran = simulate(plan, data, sites=2, epsilon=8.0, spec=spec)
        scores.append((ran.arrays, ran.truth))
    for name, array in scores[0][0].items():
        np.testing.assert_allclose(scores[1][0][name], array, atol=2e-4)
    assert scores[0][1] == pytest.approx(scores[1][1], abs=0.02)


def test_cells_of_a_file_are_labels_by_the_map_and_one_that_is_not_in_the_plan_makes_a_record_unknown(
    tmp_path: Path,
) -> None:
    path = tmp_path / "notes.csv"
    path.write_text("text,label\n" + "one,I10|x\ntwo,\nthree,I10\nfour,calm|urgent\n" * 10)
    task = TaskSpec(kind="multilabel", labels=LABELS)
    spec = SimulationSpec(data=path, label_map={"I10": "urgent"}, label_separator="|")
    found = load_data(spec, task)
    assert set(zip(found.texts, found.labels, strict=True)) == {
        ("one", "urgent|x"),
        ("two", ""),
        ("three", "urgent"),
        ("four", "calm|urgent"),
    }
    assert "one" not in found.test_texts
    site = found.sites("iid", task, num_sites=1, seed=0)["site-0"]
    told = {(text, *row.tolist()) for text, row in zip(site.texts, site.labels, strict=True)}
    assert told == {("one", *[UNKNOWN] * 3), ("two", 0, 0, 0), ("three", 0, 1, 0), ("four", 1, 1, 0)}
    assert len(found.sites("dirichlet:1", task, num_sites=2, seed=0)) == 2
    with pytest.raises(DataError, match="no row"):
        load_data(spec.model_copy(update={"label_map": {}, "label_separator": ","}), task)


def test_generated_notes_have_no_one_or_several_codes() -> None:
    task = TaskSpec(kind="multilabel", labels=SPECIALTIES)
    data = generated(task, num_units=40)
    counts = np.bincount([len([code for code in cell.split(";") if code]) for cell in data.labels])
    assert (counts[:4] > 0).all()
    assert len(counts) == 4
    assert 0.03 < counts[0] / counts.sum() < 0.15
    assert data.truth(task).shape == (600, 6)
    assert coded_notes(num_patients=3, seed=1) == coded_notes(num_patients=3, seed=1)
    few, many = coded_notes(num_patients=3), coded_notes(num_patients=5)
    rows = set(zip(few.text, few.label, few.unit, strict=True))
    assert rows < set(zip(many.text, many.label, many.unit, strict=True))  # more patients change no earlier note
    assert set(public_coded_notes(num_records=60).text).isdisjoint(few.text[:50])
    with pytest.raises(ConfigError):
        generated(TaskSpec(kind="multilabel", labels=LABELS))
