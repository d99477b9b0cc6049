"""Simulated sites measure on units that they do not train on, as real ones do; only a listener is told the truth."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privet.common.config import Plan, SimulationSpec
from privet.common.privacy.calibration import noise_multiplier
from privet.simulations import SimulationData
from privet.simulations.filling import fill
from privet.simulations.simulator import Simulator
from tests.simulations.small_runs import LABELS, simulate, texts_of
from tests.tiny_models import tiny_plan


@pytest.fixture(scope="module")
def data() -> SimulationData:
    texts, labels, units = texts_of(300, 0)
    test_texts, test_labels, _ = texts_of(60, 1)
    return SimulationData(texts, labels, units, {}, test_texts, test_labels)


def _plan(base: Path, *, training: dict[str, Any] | None = None, **evaluation: Any) -> Plan:
    settings = {"rounds": 4, "local_steps": 4, "expected_batch": 20, "learning_rate": 0.3, "train_fraction": 0.7}
    spec = {"release": "accuracy", "every": 2} | evaluation
    return tiny_plan(base, method={"kind": "head"}, training=settings | (training or {}), evaluation=spec)


def test_without_privacy_the_metrics_are_the_truth(base: Path, data: SimulationData) -> None:
    events: list[dict[str, Any]] = []
    ran = simulate(_plan(base), data, sites=3, epsilon=math.inf, on_event=events.append)
    told = {event["round"]: event for event in events if event["event"] == "round"}
    assert {number for number, event in told.items() if event["evaluation"]} == {2, 4} == set(ran.truth)
    for number, truth in ran.truth.items():
        assert told[number]["sites_truth"] == truth
        assert told[number]["simulated"] is True
        assert told[number]["sites"]["accuracy"] == pytest.approx(truth, abs=1e-6)
        assert (told[number]["sites"]["noise_error"], told[number]["sites"]["noise_share"]) == (0.0, 0.0)
    assert ran.truth[4] > 0.45
    assert told[1].keys().isdisjoint({"sites_truth", "simulated"})


@pytest.mark.parametrize("release", ["accuracy", "per_class", "confusion"])
def test_noised_metrics_lie_about_the_truth_as_far_as_they_say(base: Path, data: SimulationData, release: str) -> None:
    """Over many rounds: the distance, in the stated standard errors of the noise, has a mean square of about one."""
    plan = _plan(base, release=release, every=1, training={"rounds": 30, "local_steps": 1})
    ran = simulate(plan, replace(data, test_texts=(), test_labels=()), sites=2, epsilon=20.0)
    rows: Any = ran.rounds
    distances = [(row["sites"]["accuracy"] - ran.truth[row["round"]]) / row["sites"]["noise_error"] for row in rows]
    assert 0.45 < float(np.mean(np.square(distances))) < 1.8  # chi-square of 30: 0.5 to 1.7 at 1 in 100


def test_what_is_spent_on_metrics_is_stated(base: Path, data: SimulationData) -> None:
    ran = simulate(_plan(base), data, sites=3, epsilon=2.0)
    sigma = noise_multiplier(sample_rate=1.0, steps=2, epsilon=2.0, delta=1e-5)
    for stated in ran.statements.values():
        assert stated.evaluation is not None
        assert (stated.evaluation.release, stated.evaluation.evaluations) == ("accuracy", 2)
        assert stated.evaluation.noise_multiplier == sigma
        assert stated.released == ("update", "accuracy")
        assert stated.train_fraction == 0.7
        assert stated.epsilon is not None
        assert stated.epsilon <= 2.0  # of one unit, which is in one part only
        assert stated.sample_rate == pytest.approx(20 / (100 * 0.7))


def test_no_unit_trains_and_validates(base: Path, data: SimulationData) -> None:
    records = data.sites("iid", LABELS, num_sites=3, seed=0)
    again, other = (data.sites("iid", LABELS, num_sites=3, seed=seed) for seed in (0, 1))
    for name, site in records.items():
        train, validation = site.split(0.7)
        assert not set(train.texts) & set(validation.texts)
        assert train.num_units + validation.num_units == site.num_units
        assert train.num_units == pytest.approx(0.7 * site.num_units, abs=20)
        assert site.points.tolist() == again[name].points.tolist()
        assert site.points.tolist() != other[name].points.tolist()
    plan, simulator = _plan(base), Simulator(_plan(base), data)
    assert simulator.prepare(records).num_units.tolist() == [site.num_units for site in records.values()]
    store = fill(plan, base, records, data)
    for number, site in enumerate(records.values()):
        (trained, _, trains), (held, _, measures) = store.train.of(number), store.validation.of(number)
        assert not set(trained.tolist()) & set(held.tolist())
        assert len(trained) + len(held) == len(site.texts)
        assert trains + measures == site.num_units


def test_an_empty_validation_set_is_noised(base: Path, data: SimulationData) -> None:
    ran = simulate(_plan(base, training={"train_fraction": 0.999999}), data, sites=3, epsilon=2.0)
    row: Any = ran.rounds[-1]
    assert row["evaluation"]["answered"] == ["site-0", "site-1", "site-2"]
    assert row["sites"]["num_units"] != 0
    assert row["sites"]["accuracy"] is None
    assert math.isnan(ran.truth[4])


def test_the_truth_stands_in_no_file(base: Path, data: SimulationData, tmp_path: Path) -> None:
    """A run folder is what people pass on: it holds noised metrics, as a real run's would."""
    plan = _plan(base, release="confusion")
    ran = simulate(plan, data, sites=3, epsilon=3.0, runs=tmp_path, command="privet simulate x")
    assert ran.folder is not None
    lines = [json.loads(line) for line in (ran.folder / "metrics.jsonl").read_text().splitlines()]
    rows = [line for line in lines if line["event"] == "round"]
    assert [row["sites"] is not None for row in rows] == [False, True, False, True]
    assert all(line["simulated"] for line in lines)
    digits = [repr(truth)[:8] for truth in ran.truth.values()]
    for path in ran.folder.rglob("*"):
        if path.is_file() and path.suffix in (".jsonl", ".json", ".html", ".md", ".toml"):
            text = path.read_text(encoding="utf-8")
            assert "sites_truth" not in text
            assert not any(number in text for number in digits)
    assert "Accuracy at the sites" in (ran.folder / "report.html").read_text(encoding="utf-8")


