"""One federation of four sites under seeded faults, run to its end."""

import os
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.processes import Forked, Party, Zygote
from tests.chaos.relay import Relay

SITES = ("clinic", "ward", "lab", "practice")
ROUNDS = 12
STOPPED_SECONDS = 20.0
_TMPFS = "12m"
_PATIENCE = 420.0  # seconds for what is left once the last fault is over


@dataclass
class Ballast:
    """A small disk that can be filled."""

    folder: Path

    @classmethod
    def mount(cls, folder: Path, stack: ExitStack) -> "Ballast | None":
        """None where this user may not mount."""
        kept = folder.with_name(folder.name + ".kept")
        shutil.copytree(folder, kept)
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={_TMPFS}", "tmpfs", str(folder)], capture_output=True, check=False
        )
        if done.returncode:
            return None
        stack.callback(subprocess.run, ["umount", "-l", str(folder)], check=True)
        shutil.copytree(kept, folder, dirs_exist_ok=True)
        return cls(folder)

    def fill(self) -> None:
        try:
            with (self.folder / "ballast").open("wb", buffering=0) as file:
                while file.write(b"\0" * 4096):
                    pass
        except OSError:
            return

    def empty(self) -> None:
        (self.folder / "ballast").unlink(missing_ok=True)


@dataclass
class Scene:
    """The parties, their cables and disks; `faults` counts what was done to them."""

    deployment: Forked
    zygote: Zygote
    server: Party
    sites: dict[str, Party]
    relays: dict[str, Relay]
    disks: dict[str, Ballast]
    rng: random.Random
    faults: Counter[str] = field(default_factory=Counter)
    told: list[str] = field(default_factory=list)
    pending: list[tuple[float, Callable[[], object]]] = field(default_factory=list)

    @classmethod
    def make(cls, folder: Path, zygote: Zygote, seed: int, *, timeout: float, stack: ExitStack) -> "Scene":
        settings = {
            "rounds = 3": f"rounds = {ROUNDS}",
            "spare_rounds = 0": "spare_rounds = 12",
            "local_steps = 5": "local_steps = 120",
            "timeout = 20.0": f"timeout = {timeout}",
            "wait = 60.0": "wait = 300.0",
            'weight = "noise"': 'weight = "uniform"',
        }
        deployment = Forked(zygote, folder, SITES, settings)
        stack.callback(deployment.close)
        logs = folder / "logs"
        logs.mkdir()
        disks: dict[str, Ballast] = {}
        (deployment.home / "runs").mkdir(exist_ok=True)
        if disk := Ballast.mount(deployment.home / "runs", stack):
            disks["server"] = disk
        server = Party(
            "server", zygote, ["server", "federation.toml", "--json"], deployment.home, deployment.environment, logs
        )
        sites, relays = {}, {}
        for name in SITES:
            relays[name] = Relay(deployment.port)
            stack.callback(relays[name].close)
            deployment.edit(name, f"127.0.0.1:{deployment.port}", f"127.0.0.1:{relays[name].port}")
            state = folder / f"state.{name}"
            state.mkdir()
            if disk := Ballast.mount(state, stack):
                disks[name] = disk
            environment = deployment.environment | {"XDG_STATE_HOME": str(state)}
            argv = ["client", "site.toml", "--json"]
            sites[name] = Party(name, zygote, argv, folder / name, environment, logs)
        return cls(deployment, zygote, server, sites, relays, disks, random.Random(seed))

    def run(self, num_faults: int) -> int:
        """Faults until the run is over or all were made; then to the end. The server's last exit code."""
        self.server.start()
        for site in self.sites.values():
            site.start()
        self.server.until("round_started", 120)
        end = time.monotonic() + 600
        while sum(self.faults.values()) < num_faults and not self._is_over() and time.monotonic() < end:
            self._pause(self.rng.uniform(0.1, 1.5))
            if not self._is_over():
                self._fault()
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end and not (self._is_over() and not self.pending):
            self._pause(0.2)
        assert self._is_over(), f"the run does not end: {self.told[-10:]} {self.server.words[-3000:]}"
        for disk in self.disks.values():
            disk.empty()
        code = self.server.wait(0)
        assert code is not None
        return code

    def close_sites(self) -> dict[str, int]:
        """Let the sites that were told of the end leave; end the others. Their exit codes."""
        time.sleep(1.0)
        return {name: site.end() for name, site in self.sites.items()}

    def _is_over(self) -> bool:
        return any(event.get("event") == "finished" for event in self.server.events) and not self.server.is_alive

    def _pause(self, seconds: float) -> None:
        """Wait, mend what is due, and start again what ended by itself."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            now = time.monotonic()
            for one in [one for one in self.pending if one[0] <= now]:
                self.pending.remove(one)
                one[1]()
            self._revive()
            time.sleep(0.05)

    def _revive(self) -> None:
        """What an operator or systemd does: start again what ended with 1; exit 2 and 3 stay down and are looked at."""
        if self._is_over():
            return
        waiting = {getattr(act, "who", None) for _, act in self.pending}
        for name, party in [("server", self.server), *self.sites.items()]:
            if party.is_alive or name in waiting:
                continue
            code = party.wait(0)
            if code in (1, -signal.SIGKILL):
                self._later(self.rng.uniform(0.0, 2.0), name, lambda name=name: self._start(name))  # type: ignore[misc]

    def _later(self, seconds: float, who: str | None, act: Callable[[], object]) -> None:
        def run() -> None:
            act()

        run.who = who  # type: ignore[attr-defined]
        self.pending.append((time.monotonic() + seconds, run))

    def _start(self, name: str) -> None:
        if self._is_over():
            return
        if name == "server":
            self.server.start("--resume")
        else:
            self.sites[name].start()

    def _fault(self) -> None:
        name = self.rng.choice(SITES)
        site = self.sites[name]
        kinds = ["kill server", "kill site", "cut", "hang", "kill site", "kill server", "cut"]
        if self.disks:
            kinds += ["disk full", "disk full"]
        if self.rng.random() < 0.12:
            kinds = ["stop site", "stop server"]
        kind = self.rng.choice(kinds)
        if kind == "kill server":
            happened = self.server.signal(signal.SIGKILL)
        elif kind == "kill site":
            happened = site.signal(signal.SIGKILL)
        elif kind in ("stop site", "stop server"):
            party = self.server if kind == "stop server" else site
            happened = party.signal(signal.SIGSTOP)
            if happened:
                pid = party.pid
                self._later(STOPPED_SECONDS, None, lambda: _signal(pid, signal.SIGCONT))
        elif kind == "disk full":
            where = self.rng.choice(sorted(self.disks))
            self.disks[where].fill()
            self._later(self.rng.uniform(0.5, 4.0), None, self.disks[where].empty)
            happened, name = True, where
        else:
            seconds = self.rng.uniform(0.2, 5.0)
            self.relays[name].cut(seconds) if kind == "cut" else self.relays[name].hang(seconds)
            happened = True
        if happened:
            self.faults[kind] += 1
            self.told.append(f"{time.time():.1f} {kind} {'' if kind.endswith('server') else name}")


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
