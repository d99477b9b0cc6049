"""The audit log: durable, shared by processes, and no line changes, goes or comes unnoticed."""

import contextlib
import errno
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privet.common.audit_log import ENTRIES, GENESIS, AuditLog, AuditLogError, Line, parse_line, read
from privet.common.audit_log.entries import Charged, Entry, PlanFinished, Refused, Released, Started
from privet.common.errors import Code, InputError

PLAN = "ab" * 32


def log_at(folder: Path) -> AuditLog:
    return AuditLog(folder / "x.audit.jsonl", role="site", name="north")


def released(round: int) -> Released:
    digest = f"{round:064x}"
    return Released(
        federation="tiny", plan=PLAN, what="update", round=round, event=round, reply_sha256=digest, num_bytes=12
    )


def written(folder: Path, count: int = 5) -> Path:
    log = log_at(folder)
    for number in range(1, count):
        log.append(released(number))
    return log.path


def test_lines_follow_each_other_from_a_beginning_of_their_own(tmp_path: Path) -> None:
    path = written(tmp_path)
    found = read(path)
    assert [line.seq for line in found.lines] == [1, 2, 3, 4, 5]
    assert [line.kind for line in found.lines] == ["begun", *["released"] * 4]
    assert found.lines[0].previous == GENESIS
    assert found.head == found.lines[-1].hash
    assert not found.torn
    assert path.stat().st_mode & 0o777 == 0o600
    other = written(tmp_path / "other")
    assert {line.hash for line in read(other).lines}.isdisjoint(line.hash for line in found.lines)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Six lines, the last three after a writer that was killed."""
    path = written(tmp_path_factory.mktemp("sound"), 3)
    with path.open("ab") as file:
        file.write(b'{"fields":{"event":3,"fede')
    AuditLog(path, role="site", name="north").append(released(3))
    return path.read_bytes().splitlines(keepends=True)


def judged(raw: bytes) -> Any:
    """What reading says: the lines' hashes and the torn places, or the error."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log"
        path.write_bytes(raw)
        try:
            found = read(path)
        except AuditLogError as error:
            return str(error)
        return [line.hash for line in found.lines], found.torn


@given(data=st.data())
def test_any_altered_byte_is_found(sound: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(sound)
    at = data.draw(st.integers(0, len(whole) - 1))
    new = data.draw(st.integers(0, 255).filter(lambda value: value != whole[at]))
    verdict = judged(whole[:at] + bytes([new]) + whole[at + 1 :])
    assert verdict != judged(whole)
    number = whole[:at].count(b"\n") + 1
    if number < len(sound):  # all but the end, which may look as if it was cut off
        assert isinstance(verdict, str)
        assert f"line {number} " in verdict or f"line {number + 1} " in verdict or f"line {number - 1} " in verdict


@given(data=st.data())
def test_any_line_removed_added_or_moved_is_found(sound: list[bytes], data: st.DataObject) -> None:
    lines = list(sound)
    at = data.draw(st.integers(0, len(lines) - 1))
    kind = data.draw(st.sampled_from(["remove", "insert", "move"]))
    if kind == "remove":
        if at == len(lines) - 1:
            return  # cut off at its end: see below
        del lines[at]
    elif kind == "insert":
        lines.insert(at, data.draw(st.sampled_from(lines)))
    else:
        to = data.draw(st.integers(0, len(lines) - 1).filter(lambda value: value != at))
        lines.insert(to, lines.pop(at))
    if lines != list(sound):
        assert isinstance(judged(b"".join(lines)), str)


@given(st.integers(0, 3000))
def test_an_end_that_was_cut_off_shows_in_the_head(sound: list[bytes], length: int) -> None:
    whole = b"".join(sound)
    hashes, _ = judged(whole)
    cut = judged(whole[: min(length, len(whole) - 2)])
    assert cut[0] == hashes[: len(cut[0])]
    assert len(cut[0]) < len(hashes)


def test_a_line_that_follows_but_was_made_by_another_hand_is_of_the_schema_or_found(tmp_path: Path) -> None:
    """Whoever can write the file can go on with the chain: then the schema holds what may stand there."""
    path = written(tmp_path)
    last = read(path).lines[-1]

    class Loose(Entry):
        kind = "released"
        text: str

    with path.open("ab") as file:
        file.write(Line.after(last, Loose(text="the patient has a fever")).to_bytes())
    with pytest.raises(AuditLogError, match="line 6 is not of a schema"):
        read(path)


def test_a_line_that_was_written_anew_with_a_hash_of_its_own_does_not_fit(tmp_path: Path) -> None:
    path = written(tmp_path)
    lines, found = path.read_bytes().splitlines(keepends=True), read(path).lines
    lines[2] = Line.after(found[1], released(99)).to_bytes()
    path.write_bytes(b"".join(lines))
    with pytest.raises(AuditLogError, match="line 4 does not follow"):
        read(path)


def test_the_first_bad_line_is_named(tmp_path: Path) -> None:
    path = written(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], lines[2].replace(b'"round":2', b'"round":9'), *lines[3:]]))
    with pytest.raises(AuditLogError, match="line 3 was altered"):
        read(path)


