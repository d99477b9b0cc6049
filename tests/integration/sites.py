"""Servers and sites for tests on the loopback: sites as threads, and as processes that can be killed.

Run as a script it is such a process: ``sites.py FOLDER ADDRESS MODE`` with `ca.pem` and `key.pem` in FOLDER.
"""

import privet.common.quiet  # noqa: F401, I001 - before flwr

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import IO

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from flwr.app import ConfigRecord, Message, RecordDict

from privet.client.link import LinkEvent, hard_exit, serve
from privet.common.errors import TransportError
from privet.server.fleet import Fleet, FleetGrid, RefusedKey
from tests.integration.tls import Authority, new_key, private_pem, public_pem

PATIENCE = 60.0


def record(text: str) -> RecordDict:
    """A record that holds one text."""
    return RecordDict({"test": ConfigRecord({"text": text})})


def text_of(content: RecordDict) -> str:
    """The text that `record` put in."""
    test = content["test"]
    assert isinstance(test, ConfigRecord)
    return str(test["text"])


def echo(request: RecordDict) -> RecordDict:
    """The request's text in capitals."""
    return record(text_of(request).upper())


def eventually(met: Callable[[], bool], timeout: float = PATIENCE) -> bool:
    """Whether `met()` holds within `timeout` seconds."""
    end = time.monotonic() + timeout
    while not met():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


class Hall:
    """A CA, a folder and a prepared database from which servers start quickly."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.authority, self._count = folder, Authority(), 0
        self._template = folder / "template.db"
        fleet = self.fleet({}, database=self._template)
        fleet.start()
        fleet.close()

    def fleet(
        self,
        sites: Mapping[str, ec.EllipticCurvePrivateKey],
        *,
        database: Path | None = None,
        port: int = 0,
        max_reply_bytes: int = 64 << 20,
        certificates: tuple[bytes, bytes, bytes] | None = None,
        on_refusal: Callable[[RefusedKey], None] = lambda _: None,
    ) -> Fleet:
        """A server that allows these sites; not started."""
        if database is None:
            self._count += 1
            database = self.folder / f"{self._count}.db"
            shutil.copyfile(self._template, database)
        return Fleet(
            address=f"127.0.0.1:{port}",
            certificates=certificates or self.authority.server(),
            database=database,
            allowed={public_pem(key): name for name, key in sites.items()},
            max_reply_bytes=max_reply_bytes,
            on_refusal=on_refusal,
        )


class SiteThread:
    """A site in this process."""

    def __init__(
        self,
        address: str,
        ca: bytes,
        key: ec.EllipticCurvePrivateKey | None = None,
        answer: Callable[[RecordDict], RecordDict] = echo,
        **options: object,
    ) -> None:
        self.stop, self.events = threading.Event(), list[tuple[LinkEvent, str]]()
        self.error: BaseException | None = None
        self._arguments = {"address": address, "ca": ca, "key": key or new_key(), "answer": answer, **options}
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            serve(**self._arguments, stop=self.stop, on_event=lambda event, text: self.events.append((event, text)))  # type: ignore[arg-type]
        except BaseException as error:
            self.error = error

    def saw(self, event: LinkEvent) -> bool:
        """Whether the link reported this, within PATIENCE."""
        return eventually(lambda: any(seen is event for seen, _ in self.events))

    def ended(self, timeout: float = PATIENCE) -> bool:
        """Whether the site's thread ends within `timeout` seconds."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def refusal(self, timeout: float = PATIENCE) -> TransportError:
        """The error that ended the site within `timeout` seconds."""
        assert self.ended(timeout)
        assert isinstance(self.error, TransportError), repr(self.error)
        return self.error

    def close(self) -> None:
        """Stop the site."""
        self.stop.set()
        assert self.ended()


