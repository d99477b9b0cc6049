"""`run.history` is what the rounds' events say, with what the sites have spent; and what `simulate` takes."""

import html
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

from privet.common.config import Plan
from privet.common.errors import ConfigError, DataError
from privet.common.privacy.events import TrainEvent
from privet.common.privacy.horizon import Horizon, horizon_epsilon
from privet.common.privacy.statement import Statement, statement
from privet.server.export import plan_toml
from privet.simulations import Simulation, SimulationData, history, simulate
from privet.simulations.history import DTYPES, spent_range
from privet.simulations.inputs import resolve
from tests.simulations.small_runs import texts_of
from tests.tiny_models import tiny_plan


@pytest.fixture(scope="module")
def data() -> SimulationData:
    texts, labels, units = texts_of(150, 0)
    test_texts, test_labels, _ = texts_of(40, 1)
    return SimulationData(texts, labels, units, {}, test_texts, test_labels)


def _plan(base: Path, **tables: dict[str, Any]) -> Plan:
    training = {"rounds": 4, "local_steps": 2, "expected_batch": 8, "learning_rate": 0.3, "train_fraction": 0.7}
    found: dict[str, dict[str, Any]] = {
        "training": training,
        "evaluation": {"release": "accuracy", "every": 2},
        "method": {"kind": "head"},
    }
    merged: dict[str, Any] = {name: found.get(name, {}) | tables.get(name, {}) for name in {*found, *tables}}
    return tiny_plan(base, **merged)


@pytest.fixture(scope="module")
def run(base: Path, data: SimulationData) -> Simulation:
    return simulate(_plan(base), data, sites=3, epsilon=[8.0, 2.0])


# The DataFrame


def test_columns_and_types_are_those_that_are_documented(run: Simulation) -> None:
    table = run.history
    assert list(table.columns) == list(DTYPES)
    assert {name: str(kind) for name, kind in table.dtypes.items()} == DTYPES
    assert table.index.tolist() == [0, 1, 2, 3]
    assert table["round"].tolist() == [1, 2, 3, 4]
    documented = history.__doc__ or ""
    assert all(name in documented for name in DTYPES)


def test_rows_are_what_the_events_say(run: Simulation) -> None:
    rows: Any = run.rounds
    for row, line in zip(rows, run.history.to_dict("records"), strict=True):
        assert [line[name] for name in ("accuracy", "macro_f1", "loss")] == [
            row["public"][name] for name in ("accuracy", "macro_f1", "loss")
        ]
        assert [line[name] for name in ("cohort", "answered", "missing", "failed")] == [3, 3, 0, 0]
        assert [line[name] for name in ("bytes_down", "bytes_up", "seconds")] == [
            row[name] for name in ("bytes_down", "bytes_up", "seconds")
        ]
        if row["round"] % 2:
            assert all(math.isnan(line[name]) for name in ("sites_accuracy", "sites_error", "sites_truth"))
        else:
            assert (line["sites_accuracy"], line["sites_error"]) == (row["sites"]["accuracy"], row["sites"]["error"])
            assert line["sites_truth"] == run.truth[row["round"]]
    assert run.history["accuracy"].iloc[-1] == run.accuracy


def test_without_a_public_test_set_or_rounds_the_columns_stay(base: Path, data: SimulationData) -> None:
    plan = _plan(base, training={"rounds": 1, "train_fraction": 1.0}, evaluation={"release": "none"})
    ran = simulate(plan, replace(data, test_texts=(), test_labels=()), sites=2, epsilon=math.inf)
    assert ran.history["accuracy"].isna().all()
    assert ran.history["epsilon_max"].tolist() == [math.inf]
    empty = replace(ran, rounds=()).history
    assert {name: str(kind) for name, kind in empty.dtypes.items()} == DTYPES
    assert "not judged" in repr(ran)
    assert "without privacy" in repr(ran)


# What is spent


def test_at_the_end_all_that_was_stated_is_spent(run: Simulation) -> None:
    stated = sorted(float(s.epsilon or math.inf) for s in run.statements.values())
    last = run.history.iloc[-1]
    assert last["epsilon_max"] == pytest.approx(stated[-1])
    assert last["epsilon_min"] == pytest.approx(stated[0])
    for name in ("epsilon_min", "epsilon_max"):
        assert run.history[name].is_monotonic_increasing
        assert run.history[name].iloc[0] > 0


def _stated(rate: float, sigma: float) -> Statement:
    event = TrainEvent(
        sample_rate=rate,
        noise_multiplier=sigma,
        steps=2,
        max_grad_norm=1.0,
        expected_batch=4,
        unit="unit",
        max_records=1,
    )
    return statement(event, 4, 1e-5, released=("update",), guarantee=False, reason="a test")


def _row(number: int, cohort: list[str], **failed: str) -> dict[str, Any]:
    return {"round": number, "cohort": cohort, "failed": failed, "evaluation": None}


def _cost(stated: Statement, rounds: int) -> float:
    return horizon_epsilon([replace(stated.horizon, rounds=rounds)], stated.delta)