# Writers that are killed, and a full disk


@pytest.mark.parametrize("keep", [1, 30, 200])
def test_a_torn_line_is_closed_off_and_told(tmp_path: Path, keep: int) -> None:
    path = written(tmp_path)
    whole = path.read_bytes()
    torn = Line.after(read(path).lines[-1], released(9)).to_bytes()[:keep]
    path.write_bytes(whole + torn)
    assert [(one.at, one.num_bytes, one.repaired) for one in read(path).torn] == [(6, keep, False)]
    log_at(tmp_path).append(released(5))
    found = read(path)
    assert [line.kind for line in found.lines[-2:]] == ["repaired", "released"]
    assert [(one.at, one.num_bytes, one.repaired) for one in found.torn] == [(6, keep, True)]
    assert path.read_bytes().startswith(whole + torn)  # nothing was taken away
    log_at(tmp_path).append(released(6))
    assert len(read(path).torn) == 1


def test_a_line_that_lacks_only_its_break_stands(tmp_path: Path) -> None:
    path = written(tmp_path)
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    log_at(tmp_path).append(released(5))
    found = read(path)
    assert not found.torn
    assert found.count == 6


def test_a_repair_that_is_killed_is_repaired(tmp_path: Path) -> None:
    path = written(tmp_path)
    for torn in (b'{"fields":{"ev', b'\n{"fields":{"torn_by', b"\n"):
        with path.open("ab") as file:
            file.write(torn)
        assert read(path).torn
    log_at(tmp_path).append(released(5))
    assert [one.repaired for one in read(path).torn] == [True]


def test_the_very_first_line_may_be_torn(tmp_path: Path) -> None:
    (tmp_path / "x.audit.jsonl").write_bytes(b'{"fields":{"na')
    log_at(tmp_path).append(released(1))
    assert [line.kind for line in read(tmp_path / "x.audit.jsonl").lines] == ["repaired", "begun", "released"]


def test_nobody_writes_after_a_last_line_that_was_altered(tmp_path: Path) -> None:
    path = written(tmp_path)
    path.write_bytes(path.read_bytes().replace(b'"round":4', b'"round":5'))
    with pytest.raises(AuditLogError, match="altered"):
        log_at(tmp_path).append(released(5))


def test_on_a_full_disk_nothing_is_acknowledged_and_the_file_stays_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, genuine = written(tmp_path), os.write
    before = path.read_bytes()
    seen = list[Entry]()
    log = log_at(tmp_path)
    log.observe = seen.append
    monkeypatch.setattr(os, "write", lambda descriptor, blob: genuine(descriptor, blob[:40]))
    with pytest.raises(AuditLogError, match="cannot be written") as caught:
        log.append(released(5))
    assert str(path) in str(caught.value)
    monkeypatch.setattr(os, "write", genuine)

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "no space")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(AuditLogError):
            log.append(released(5))
    assert path.read_bytes() == before
    assert not seen
    log.append(released(5))
    assert len(seen) == 1


