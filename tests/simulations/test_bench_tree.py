"""What a tree of processes takes is measured: every process once, every shared page once, the dead too."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import pytest

from privet.simulations.bench.spread import Spread, ratios, rotated
from privet.simulations.bench.tree import PeakPss, cpu_seconds, members, pss_bytes

MIB = 1 << 20
# A parent with 64 MiB of its own, shared with a child that has 32 MiB more.
SHARING = """
import os, sys
shared = bytearray(b"x") * (64 << 20)
ready, told = os.pipe()
if os.fork() == 0:
    own = bytearray(b"y") * (32 << 20)
    os.write(told, b".")
    sys.stdin.read()
    os._exit(0)
os.read(ready, 1)
print("ready", flush=True)
sys.stdin.read()
os.wait()
"""
# A child works and is waited for; then the parent tells what both took.
WORKING = """
import os, sys, time
if os.fork() == 0:
    while time.process_time() < 0.3:
        pass
    os._exit(0)
os.wait()
print(sum(os.times()[:4]), flush=True)
sys.stdin.read()
"""
# The child of a child that has ended: nobody in the tree is its parent any more.
ORPHANED = """
import os, sys
ready, told = os.pipe()
if os.fork() == 0:
    if os.fork() == 0:
        os.write(told, str(os.getpid()).encode())
        os.close(told)
        sys.stdin.read()
    os._exit(0)
os.wait()
os.close(told)
print(os.read(ready, 20).decode(), flush=True)
sys.stdin.read()
"""


@contextmanager
def _running(script: str) -> Iterator[tuple[int, str]]:
    """Its process id, and the first line that it writes; it ends when its input does."""
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        yield process.pid, process.stdout.readline()
        process.communicate()


def test_a_page_that_two_processes_share_counts_once() -> None:
    with _running(SHARING) as (pid, _):
        assert len(members(pid)) == 2
        assert 96 * MIB <= pss_bytes(pid) <= 130 * MIB  # resident sizes add up to more than 160
    assert pss_bytes(pid) == 0


def test_the_peak_outlives_what_was_freed() -> None:
    script = """
import sys
print("ready", flush=True)
sys.stdin.readline()
held = bytearray(b"x") * (64 << 20)
print("held", flush=True)
sys.stdin.readline()
del held
print("freed", flush=True)
sys.stdin.read()
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        with PeakPss(process.pid, seconds=0.01) as memory:
            before = memory.peak
            for _ in range(2):
                process.stdin.write("\n")
                process.stdin.flush()
                process.stdout.readline()
                looks = memory.samples
                while memory.samples < looks + 2:
                    pass
        assert 64 * MIB <= memory.peak - before <= 70 * MIB
        assert pss_bytes(process.pid) < before + 8 * MIB


def test_processor_time_of_the_dead_counts() -> None:
    with _running(WORKING) as (pid, told):
        assert float(told) >= 0.25  # ticks of the clock
        assert cpu_seconds(pid) == pytest.approx(float(told), abs=0.03)


def test_an_orphan_of_the_session_is_a_member() -> None:
    with _running(ORPHANED) as (pid, orphan):
        assert sorted(members(pid)) == sorted([pid, int(orphan)])
    assert members(pid) == []


def test_strangers_are_no_members() -> None:
    assert os.getppid() not in members(os.getpid())


def test_a_spread_is_of_the_values_as_measured() -> None:
    assert Spread.of([4.0, 1.0, 2.0, 3.0]) == Spread(2.5, 1.0, 4.0, (4.0, 1.0, 2.0, 3.0))
    with pytest.raises(ValueError, match="at least one"):
        Spread.of([])


def test_ratios_are_of_the_same_repeat() -> None:
    slowed = [1.0, 10.0, 1.0]  # the second repeat on a busy machine, both arms
    assert ratios([2 * second for second in slowed], slowed) == Spread(2.0, 2.0, 2.0, (2.0, 2.0, 2.0))
    with pytest.raises(ValueError, match="argument"):
        ratios([1.0], [1.0, 2.0])


def test_every_arm_has_every_place_in_turn() -> None:
    orders = [rotated(["a", "b", "c"], repeat) for repeat in range(3)]
    assert [sorted(cast("tuple[str, ...]", column)) for column in zip(*orders, strict=True)] == [["a", "b", "c"]] * 3
