"""The ledger's file: its tables, who may open it, and transactions that are durable when they return.

SQLite in WAL mode with synchronous=FULL: a commit that returned survives a power cut. The database refuses to forget:
triggers abort any change of an approved plan or a stored reply, and any deletion of an approved plan or an event; what
was never approved may make room. Later schemas are told apart by
`user_version`; a newer one is refused.
"""

import contextlib
import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from privet.common.errors import PrivetError

SCHEMA = 1  # PRAGMA user_version
APPLICATION = 0x70727674  # PRAGMA application_id: "prvt"
DAMAGED = "do not delete it, for it holds what has been spent: restore the newest sound copy."
BUSY_SECONDS = 30.0  # how long to wait for another process's transaction

_TABLES = """
CREATE TABLE plans (
  digest TEXT PRIMARY KEY CHECK (length(digest) = 64),
  federation TEXT NOT NULL,
  plan TEXT NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('pending', 'approved', 'refused')),
  code TEXT NOT NULL,
  reason TEXT NOT NULL,
  sample_rate REAL, noise_multiplier REAL, steps INTEGER, max_grad_norm REAL, expected_batch INTEGER,
  unit TEXT CHECK (unit IN ('unit', 'record')), max_records INTEGER,
  horizon INTEGER NOT NULL CHECK (horizon >= 1),
  epsilon REAL NOT NULL, delta REAL NOT NULL,
  seen_at TEXT NOT NULL, judged_at TEXT NOT NULL, approved_at TEXT,
  CHECK (state <> 'approved' OR (
    sample_rate IS NOT NULL AND noise_multiplier IS NOT NULL AND steps IS NOT NULL AND max_grad_norm IS NOT NULL
    AND expected_batch IS NOT NULL AND unit IS NOT NULL AND max_records IS NOT NULL
    AND noise_multiplier > 0 AND epsilon > 0 AND delta > 0 AND approved_at IS NOT NULL))
);
CREATE TABLE events (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  plan TEXT NOT NULL REFERENCES plans (digest),
  round INTEGER NOT NULL CHECK (round >= 1),
  kind TEXT NOT NULL,
  request_sha256 TEXT NOT NULL CHECK (length(request_sha256) = 64),
  state TEXT NOT NULL CHECK (state IN ('reserved', 'stored')),
  reply BLOB, reply_sha256 TEXT,
  reserved_at TEXT NOT NULL, stored_at TEXT,
  UNIQUE (plan, round, kind),
  CHECK ((state = 'stored') = (reply IS NOT NULL AND reply_sha256 IS NOT NULL AND stored_at IS NOT NULL))
);
CREATE TRIGGER approved_plans_stay BEFORE UPDATE ON plans WHEN OLD.state = 'approved'
  BEGIN SELECT RAISE(ABORT, 'an approved plan never changes'); END;
CREATE TRIGGER approved_plans_are_kept BEFORE DELETE ON plans
  WHEN OLD.state = 'approved' OR EXISTS (SELECT 1 FROM events WHERE events.plan = OLD.digest)
  BEGIN SELECT RAISE(ABORT, 'an approved plan is never forgotten'); END;
CREATE TRIGGER events_keep_their_key BEFORE UPDATE OF id, plan, round, kind, request_sha256 ON events
  BEGIN SELECT RAISE(ABORT, 'an event never changes its key'); END;
CREATE TRIGGER stored_replies_stay BEFORE UPDATE ON events WHEN OLD.state = 'stored'
  BEGIN SELECT RAISE(ABORT, 'a stored reply never changes'); END;
CREATE TRIGGER events_stay BEFORE DELETE ON events
  BEGIN SELECT RAISE(ABORT, 'an event is never forgotten'); END;
"""


class LedgerError(PrivetError):
    """The ledger cannot be used. At a site's agent: answer `unavailable`, and never train."""


