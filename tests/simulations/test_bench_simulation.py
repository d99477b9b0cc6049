"""`privet bench simulation`: a run's figures are its whole tree's, over its warm rounds; one that fails has none."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from privet.common.cli.bench import app
from privet.common.errors import ConfigError, RunError
from privet.simulations.bench import process as bench_process
from privet.simulations.bench import run_process
from privet.simulations.bench.process import Turn
from privet.simulations.bench.run_process import Run, timed_run
from privet.simulations.bench.simulation import _figures, _loop_figures, bench_simulation
from privet.simulations.bench.tree import members

# Three rounds of four updates: a worker process spends .8 s on the first and .2 s on each of the others, and nothing
# where the rounds are to go wrong.
ROUNDS = """
import json, os, sys, time

def tell(**event):
    print(json.dumps(event), flush=True)

def burn(seconds):
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass

print("not an event", flush=True)
tell(event="started")
ask, asked = os.pipe()
done, tell_done = os.pipe()
if os.fork() == 0:
    os.close(asked)
    while byte := os.read(ask, 1):
        burn(0 if sys.argv[1:] else 0.8 if byte == b"1" else 0.2)
        os.write(tell_done, b".")
    os._exit(0)
held = bytearray(b"x") * (64 << 20)
for number in range(1, 4):
    os.write(asked, str(number).encode())
    os.read(done, 1)
    failed = {"site-1": "unavailable"} if sys.argv[1:] == ["failing"] else {}
    tell(event="round", round=number, answered=["a", "b", "c", "d"], missing=[], failed=failed, aggregated=True)
os.close(asked)
tell(event="finished")
os.wait()
if sys.argv[1:] == ["broken"]:
    sys.exit("it broke")
"""


def _command(*words: str) -> list[str]:
    return [sys.executable, "-c", ROUNDS, *words]


def test_warm_rounds_of_the_whole_tree_are_counted(tmp_path: Path) -> None:
    run = timed_run(_command(), tmp_path / "log", rounds=3)
    assert 0.04 <= run.cpu_per_update <= 0.07  # .2 s for each four, in ticks of .01
    assert run.whole_cpu >= 1.15
    assert run.start_seconds >= 0.8
    assert run.whole_seconds >= run.start_seconds + 0.4
    assert run.updates_per_second == pytest.approx(4 * run.rounds_per_second)
    assert run.peak_pss >= 64 << 20


@pytest.mark.parametrize(
    ("word", "rounds", "said"), [("failing", 3, "round 1"), ("broken", 3, "it broke"), ("short", 4, "3 rounds")]
)
def test_a_run_that_fails_has_no_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str, rounds: int, said: str
) -> None:
    begun: list[int] = []
    genuine = bench_process.start

    def noted(command: Any, log: Path) -> Any:
        process = genuine(command, log)
        begun.append(process.pid)
        return process

    monkeypatch.setattr(run_process, "start", noted)
    with pytest.raises(RunError, match=said):
        timed_run(_command(word), tmp_path / "log", rounds=rounds)
    while members(begun[0]):  # its worker is gone as well, or this never ends
        time.sleep(0.01)


def test_speed_is_beside_the_loop_of_the_same_repeat() -> None:
    turns = [Turn(10, cpu=1.0, wall=2.0, examples=80), Turn(10, cpu=2.0, wall=4.0, examples=80)]
    runs = [Run(cost, 1.0, 1.0, 5.0, 9.0, 9.0, 1 << 20) for cost in (0.05, 0.1)]
    loop, ours = _loop_figures(turns, 1e6), _figures("cohort", runs, turns)
    assert loop.cpu_seconds_per_update.values == (0.1, 0.2)
    assert loop.speed.values == (1.0, 1.0)
    assert ours.speed.values == pytest.approx((2.0, 2.0))


def test_what_cannot_be_measured_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "data.csv"
    file.write_text("text,label\n" + "one,a\ntwo,b\n" * 10, encoding="utf-8")
    with pytest.raises(ConfigError, match="cohort"):
        bench_simulation("tiny", file, sites=2, cohort=3)
    with pytest.raises(ConfigError, match="20 rows"):
        bench_simulation("tiny", file, sites=4, cohort=2, batch=6)
    with pytest.raises(ConfigError, match="no arm"):
        bench_simulation("tiny", file, sites=2, cohort=1, arms=["ours"])


@pytest.mark.slow
def test_the_command_tells_the_figures_in_json() -> None:
    given = ["simulation", "--sites", "6", "--cohort", "2", "--steps", "1", "--rounds", "2", "--repeats", "1"]
    ended = CliRunner().invoke(app, [*given, "--max-length", "32", "--json"])
    assert ended.exit_code == 0, ended.output
    found: dict[str, Any] = json.loads(ended.stdout)
    assert set(found) == {
        *("bench", "machine", "preset", "sites", "cohort", "local_steps", "expected_batch", "max_length"),
        *("mean_length", "labels", "epsilon", "rounds", "repeats", "reference", "arms"),
    }
    loop, *ours = found["arms"]
    assert loop["arm"] == found["reference"] == "opacus-loop"
    assert ours
    for arm in ours:
        assert arm["cpu_seconds_per_update"]["median"] > 0
        assert 1 < arm["start_seconds"]["median"] < arm["whole_seconds"]["median"]
        assert arm["peak_pss_bytes"]["median"] > 100 << 20
