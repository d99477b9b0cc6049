"""What `privet status` says of a server: from its file and its lock, running or gone."""

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from privet.common.cli.status import lines
from privet.common.config import Federation
from privet.common.errors import RunError
from privet.server.status import ServerStatus, StatusKeeper, is_running, read_status, status_path


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    raw: dict[str, Any] = {
        "format": 1,
        "name": "tiny",
        "task": {"labels": ["calm", "urgent"]},
        "model": {"base": "folder", "sha256": "0" * 64},
        "training": {"rounds": 4, "expected_batch": 5, "learning_rate": 0.1},
        "cohort": {"min_sites": 2, "timeout": 100.0},
        "server": {"state": tmp_path / "state", "wait": 500.0},
    }
    (tmp_path / "state").mkdir()
    return Federation.model_validate(raw)


@pytest.fixture
def keeper(federation: Federation) -> Iterator[StatusKeeper]:
    made = StatusKeeper(federation)
    made.feed({"event": "listening", "sites": ["clinic", "lab", "ward"]})
    yield made
    made.end(None)


def told(federation: Federation, *, running: bool = True, now: float | None = None) -> str:
    status = read_status(federation.server.state)
    assert status is not None
    return "\n".join(lines("tiny", status, running=running, now=status.updated + 1 if now is None else now))


def test_a_round_is_told_from_its_events(federation: Federation, keeper: StatusKeeper) -> None:
    keeper.feed({"event": "online", "sites": ["clinic", "ward"]})
    keeper.feed({"event": "offer", "site": "clinic", "code": "ok", "epsilon": 7.5})
    keeper.feed({"event": "offer", "site": "ward", "code": "pending", "epsilon": None})
    keeper.feed({"event": "waiting", "round": 1, "ready": ["clinic"], "needed": 2})
    text = told(federation)
    assert "Round 1: waits for 2 sites; ready: clinic; 8 min left." in text
    assert "waits for its operator's approval" in text
    assert "away, not seen yet" in text
    assert "ε 7.50" in text
    keeper.feed({"event": "round_started", "round": 1, "cohort": ["clinic", "ward"]})
    keeper.feed({"event": "reply", "site": "clinic"})
    keeper.feed({"event": "reply", "site": "lab"})  # not of the cohort
    keeper.end(KeyboardInterrupt())
    status = read_status(federation.server.state)
    assert status is not None
    assert status.answered == ["clinic"]
    assert "stopped by its operator in round 1" in told(federation, running=False)


def test_who_is_waited_for_is_named_with_the_time_left(federation: Federation, keeper: StatusKeeper) -> None:
    keeper.feed({"event": "round_started", "round": 2, "cohort": ["clinic", "ward"]})
    text = told(federation)
    assert "Round 2 of 4: waits for clinic, ward; answered: none; 2 min left." in text


def test_what_a_round_brought_is_kept(federation: Federation, keeper: StatusKeeper) -> None:
    row: dict[str, Any] = {
        "event": "round", "round": 1, "answered": ["clinic"], "missing": ["ward"], "failed": {"lab": "round_lost"},
        "aggregated": True, "bytes_up": 2000, "bytes_down": 3_000_000, "public": {"accuracy": 0.75}, "sites": None,
    }  # fmt: skip
    keeper.feed(row)
    keeper.end(RunError("1 of at least 2 sites were ready", where="cohort.min_sites"))
    text = told(federation, running=False)
    for words in ("failed in round 0", "1 of at least 2", "did not answer", "lost this round", "0.750", "2.0 kB from"):
        assert words in text
    assert "1 of 4 rounds done" in text


def test_the_thread_writes_who_is_connected_and_ends(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("privet.server.status._LEAST_SECONDS", 0.01)
    monkeypatch.setattr("privet.server.status._LOOK_SECONDS", 0.01)
    keeper = StatusKeeper(federation)
    answers: list[Callable[[], dict[str, float]]] = [lambda: {"clinic": 3.0}]
    keeper.start(lambda: answers[0]())
    _until(lambda: (s := read_status(federation.server.state)) is not None and s.sites["clinic"].online)

    asked = list[bool]()

    def broken() -> dict[str, float]:
        asked.append(True)
        raise RuntimeError("the database is busy")

    answers[0] = broken
    _until(lambda: bool(asked))
    answers[0] = dict
    _until(lambda: (s := read_status(federation.server.state)) is not None and not s.sites["clinic"].online)
    keeper.end(None)
    assert not keeper._thread.is_alive()
    assert status_path(federation.server.state).stat().st_mode & 0o777 == 0o600


def test_a_full_disk_ends_no_run(federation: Federation, keeper: StatusKeeper, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "no space left on device")

    monkeypatch.setattr("privet.server.status.os.open", full)
    keeper.feed({"event": "round_started", "round": 2, "cohort": []})


def test_running_is_told_by_the_lock_alone(federation: Federation) -> None:
    state = federation.server.state
    assert not is_running(state)
    descriptor = os.open(state / "server.lock", os.O_RDWR | os.O_CREAT)
    assert not is_running(state)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    assert is_running(state)
    os.close(descriptor)
    assert not is_running(state)
    assert read_status(state) is None


def test_one_that_was_killed_is_said_to_be(federation: Federation, keeper: StatusKeeper) -> None:
    keeper.feed({"event": "round_started", "round": 3, "cohort": ["clinic"]})
    assert "ended without a word in round 3" in told(federation, running=False)


def test_a_newer_versions_file_is_read_and_a_broken_one_is_none(federation: Federation, keeper: StatusKeeper) -> None:
    keeper.end(None)
    path = status_path(federation.server.state)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"later": 1}))
    assert isinstance(read_status(federation.server.state), ServerStatus)
    path.write_text('{"format":1')
    assert read_status(federation.server.state) is None
    assert lines("tiny", None, running=False, now=0.0) == ["Federation tiny: no server ran here."]


def _until(met: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not met():
        assert time.monotonic() < end
        time.sleep(0.01)
