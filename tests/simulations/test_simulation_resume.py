"""A simulation that was stopped, however, goes on to the very numbers of one that was not; no process stays behind."""

import contextlib
import errno
import json
import math
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from privet.common.adapter import digest
from privet.common.cli.run import sites_of
from privet.common.config import Plan, SimulationSpec, load_federation
from privet.common.errors import ConfigError, RunError
from privet.common.live import Event
from privet.server.checkpoint import Checkpoint, load_checkpoint
from privet.server.export import plan_toml
from privet.server.run_folder import RunFolder
from privet.simulations import Simulation, SimulationData, simulate
from privet.simulations.corpus.hospital import LABELS
from privet.simulations.data import generated
from privet.simulations.resume import resumable
from tests.simulations.processes import descendants, gone
from tests.tiny_models import tiny_plan

SPEC = SimulationSpec(dropout=0.2, straggler=0.2, seed=5)
ROUNDS = 5


class Stopped(BaseException):
    """As a signal: nothing foresees it."""


@pytest.fixture(scope="module")
def data() -> SimulationData:
    return generated(LABELS, num_units=120)


def _plan(base: Path, **training: Any) -> Plan:
    """Server momentum, a cohort that is drawn, evaluations at sites, and the best round kept."""
    settings = {"rounds": ROUNDS, "local_steps": 2, "expected_batch": 4, "train_fraction": 0.7, "learning_rate": 0.3}
    return tiny_plan(
        base,
        task={"labels": list(LABELS), "max_length": 16},
        method={"kind": "head", "server_momentum": 0.9, "seed": 1},
        training=settings | training,
        evaluation={"release": "accuracy", "every": 2, "metric": "sites", "keep": "best"},
        cohort={"fraction": 0.6, "min_sites": 2},
    )


@pytest.fixture(scope="module")
def plan(base: Path) -> Plan:
    return _plan(base)


@pytest.fixture(scope="module")
def run(plan: Plan, data: SimulationData) -> Callable[..., Simulation]:
    return partial(simulate, plan, data, sites=6, epsilon=[8.0, math.inf], spec=SPEC, workers=0)


@pytest.fixture(scope="module")
def undisturbed(run: Callable[..., Simulation]) -> Simulation:
    return run()


def _rows(history: Any) -> Any:
    """Rounds without their times, as they come back from a file."""
    return json.loads(
        json.dumps([{k: v for k, v in row.items() if k not in ("seconds", "simulated")} for row in history])
    )


def _same(one: Simulation, other: Simulation) -> None:
    assert digest(one.arrays) == digest(other.arrays)
    assert _rows(one.rounds) == _rows(other.rounds)
    assert one.truth == other.truth
    assert one.spent is not None
    assert other.spent is not None
    assert one.spent.trained.tolist() == other.spent.trained.tolist()
    assert one.spent.measured.tolist() == other.spent.measured.tolist()
    assert one.statements == other.statements


def _stopping(kind: str, round: int) -> Callable[[Event], None]:
    """A listener that stops the run at the first event `kind` in this round."""
    now = 0

    def listen(event: Event) -> None:
        nonlocal now
        now = int(str(event.get("round", now)))
        if event.get("kind", event["event"]) == kind and now == round:
            raise Stopped

    return listen


@contextlib.contextmanager
def _stops() -> Iterator[None]:
    with pytest.raises(Stopped):
        yield


def _stopped(run: Callable[..., Simulation], runs: Path, kind: str = "round", round: int = 2) -> Path:
    with _stops():
        run(runs=runs, on_event=_stopping(kind, round))
    (folder,) = runs.iterdir()
    return folder


@pytest.mark.parametrize(
    ("kind", "round"),
    [("engine", 0), ("round_started", 1), ("train", 3), ("evaluate", 4), ("evaluate", 5), ("round", 4), ("round", 5)],
)
def test_wherever_it_is_stopped_it_comes_to_the_same_end(
    run: Callable[..., Simulation], undisturbed: Simulation, tmp_path: Path, kind: str, round: int
) -> None:
    folder = _stopped(run, tmp_path / "runs", kind, round)
    again = run(resume=folder)
    assert again.folder == folder
    _same(again, undisturbed)
    events = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    told = {event["round"]: event for event in events if event["event"] == "round"}
    assert _rows(told.values()) == _rows(undisturbed.rounds)


