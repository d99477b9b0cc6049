"""A score is called by the name that the plan's task gives it, wherever a person or a DataFrame meets it."""

import html
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from privet.common.cli import app
from privet.common.cli.sweep import _tell
from privet.common.config import Plan
from privet.common.errors import ConfigError
from privet.common.live import Event
from privet.common.tasks.score import score_of
from privet.server.report import read_run
from privet.server.report.comparison import comparison_html, overlays
from privet.simulations import Repeated, SimulationData, Sweep, repeated, simulate, sweep
from privet.simulations.corpus.tagged import tagged_notes
from privet.simulations.history import DTYPES, dtypes
from privet.simulations.live import SimulationView
from privet.simulations.sweep_page import terminal_table
from privet.simulations.sweep_store import Store
from tests.simulations import test_multilabel_runs as coded
from tests.simulations import test_simulate_tokens as tagged
from tests.simulations.small_runs import texts_of
from tests.tiny_models import tiny_base, tiny_plan

NAMES = {"classification": "accuracy", "multilabel": "micro F1", "tokens": "entity F1"}
KINDS = (pytest.param("classification", marks=pytest.mark.slow), "multilabel", "tokens")
RATE = "training.learning_rate"


@dataclass(frozen=True)
class Case:
    """One kind of task: two repeats with baselines, a sweep, and all that was told meanwhile."""

    name: str
    plan: Plan
    data: SimulationData
    done: Repeated
    swept: Sweep
    events: list[Event]
    trials: list[dict[str, Any]]

    @property
    def key(self) -> str:
        return self.name.lower().replace(" ", "_")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base"))


def _case(kind: str, base: Path) -> tuple[Plan, SimulationData]:
    training = {"rounds": 1, "local_steps": 2, "expected_batch": 4, "learning_rate": 0.3, "train_fraction": 0.7}
    if kind == "multilabel":
        texts, cells = coded._rows(60, 0)
        data = SimulationData(texts, cells, [f"u{row}" for row in range(60)], {}, *coded._rows(30, 1))
        return coded._plan(base, training=training, evaluation={"keep": "last"}), data
    if kind == "tokens":
        corpus = tagged_notes(num_sites=2, num_patients=12)
        test = tagged_notes(num_sites=1, num_patients=8, public=True)
        return (
            tagged._plan(base, training=training | {"learning_rate": 0.03}),
            SimulationData(corpus.text, corpus.label, corpus.unit, {}, test.text, test.label),
        )
    texts, labels, units = texts_of(60, 0)
    plan = tiny_plan(base, training=training, method={"kind": "head"}, evaluation={"release": "accuracy", "every": 1})
    return plan, SimulationData(texts, labels, units, {}, *texts_of(30, 1)[:2])


