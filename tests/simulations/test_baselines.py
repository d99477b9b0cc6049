"""Baselines are what they say: alone is the plan at one site, and pooled trains on nothing that anybody holds out."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privet.common.adapter import digest
from privet.common.config import Plan, SimulationSpec
from privet.simulations import SimulationData, simulate
from privet.simulations.baselines import FEWEST_HELD_OUT, Score, SiteRow, _drawn, difference_error
from privet.simulations.baselines_words import sentences, site_words, summary
from privet.simulations.one_site import Trained, one_site_plan, pooled_batch, pooled_records
from privet.simulations.simulator import Simulator
from tests.simulations.small_runs import LABELS, texts_of
from tests.tiny_models import tiny_plan


@pytest.fixture(scope="module")
def data() -> SimulationData:
    texts, labels, units = texts_of(150, 0)
    test_texts, test_labels, _ = texts_of(40, 1)
    place = ["tiny" if int(unit[1:]) < 6 else "large" if int(unit[1:]) < 90 else "middle" for unit in units]
    return SimulationData(texts, labels, units, {"site": place}, test_texts, test_labels)


def _plan(base: Path, **tables: dict[str, Any]) -> Plan:
    training = {"rounds": 2, "local_steps": 2, "expected_batch": 8, "learning_rate": 0.3, "train_fraction": 0.7}
    found: dict[str, dict[str, Any]] = {"training": training, "method": {"kind": "head"}}
    merged: dict[str, Any] = {name: found.get(name, {}) | tables.get(name, {}) for name in {*found, *tables}}
    return tiny_plan(base, **merged)


def _single(plan: Plan) -> Plan:
    return plan.model_copy(update={"cohort": plan.cohort.model_copy(update={"min_sites": 1})})


# Alone


@pytest.mark.parametrize("batch", [8, pytest.param("site", marks=pytest.mark.slow)])
def test_alone_is_the_plan_at_one_site(base: Path, data: SimulationData, batch: Any) -> None:
    """The same weights, to the last bit, as a federation of this site alone with the plan's own batch."""
    plan, spec = _plan(base, training={"expected_batch": batch}), SimulationSpec(seed=3, sample_rate=0.3)
    compared = simulate(plan, data, sites=2, epsilon=[8.0, 2.0], spec=spec, baselines=True)
    assert compared.baselines is not None
    records = data.sites("iid", LABELS, num_sites=2, seed=3)
    simulator = Simulator(_single(plan), data)
    trained = Trained(Simulator(one_site_plan(plan), data), spec, records)
    for row, (name, part), budget in zip(compared.baselines.rows, records.items(), (8.0, 2.0), strict=True):
        alone = simulator.run(simulator.prepare({name: part}), epsilon=budget, spec=spec)
        assert (row.site, row.epsilon, row.units) == (name, budget, part.num_units)
        assert row.alone is not None
        assert row.alone.public == alone.accuracy
        assert row.federation.public == compared.accuracy
        expected = batch if batch != "site" else max(1, round(0.3 * part.num_units * 0.7))
        again = trained(name, budget, expected)
        assert again is not None
        assert digest(again.arrays) == digest(alone.arrays)
        assert again.statements == alone.statements


def test_own_accuracy_is_that_of_the_sites_held_out_units(base: Path, data: SimulationData) -> None:
    """Computed here record by record; a unit counts once, however many records it has."""
    plan = _plan(base)
    ran = simulate(plan, data, sites=3, epsilon=math.inf, baselines=True)
    assert ran.baselines is not None
    trainer = Simulator(plan, data).trainer
    for row, part in zip(ran.baselines.rows, data.sites("iid", LABELS, num_sites=3, seed=0).values(), strict=True):
        held = part.split(0.7)[1]
        right = trainer.logits(ran.arrays, trainer.prepare(held)).argmax(1) == held.labels
        by_unit = [float(np.mean(right[held.units == unit])) for unit in range(held.num_units)]
        assert row.federation.own == pytest.approx(float(np.mean(by_unit)), abs=1e-6)
        assert (row.measured_on, row.held_out) == ("own", held.num_units)
        assert row.held_out >= FEWEST_HELD_OUT
        assert row.alone is not None
        assert row.gain == pytest.approx((row.federation.own or 0) - (row.alone.own or 0))


def test_a_few_held_out_units_judge_nothing(base: Path, data: SimulationData) -> None:
    """One unit that is right by chance would be a gain of 100 points."""
    plan = _plan(base, training={"rounds": 1, "expected_batch": 1, "train_fraction": 0.97})
    ran = simulate(plan, data, sites=3, epsilon=math.inf, baselines=2)
    assert ran.baselines is not None
    for row in ran.baselines.rows:
        assert row.held_out < FEWEST_HELD_OUT
        assert row.alone is not None
        assert row.measured_on == "public"
        assert row.gain == pytest.approx(ran.accuracy - (row.alone.public or 0))


def test_the_error_of_a_difference_is_its_spread_and_never_none() -> None:
    random = np.random.default_rng(0)
    drawn = random.binomial(200, 0.8, 20_000) / 200 - random.binomial(200, 0.6, 20_000) / 200
    assert difference_error(0.6, 0.8, 200) == pytest.approx(drawn.std(), rel=0.05)
    assert difference_error(0.0, 1.0, 10) > 0.1