def test_a_round_that_was_kept_and_not_told_is_told(
    run: Callable[..., Simulation], undisturbed: Simulation, tmp_path: Path
) -> None:
    folder = _stopped(run, tmp_path / "runs", "round", 4)
    lines = (folder / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    assert json.loads(lines[-1])["event"] == "round"
    (folder / "metrics.jsonl").write_bytes(b"".join(lines[:-1]))
    told: list[Event] = []
    _same(run(resume=folder, on_event=told.append), undisturbed)
    assert [event["sites_truth"] for event in told if event["event"] == "round"][:1] == [undisturbed.truth[4]]


def test_it_is_stopped_time_and_again_and_a_damaged_checkpoint_is_passed_over(
    run: Callable[..., Simulation], undisturbed: Simulation, tmp_path: Path
) -> None:
    folder = _stopped(run, tmp_path / "runs", "round", 2)
    with _stops():
        run(resume=folder, on_event=_stopping("train", 4))
    newest = sorted((folder / "checkpoints").glob("round-*.safetensors"))[-1]
    newest.write_bytes(newest.read_bytes()[:-40])
    with (folder / "metrics.jsonl").open("ab") as file:
        file.write(b'{"event": "rou')
    warned: list[Event] = []
    _same(run(resume=folder, on_event=warned.append), undisturbed)
    assert any("not a readable checkpoint" in str(event.get("text")) for event in warned)


def test_as_many_sites_as_a_column_has_values(
    run: Callable[..., Simulation], data: SimulationData, tmp_path: Path
) -> None:
    by_column = partial(run, sites=0, spec=SPEC.model_copy(update={"partition": "column:site"}))
    assert len(set(data.columns["site"])) == 3
    whole = by_column()
    _same(whole, by_column(sites=3))
    _same(by_column(resume=_stopped(by_column, tmp_path / "runs")), whole)


def test_a_full_disk_ends_a_simulation_with_the_command_that_goes_on(
    run: Callable[..., Simulation], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(checkpoint: Checkpoint, _folder: Path) -> None:
        if checkpoint.round == 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("privet.server.run_folder.save_checkpoint", full)
        with pytest.raises(RunError, match="No space left") as error:
            run(runs=tmp_path, command="privet simulate plan.toml")
    (folder,) = tmp_path.iterdir()
    assert f"go on with `privet simulate plan.toml --resume {folder}`" in str(error.value)


def test_a_finished_run_is_not_resumed_and_keeps_no_truth(
    run: Callable[..., Simulation], undisturbed: Simulation, tmp_path: Path
) -> None:
    folder = _stopped(run, tmp_path / "runs", "round", 4)
    (newest,) = [load_checkpoint(path) for path in (folder / "checkpoints").glob("round-00004.safetensors")]
    assert newest.simulation["truth"] == {"4": undisturbed.truth[4]}
    run(resume=folder)
    assert not any(load_checkpoint(path).simulation for path in (folder / "checkpoints").glob("round-*"))
    with pytest.raises(ConfigError, match="finished"):
        run(resume=folder)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"sites": 7}, r"--sites 6 \(now 7\)"),
        ({"epsilon": 4.0}, r"--epsilon 8,inf \(now 4\)"),
        ({"spec": SPEC.model_copy(update={"seed": 6})}, r"simulation.seed 5 \(now 6\)"),
        ({"spec": SPEC.model_copy(update={"dropout": 0.0})}, r"simulation.dropout 0.2 \(now 0.0\)"),
        ({"partition": "dirichlet:1"}, r"simulation.partition iid \(now dirichlet:1\)"),
    ],
)
def test_another_simulation_is_refused_by_what_differs(
    run: Callable[..., Simulation], tmp_path: Path, changed: dict[str, Any], words: str
) -> None:
    folder = _stopped(run, tmp_path / "runs")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match=words) as error:
        run(resume=folder, **changed)
    assert "other data" not in str(error.value)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_other_data_and_another_plan_are_refused(
    run: Callable[..., Simulation], base: Path, data: SimulationData, tmp_path: Path
) -> None:
    folder = _stopped(run, tmp_path / "runs")
    texts = [*data.texts[:-1], "fever " + data.texts[-1]]
    other = SimulationData(texts, data.labels, data.units, data.columns, data.test_texts, data.test_labels)
    given = {"sites": 6, "epsilon": [8.0, math.inf], "spec": SPEC, "workers": 0, "resume": folder}
    with pytest.raises(ConfigError, match="begun with other data"):
        simulate(_plan(base), other, **given)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="is of plan"):
        simulate(_plan(base, learning_rate=0.2), data, **given)  # type: ignore[arg-type]


