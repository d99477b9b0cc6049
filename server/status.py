"""Where a running server stands: a small file in its state folder, replaced as a whole, for `privet status`.

It is a view: what cannot be written is left out, and no run ends because of it.
"""

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from privet.common.config import Federation
from privet.common.errors import PrivetError
from privet.common.live import Event, Listener
from privet.common.tasks.score import ACCURACY, score_name, score_of
from privet.common.terminal import printable

_LEAST_SECONDS = 0.5  # between two writes
_PULSE_SECONDS = 5.0  # until it is written anew though nothing happened
_LOOK_SECONDS = 2.0  # between two looks at who is connected
_TOLD = 300  # characters of an error's words

Phase = Literal["listening", "waiting", "round", "finished", "stopped", "failed"]


class SiteStatus(BaseModel):
    """One site, as the server sees it. Times: seconds since 1970."""

    online: bool = False
    since: float | None = None  # of being online, or away
    heard: float | None = None  # of its last request
    code: str | None = None  # its last word on the plan or a round; no_answer where it gave none in time
    epsilon: float | None = None
    rounds: int = 0


class ServerStatus(BaseModel):
    """The whole file."""

    model_config = ConfigDict(extra="ignore")  # of a newer version

    format: Literal[1] = 1
    version: str
    pid: int
    federation: str
    plan: str
    address: str
    started: float
    updated: float
    phase: Phase = "listening"
    round: int = 0
    rounds: int = 0
    completed: int = 0
    needed: int
    deadline: float | None = None  # of the phase
    ready: list[str] = []
    cohort: list[str] = []
    answered: list[str] = []  # of the cohort, in the round under way
    sites: dict[str, SiteStatus] = {}
    accuracy: float | None = None  # on the public text, the last
    sites_accuracy: float | None = None  # noised, the last
    score: str = ACCURACY  # what both are
    bytes_up: int = 0
    bytes_down: int = 0
    run: str | None = None
    why: str = ""  # of a failure


def status_path(state: Path) -> Path:
    """Where the file is kept."""
    return state / "status.json"


def read_status(state: Path) -> ServerStatus | None:
    """The file of this state folder; None where there is none that can be read."""
    try:
        return ServerStatus.model_validate_json(status_path(state).read_bytes())
    except (OSError, ValidationError):
        return None


def is_running(state: Path) -> bool:
    """Whether a server holds this state folder: by its lock, which no crash leaves behind."""
    try:
        descriptor = os.open(state / "server.lock", os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)


