"""Machines for tests: network namespaces joined by virtual cables, each with its own names, home and files."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

_NETNS = Path("/etc/netns")


def why_not() -> str | None:
    """Why this host cannot have such machines; None where it can."""
    if os.name != "posix" or not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "network namespaces need Linux and root"
    if shutil.which("ip") is None:
        return "no ip command (iproute2)"
    name = f"pvt{os.getpid()}"
    done = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if done.returncode:
        return f"no network namespaces here: {done.stderr.strip()}"
    # each machine hides the others' folders from its own: that needs mounts
    probe = ["ip", "netns", "exec", name, "mount", "-t", "tmpfs", "none", "/mnt"]
    mounted = subprocess.run(probe, capture_output=True, text=True)
    subprocess.run(["ip", "netns", "del", name], check=True)
    return f"no mounts here: {mounted.stderr.strip()}" if mounted.returncode else None


class Machine:
    """One host: a network namespace, a folder that is its disk, a hosts file. Hidden from it: `others`' folders."""

    def __init__(self, name: str, disk: Path, commands: Path) -> None:
        self.name, self.disk = f"pv{os.getpid()}{name}", disk
        self.others: list[Path] = []
        self.home = disk / "home"
        self.home.mkdir(parents=True)
        self._names = _NETNS / self.name
        self._names.mkdir(parents=True)
        (self._names / "hosts").write_text("127.0.0.1 localhost\n")
        (self._names / "resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")  # nobody there
        _ip("netns", "add", self.name)
        self.ip("link", "set", "lo", "up")
        self.environment = {
            key: value for key, value in os.environ.items() if not key.startswith(("XDG_", "PIP_", "PRIVET_"))
        } | {
            "HOME": str(self.home),
            "XDG_STATE_HOME": str(disk / "state"),
            "PATH": os.pathsep.join([str(commands), os.environ["PATH"]]),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "COLUMNS": "200",
        }

    def ip(self, *arguments: str) -> None:
        _ip("-n", self.name, *arguments)

    def knows(self, address: str, host: str) -> None:
        """From now on this machine resolves `host`; in place, so that running processes see it too."""
        with (self._names / "hosts").open("a") as file:
            file.write(f"{address} {host}\n")

    def command(self, line: str) -> list[str]:
        """`line`, for a shell on this machine, in its home."""
        hide = "".join(f"mount -t tmpfs none {shlex.quote(str(other))} && " for other in self.others)
        return ["ip", "netns", "exec", self.name, "sh", "-c", f"{hide}cd {shlex.quote(str(self.home))} && {line}"]

    def run(self, line: str, code: int = 0, timeout: float = 300.0) -> str:
        """A command line that ends, with `code`; what it said on both channels."""
        done = subprocess.run(
            self.command(line),
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
        )
        assert done.returncode == code, (self.name, line, done.returncode, done.stdout[-3000:])
        return done.stdout

    def start(self, line: str) -> "Program":
        return Program(self, line)

    def close(self) -> None:
        subprocess.run(["ip", "netns", "del", self.name], check=False, capture_output=True)
        shutil.rmtree(self._names, ignore_errors=True)


class Program:
    """A command line that runs on a machine until it ends or is ended."""

    def __init__(self, machine: Machine, line: str) -> None:
        self.line = line
        self._log = machine.disk / f"{time.monotonic_ns()}.log"
        with self._log.open("w") as log:
            self.child = subprocess.Popen(
                machine.command(f"exec {line}"),
                env=machine.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def words(self) -> str:
        return self._log.read_text()

    def until(self, met: Callable[[str], bool], timeout: float = 180.0) -> float:
        """Wait until what the program said so far meets the condition; seconds waited."""
        started = time.monotonic()
        while time.monotonic() < started + timeout:
            if met(self.words):
                return time.monotonic() - started
            assert self.child.poll() is None or met(self.words), (self.line, self.child.returncode, self.words[-3000:])
            time.sleep(0.05)
        raise AssertionError((self.line, self.words[-3000:]))

    def wait(self, timeout: float = 600.0) -> int:
        return self.child.wait(timeout)

    def kill(self) -> None:
        if self.child.poll() is None:
            os.killpg(self.child.pid, signal.SIGKILL)
        self.child.wait(10)


def cable(left: Machine, right: Machine, network: str) -> None:
    """Join two machines: the left one gets NETWORK.1, on a link named after the right one; the right one NETWORK.2."""
    at_left, at_right = f"to-{right.name}"[:15], "uplink"
    left.ip("link", "add", at_left, "type", "veth", "peer", "name", at_right, "netns", right.name)
    for machine, link, number in ((left, at_left, 1), (right, at_right, 2)):
        machine.ip("address", "add", f"{network}.{number}/24", "dev", link)
        machine.ip("link", "set", link, "up")


def pull(left: Machine, right: Machine, *, out: bool) -> None:
    """Pull the cable out at the left machine's end, or put it in again."""
    left.ip("link", "set", f"to-{right.name}"[:15], "down" if out else "up")


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, (arguments, done.stderr)


def apart(machines: Sequence[Machine]) -> None:
    """From now on no machine sees another's disk."""
    for machine in machines:
        machine.others = [other.disk for other in machines if other is not machine]
