"""Several seeds: mean and spread are numpy's, and a seed changes all that is drawn and nothing that is planned."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from privet.common.adapter import digest
from privet.common.cli import app
from privet.common.config import Plan, SimulationSpec
from privet.common.errors import ConfigError
from privet.server.export import plan_toml
from privet.simulations import Repeated, SimulationData, repeated, simulate
from privet.simulations.inputs import resolve
from privet.simulations.repeat import spread
from tests.simulations.small_runs import LABELS, texts_of
from tests.tiny_models import tiny_plan


@pytest.fixture(scope="module")
def data() -> SimulationData:
    texts, labels, units = texts_of(120, 0)
    test_texts, test_labels, _ = texts_of(40, 1)
    return SimulationData(texts, labels, units, {}, test_texts, test_labels)


def _plan(base: Path, **tables: dict[str, Any]) -> Plan:
    training = {"rounds": 3, "local_steps": 2, "expected_batch": 4, "learning_rate": 0.3, "train_fraction": 0.7}
    found: dict[str, dict[str, Any]] = {
        "training": training,
        "evaluation": {"release": "accuracy", "every": 2},
        "method": {"kind": "head"},
    }
    merged: dict[str, Any] = {name: found.get(name, {}) | tables.get(name, {}) for name in {*found, *tables}}
    return tiny_plan(base, **merged)


@pytest.fixture(scope="module")
def done(base: Path, data: SimulationData, tmp_path_factory: pytest.TempPathFactory) -> Repeated:
    return repeated(_plan(base), data, times=3, seed=5, sites=3, epsilon=4.0, runs=tmp_path_factory.mktemp("runs"))


# Mean and spread


def test_mean_and_sample_deviation_are_numpys(done: Repeated) -> None:
    values = [run.accuracy for run in done.runs]
    assert len(set(values)) > 1  # else this shows nothing
    found = done.final["accuracy"]
    assert found.n == 3
    assert found.mean == pytest.approx(np.mean(values))
    assert found.sd == pytest.approx(np.std(values, ddof=1))
    for metric in ("accuracy", "macro_f1", "loss", "sites_accuracy", "sites_truth"):
        matrix = np.array([run.history[metric] for run in done.runs])
        for column, line in zip(matrix.T, done.history.to_dict("records"), strict=True):
            known = column[~np.isnan(column)]
            if not len(known):
                assert math.isnan(line.get(f"{metric}_mean", math.nan))
                continue
            assert line[f"{metric}_mean"] == pytest.approx(np.mean(known))
            assert line[f"{metric}_sd"] == pytest.approx(np.std(known, ddof=1))
            assert line[f"{metric}_n"] == len(known) == 3


def test_one_value_has_no_spread_and_what_is_no_number_does_not_count() -> None:
    one = spread([0.25, None, math.nan, math.inf])
    assert one is not None
    assert (one.mean, one.sd, one.n) == (0.25, None, 1)
    assert str(one) == "0.250 (n 1)"
    assert spread([None, math.nan]) is None


def test_each_run_has_its_folder_and_one_file_tells_of_all(done: Repeated) -> None:
    assert done.folder is not None
    assert sorted(path.name for path in done.folder.iterdir()) == ["seed-5", "seed-6", "seed-7", "summary.json"]
    assert [run.folder for run in done.runs] == [done.folder / f"seed-{seed}" for seed in (5, 6, 7)]
    assert all((done.folder / f"seed-{seed}" / "report.html").exists() for seed in done.seeds)
    document = json.loads((done.folder / "summary.json").read_text(encoding="utf-8"))
    assert document["seeds"] == [5, 6, 7]
    assert document["final"]["accuracy"]["sd"] == done.final["accuracy"].sd
    assert [run["final"]["accuracy"] for run in document["runs"]] == [run.accuracy for run in done.runs]
    assert [row["round"] for row in document["rounds"]] == [1, 2, 3]


def test_what_only_a_simulation_knows_stands_in_no_file(done: Repeated) -> None:
    """As in a run folder: the sites' accuracy without noise is told to the researcher alone."""
    assert done.folder is not None
    every = [done.final["sites_truth"].mean, *(value for run in done.runs for value in run.truth.values())]
    digits = [repr(value)[:12] for value in every if len(repr(value)) > 14]  # simpler fractions occur by chance
    assert done.final["sites_truth"].n == 3
    assert len(digits) > 3
    for path in done.folder.rglob("*"):
        if path.suffix in (".json", ".jsonl", ".html", ".md", ".toml"):
            text = path.read_text(encoding="utf-8")
            assert "sites_truth" not in text
            assert not any(number in text for number in digits)


# A seed


def test_each_run_is_the_one_that_its_seed_gives(base: Path, data: SimulationData, done: Repeated) -> None:
    for seed, run in zip(done.seeds, done.runs, strict=True):
        assert digest(run.arrays) == digest(simulate(_plan(base), data, sites=3, epsilon=4.0, seed=seed).arrays)
    assert len({digest(run.arrays) for run in done.runs}) == 3


