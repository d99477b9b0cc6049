"""SIGKILL at random points of a round: whatever was done to the data stands in the ledger."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from privet.client.ledger import EventRow, Ledger
from privet.common.config import Plan
from tests.client.agent_bench import Bench
from tests.tiny_models import tiny_base, tiny_plan

MOST_KILLS = 100


class Worker:
    """The preloaded process, and what it says."""

    def __init__(self, folder: Path, base: Path, plan: Plan) -> None:
        (folder / "plan.json").write_text(plan.canonical(), encoding="utf-8")
        command = [sys.executable, "-m", "tests.client.round_worker", str(folder), str(base), str(folder / "plan.json")]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def round(self, number: int, kill_after: float | None) -> float:
        """Run one round, killed `kill_after` seconds from its request on; the seconds that it lived from there."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(number, file=self._process.stdin, flush=True)
        lines: list[str] = []
        while not {"ready", "ended"} & set(lines):
            lines.append(self._process.stdout.readline().strip())
            assert lines[-1], "the worker is gone"
        child = next(int(line) for line in lines if line.isdigit()) if any(map(str.isdigit, lines)) else None
        started = time.monotonic()
        if "ended" not in lines:
            if child is None:
                child = int(self._process.stdout.readline())
            if kill_after is not None:
                time.sleep(kill_after)
                with contextlib.suppress(ProcessLookupError):  # the round was over before
                    os.kill(child, signal.SIGKILL)
            assert self._process.stdout.readline().strip() == "ended"
        return time.monotonic() - started

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)
        if self._process.stdout is not None:
            self._process.stdout.close()


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[tuple[Worker, Bench]]:
    base = tiny_base(tmp_path / "base")
    plan = tiny_plan(base, training={"rounds": MOST_KILLS + 10, "local_steps": 20, "expected_batch": 5})
    bench = Bench(tmp_path, plan, base)
    bench.close()
    made = Worker(tmp_path, base, plan)
    yield made, bench
    made.close()


@pytest.mark.parametrize("num_kills", [4, pytest.param(MOST_KILLS, marks=pytest.mark.slow)])
def test_killed_at_random_points_of_a_round(worker: tuple[Worker, Bench], num_kills: int) -> None:
    """Trained means reserved, sent means stored, and nothing is trained twice; the ledger never cries wolf."""
    made, bench = worker
    events: dict[int, EventRow] = {}
    usual = max(made.round(number, None) for number in (1, 2, 3))
    dice = random.Random(7)
    ends: Counter[str] = Counter()
    wanted = {"sent", "reserved"}  # on a busy machine a few kills may all fall on one side: then there are more of them
    while (done := sum(ends.values())) < num_kills or (not wanted <= set(ends) and done < MOST_KILLS):
        events = seen(bench.path)
        made.round(max(events) + 1, dice.uniform(0, usual))
        began, sent = truth(bench.folder)
        events = seen(bench.path)
        assert set(began) <= set(events)
        assert max(began.values()) == 1
        assert all(events[number].reply_sha256 == digest for number, digest in sent.items())
        last = max(events)
        end = "sent" if last in sent else events[last].state
        ends[end] += 1
        usual *= 0.9 if end == "sent" else 1.1  # rounds take longer on a busy machine: half of the kills come too late
    assert set(ends) >= wanted, ends  # the kills did fall into rounds, before and after their ends

    bench.ledger = Ledger.open(bench.path, agent=True)
    bench.agent = bench.fresh()
    assert not bench.ledger.behind()
    bench.offer()
    codes = {number: str(bench.train(number).code) for number in events}
    assert codes == {number: "ok" if events[number].state == "stored" else "round_lost" for number in events}
    assert seen(bench.path) == events
    bench.close()


def seen(path: Path) -> dict[int, EventRow]:
    with Ledger.open(path) as ledger:
        return {event.round: event for event in ledger.events()}


def truth(folder: Path) -> tuple[Counter[int], dict[int, str]]:
    """How often each round was trained, and what was sent."""
    lines = [line.split() for line in (folder / "truth").read_text(encoding="utf-8").splitlines()]
    assert {line[0] for line in lines} <= {"began", "sent"}, lines
    began = Counter(int(line[1]) for line in lines if line[0] == "began")
    return began, {int(line[1]): line[2] for line in lines if line[0] == "sent"}