class SiteProcess:
    """A site in a process of its own; modes: echo, hang (receives a request and never answers), slow (2 s);

    hashing and holding: 75 s of work that keeps Python's interpreter busy, or locked for seconds.
    """

    def __init__(self, folder: Path, address: str, ca: bytes, key: ec.EllipticCurvePrivateKey, mode: str) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "ca.pem").write_bytes(ca)
        (folder / "key.pem").write_bytes(private_pem(key))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.sites", str(folder), address, mode],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        self.lines, self.errors = list[str](), list[str]()
        self._readers = [
            threading.Thread(target=self._read, args=(self._process.stdout, self.lines), daemon=True),
            threading.Thread(target=self._read, args=(self._process.stderr, self.errors), daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    @staticmethod
    def _read(stream: IO[str], lines: list[str]) -> None:
        with stream:
            for line in stream:
                lines.append(line)

    def saw(self, event: LinkEvent) -> bool:
        """Whether the process reported this, within PATIENCE."""
        return eventually(lambda: any(line.startswith(event.value) for line in self.lines))

    def once_working(self, act: Callable[[], object]) -> threading.Thread:
        """Do something as soon as the site works on an answer."""

        def wait() -> None:
            assert self.saw(LinkEvent.WORKING)
            act()

        thread = threading.Thread(target=wait)
        thread.start()
        return thread

    def terminate(self) -> None:
        """SIGTERM."""
        self._process.terminate()

    def signal(self, number: int) -> None:
        """Any signal."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self.wait()

    def wait(self) -> tuple[int, str]:
        """The exit status and what went to standard error."""
        code = self._process.wait(PATIENCE)
        for reader in self._readers:
            reader.join(PATIENCE)
        return code, "".join(self.errors)


class Scene:
    """A server with two enrolled sites, "north" and "south"; everything is stopped when the test ends."""

    def __init__(self, hall: Hall, stack: ExitStack) -> None:
        self.hall, self.ca, self._stack = hall, hall.authority.pem, stack
        self.keys = {"north": new_key(), "south": new_key()}
        self.fleet = hall.fleet(self.keys)
        self.fleet.start()
        stack.callback(lambda: self.fleet.close())
        self.address = f"127.0.0.1:{self.fleet.port}"

    def site(self, name: str, answer: Callable[[RecordDict], RecordDict] = echo) -> SiteThread:
        """The site as a thread."""
        site = SiteThread(self.address, self.ca, self.keys[name], answer)
        self._stack.callback(site.stop.set)
        return site

    def on_end(self, act: Callable[[], object]) -> None:
        """Do this when the test ends."""
        self._stack.callback(act)

    def process(self, name: str, mode: str, folder: Path) -> SiteProcess:
        """The site as a process."""
        process = SiteProcess(folder, self.address, self.ca, self.keys[name], mode)
        self._stack.callback(process.kill)
        return process

    def gather(self, *names: str) -> None:
        """Wait until exactly these sites are online."""
        assert eventually(lambda: sorted(self.fleet.online().values()) == sorted(names))


def ask(grid: FleetGrid, text: str, timeout: float) -> list[Message]:
    """One round with every site that is online."""
    return grid.send_and_receive(
        [grid.create_message(record(text), "train", node_id, "1") for node_id in grid.get_node_ids()], timeout=timeout
    )


def texts(fleet: Fleet, replies: list[Message]) -> dict[str, str]:
    """site name -> the text of its reply, or its error's reason after a "!"."""
    return {
        fleet.name_of(reply.metadata.src_node_id): "!" + reply.error.reason
        if reply.has_error()
        else text_of(reply.content)
        for reply in replies
    }


def hashing(seconds: float) -> None:
    """Keep a core busy in Python alone."""
    end, digest = time.monotonic() + seconds, b""
    while time.monotonic() < end:
        for _ in range(1000):
            digest = hashlib.sha256(digest).digest()


def holding(seconds: float) -> None:
    """Keep the interpreter's lock in stretches of several seconds: one call of C that lets nobody else in."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(150_000_000))


def _main(folder: Path, address: str, mode: str) -> int:
    stop = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, on_signal)

    def answer(request: RecordDict) -> RecordDict:
        print("request", text_of(request), flush=True)
        if mode in ("hashing", "holding"):
            work = {"hashing": hashing, "holding": holding}[mode]
            work(75.0)
        elif mode != "echo":
            time.sleep(2.0 if mode == "slow" else 3600.0)
        return echo(request)

    key = load_pem_private_key((folder / "key.pem").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    try:
        serve(
            address=address,
            ca=(folder / "ca.pem").read_bytes(),
            key=key,
            answer=answer,
            stop=stop,
            on_event=lambda event, text: print(event.value, text, flush=True),
        )
    except TransportError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    hard_exit(_main(Path(sys.argv[1]), sys.argv[2], sys.argv[3]))