def test_a_seed_changes_partition_held_out_units_and_public_units(base: Path, tmp_path: Path) -> None:
    texts, labels, units = texts_of(80, 2)
    path = tmp_path / "all.csv"
    rows = [f"{text},{label},{unit}" for text, label, unit in zip(texts, labels, units, strict=True)]
    path.write_text("\n".join(["text,label,who", *rows, ""]), encoding="utf-8")
    plan = _plan(base)
    (_, one, spec), (_, two, other) = (resolve(plan, path, unit="who", seed=seed) for seed in (1, 2))
    assert (spec.seed, other.seed) == (1, 2)
    assert spec.model_copy(update={"seed": 2}) == other
    assert sorted(one.test_texts) != sorted(two.test_texts)
    parts = [one.sites("iid", LABELS, num_sites=3, seed=seed) for seed in (1, 2)]
    assert parts[0]["site-0"].texts != parts[1]["site-0"].texts
    whole = [one.sites("iid", LABELS, num_sites=1, seed=seed)["site-0"] for seed in (1, 2)]
    assert sorted(whole[0].texts) == sorted(whole[1].texts)
    assert sorted(whole[0].split(0.7)[1].texts) != sorted(whole[1].split(0.7)[1].texts)


def test_a_seed_changes_draws_noise_and_cohorts_and_nothing_of_the_plan(base: Path, data: SimulationData) -> None:
    training = {"rounds": 4, "train_fraction": 1.0}
    plan = _plan(base, cohort={"fraction": 0.5, "min_sites": 1}, training=training, evaluation={"release": "none"})
    told: dict[int, list[dict[str, Any]]] = {0: [], 1: [], 2: []}
    ran = {
        seed: simulate(plan, data, sites=6, epsilon=4.0, seed=seed, on_event=told[seed].append) for seed in (0, 1, 2)
    }
    cohorts = {seed: [row["cohort"] for row in run.rounds] for seed, run in ran.items()}
    assert len({str(cohort) for cohort in cohorts.values()}) == 3
    sampler = np.random.Generator(np.random.PCG64(plan.method.seed))  # a deployment's own
    names = sorted(ran[0].statements)
    assert cohorts[0] == [sorted(sampler.choice(names, size=3, replace=False).tolist()) for _ in range(4)]
    assert len({run.plan.digest for run in ran.values()}) == 1
    assert len({str(sorted(run.statements.items())) for run in ran.values()}) == 1  # noise multipliers and rates
    initial = [event["public"] for events in told.values() for event in events if event["event"] == "initial"]
    assert initial[0] == initial[1] == initial[2]  # the plan's own initial weights, on a test set that was given


def test_noise_alone_differs_where_all_else_is_given(base: Path, data: SimulationData) -> None:
    """One site that holds everything, and every unit in every step: draws, partition and cohort are the same."""
    training = {"rounds": 1, "train_fraction": 1.0, "expected_batch": 120}
    plan = _plan(base, cohort={"min_sites": 1}, training=training, evaluation={"release": "none"})
    spec = SimulationSpec(max_records=10)  # no choice among a unit's records
    noised = {digest(simulate(plan, data, sites=1, epsilon=1.0, spec=spec, seed=seed).arrays) for seed in (1, 2)}
    assert len(noised) == 2
    bare = [simulate(plan, data, sites=1, epsilon=math.inf, spec=spec, seed=seed).arrays for seed in (1, 2)]
    for name, array in bare[0].items():
        assert array == pytest.approx(bare[1][name], abs=1e-5)


# The command


def test_the_command_repeats_from_its_seed(base: Path, tmp_path: Path) -> None:
    texts, labels, units = texts_of(60, 2)
    rows = [f"{text},{label},{unit}" for text, label, unit in zip(texts, labels, units, strict=True)]
    (tmp_path / "all.csv").write_text("\n".join(["text,label,who", *rows, ""]), encoding="utf-8")
    file = tmp_path / "federation.toml"
    plan = _plan(base, training={"rounds": 1}, evaluation={"every": 1})
    file.write_text(plan_toml(plan) + '\n[simulation]\ndata = "all.csv"\nunit = "who"\n', encoding="utf-8")
    words = ["simulate", str(file), "--sites", "2", "--epsilon", "inf", "--seed", "7"]
    result = CliRunner().invoke(app, [*words, "--repeat", "2", "--baselines", "--baseline-sites", "1", "--json"])
    assert result.exit_code == 0, result.output
    events = [json.loads(line) for line in result.stdout.splitlines()]
    last = events[-1]
    assert (last["event"], last["seeds"]) == ("repeated", [7, 8])
    assert last["final"]["alone"]["n"] == last["final"]["no_privacy"]["n"] == 2
    assert [event["seed"] for event in events if event["event"] == "repeat"] == [7, 8]
    assert len([event for event in events if event["event"] == "baselines"]) == 2
    (parent,) = (tmp_path / "runs").iterdir()
    assert (parent / "seed-8" / "baselines.json").exists()
    shown = CliRunner().invoke(app, [*words, "--baselines"])
    assert shown.exit_code == 0, shown.output
    assert "site-0 " in shown.stderr
    assert "On the public test set" in shown.stderr


def test_no_times_is_refused(base: Path, data: SimulationData) -> None:
    with pytest.raises(ConfigError, match="got 0"):
        repeated(_plan(base), data, times=0)