def test_the_best_rounds_adapter_and_metrics_are_the_ones_written(
    base: Path, data: SimulationData, tmp_path: Path
) -> None:
    """Rounds after the best are thrown away: the card tells of the weights beside it."""
    plan = _plan(base, keep="best", training={"learning_rate": 3.0})
    simulator = Simulator(plan, data)
    sites = simulator.prepare(data.sites("iid", LABELS, num_sites=3, seed=0))
    spec = SimulationSpec(seed=2)  # with this noise and learning rate the third round is better than the last
    ran = simulator.run(sites, epsilon=2.0, spec=spec, runs=tmp_path, command="x")
    public = [row["public"]["accuracy"] for row in ran.rounds]  # type: ignore[index]
    assert max(public) > public[-1]  # else this shows nothing
    assert ran.accuracy == max(public)
    labels = [LABELS.index(label) for label in data.test_labels]
    logits = simulator._logits(simulator.trainer.spec.flatten(ran.arrays))
    assert float(np.mean(logits.argmax(1) == labels)) == max(public)
    assert ran.folder is not None
    assert f"| {max(public):.4f} |" in (ran.folder / "adapter" / "README.md").read_text(encoding="utf-8")


def test_a_run_with_metrics_trains_as_one_without(base: Path, data: SimulationData) -> None:
    """Measuring changes no weight and no noise of training."""
    measured = simulate(_plan(base), data, sites=3, epsilon=4.0)
    plain = simulate(_plan(base, release="none"), data, sites=3, epsilon=4.0)
    assert {n: a.tobytes() for n, a in measured.arrays.items()} == {n: a.tobytes() for n, a in plain.arrays.items()}


def test_by_record_equal_rows_of_a_file_are_units_of_their_own(base: Path, data: SimulationData) -> None:
    plan = _plan(base)
    ran = simulate(plan, replace(data, by_record=True), sites=3, epsilon=math.inf)
    row: Any = ran.rounds[-1]
    assert row["sites"]["num_units"] == pytest.approx(0.3 * len(data.texts), rel=0.2)
