"""The processes of a federation under faults: forked by the zygote, killed, stopped and started again at will."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from tests.integration.deployment import Deployment


class Zygote:
    """The forking process, and what became of its children."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.zygote"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=Path(__file__).parents[2],
        )  # fmt: skip
        self._change = threading.Condition()
        self._started: list[int] = []
        self.codes: dict[int, int] = {}
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if not self._ready.wait(120):
            raise AssertionError("the zygote did not start")

    def fork(self, argv: list[str], folder: Path, environment: dict[str, str], log: Path, truth: Path) -> int:
        """Start `privet ARGV`; its process id."""
        assert self._process.stdin is not None
        order = {
            "argv": argv, "folder": str(folder), "environment": environment, "truth": str(truth),
            "out": str(log.with_suffix(".out")), "err": str(log.with_suffix(".err")),
        }  # fmt: skip
        with self._change:
            before = len(self._started)
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            assert self._change.wait_for(lambda: len(self._started) > before, 30)
            return self._started[-1]

    def ended(self, pid: int, timeout: float = 0.0) -> int | None:
        """The exit code of a child, None while it lives."""
        with self._change:
            self._change.wait_for(lambda: pid in self.codes, timeout)
            return self.codes.get(pid)

    @property
    def alive(self) -> set[int]:
        with self._change:
            return set(self._started) - set(self.codes)

    def close(self) -> None:
        for pid in self.alive:
            os.kill(pid, signal.SIGKILL)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._reader.join(5)
        self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            told = json.loads(line)
            with self._change:
                if "ready" in told:
                    self._ready.set()
                elif "started" in told:
                    self._started.append(told["started"])
                else:
                    self.codes[told["ended"]] = told["code"]
                self._change.notify_all()


class Forked(Deployment):
    """A deployment whose commands are forked, too."""

    def __init__(self, zygote: Zygote, folder: Path, sites: tuple[str, ...], settings: dict[str, str]) -> None:
        self._zygote, self._commands = zygote, 0
        super().__init__(folder, sites, settings)

    def run(self, *command: str, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        self._commands += 1
        log = self.folder / f"command{self._commands}"
        pid = self._zygote.fork(list(command), self.folder, self.environment | environment, log, log)
        ended = self._zygote.ended(pid, 120)
        out, err = (log.with_suffix(suffix).read_text() for suffix in (".out", ".err"))
        assert ended == code, (command, ended, out, err)
        return subprocess.CompletedProcess(command, code, out, err)


class Party:
    """The server or a site: at most one process at a time, the log of all of them."""

    def __init__(
        self, name: str, zygote: Zygote, argv: list[str], folder: Path, environment: dict[str, str], logs: Path
    ) -> None:
        self.name, self._zygote, self._argv, self._folder, self.environment = name, zygote, argv, folder, environment
        self._log, self.truth = logs / name, logs / f"{name}.truth"
        self._log.with_suffix(".out").touch()
        self._log.with_suffix(".err").touch()
        self.truth.touch()
        self.pid = 0
        self.ends: list[int] = []

    def start(self, *more: str) -> None:
        assert not self.is_alive
        self.pid = self._zygote.fork([*self._argv, *more], self._folder, self.environment, self._log, self.truth)

    @property
    def is_alive(self) -> bool:
        return bool(self.pid) and self._zygote.ended(self.pid) is None

    def signal(self, number: int) -> bool:
        """Whether there was a process to get it."""
        if not self.is_alive:
            return False
        os.kill(self.pid, number)
        return True

    def wait(self, timeout: float) -> int | None:
        """The exit code; None where it still runs."""
        return self._zygote.ended(self.pid, timeout)

    def end(self, timeout: float = 40.0) -> int:
        """Ask for an orderly end; the exit code."""
        if self.is_alive:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGTERM)
        code = self.wait(timeout)
        assert code is not None, f"{self.name} does not end: {self.words[-1500:]}"
        return code

    @property
    def words(self) -> str:
        return self._log.with_suffix(".err").read_text()

    @property
    def events(self) -> list[dict[str, Any]]:
        """What its processes told; a line that a kill cut off is left out."""
        found = []
        for line in self._log.with_suffix(".out").read_text().splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return found

    def until(self, kind: str, timeout: float) -> dict[str, Any]:
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            for event in self.events:
                if event.get("event") == kind:
                    return event
            time.sleep(0.1)
        raise AssertionError(f"{self.name} never told {kind}: {self.words[-1500:]}")