def test_a_site_that_is_too_small_cannot_train_alone(base: Path, data: SimulationData, tmp_path: Path) -> None:
    plan = _plan(base, training={"rounds": 1})
    ran = simulate(plan, data, sites=3, partition="column:site", epsilon=math.inf, baselines=True, runs=tmp_path)
    found = ran.baselines
    assert found is not None
    rows = {row.site: row for row in found.rows}
    assert rows["tiny"].alone is None
    assert rows["tiny"].gain is None
    assert rows["tiny"].words.startswith("cannot train alone, nor take part in the federation")
    assert rows["large"].alone is not None
    assert [line.split()[0] for line in sentences(found)] == ["large", "middle", "tiny"]
    assert ran.folder is not None
    document = json.loads((ran.folder / "baselines.json").read_text(encoding="utf-8"))
    assert document == json.loads(json.dumps(found.to_json()))
    assert "only a simulation can know it" in document["note"]
    assert document["simulated"] is True
    assert "cannot train alone" in ran._repr_html_()
    assert any("only a simulation can know it" in line for line in summary(found))


def test_without_held_out_units_the_public_test_set_judges(base: Path, data: SimulationData) -> None:
    ran = simulate(_plan(base, training={"train_fraction": 1.0}), data, sites=2, epsilon=math.inf, baselines=True)
    assert ran.baselines is not None
    for row in ran.baselines.rows:
        assert (row.measured_on, row.federation.own, row.epsilon) == ("public", None, None)
        assert row.alone is not None
        assert row.gain == pytest.approx(ran.accuracy - (row.alone.public or 0))
    assert ran.baselines.pooled == ran.baselines.no_privacy
    assert ran.baselines.pooled_epsilon is None
    assert not any("own" in line for line in summary(ran.baselines))


# Pooled


def test_what_a_site_holds_out_the_pooled_site_holds_out(data: SimulationData) -> None:
    records = data.sites("iid", LABELS, num_sites=3, seed=0)
    union = pooled_records(records)
    train, held = union.split(0.7)
    parts = [part.split(0.7) for part in records.values()]
    assert train.texts == [text for part, _ in parts for text in part.texts]
    assert held.texts == [text for _, part in parts for text in part.texts]
    assert train.num_units == sum(part.num_units for part, _ in parts)
    assert union.num_units == sum(part.num_units for part in records.values())
    start = 0
    for part in records.values():  # nobody's records are joined with another's
        owners = [
            text
            for text, unit in zip(union.texts, union.units, strict=True)
            if unit in range(start, start + part.num_units)
        ]
        assert owners == part.texts
        start += part.num_units


@pytest.mark.parametrize(
    ("batch", "fraction", "expected"),
    [(8, 1.0, 24.0), (8, 0.67, 16.0), (60, 1.0, 105.0), ("site", 1.0, 21.0), ("site", 0.67, 14.0)],
)
def test_thepooled_batch_is_a_cohorts(
    base: Path, data: SimulationData, batch: Any, fraction: float, expected: float
) -> None:
    """105 training units are expected of 150; a site's own batch is a fifth."""
    plan = _plan(base, training={"expected_batch": batch}, cohort={"fraction": fraction, "min_sites": 1})
    union = pooled_records(data.sites("iid", LABELS, num_sites=3, seed=0))
    assert pooled_batch(plan, SimulationSpec(sample_rate=0.2), union, 3) == pytest.approx(expected)


def test_of_several_budgets_the_smallest_is_the_pooled_sites(base: Path, data: SimulationData) -> None:
    events: list[dict[str, Any]] = []
    plan = _plan(base, training={"rounds": 1})
    ran = simulate(plan, data, sites=3, epsilon=[8.0, 0.5], baselines=1, on_event=events.append)
    assert ran.baselines is not None
    assert (ran.baselines.pooled_epsilon, ran.baselines.num_budgets) == (0.5, 2)
    assert any("the smallest of 2 budgets" in line for line in summary(ran.baselines))
    assert any("1 of 3 sites were also simulated alone, drawn by seed 0" in line for line in summary(ran.baselines))
    told = [(event["kind"], event["epsilon"]) for event in events if event["event"] == "baseline"]
    assert told[:2] == [("pooled", 0.5), ("no_privacy", None)]
    assert len(told) == 3


# Which sites, and in words


def test_of_many_sites_some_are_drawn_by_the_seed() -> None:
    names = [f"site-{index:03d}" for index in range(1000)]
    first = _drawn(names, 20, 0)
    assert first == _drawn(names, 20, 0) == sorted(first)
    assert len(set(first)) == 20
    assert first != _drawn(names, 20, 1)
    assert _drawn(names[:3], 20, 0) == names[:3]


@pytest.mark.parametrize(
    ("gain", "error", "words"),
    [
        (0.061, 0.01, "would gain 6.1 points by joining (± 2.0)."),
        (-0.05, 0.01, "does better alone, by 5.0 points (± 2.0)."),
        (0.019, 0.01, "no clear difference: 1.9 points more by joining (± 2.0)."),
        (-0.01, 0.01, "no clear difference: 1.0 points less by joining (± 2.0)."),
        (None, None, "cannot be judged: there are no held-out units and no public test set."),
    ],
)
def test_one_plain_sentence_a_site(gain: float | None, error: float | None, words: str) -> None:
    score = Score(0.5)
    row = SiteRow("a", 10, 8.0, score, score, score, score, gain=gain, error=error)
    assert site_words(row, takes_part=True) == words
    alone = site_words(replace(row, alone=None), takes_part=True)
    assert alone == "cannot train alone: its units are fewer than the plan's batch; the federation's model has 50.0 %."
