"""Processes that are measured: arms that work when told to, and whole commands that tell their events."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from privet.common.errors import RunError
from privet.simulations.bench.tree import PeakPss

_STOP_SECONDS = 10.0
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


@dataclass(frozen=True)
class Turn:
    """What a turn of work took."""

    count: int
    cpu: float  # seconds of its processor time
    wall: float
    examples: int


class ArmProcess:
    """One arm, warm and waiting between its turns.

    Raises: RunError where it could not be made, or ended in a turn.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.name, self.peak_pss, self.num_parameters = name, 0, 0
        self._log = folder / f"{name}.log"
        self._process = start([sys.executable, "-m", "privet.simulations.bench.worker", str(folder), name], self._log)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        end(self._process)

    def wait_until_ready(self) -> None:
        self.num_parameters = int(self._answer()["parameters"])

    def turn(self, count: int) -> Turn:
        """So many steps or updates now."""
        assert self._process.stdin is not None
        with PeakPss(self._process.pid) as memory:
            try:
                self._process.stdin.write(f"{count}\n")
                self._process.stdin.flush()
            except OSError:
                raise self._ended() from None
            answer = self._answer()
            memory.look()
        self.peak_pss = max(self.peak_pss, memory.peak)
        return Turn(count, float(answer["cpu"]), float(answer["wall"]), int(answer["examples"]))

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._ended()
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _ended(self) -> RunError:
        return RunError(f"the arm {self.name} ended.", where=last_words(self._log))


def start(command: Sequence[str], log: Path) -> subprocess.Popen[str]:
    """One thread, its own session (so that all of its tree can be found, and ended), errors into a file."""
    with log.open("a", encoding="utf-8") as errors:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            encoding="utf-8",
            env=os.environ | _ONE_THREAD,
            start_new_session=True,
        )


def end(process: subprocess.Popen[str]) -> None:
    """End it and its whole session, if they have not."""
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_SECONDS)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def events(process: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    """The lines of JSON that it writes, until it ends; other lines are left out."""
    assert process.stdout is not None
    for line in process.stdout:
        with contextlib.suppress(ValueError):
            event = json.loads(line)
            if isinstance(event, dict):
                yield event


def last_words(log: Path) -> str:
    """The last line that a process wrote for people."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "no word from it"
