"""One whole `privet simulate` in a process of its own, watched from its start to its end."""

import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from privet.common.errors import RunError
from privet.simulations.bench.process import end, events, last_words, start
from privet.simulations.bench.tree import PeakPss, cpu_seconds

_END_SECONDS = 600.0


@dataclass(frozen=True)
class Run:
    """Figures of one run. Per update and per second: over the rounds after the first, when all is warm."""

    cpu_per_update: float  # seconds of processor time of the whole tree
    updates_per_second: float
    rounds_per_second: float
    start_seconds: float  # from the start of the process until the first round is over, by the clock
    whole_seconds: float
    whole_cpu: float  # all of it: start, rounds, files
    peak_pss: int


class _Round(NamedTuple):
    at: float
    cpu: float
    updates: int


def timed_run(command: Sequence[str], log: Path, *, rounds: int) -> Run:
    """Run a command that writes a line of JSON with ``"event": "round"`` after each of its rounds.

    Raises: RunError where it fails, a round fails, or there are not as many as `rounds`, at least two.
    """
    if rounds < 2:
        raise ValueError("Expected at least two rounds: the first warms up.")
    began = time.perf_counter()
    process = start(command, log)
    try:
        with PeakPss(process.pid) as memory:
            seen, whole_cpu = _rounds(process, log)
    finally:
        end(process)
    whole = time.perf_counter() - began
    if process.returncode != 0:
        raise RunError(f"the simulation ended with {process.returncode}.", where=last_words(log))
    if len(seen) != rounds:
        raise RunError(f"the simulation had {len(seen)} rounds in place of {rounds}.", where=last_words(log))
    first, last = seen[0], seen[-1]
    updates, seconds = sum(round.updates for round in seen[1:]), last.at - first.at
    return Run(
        (last.cpu - first.cpu) / updates,
        updates / seconds,
        (rounds - 1) / seconds,
        first.at - began,
        whole,
        whole_cpu,
        memory.peak,
    )


def _rounds(process: "subprocess.Popen[str]", log: Path) -> tuple[list[_Round], float]:
    """The rounds as they end, and the processor time of the whole run."""
    seen: list[_Round] = []
    cpu = 0.0
    for event in events(process):
        kind = event.get("event")
        if kind == "round":
            if not event["aggregated"] or event["missing"] or event["failed"]:
                raise RunError(f"round {event['round']} of the simulation failed.", where=last_words(log))
            cpu = cpu_seconds(process.pid)
            seen.append(_Round(time.perf_counter(), cpu, len(event["answered"])))
        elif kind == "finished":
            cpu = cpu_seconds(process.pid)
    process.wait(_END_SECONDS)
    return seen, cpu
