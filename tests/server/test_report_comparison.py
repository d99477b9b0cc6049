"""Several runs on one page, and a run's numbers in TensorBoard."""

import json
import math
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from privet.common.cli import app
from privet.common.config import Plan
from privet.common.errors import ConfigError
from privet.server.report import read_run
from privet.server.report.comparison import comparison_html, differences, names_of, overlays
from privet.server.report.tensorboard import TensorBoard, write_run
from tests.server.report_runs import plan_of, write_folder
from tests.server.statements import at_sites, public, round_row, stated
from tests.server.test_report import MAX_PAGE, check_harmless


def _plan(rate: float) -> Plan:
    return plan_of(training={"rounds": 40, "expected_batch": 64, "learning_rate": rate})


@pytest.fixture
def two(tmp_path: Path) -> list[Path]:
    slow = [{"event": "initial", "public": public(0.1)}]
    slow += [round_row(n, public=public(0.1 * n), seconds=30.0) for n in range(1, 7)]
    fast = [round_row(n, public=public(0.2 * n), **at_sites(0.15 * n), time=1e9 + n) for n in range(1, 5)]
    fast.append({"event": "finished"})
    return [
        write_folder(tmp_path / "one", slow, plan=_plan(0.01), statements={"north": stated()}),
        write_folder(tmp_path / "two", fast, plan=_plan(0.5), statements={"north": stated(epsilon=7.5)}),
    ]


def test_two_runs_lie_over_each_other(two: list[Path]) -> None:
    runs = [read_run(path) for path in two]
    drawn = {figure.key: figure for figure in overlays(runs)}
    assert set(drawn) == {"accuracy", "accuracy-by-time", "macro-f1", "accuracy-at-sites", "epsilon"}
    first, second = drawn["accuracy"].lines
    assert (first.name, second.name) == ("one", "two")
    assert first.style != second.style
    assert first.points == ((0.0, 0.1), *((float(n), 0.1 * n) for n in range(1, 7)))
    assert second.points == tuple((float(n), 0.2 * n) for n in range(1, 5))
    assert drawn["accuracy-by-time"].lines[0].points[-1] == (3.0, 0.1 * 6)  # minutes
    assert drawn["accuracy-by-time"].x == "minutes"
    assert drawn["accuracy-at-sites"].lines[0].errors == (0.05,) * 4
    page = comparison_html(runs)
    text = check_harmless(page).text
    assert "one (not finished) 6 0.600 0.550 0.625 – 2.98 2 6 3 min 0 s 30 s 18.0 kB 12.0 kB" in text
    assert "two 4 0.800 0.750 0.625 0.600 ± 0.050 7.50 2 4 8 s 2 s 12.0 kB 8.0 kB" in text
    assert "round 3, two: 0.6" in text


def test_a_site_without_a_finite_epsilon_has_no_largest(tmp_path: Path, two: list[Path]) -> None:
    """The largest of the others would understate it."""
    loose = stated(guarantee=False, reason="no noise", noise_multiplier=0.0, epsilon=None, epsilon_replace=None)
    mixed = {"north": stated(), "south": loose}
    run = read_run(write_folder(tmp_path / "mixed", [round_row(1), round_row(2)], statements=mixed))
    drawn = {figure.key: figure for figure in overlays([read_run(two[0]), run])}
    assert [line.name for line in drawn["epsilon"].lines] == ["one"]
    assert "mixed (not finished) 2 0.520 0.470 0.625 – ∞" in check_harmless(comparison_html([run, run])).text.replace(
        "2: mixed", "mixed"
    )


def test_of_the_plans_only_what_differs_is_shown(two: list[Path]) -> None:
    runs = [read_run(path) for path in two]
    assert differences(runs) == [("training.learning_rate", ["0.01", "0.5"])]
    text = check_harmless(comparison_html(runs)).text
    assert "training.learning_rate 0.01 0.5" in text
    assert "training.rounds" not in text
    assert differences([runs[0], runs[0]]) == []
    assert "Nowhere: all runs are of one plan." in comparison_html([runs[0], runs[0]])


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    paths = [write_folder(tmp_path / part / "run", [round_row(1)]) for part in ("a", "b")]
    assert names_of([read_run(path) for path in paths]) == ["a/run", "b/run"]
    assert names_of([read_run(paths[0])] * 2) == ["1: run", "2: run"]