@pytest.fixture(scope="module", params=KINDS)
def case(request: pytest.FixtureRequest, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Case:
    plan, data = _case(request.param, base)
    folder = tmp_path_factory.mktemp(request.param)
    events: list[Event] = []
    trials: list[dict[str, Any]] = []
    common: dict[str, Any] = {"sites": 2, "epsilon": math.inf, "workers": 0}
    alone: dict[str, Any] = {"baselines": 1}
    done = repeated(plan, data, times=2, on_event=events.append, runs=folder / "runs", **alone, **common)
    grid = {RATE: [plan.training.learning_rate, 1e-3]}
    swept = sweep(plan, data, grid=grid, folder=folder / "sweep", on_event=trials.append, **common)
    return Case(NAMES[request.param], plan, data, done, swept, events, trials)


def _is_silent(case: Case, text: str) -> bool:
    """Whether it speaks of no accuracy, where the task has none. The plan's release is called so."""
    return case.name == "accuracy" or "accuracy" not in text.lower()


def test_columns_and_words_of_a_run(case: Case) -> None:
    run = case.done.runs[0]
    told = [case.key, "macro_f1", "loss", f"sites_{case.key}", "sites_error", "sites_truth"]
    clips = ["sites_clipped"] if case.name == "entity F1" else []
    assert list(run.history)[2 : 8 + len(clips)] == [*told, *clips]
    assert {name: str(kind) for name, kind in run.history.dtypes.items()} == dtypes(case.name, clips=bool(clips))
    assert run.history[case.key].iloc[-1] == run.score == score_of(run.final)
    assert run.score_name == case.name
    assert f"public {case.name} {run.score:.3f}" in repr(run)
    page = run._repr_html_()
    assert f"Public {case.name} of the adapter" in page
    assert f"<th>{case.key}</th>" in page
    assert _is_silent(case, page)
    assert dtypes("accuracy") == DTYPES


def test_repeats_and_baselines(case: Case) -> None:
    assert list(case.done.final)[:4] == [case.key, "macro_f1", "loss", f"sites_{case.key}"]
    assert case.done.final[case.key].mean == pytest.approx(np.mean([run.score for run in case.done.runs]))
    assert f"{case.key}_mean" in case.done.history
    rows = [str(cell) for cell in case.done.table().columns[0].cells]
    assert rows[:2] == [case.name, "macro F1"]
    assert f"{case.name} at the sites" in rows
    assert f"{case.name} " in repr(case.done)
    found = case.done.runs[0].baselines
    assert found is not None
    title = case.name[0].upper() + case.name[1:]
    assert str(found.table().title).startswith(f"{title} in %")
    assert f"<caption>{title} in %" in found.to_html()
    assert f", {case.name}: federation" in found.to_html()
    document = json.dumps([case.done.to_json(), found.to_json()])
    assert _is_silent(case, found.to_html() + document + str(rows))


def test_progress(case: Case) -> None:
    view = SimulationView("run")
    told = [line for line in map(view.feed, case.events) if line]
    assert any(line.startswith("baseline: ") and f"public {case.name} " in line for line in told)
    assert any(line.startswith("round ") and f"public {case.name} " in line for line in told)
    assert any(f"{case.name} at the sites" in line for line in told)
    assert _is_silent(case, "\n".join(told))


def test_clipped_units_are_told_to_the_researcher_and_stand_in_no_file(case: Case) -> None:
    """Only of entities; the plan's bound of 4 clips none here, one that is tiny all that have an entity."""
    run = case.done.runs[0]
    told = "\n".join(line for line in map(SimulationView("run").feed, case.events) if line)
    assert ("of the sites' units clipped" in told) == (case.name == "entity F1")
    assert (run.clipped is None) == (case.name != "entity F1")
    assert run.folder is not None
    for path in run.folder.rglob("*"):
        if path.is_file():
            assert b'clipped":' not in path.read_bytes()


@pytest.mark.parametrize(("bound", "share"), [(1e-3, 1.0), (1000.0, 0.0)])
def test_the_share_of_clipped_units_is_told_by_line_and_by_round(base: Path, bound: float, share: float) -> None:
    """An untrained model says entities everywhere: all counts are beyond a tiny bound. What goes over the wire is the
    cells alone, or the strategy would refuse it."""
    plan, data = _case("tokens", base)
    plan = plan.model_copy(update={"task": plan.task.model_copy(update={"entity_bound": bound})})
    events: list[Event] = []
    run = simulate(plan, data, sites=2, epsilon=8.0, on_event=events.append, workers=0)
    (row,) = (event for event in events if event["event"] == "round")
    evaluation: Any = row["evaluation"]
    assert (evaluation["failed"], evaluation["missing"]) == ({}, [])
    assert run.clipped is not None
    assert dict(run.clipped) == {1: row["sites_clipped"]}
    assert run.clipped[1] == pytest.approx(share)
    assert run.history["sites_clipped"].tolist() == [pytest.approx(share)]
    assert "sites_clipped" in run._repr_html_()
    view = SimulationView("run")
    told = [line for line in map(view.feed, events) if line]
    assert any(f"; {100 * share:.1f} % of the sites' units clipped" in line for line in told)
    assert all("sites_clipped" not in event for event in run.rounds)


def test_sweeps(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    found = case.swept
    assert found.metric == case.key
    assert {f"{name}_mean" for name in (case.key, "macro_f1", "loss", f"sites_{case.key}")} < set(found.frame)
    assert found.best is not None
    assert str(terminal_table(found).title) == f"Trials by {case.name}"
    assert case.name in repr(found)
    assert found.folder is not None
    page = (found.folder / "sweep.html").read_text("utf-8")
    assert f"Best {case.name}:" in page
    assert f"<th>{case.name}</th><th>macro F1</th><th>loss</th><th>{case.name} at the sites</th>" in page
    svg = html.unescape(page)
    assert f"public {case.name}" in svg
    for event in case.trials:
        _tell(event)
    lines = capsys.readouterr().err.splitlines()
    assert all(f": public {case.name} 0." in line for line in lines)
    told = page + (found.folder / "sweep.csv").read_text("utf-8") + json.dumps(found.to_json()) + "".join(lines)
    assert _is_silent(case, told)


def test_a_sweep_is_ranked_by_what_the_task_has(case: Case) -> None:
    """Results of before scores had names are found again, under their name."""
    arguments: dict[str, Any] = {"grid": {RATE: [1e-3]}, "sites": 2, "epsilon": math.inf}
    with pytest.raises(ConfigError, match="'recall'") as caught:
        sweep(case.plan, case.data, metric="recall", **arguments)
    assert case.key in caught.value.mend
    if case.name != "accuracy":
        with pytest.raises(ConfigError, match="'accuracy'"):
            sweep(case.plan, case.data, metric="accuracy", **arguments)
    assert case.swept.folder is not None
    store = Store(case.swept.folder)
    for path in (case.swept.folder / "trials").glob("*.json"):
        old = json.loads(path.read_text("utf-8"))
        final = {name.replace(case.key, "accuracy"): value for name, value in old["final"].items()}
        store.put(path.stem, old | {"final": final})
    grid = {RATE: [case.plan.training.learning_rate, 1e-3]}
    again = sweep(
        case.plan, case.data, grid=grid, folder=case.swept.folder, sites=2, epsilon=math.inf, metric="sites_score"
    )
    assert again.metric == f"sites_{case.key}"
    for trial in again.trials:
        before = next(t for t in case.swept.trials if t.number == trial.number)
        assert trial.spread(case.key) == before.spread(case.key)


def test_comparisons_and_pages(case: Case, tmp_path: Path) -> None:
    folders = [run.folder for run in case.done.runs if run.folder is not None]
    runs = [read_run(folder) for folder in folders]
    keys = [figure.key for figure in overlays(runs)]
    dashed = case.key.replace("_", "-")
    assert keys[:2] == [dashed, f"{dashed}-by-time"]
    page = comparison_html(runs)
    assert f'<th scope="col">{case.name}</th>' in page
    assert f"Public {case.name} by round" in page
    shown = CliRunner().invoke(app, ["report", *map(str, folders), "--out", str(tmp_path / "page.html"), "--json"])
    document = json.loads(shown.stdout)
    assert [score_of(row) for row in document["runs"]] == [run.score for run in case.done.runs]
    if case.name != "accuracy":
        assert [row["score_name"] for row in document["runs"]] == [case.name] * 2
    report = (folders[0] / "report.html").read_text("utf-8")
    assert f"<dt>{case.name[0].upper()}{case.name[1:]}</dt>" in report
    counted = {
        "accuracy": "labelled rightly",
        "micro F1": "rightly said, wrongly said",
        "entity F1": "entities were found",
    }
    assert [words in report for words in counted.values()] == [name == case.name for name in counted]
    for text in (page, report):
        assert _is_silent(case, text.replace("release = &#34;accuracy&#34;", "").split("<h2>To run")[0])


def test_runs_of_unlike_tasks_are_told_apart(base: Path, tmp_path: Path) -> None:
    """On one page each value has its own name, and no axis claims one for all."""
    from tests.server.report_runs import plan_of, write_folder
    from tests.server.statements import public, round_row

    one = write_folder(tmp_path / "one", [round_row(1)])
    f1 = {"score": 0.25, "score_name": "micro F1"} | {k: v for k, v in public().items() if k != "accuracy"}
    coded_plan = plan_of(task={"labels": ["calm", "urgent", "other"], "kind": "multilabel"})
    two = write_folder(tmp_path / "two", [round_row(1) | {"public": f1}], plan=coded_plan)
    runs = [read_run(one), read_run(two)]
    page = comparison_html(runs)
    assert '<th scope="col">score</th>' in page
    assert "0.250 micro F1" in page
    first = overlays(runs)[0]
    assert (first.key, first.title, first.y) == ("score", "Public score by round", "score")
    assert first.note == "Unlike tasks: one: accuracy; two: micro F1."
