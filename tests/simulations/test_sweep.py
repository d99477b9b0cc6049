"""A sweep runs what it was asked, each trial once, however often it is killed; and says what it would cost."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from privet.common.cli import app
from privet.common.config import Plan, SimulationSpec
from privet.common.errors import ConfigError, RunError
from privet.common.privacy.horizon import horizon_epsilon
from privet.server.card import loss_text
from privet.server.export import plan_toml
from privet.simulations import Simulation, SimulationData, Sweep, simulate, sweep, sweep_page, sweep_run
from privet.simulations.sweep_cost import NOT_FREE
from privet.simulations.sweep_page import terminal_table
from privet.simulations.sweep_space import Axis, parse_grid, parse_range, plan_with, settings_of
from privet.simulations.sweep_store import Store, data_digest, run_key
from tests.simulations.small_runs import texts_of
from tests.tiny_models import tiny_plan

RATE = "training.learning_rate"
GRID: Mapping[str, Any] = {RATE: [0.1, 0.3], "training.optimizer": ["sgd", "adamw"]}


@pytest.fixture(scope="module")
def plan(base: Path) -> Plan:
    training = {"rounds": 2, "local_steps": 2, "expected_batch": 4, "learning_rate": 0.3}
    return tiny_plan(base, training=training, method={"kind": "head"})


@pytest.fixture(scope="module")
def data() -> SimulationData:
    texts, labels, units = texts_of(60, 0)
    test_texts, test_labels, _ = texts_of(40, 1)
    return SimulationData(texts, labels, units, {}, test_texts, test_labels)


@pytest.fixture(scope="module")
def ran(plan: Plan, data: SimulationData) -> Simulation:
    return simulate(plan, data, sites=2, epsilon=4.0)


# The space


def test_a_grid_is_all_combinations_in_order() -> None:
    found = settings_of([parse_grid("method.kind=head,ffa"), parse_grid("lora.rank=4,8,16")], None, 0)
    assert [(s["method.kind"], s["lora.rank"]) for s in found] == [(k, r) for k in ("head", "ffa") for r in (4, 8, 16)]


def test_draws_are_seeded_in_range_distinct_and_begin_alike() -> None:
    axes = [parse_range(f"{RATE}=1e-4..1e-1:log"), parse_range("lora.rank=1..4"), parse_grid("method.kind=head,ffa")]
    found = settings_of(axes, 200, 7)
    assert found == settings_of(axes, 200, 7)
    assert found[:50] == settings_of(axes[::-1], 50, 7)  # whatever the order in which keys are given
    assert found != settings_of(axes, 200, 8)
    assert len({json.dumps(settings) for settings in found}) == 200
    rates = [settings[RATE] for settings in found]
    assert 1e-4 <= min(rates) < 2e-4
    assert 0.05 < max(rates) <= 1e-1
    assert 40 < sum(rate < 1e-3 for rate in rates) < 95  # a third of the logarithm
    assert Counter(settings["lora.rank"] for settings in found).keys() == {1, 2, 3, 4}
    assert all(isinstance(settings["lora.rank"], int) for settings in found)
    assert {settings["method.kind"] for settings in found} == {"head", "ffa"}


@pytest.mark.parametrize(
    ("parse", "text", "told"),
    [
        (parse_grid, "training.lerning_rate=1", "did you mean training.learning_rate"),
        (parse_grid, "learning_rate=1", "learning_rate"),
        (parse_grid, "training=1", "'training'"),
        (parse_grid, "server.runs=a", "'server.runs'"),
        (parse_grid, "simulation.seed=1", "'simulation.seed'"),
        (parse_grid, "task.labels=a", "task.labels"),
        (parse_grid, f"{RATE}=", "write table.key=value,value"),
        (parse_grid, f"{RATE}=1,,x", "write table.key=value,value"),
        (parse_grid, f"{RATE}=1,1", "a value twice"),
        (parse_range, f"{RATE}=1", "low..high"),
        (parse_range, f"{RATE}=2..1", "low..high"),
        (parse_range, f"{RATE}=1..2..3", "low..high"),
        (parse_range, f"{RATE}=a..b", "low..high"),
        (parse_range, f"{RATE}=1..inf", "low..high"),
        (parse_range, f"{RATE}=1..2:sqrt", "low..high"),
        (parse_range, f"{RATE}=0..2:log", "above zero"),
        (parse_range, "training.nothing=1..2", "'training.nothing'"),
    ],
)
def test_a_bad_key_or_value_is_named(parse: Callable[[str], Axis], text: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert told in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("axes", "random", "told"),
    [
        ([], None, "nothing to vary"),
        ([parse_range(f"{RATE}=1..2")], None, "--random N"),
        ([parse_grid("lora.rank=1,2")], 3, "only 2 different"),
        ([parse_grid("lora.rank=1,2"), parse_grid("lora.rank=3,4")], None, "lora.rank is given twice"),
        ([Axis(RATE, tuple(range(101))), Axis("lora.rank", tuple(range(100)))], None, "10,100 trials"),
    ],
)
def test_a_space_without_trials_is_told(axes: list[Axis], random: int | None, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings_of(axes, random, 0)
    assert told in str(caught.value)


def test_a_trials_plan_is_what_its_file_would_be(plan: Plan) -> None:
    assert plan_with(plan, {RATE: 0.5, "method.kind": "ffa"}).training.learning_rate == 0.5
    assert plan_with(plan, {}).digest == plan.digest
    longer = plan_with(plan, {"task.max_length": 64})
    raw = plan.model_dump(mode="json") | {"task": {"labels": plan.task.labels, "max_length": 64}}
    assert longer == Plan.model_validate(raw)
    with pytest.raises(ConfigError, match="valid integer") as caught:
        plan_with(plan, {"training.rounds": "many", "lora.rank": 4})
    assert caught.value.where == "trial training.rounds=many, lora.rank=4: training.rounds"


def test_all_trials_are_judged_before_the_first_runs(
    plan: Plan, data: SimulationData, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("a trial ran")

    monkeypatch.setattr(sweep_run, "simulate", forbidden)
    with pytest.raises(ConfigError, match="greater than or equal") as caught:
        sweep(plan, data, grid={RATE: [0.1, 0.2, -1.0]}, sites=2)
    assert f"{RATE}=-1.0" in caught.value.where
    with pytest.raises(ConfigError, match="cannot be dealt out"):
        sweep(plan, data, grid={RATE: [0.1]}, sites=10_000)


# Real trials


@pytest.fixture(scope="module")
def done(plan: Plan, data: SimulationData, tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    runs = tmp_path_factory.mktemp("runs")
    return sweep(plan, data, grid=GRID, repeat=2, seed=3, sites=2, epsilon=4.0, runs=runs, command="privet sweep <x>")


def test_trials_are_simulations_and_the_best_comes_first(plan: Plan, data: SimulationData, done: Sweep) -> None:
    assert len(done.trials) == 4
    means = [(trial.spread("accuracy") or pytest.fail("no result")).mean for trial in done.trials]
    assert means == sorted(means, reverse=True)
    best = done.best
    assert best is not None
    for run in best.runs:
        alone = simulate(plan_with(plan, best.settings), data, sites=2, epsilon=4.0, seed=run["seed"])
        assert run["final"]["accuracy"] == alone.accuracy
    assert [run["seed"] for run in best.runs] == [3, 4]
    assert done.frame["accuracy_mean"].tolist() == means


def test_it_says_that_tuning_is_not_free_and_what_it_would_cost(done: Sweep) -> None:
    stated = [trial.statement for trial in done.trials]
    horizons = [statement.horizon for statement in stated if statement is not None]
    assert done.cost is not None
    assert len(horizons) == done.cost.trials == 4
    assert done.cost.composed == horizon_epsilon(horizons, 1e-5)
    assert done.cost.charged == pytest.approx(sum(s.epsilon or 0 for s in stated if s is not None))
    assert done.cost.charged_delta == pytest.approx(4e-5)
    assert 4.0 < (done.cost.composed or 0) < (done.cost.charged or 0)
    assert done.folder is not None
    for name in ("sweep.html", "sweep.json"):
        text = (done.folder / name).read_text(encoding="utf-8")
        assert NOT_FREE in text
        assert f"charged ε {loss_text(done.cost.charged)} (" in text
        assert f"cost ε {loss_text(done.cost.composed)} (" in text
    assert str(terminal_table(done).caption) == NOT_FREE
    told = " ".join(CliRunner().invoke(app, ["sweep", "--help"]).stdout.split())
    assert "Tuning on private data is not free" in told


def test_the_folder_holds_table_page_and_pictures(done: Sweep) -> None:
    assert done.folder is not None
    names = {path.name for path in done.folder.iterdir()}
    assert names >= {"sweep.json", "sweep.csv", "sweep.html", "trials", "sweep-trials.png", "sweep-effects.png"}
    assert "sweep-parallel.png" in names
    with (done.folder / "sweep.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["accuracy_mean"]) for row in rows] == done.frame["accuracy_mean"].tolist()
    assert [row[RATE] for row in rows] == [str(trial.settings[RATE]) for trial in done.trials]
    document = json.loads((done.folder / "sweep.json").read_text(encoding="utf-8"))
    assert [trial["settings"] for trial in document["trials"]] == [trial.settings for trial in done.trials]
    page = (done.folder / "sweep.html").read_text(encoding="utf-8")
    assert "privet sweep &lt;x&gt;" in page
    assert page.count("<svg") == 3
    assert not any(mark in page for mark in ("#010101", "#020202", "#030303", "#040404", "<script", 'src="http'))
    assert "sites_truth" not in page + json.dumps(document)


def test_what_is_finished_is_not_run_again_and_what_is_damaged_is(
    plan: Plan, data: SimulationData, done: Sweep, ran: Simulation, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls = _counted(monkeypatch, ran)
    assert done.folder is not None
    settings: dict[str, Any] = {"grid": GRID, "seed": 3, "sites": 2, "epsilon": 4.0, "runs": done.folder.parent}
    again = sweep(plan, data, repeat=2, **settings)
    assert (calls, again.folder) == ([], done.folder)
    assert again.to_json()["trials"] == done.to_json()["trials"]
    key = again.trials[0].runs[1]["key"]
    (done.folder / "trials" / f"{key}.json").write_text("{", encoding="utf-8")
    sweep(plan, data, repeat=2, **settings)
    assert [seed for _, seed in calls] == [4]
    sweep(plan, data, repeat=3, **settings)  # only what is new
    assert [seed for _, seed in calls[1:]] == [5] * 4
    sweep(plan, replace(data, texts=[*data.texts[:-1], "changed"]), repeat=1, **settings)
    assert len(calls) == 5 + 4


def test_a_trial_that_sites_refuse_is_told_and_the_others_go_on(plan: Plan, data: SimulationData) -> None:
    found = sweep(plan, data, grid={"training.expected_batch": [100, 4]}, sites=2, epsilon=4.0)
    good, bad = found.trials
    assert good.settings == {"training.expected_batch": 4}
    assert not good.error
    assert "refused_policy" in bad.error
    assert found.rows()[1]["accuracy_mean"] is None
    assert found.cost is not None
    assert found.cost.trials == 1
    assert found.folder is None


# Killed


def _counted(monkeypatch: pytest.MonkeyPatch, ran: Simulation) -> list[tuple[float, int]]:
    calls: list[tuple[float, int]] = []

    def fake(plan: Plan, _data: object, *, spec: SimulationSpec, **_: object) -> Simulation:
        calls.append((plan.training.learning_rate, spec.seed))
        return ran

    monkeypatch.setattr(sweep_run, "simulate", fake)
    monkeypatch.setattr(sweep_page, "plots", lambda _found: [])  # a second each
    return calls


def test_a_killed_sweep_goes_on_and_runs_no_trial_twice(
    plan: Plan, data: SimulationData, ran: Simulation, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """kill -9 in the middle of the fourth of six runs, in a process of its own."""
    settings: dict[str, Any] = {"grid": {RATE: [0.1, 0.2, 0.3]}, "repeat": 2, "sites": 2, "runs": tmp_path}
    log = tmp_path / "log"

    def slow(plan: Plan, _data: object, *, spec: SimulationSpec, **_: object) -> Simulation:
        with log.open("a", encoding="utf-8") as file:
            file.write(f"{plan.training.learning_rate} {spec.seed}\n")
        if len(log.read_text(encoding="utf-8").splitlines()) == 4:
            time.sleep(60)
        return ran

    with warnings.catch_warnings(), monkeypatch.context() as patch:
        warnings.simplefilter("ignore")  # libraries have threads, and this child needs none of them
        patch.setattr(sweep_run, "simulate", slow)
        child = os.fork()
        if child == 0:
            try:
                sweep(plan, data, **settings)
            finally:
                os._exit(1)
        try:
            deadline = time.monotonic() + 60
            while not log.exists() or len(log.read_text(encoding="utf-8").splitlines()) < 4:
                assert time.monotonic() < deadline
                time.sleep(0.01)
        finally:
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    first = [tuple(map(float, line.split())) for line in log.read_text(encoding="utf-8").splitlines()]
    assert first == [(0.1, 0), (0.1, 1), (0.2, 0), (0.2, 1)]
    calls = _counted(monkeypatch, ran)
    found = sweep(plan, data, **settings)
    assert calls == [(0.2, 1), (0.3, 0), (0.3, 1)]  # the one that was under way, and the rest
    assert [len(trial.runs) for trial in found.trials] == [2, 2, 2]
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.slow
def test_the_command_goes_on_after_kill_9(base: Path, plan: Plan, tmp_path: Path) -> None:
    """The real one, killed when its first result is on the disk: the second goes on from there."""
    file = _federation(tmp_path, plan)
    command = [sys.executable, "-m", "privet.common.cli", "sweep", str(file), "--sites", "2", "--epsilon", "inf"]
    command += ["--grid", f"{RATE}=0.1,0.2,0.3,0.4", "--repeat", "2", "--json"]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, **quiet) as child:
        while not list(tmp_path.glob("runs/*/trials/*.json")):
            assert child.poll() is None
            time.sleep(0.02)
        child.kill()
    kept = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/trials/*.json")}
    assert 1 <= len(kept) < 8
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=True)
    document = json.loads(done.stdout)
    assert [len(trial["runs"]) for trial in document["trials"]] == [2] * 4
    files = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/trials/*.json")}
    assert len(files) == 8
    assert {name: files[name] for name in kept} == kept
    assert done.stderr.count("(done before)") == len(kept)


# The store


def test_a_runs_key_is_of_all_that_decides_it(plan: Plan, data: SimulationData) -> None:
    spec, digest = SimulationSpec(), data_digest(data)
    keys = {
        run_key(plan, spec, 2, [8.0], digest),
        run_key(plan_with(plan, {RATE: 0.31}), spec, 2, [8.0], digest),
        run_key(plan, spec.model_copy(update={"seed": 1}), 2, [8.0], digest),
        run_key(plan, spec.model_copy(update={"partition": "dirichlet:1"}), 2, [8.0], digest),
        run_key(plan, spec.model_copy(update={"delta": 1e-6}), 2, [8.0], digest),
        run_key(plan, spec, 3, [8.0], digest),
        run_key(plan, spec, 2, [4.0], digest),
        run_key(plan, spec, 2, [8.0, 4.0], digest),
        run_key(plan, spec, 2, [float("inf")], digest),
        *(run_key(plan, spec, 2, [8.0], data_digest(other)) for other in _altered(data)),
    }
    assert len(keys) == 9 + 6
    moved = spec.model_copy(update={"data": Path("/elsewhere")})
    assert run_key(plan, moved, 2, [8.0], digest) in keys
    assert run_key(plan, spec, 2, [8], data_digest(replace(data))) in keys


def _altered(data: SimulationData) -> list[SimulationData]:
    return [
        replace(data, texts=["other", *data.texts[1:]]),
        replace(data, labels=["other", *data.labels[1:-1], "calm"]),
        replace(data, units=["other", *data.units[1:]]),
        replace(data, test_texts=["other", *data.test_texts[1:]]),
        replace(data, columns={"site": list(data.units)}),
        replace(data, by_record=True),
    ]


def test_a_result_is_believed_under_its_own_name_only(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.open():
        store.put("one", {"seconds": 1.0})
    assert Store(tmp_path).get("one") == {"key": "one", "seconds": 1.0}
    (tmp_path / "trials" / "one.json").rename(tmp_path / "trials" / "two.json")
    assert Store(tmp_path).get("two") is None
    assert Store(tmp_path).get("one") is None


def test_a_sweep_is_one_processs(tmp_path: Path) -> None:
    with Store(tmp_path / "a").open(), pytest.raises(RunError, match="another process"), Store(tmp_path / "a").open():
        pass
    with Store(tmp_path / "a").open():
        pass


# The command


def _federation(folder: Path, plan: Plan) -> Path:
    texts, labels, units = texts_of(60, 2)
    rows = [f"{text},{label},{unit}" for text, label, unit in zip(texts, labels, units, strict=True)]
    (folder / "all.csv").write_text("\n".join(["text,label,who", *rows, ""]), encoding="utf-8")
    file = folder / "federation.toml"
    file.write_text(plan_toml(plan) + '\n[simulation]\ndata = "all.csv"\nunit = "who"\n', encoding="utf-8")
    return file


def test_the_command_ranks_and_shows(
    plan: Plan, ran: Simulation, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls = _counted(monkeypatch, ran)
    file = _federation(tmp_path, plan)
    words = ["sweep", str(file), "--sites", "2", "--range", f"{RATE}=0.01..1:log", "--random", "3", "--seed", "5"]
    shown = CliRunner().invoke(app, words)
    assert shown.exit_code == 0, shown.output
    assert "trial 3 of 3, seed 5" in shown.stderr
    assert "Trials by accuracy" in shown.stderr
    assert "not free" in " ".join(shown.stderr.split())
    assert "would be charged" in shown.stderr
    result = CliRunner().invoke(app, [*words, "--json"])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert len(calls) == 3
    assert {seed for _, seed in calls} == {5}
    assert sorted(trial["settings"][RATE] for trial in document["trials"]) == sorted(rate for rate, _ in calls)
    assert Path(document["folder"]).parent == tmp_path / "runs"
    bad = CliRunner().invoke(app, [*words[:4], "--grid", "training.lerning_rate=1"])
    assert isinstance(bad.exception, ConfigError)
    assert bad.exception.exit_code == 2
    assert "training.lerning_rate" in str(bad.exception)