def test_a_log_that_was_moved_away_begins_anew(tmp_path: Path) -> None:
    path = written(tmp_path)
    log = log_at(tmp_path)
    log.append(released(5))
    path.rename(tmp_path / "old")
    log.append(released(6))
    assert [line.kind for line in read(path).lines] == ["begun", "released"]
    assert read(tmp_path / "old").count == 6


def test_threads_share_a_log(tmp_path: Path) -> None:
    def write(start: int) -> None:
        for number in range(20):
            log_at(tmp_path).append(released(start + number))

    threads = [threading.Thread(target=write, args=(100 * place,)) for place in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read(tmp_path / "x.audit.jsonl").count == 61


WRITER = """
import sys
from pathlib import Path
from privet.common.audit_log import AuditLog
from privet.common.audit_log.entries import RoundStarted
log = AuditLog(Path(sys.argv[1]), role="server", name="tiny")
number = int(sys.argv[2])
names = tuple(f"site-{place}-{'x' * 40}" for place in range(120))  # longer than a page: a kill can tear it
while True:
    log.append(RoundStarted(plan="ab" * 32, round=number, cohort=names))
    print(number, flush=True)
    number += 1
"""


@pytest.mark.parametrize("kills", [3, pytest.param(40, marks=pytest.mark.slow)])
def test_killed_writers_lose_nothing_that_was_acknowledged(tmp_path: Path, kills: int) -> None:
    """Two processes, one of them killed again and again in the middle of writing."""
    path, told = tmp_path / "x.audit.jsonl", set[int]()

    def start(number: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", WRITER, str(path), str(number)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def end(process: subprocess.Popen[str]) -> None:
        process.send_signal(signal.SIGKILL)
        out, _ = process.communicate(timeout=30)
        told.update(int(line) for line in out.splitlines())

    steady = start(10_000_000)
    try:
        for turn in range(kills):
            other = start(turn * 100_000 + 1)
            assert other.stdout is not None
            told.add(int(other.stdout.readline()))
            time.sleep(0.02 + 0.01 * (turn % 5))
            end(other)
    finally:
        end(steady)
    log_at(tmp_path).append(released(1))  # closes off what is torn at the end
    found = read(path)
    assert told <= {int(line.fields["round"]) for line in found.lines if line.kind == "round_started"}
    assert len(told) > 5
    assert all(one.repaired for one in found.torn)


# What may stand there


def test_no_field_can_hold_free_text() -> None:
    """Each field of each kind refuses a sentence, a path and a table; strings are names, digests, codes and times."""
    for kind, model in ENTRIES.items():
        for name, field in model.model_fields.items():
            for evil in ("the patient has a fever", "/data/private/notes.csv", {"text": "chest pain"}, "ä" * 10):
                with pytest.raises(ValueError, match=name):
                    model.model_validate({name: evil}, strict=False)
            assert field.annotation is not None, kind
        with pytest.raises(ValueError, match="text"):
            model.model_validate({"text": "chest pain"})


def test_a_written_line_is_of_its_schema(tmp_path: Path) -> None:
    log = log_at(tmp_path)
    entries: list[Entry] = [
        Started(program="client", version="0.1.0", pid=1, user="root"),
        Refused(request="train", code=Code.ROUND_LOST, federation="tiny", plan=PLAN, round=3),
        PlanFinished(federation="tiny", plan=PLAN),
        Charged(epsilon=1.5, delta=1e-6, lost=3, user="root"),
    ]
    lines = [log.append(entry) for entry in entries]
    assert [line.entry() for line in lines] == entries
    assert [parse_line(line.to_bytes().rstrip(b"\n")) for line in lines] == lines


def test_no_file_is_the_users_fault(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such audit log"):
        read(tmp_path / "none")
    with contextlib.suppress(FileNotFoundError):
        (tmp_path / "none").unlink()