def test_a_folder_of_something_else_is_refused(run: Callable[..., Simulation], plan: Plan, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    RunFolder(tmp_path / "server", plan).close()
    for folder in (tmp_path / "empty", tmp_path / "server", tmp_path / "absent"):
        with pytest.raises(ConfigError, match="not the run folder of a simulation"):
            run(resume=folder)


def test_nobody_goes_on_with_a_run_that_is_running(run: Callable[..., Simulation], tmp_path: Path) -> None:
    tried: list[str] = []

    def try_it(event: Event) -> None:
        if event["event"] == "round_started" and not tried:
            (folder,) = tmp_path.iterdir()
            with pytest.raises(ConfigError, match="another process") as error:
                run(resume=folder)
            tried.append(str(error.value))

    run(runs=tmp_path, on_event=try_it)
    assert tried


def _interrupted(command: str, *events: Event, again: bool = False) -> None:
    with resumable(command, again=again) as hear:
        for event in events:
            hear(event)
        raise KeyboardInterrupt


def test_whoever_stops_it_is_told_how_to_go_on() -> None:
    begun: Event = {"event": "run_folder", "run": "/runs/one two"}
    with pytest.raises(RunError, match="`privet simulate f --resume '/runs/one two'`") as error:
        _interrupted("privet simulate f", begun)
    assert error.value.exit_code == 1
    with pytest.raises(RunError, match="`privet simulate f --resume x`"):
        _interrupted("privet simulate f --resume x", begun, again=True)
    with pytest.raises(KeyboardInterrupt):
        _interrupted("privet simulate f", begun, {"event": "finished"})


# Real processes


@pytest.fixture
def file(plan: Plan, tmp_path: Path) -> Path:
    path = tmp_path / "federation.toml"
    tables = '\n[server]\nruns = "runs"\n\n[simulation]\ndropout = 0.2\nstraggler = 0.2\nseed = 5\n'
    path.write_text(plan_toml(plan) + tables, encoding="utf-8")
    return path


def test_only_a_column_says_how_many_sites_there_are(file: Path) -> None:
    assert sites_of(load_federation(file, ['simulation.partition="column:site"'])) == 0
    with pytest.raises(ConfigError, match="--sites"):
        sites_of(load_federation(file))


def _start(file: Path, *flags: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "privet.common.cli", "simulate", str(file), "--json", *flags]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _read_until(process: "subprocess.Popen[str]", kind: str, round: int) -> list[int]:
    """Its children, once it has told this."""
    assert process.stdout is not None
    for line in process.stdout:
        event = json.loads(line)
        if event["event"] == kind and event.get("round") == round:
            break
    else:
        pytest.fail(f"it ended: {process.communicate()[1]}")
    return descendants(process.pid)


@pytest.mark.slow
def test_a_killed_simulation_goes_on(file: Path) -> None:
    flags = ("--sites", "6", "--epsilon", "8,inf", "--workers", "2")
    whole = _start(file, *flags)
    _, errors = whole.communicate(timeout=300)
    assert whole.returncode == 0, errors
    (first,) = (file.parent / "runs").iterdir()

    killed = _start(file, *flags)
    with killed:
        workers = _read_until(killed, "round_started", 3)
        killed.kill()
        killed.wait()
    assert len(workers) >= 3
    assert gone(workers)
    (second,) = set((file.parent / "runs").iterdir()) - {first}

    again = _start(file, "--resume", str(second), "--workers", "1")
    _, errors = again.communicate(timeout=300)
    assert again.returncode == 0, errors
    adapters = [json.loads((run / "adapter" / "privacy.json").read_text())["adapter"] for run in (first, second)]
    assert adapters[0] == adapters[1]
    rows = [
        {
            event["round"]: event
            for line in (run / "metrics.jsonl").read_text().splitlines()
            for event in [json.loads(line)]
            if event["event"] == "round"
        }
        for run in (first, second)
    ]
    assert _rows(rows[0].values()) == _rows(rows[1].values())

    over = _start(file, "--resume", str(second))
    _, errors = over.communicate(timeout=120)
    assert over.returncode == 2
    assert "finished" in errors


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_its_workers_and_tells_how_to_go_on(file: Path, number: signal.Signals) -> None:
    with _start(file, "--sites", "6", "--workers", "2", "--set", "training.rounds=1000") as process:
        workers = _read_until(process, "round_started", 2)
        assert len(workers) >= 3
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert gone(workers)
    (folder,) = (file.parent / "runs").iterdir()
    assert f"--resume {folder}" in errors.strip().splitlines()[-1]
    assert all(json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    assert not list(folder.rglob("*.partial"))