class StatusKeeper:
    """Folds a run's events and keeps the file: at once when the phase changes, else twice a second at most."""

    def __init__(self, federation: Federation) -> None:
        plan, now = federation.plan, time.time()
        self._path = status_path(federation.server.state)
        self._timeout, self._wait = plan.cohort.timeout, federation.server.wait
        self.status = ServerStatus(
            version=version("privet"),
            pid=os.getpid(),
            federation=plan.name,
            plan=plan.digest,
            address=federation.server.address,
            started=now,
            updated=now,
            rounds=plan.training.rounds,
            needed=plan.cohort.min_sites,
        )
        self._turn, self._over = threading.Lock(), threading.Event()
        self._dirty, self._written = True, 0.0
        self._look: Callable[[], Mapping[str, float]] = dict
        self._thread = threading.Thread(target=self._keep, name="status", daemon=True)

    def start(self, look: Callable[[], Mapping[str, float]]) -> None:
        """Begin to write; `look` gives the sites that are connected, and for how many seconds each was silent."""
        self._look = look
        self._thread.start()

    def end(self, error: BaseException | None) -> None:
        """The last word: how the run ended."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()
        with self._turn:
            status = self.status
            status.phase = "finished" if error is None else "failed"
            if isinstance(error, KeyboardInterrupt):
                status.phase = "stopped"
            elif error is not None:
                what = str(error) if isinstance(error, PrivetError) else type(error).__name__
                status.why = printable(what, _TOLD).replace("\n", " ")
            self._write()

    def beside(self, listener: Listener) -> Listener:
        """A listener that feeds this too."""

        def told(event: Event) -> None:
            self.feed(event)
            listener(event)

        return told

    def feed(self, event: dict[str, Any]) -> None:
        """Take one event."""
        handler = getattr(self, f"_on_{event['event']}", None)
        if handler is None:
            return
        with self._turn:
            before = self.status.phase, self.status.round
            handler(event)
            self._dirty = True
            if (self.status.phase, self.status.round) != before:
                self._write()

    # Events

    def _site(self, name: str) -> SiteStatus:
        return self.status.sites.setdefault(name, SiteStatus())

    def _on_listening(self, event: dict[str, Any]) -> None:
        for name in event["sites"]:
            self._site(name)

    def _on_online(self, event: dict[str, Any]) -> None:
        self._see(dict.fromkeys(event["sites"]))

    def _on_waiting(self, event: dict[str, Any]) -> None:
        status = self.status
        if status.phase != "waiting" or status.round != event["round"]:
            status.deadline = time.time() + self._wait
        status.phase, status.round, status.needed = "waiting", event["round"], event["needed"]
        status.ready, status.cohort, status.answered = list(event["ready"]), [], []

    def _on_offer(self, event: dict[str, Any]) -> None:
        site = self._site(str(event["site"]))
        site.code = str(event["code"])
        site.epsilon = event.get("epsilon") or site.epsilon

    def _on_round_started(self, event: dict[str, Any]) -> None:
        status = self.status
        status.phase, status.round = "round", event["round"]
        status.deadline = time.time() + self._timeout
        status.cohort, status.answered, status.ready = list(event["cohort"]), [], []

    def _on_reply(self, event: dict[str, Any]) -> None:
        name = str(event["site"])
        if name in self.status.cohort and name not in self.status.answered:
            self.status.answered.append(name)

    def _on_round(self, event: dict[str, Any]) -> None:
        status = self.status
        status.completed += bool(event["aggregated"])
        status.bytes_up += event["bytes_up"]
        status.bytes_down += event["bytes_down"]
        for name in event["answered"]:
            self._site(name).rounds += 1
            self._site(name).code = "ok"
        for name in event["missing"]:
            self._site(name).code = "no_answer"
        for name, code in event["failed"].items():
            self._site(name).code = code
        if event["public"]:
            status.accuracy, status.score = score_of(event["public"]), score_name(event["public"])
        if event["sites"]:
            status.sites_accuracy = score_of(event["sites"])

    def _on_initial(self, event: dict[str, Any]) -> None:
        self.status.accuracy, self.status.score = score_of(event["public"]), score_name(event["public"])

    def _on_run_folder(self, event: dict[str, Any]) -> None:
        self.status.run = event["path"]

    # The file

    def _keep(self) -> None:
        looked = 0.0
        while not self._over.wait(_LEAST_SECONDS):
            seen = None
            if time.monotonic() - looked >= _LOOK_SECONDS:
                looked = time.monotonic()
                with contextlib.suppress(Exception):  # the next look may find it
                    seen = dict(self._look())
            with self._turn:
                if seen is not None:
                    self._see(seen)
                if self._dirty or time.monotonic() - self._written >= _PULSE_SECONDS:
                    self._write()

    def _see(self, online: Mapping[str, float | None]) -> None:
        now = time.time()
        for name in online:
            self._site(name)
        for name, site in self.status.sites.items():
            if site.online != (name in online):
                site.online, site.since, self._dirty = name in online, now, True
            silence = online.get(name)
            if silence is not None:
                site.heard = now - silence

    def _write(self) -> None:
        self.status.updated, self._dirty, self._written = time.time(), False, time.monotonic()
        draft = self._path.with_suffix(".json.new")
        with contextlib.suppress(OSError):
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(self.status.model_dump_json())
            os.replace(draft, self._path)