def test_who_was_asked_has_spent_though_no_answer_came_and_who_refused_has_not() -> None:
    """An answer that is lost, or could not be used, was paid for all the same."""
    stated = _stated(0.2, 1.0)
    sites = dict.fromkeys(("gone", "late", "broken", "refused"), stated)
    rows = [_row(1, ["late", "broken", "refused"], broken="unavailable", refused="refused_budget")]
    assert spent_range(rows, sites) == [(0.0, _cost(stated, 1))]
    for name, spent in (("late", 1), ("broken", 1), ("refused", 0), ("gone", 0)):
        assert spent_range(rows, {name: stated}) == [(_cost(stated, spent) if spent else 0.0,) * 2]
    two = spent_range([*rows, _row(2, ["late"])], {"late": stated})
    assert two[1] == (_cost(stated, 2),) * 2
    assert two[1][0] > two[0][0]


def test_the_range_is_that_of_all_sites() -> None:
    """Sites of one budget and several sampling rates, asked in different numbers of rounds."""
    from privet.common.privacy.calibration import noise_multiplier

    random = np.random.default_rng(0)
    sites = {}
    for index, rate in enumerate((0.1, 0.3, 0.6, 1.0)):
        sigma = noise_multiplier(sample_rate=rate, steps=8, epsilon=4.0, delta=1e-5)
        sites[f"s{index}"] = _stated(rate, sigma)
    rows = [_row(number, sorted(random.choice(list(sites), 3, replace=False).tolist())) for number in (1, 2, 3)]
    asked = dict.fromkeys(sites, 0)
    for row, (low, high) in zip(rows, spent_range(rows, sites), strict=True):
        for name in row["cohort"]:
            asked[name] += 1
        costs = [_cost(sites[name], number) if number else 0.0 for name, number in asked.items()]
        assert (low, high) == (min(costs), max(costs))


def test_no_horizon_is_charged_for_evaluations_that_were_not(run: Simulation) -> None:
    """Of a unit that trains only its training counts; the range follows the dearer of the two parts."""
    stated = next(iter(run.statements.values()))
    horizon: Horizon = stated.horizon
    first = run.history.iloc[0]
    costs = [
        horizon_epsilon([replace(s.horizon, rounds=1, num_evaluations=0)], s.delta) for s in run.statements.values()
    ]
    assert (first["epsilon_min"], first["epsilon_max"]) == (min(costs), max(costs))
    assert horizon.num_evaluations == 2


# In words


def test_a_run_is_shown_in_words(run: Simulation, tmp_path: Path) -> None:
    assert repr(run).startswith("<Simulation of tiny: 4 of 4 rounds, 3 sites; public accuracy 0.")
    assert len(repr(run)) < 300
    assert "no guarantee" in repr(run)
    place = tmp_path / "<b>a&b"
    drawn = replace(run, folder=place)._repr_html_()
    assert html.escape(str(place)) in drawn
    assert str(place) not in drawn
    assert drawn.count("<tr") == 5
    assert "no guarantee" in drawn


# What it takes


def _frame() -> pandas.DataFrame:
    texts, labels, units = texts_of(60, 3)
    fold = ["test" if int(unit[1:]) >= 50 else "train" for unit in units]
    return pandas.DataFrame({"note": texts, "class": labels, "who": units, "fold": fold})


def test_a_frame_is_read_as_its_file_is(base: Path, tmp_path: Path) -> None:
    frame = _frame()
    frame.loc[3, "note"] = None  # left out, as an empty cell of the file is
    frame["who"] = frame["who"].str[1:].astype(float)  # 3.0 is the unit "3", as in a file
    path = tmp_path / "all.parquet"
    frame.to_parquet(path)
    columns: dict[str, Any] = {"text": "note", "label": "class", "unit": "who", "split": "fold", "seed": 4}
    plan = _plan(base)
    (_, ours, spec), (_, theirs, _) = (resolve(plan, given, **columns) for given in (frame, path))
    assert ours == theirs
    assert (spec.seed, spec.text) == (4, "note")
    assert len(ours.test_texts) > 0
    assert len(ours.texts) + len(ours.test_texts) == len(frame) - 1


def test_a_frame_and_a_federations_file_are_enough(base: Path, tmp_path: Path) -> None:
    file = tmp_path / "federation.toml"
    table = '\n[simulation]\ntext = "note"\nunit = "who"\ndelta = 1e-6\n'
    file.write_text(plan_toml(_plan(base, training={"rounds": 1})) + table, encoding="utf-8")
    ran = simulate(file, _frame(), label="class", sites=2, epsilon=8.0, seed=3)
    assert {stated.delta for stated in ran.statements.values()} == {1e-6}
    assert {stated.unit for stated in ran.statements.values()} == {"unit"}
    again = simulate(str(file), _frame(), label="class", sites=2, epsilon=8.0, seed=3)
    assert again.accuracy == ran.accuracy


def test_what_a_frame_lacks_is_told(base: Path) -> None:
    plan, frame = _plan(base), _frame()
    with pytest.raises(DataError, match="no column 'text'"):
        simulate(plan, frame)
    with pytest.raises(ConfigError, match="got list"):
        simulate(plan, [1, 2])
    with pytest.raises(ConfigError, match="seed"):
        simulate(plan, frame, text="note", label="class", seed=-1)
    frame["note"] = [["a", "list"]] * len(frame)
    with pytest.raises(DataError, match="no text") as caught:
        simulate(plan, frame, text="note", label="class")
    assert "note" in caught.value.where


def test_labels_of_another_plan_are_told_without_a_file(base: Path) -> None:
    frame = _frame().assign(**{"class": "unheard"})
    with pytest.raises(DataError, match="one of the plan's labels") as caught:
        simulate(_plan(base), frame, text="note", label="class")
    assert caught.value.where == "data: class"