def open_file(path: Path, *, agent: bool) -> tuple[sqlite3.Connection, int | None]:
    """Open or make the database at `path` (mode 0600; a new folder has 0700); (connection, agent's lock or None).

    The agent's lock is an exclusive flock on `PATH.lock`: the system releases it when the process ends, however it
    ends. An agent also has the whole file checked.

    Raises: LedgerError.
    """
    lock: int | None = None
    connection: sqlite3.Connection | None = None
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = _take_lock(path) if agent else None
        _create(path)
        connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        connection.row_factory = sqlite3.Row
        _prepare(connection, path, thorough=agent)
    except BaseException as error:
        if connection is not None:
            connection.close()
        if lock is not None:
            os.close(lock)
        if isinstance(error, (OSError, sqlite3.Error)):
            raise _told(error, path) from error
        raise
    return connection, lock


@contextlib.contextmanager
def transaction(
    connection: sqlite3.Connection, path: Path, mode: Literal["IMMEDIATE", "DEFERRED"]
) -> Iterator[sqlite3.Connection]:
    """One transaction, durable when the block is left; any error rolls it back.

    Raises: LedgerError for whatever SQLite raises.
    """
    try:
        connection.execute(f"BEGIN {mode}")
        try:
            yield connection
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
    except sqlite3.Error as error:
        raise _told(error, path) from error


def _take_lock(path: Path) -> int:
    """A file descriptor that holds the agent's lock; the file names the holder for people."""
    lock_path = path.with_name(path.name + ".lock")
    descriptor = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 32).decode(errors="replace").strip()
        os.close(descriptor)
        raise LedgerError(
            f"another privet client (process {holder or 'unknown'}) already trains on this data set.",
            where=str(path),
            mend="stop that one first: a data set has one agent. To only look, run `privet ledger`.",
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def _create(path: Path) -> None:
    """Make the file with mode 0600 and its folder entry durable; tighten the mode of an older file.

    An existing file is not opened here: closing it would drop the locks of this process's other connections (POSIX).
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        path.chmod(0o600)
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _prepare(connection: sqlite3.Connection, path: Path, *, thorough: bool) -> None:
    for setting in ("synchronous = FULL", "fullfsync = ON", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {setting}")
    with transaction(connection, path, "DEFERRED"):
        made = _is_made(connection, path)
    if not made:
        with transaction(connection, path, "IMMEDIATE"):
            if not _is_made(connection, path):  # another process may have been faster
                for statement in _statements(_TABLES):
                    connection.execute(statement)
                connection.execute(f"PRAGMA application_id = {APPLICATION}")
                connection.execute(f"PRAGMA user_version = {SCHEMA}")
    _write_ahead(connection, path)
    if thorough and [row[0] for row in connection.execute("PRAGMA integrity_check(1)")] != ["ok"]:
        raise LedgerError("the file is damaged.", where=str(path), mend=DAMAGED)


def _is_made(connection: sqlite3.Connection, path: Path) -> bool:
    """Whether the tables are there. Raises: LedgerError where the file is another program's or a newer privet's."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (num_tables,) = connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
    if application != APPLICATION and (application or version or num_tables):
        raise LedgerError("this file is not a privet ledger.", where=str(path), mend="move it away.")
    if version > SCHEMA:
        raise LedgerError(
            f"written by a newer privet (schema {version}, this one knows {SCHEMA}).",
            where=str(path),
            mend="use that newer privet for this data set.",
        )
    return bool(version)


def _write_ahead(connection: sqlite3.Connection, path: Path) -> None:
    """Switch to WAL; SQLite does not wait by itself where another process opens a new file at the same time."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            (journal,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
            break
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
    if journal != "wal":
        mend = "keep the ledger on a local disk."
        raise LedgerError("the file system does not support a write-ahead log.", where=str(path), mend=mend)


def _statements(script: str) -> Iterator[str]:
    """The single statements of `script` (`executescript` would commit the transaction)."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _told(error: OSError | sqlite3.Error, path: Path) -> LedgerError:
    """An error of the system or of SQLite, for a person."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    mends = {
        sqlite3.SQLITE_FULL: "free space on this disk, then start again.",
        sqlite3.SQLITE_BUSY: "wait until the other privet process on this data set is done, then try again.",
        sqlite3.SQLITE_CORRUPT: DAMAGED,
        sqlite3.SQLITE_NOTADB: DAMAGED,
    }
    mend = mends.get(code, "see that this user may write the ledger's folder and that its disk is sound.")
    return LedgerError(f"the ledger cannot be used ({error}).", where=str(path), mend=mend)
