"""A federation of real processes on the loopback, from the command line, as people run it."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from privet.simulations.corpus import hospital_notes, public_sample, write_csv
from tests.tiny_models import tiny_base

PRIVET = (sys.executable, "-m", "privet.common.cli")
PATIENCE = 180.0

# Every attempt to leave the loopback is written down and refused, in each process of the federation.
GUARD = """
import os, socket
_connect, _lookup = socket.socket.connect, socket.getaddrinfo

def _told(what):
    with open(os.environ["PRIVET_TEST_GUARD"], "a") as file:
        file.write(repr(what) + "\\n")
    raise OSError("the network is out of bounds")

def connect(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6) and not str(address[0]).startswith(("127.", "::1")):
        _told(address)
    return _connect(self, address)

def getaddrinfo(host, *args, **kwargs):
    if host not in (None, "localhost", b"localhost") and not str(host).startswith(("127.", "::1")):
        _told(host)
    return _lookup(host, *args, **kwargs)

socket.socket.connect, socket.getaddrinfo = connect, getaddrinfo
"""


class Process:
    """One `privet … --json`: its events, its words, its end."""

    def __init__(
        self,
        name: str,
        command: list[str],
        folder: Path,
        environment: dict[str, str],
        program: tuple[str, ...] = PRIVET,
    ) -> None:
        self.name, self.events = name, list[dict[str, Any]]()
        self._log = folder / f"{name}.{time.monotonic_ns()}.log"
        with self._log.open("w") as log:
            self.child = subprocess.Popen(
                [*program, *command], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=log, text=True
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.child.stdout is not None
        for line in self.child.stdout:
            self.events.append(json.loads(line))

    @property
    def words(self) -> str:
        return self._log.read_text()

    def until(self, met: Callable[[dict[str, Any]], bool], timeout: float = PATIENCE) -> dict[str, Any]:
        """The first event that meets the condition."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            for event in list(self.events):
                if met(event):
                    return event
            if self.child.poll() is not None and not self._reader.is_alive():
                break
            time.sleep(0.05)
        raise AssertionError(f"{self.name} never said so: {self.events[-5:]} {self.words[-2000:]}")

    def wait(self, timeout: float = PATIENCE) -> int:
        code = self.child.wait(timeout)
        self._reader.join(5)
        return code

    def kill(self) -> None:
        if self.child.poll() is None:
            self.child.send_signal(signal.SIGKILL)
        self.child.wait(10)
        self._reader.join(5)
        if self.child.stdout is not None:
            self.child.stdout.close()


class Deployment:
    """Files of a federation and its sites, made by `privet init`; processes started on demand, all ended at the end."""

    def __init__(
        self, folder: Path, sites: tuple[str, ...], settings: dict[str, str] | None = None, name: str = "tiny"
    ) -> None:
        patients = 60
        self.folder, self.sites = folder, sites
        self.guard = folder / "guard.txt"
        (folder / "site").mkdir(parents=True)
        (folder / "site" / "sitecustomize.py").write_text(GUARD)
        self.environment = os.environ | {
            "XDG_STATE_HOME": str(folder / "state"),
            "OMP_NUM_THREADS": "1",
            "PRIVET_TEST_GUARD": str(self.guard),
            "PYTHONPATH": os.pathsep.join([str(folder / "site"), *filter(None, [os.environ.get("PYTHONPATH")])]),
        }
        self.started: list[Process] = []
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        base = tiny_base(folder / "base")
        corpus = hospital_notes(num_sites=len(sites), num_patients=patients)
        self.corpus, self.corpus_sites = corpus, corpus.sites
        self.home = folder / "server"
        self.run(
            *("init", "federation", "--host", "127.0.0.1", "--port", str(self.port), "--folder", str(self.home)),
            *("--name", name, "--base", str(base), "--labels", ",".join(corpus.labels)),
        )
        write_csv(public_sample("hospital", num_records=60), None, self.home / "public.csv")
        file = self.home / "federation.toml"
        text = file.read_text()
        defaults = {"rounds = 40": "rounds = 3", "expected_batch = 64": "expected_batch = 20"}
        defaults |= {"timeout = 600.0": "timeout = 20.0", "wait = 3600.0": "wait = 60.0"} | (settings or {})
        for default, wanted in defaults.items():
            assert default in text, default
            text = text.replace(default, wanted)
        file.write_text(text + '\n[server.public]\nsource = "public.csv"\n')
        self.run("init", "invite", str(file))
        for name, source in zip(sites, corpus.sites, strict=True):
            place = folder / name
            place.mkdir()
            write_csv(corpus, source, place / "notes.csv")
            self.run(
                *("init", "site", name, "--invite", str(self.home / "invite.toml"), "--folder", str(place)),
                *("--data", str(place / "notes.csv"), "--text", "text", "--label", "label"),
                *("--unit", "patient", "--units", str(patients)),
            )
            self.edit(name, 'approve = "ask"', 'approve = "first-use"')
            public = place / f"{name}.pub"
            (self.home / "sites" / public.name).write_bytes(public.read_bytes())

    def edit(self, site: str, old: str, new: str) -> None:
        file = self.folder / site / "site.toml"
        text = file.read_text()
        assert old in text, old
        file.write_text(text.replace(old, new))

    def run(self, *command: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """A command that ends."""
        done = subprocess.run(
            [*PRIVET, *command], env=self.environment, capture_output=True, text=True, timeout=120, cwd=self.folder
        )
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        return done

    def server(self, *more: str) -> Process:
        return self._start("server", ["server", "federation.toml", "--json", *more], self.home)

    def client(self, name: str, *more: str, program: tuple[str, ...] = PRIVET) -> Process:
        """program: what runs in the place of `privet`."""
        return self._start(name, ["client", "site.toml", "--json", *more], self.folder / name, program)

    def _start(self, name: str, command: list[str], folder: Path, program: tuple[str, ...] = PRIVET) -> Process:
        self.started.append(Process(name, command, folder, self.environment, program))
        return self.started[-1]

    def ledger(self, name: str) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(
            self.run("ledger", str(self.folder / name / "site.toml"), "--json").stdout
        )
        return document

    def close(self) -> None:
        for process in self.started:
            process.kill()


class Tap:
    """A TCP relay that keeps every byte that passes."""

    def __init__(self, target: int) -> None:
        self._target, self.bytes = target, bytearray()
        self.first: list[bytes] = []  # of each connection, the first bytes that the site sent
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                inside, _ = self._listener.accept()
            except OSError:
                return
            try:
                outside = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                inside.close()
                continue
            number = len(self.first)
            self.first.append(b"")
            threading.Thread(target=self._relay, args=(inside, outside, number), daemon=True).start()
            threading.Thread(target=self._relay, args=(outside, inside, None), daemon=True).start()

    def _relay(self, source: socket.socket, sink: socket.socket, number: int | None) -> None:
        try:
            while data := source.recv(65536):
                self.bytes += data
                if number is not None and len(self.first[number]) < 3:
                    self.first[number] += data[:3]
                sink.sendall(data)
        except OSError:
            pass
        finally:
            for end in (source, sink):
                try:
                    end.shutdown(socket.SHUT_RDWR)
                except OSError:
                    end.close()

    def close(self) -> None:
        self._listener.close()
