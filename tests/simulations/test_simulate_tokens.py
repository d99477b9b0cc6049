"""Simulations of tagged texts: they learn, measure as real sites do, and leave whole run folders."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privet.common.config import Plan, SimulationSpec
from privet.simulations.corpus.tagged import TYPES, tagged_notes, write_conll, write_json_lines
from privet.simulations.data import SimulationData, load_data
from tests.simulations.small_runs import simulate
from tests.tiny_models import tiny_plan


@pytest.fixture(scope="module")
def data() -> SimulationData:
    corpus, test = tagged_notes(num_sites=2, num_patients=30), tagged_notes(num_sites=1, num_patients=20, public=True)
    return SimulationData(corpus.text, corpus.label, corpus.unit, {"site": list(corpus.site)}, test.text, test.label)


def _plan(base: Path, **tables: dict[str, Any]) -> Plan:
    raw: dict[str, dict[str, Any]] = {
        "task": {"kind": "tokens", "labels": list(TYPES), "max_length": 48, "buckets": [48]},
        "model": {"pooling": "none"},
        "method": {"kind": "fedavg"},
        "training": {"rounds": 2, "local_steps": 3, "expected_batch": 10, "learning_rate": 0.03, "train_fraction": 0.7},
        "evaluation": {"release": "per_class", "every": 1},
    }
    merged: Any = {name: raw.get(name, {}) | tables.get(name, {}) for name in raw | tables}
    return tiny_plan(base, **merged)


def test_without_privacy_it_learns_and_the_metrics_are_the_truth(base: Path, data: SimulationData) -> None:
    plan = _plan(base)
    events: list[dict[str, Any]] = []
    ran = simulate(plan, data, sites=2, epsilon=math.inf, partition="column:site", on_event=events.append)
    told = {event["round"]: event for event in events if event["event"] == "round"}
    assert told[2]["public"]["loss"] < next(e for e in events if e["event"] == "initial")["public"]["loss"] * 0.7
    assert told[2]["public"]["score_name"] == "entity F1"
    assert told[2]["public"]["num_records"] == len(data.test_texts)
    for number, truth in ran.truth.items():
        if not math.isnan(truth):
            score = told[number]["sites"]["score"]
            assert score is None or score == pytest.approx(truth, abs=1e-6)


def test_a_run_folder_of_a_private_run_is_whole(base: Path, data: SimulationData, tmp_path: Path) -> None:
    ran = simulate(_plan(base), data, sites=2, epsilon=8.0, runs=tmp_path)
    assert ran.folder is not None
    page = (ran.folder / "report.html").read_text("utf-8")
    assert "entity F1" in page
    card = (ran.folder / "adapter" / "README.md").read_text("utf-8")
    assert "AutoModelForTokenClassification" in card
    assert "token-classification" in card
    config = json.loads((ran.folder / "adapter" / "adapter_config.json").read_text("utf-8"))
    assert config["task_type"] == "TOKEN_CLS"


def test_both_formats_of_a_file_are_read_alike(tmp_path: Path, base: Path) -> None:
    corpus = tagged_notes(num_patients=10)
    write_json_lines(corpus, None, tmp_path / "a.jsonl")
    write_conll(corpus, None, tmp_path / "a.conll")
    task = _plan(base).task
    lists = load_data(SimulationSpec(data=tmp_path / "a.jsonl", text="tokens", label="tags", unit="patient"), task)
    columns = load_data(SimulationSpec(data=tmp_path / "a.conll", text="1", label="-1", unit="patient"), task)
    assert list(lists.texts) == list(columns.texts)
    assert list(lists.test_labels) == list(columns.test_labels)
    first, second = (found.sites("iid", task, num_sites=2, seed=0) for found in (lists, columns))
    for name, records in first.items():
        assert str(records.tags) == str(second[name].tags)
        train, held = records.split(0.5)
        assert len(train.tags) == len(train.texts)
        assert len(held.tags) == len(held.texts)
        assert all(row is not None for row in records.tags)


def test_types_are_renamed_by_the_map(tmp_path: Path, base: Path) -> None:
    write_json_lines(tagged_notes(num_patients=10), None, tmp_path / "a.jsonl")
    task = _plan(base, task={"labels": ["condition"]}).task
    spec = SimulationSpec(
        data=tmp_path / "a.jsonl", text="tokens", label="tags", unit="patient", label_map={"drug": "O", "test": "O"}
    )
    found = load_data(spec, task)
    (site,) = found.sites("iid", task, num_sites=1, seed=0).values()
    assert (np.asarray(site.labels) == 0).all()
    assert {tag for cell in found.labels for tag in cell.split()} == {"O", "B-condition", "I-condition"}