def test_a_simulation_among_them_guarantees_nothing(tmp_path: Path, two: list[Path]) -> None:
    simulated = write_folder(tmp_path / "three", [round_row(1, simulated=True)])
    text = check_harmless(comparison_html([read_run(two[0]), read_run(simulated)])).text
    assert "Simulation: no guarantee in three . One process held" in text
    assert "guarantee" not in check_harmless(comparison_html([read_run(path) for path in two])).text


def test_hostile_names_and_values_stay_words(tmp_path: Path) -> None:
    hostile = "<script>alert(1)<∕script>\"'{{ 7*7 }}"
    plan = plan_of(task={"labels": [hostile, "b"]})
    environment = {"event": "environment", "command": hostile, "versions": {}}
    first = write_folder(tmp_path / hostile, [round_row(1), environment], plan=plan, statements={hostile: stated()})
    runs = [read_run(first), read_run(write_folder(tmp_path / "other", [round_row(1)]))]
    page = check_harmless(comparison_html(runs))
    assert sum(hostile in text for text in page.texts) >= 4
    assert "49" not in page.texts


def test_many_runs_are_one_bounded_page(tmp_path: Path) -> None:
    events = [round_row(n, public=public(n / 300)) for n in range(1, 201)]
    runs = [read_run(write_folder(tmp_path / f"run-{i:02d}", events, plan=_plan(0.01 * (i + 1)))) for i in range(20)]
    page = comparison_html(runs)
    check_harmless(page)
    assert len(page.encode()) < MAX_PAGE / 2


def test_the_command_writes_the_comparison(two: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["report", *map(str, two), "--json"])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["report"] == "comparison.html"
    assert (tmp_path / "comparison.html").is_file()
    assert len(list((tmp_path / "comparison-figures").glob("*.png"))) == 5
    assert [run["accuracy"] for run in document["runs"]] == [pytest.approx(0.6), pytest.approx(0.8)]
    assert not any((path / "report.html").exists() for path in two)
    assert isinstance(CliRunner().invoke(app, ["report", str(two[0]), "--out", str(tmp_path)]).exception, ConfigError)


def _scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder))
    read.Reload()
    return {tag: [(e.step, round(e.value, 6)) for e in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


def test_tensorboard_shows_the_numbers_of_the_events(two: list[Path], tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    folder = tmp_path / "board"
    write_run(read_run(two[0]), folder)
    scalars = _scalars(folder)
    assert scalars["public/accuracy"] == [(0, 0.1), *((n, round(0.1 * n, 6)) for n in range(1, 7))]
    assert scalars["cost/seconds"] == [(n, 30.0) for n in range(1, 7)]
    assert scalars["cost/bytes_up"] == [(n, 2000.0) for n in range(1, 7)]
    assert scalars["cohort/answered"] == [(n, 2.0) for n in range(1, 7)]
    assert [step for step, _ in scalars["epsilon/largest"]] == [1, 2, 3, 4, 5, 6]
    assert scalars["epsilon/largest"][-1][1] < 2.971  # of a horizon of 40
    assert "sites/accuracy" not in scalars


def test_tensorboard_listens_to_a_run_under_way(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    with TensorBoard(tmp_path / "live") as board:
        board({"event": "started", "rounds": 2})
        board({"event": "initial", "public": public(0.25)})
        board(round_row(1, **at_sites(0.5), failed={"x": "unavailable"}, time=1e9))
        assert _scalars(tmp_path / "live")["sites/accuracy"] == [(1, 0.5)]  # while it still runs
        board(round_row(2, public=public(0.5, loss=math.nan), **at_sites(None)))
        board(round_row(3, public=None))
    scalars = _scalars(tmp_path / "live")
    assert [step for step, _ in scalars["public/accuracy"]] == [0, 1, 2]
    assert [step for step, _ in scalars["public/loss"]] == [0, 1]
    assert scalars["cohort/failed"] == [(1, 1.0), (2, 0.0), (3, 0.0)]
    assert scalars["sites/accuracy_error"] == [(1, 0.05)]


def test_without_tensorboard_the_mend_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError, match="not installed") as caught:
        TensorBoard(tmp_path)
    assert "privet[tensorboard]" in caught.value.mend
