"""The ledger's file: who may open it, transactions that are durable when they return, and the head file beside it.

SQLite in WAL mode with synchronous=FULL: a commit that returned survives a power cut. The schema's triggers abort what
would forget. Schemas are told apart by `user_version`: an older one is brought up in one transaction, a newer one is
refused.

**Why a missing head file is always evidence.** A ledger's first head file is durable before its first transaction
commits, both under the head file's lock. So a ledger that holds an entry has, or had, a head file, whatever was killed
when: one without was put back alone, or its head file was taken away. A process killed between the two leaves a head
without its ledger. Of a new ledger that is the genesis, at which nothing was spent, and the next one replaces it; any
later head without its ledger is a lost ledger's. Of a ledger of schema 1 it is the head of the chain that is made again
the same (`migration`). A copy from before schema 2 that is put back with no head file looks as the first
time it was brought up: of that only the servers' heads tell.
"""

import contextlib
import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from privet.client.ledger import chain
from privet.client.ledger.evidence import holds, note
from privet.client.ledger.head import UnreadableHead, head_lock, newest, read_head, write_head
from privet.client.ledger.migration import make, migrate
from privet.client.ledger.schema import APPLICATION, DAMAGED, SCHEMA, LedgerError

__all__ = ["SCHEMA", "LedgerError", "keep_head", "open_file", "transaction"]

BUSY_SECONDS = 30.0  # how long to wait for another process's transaction


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


def keep_head(connection: sqlite3.Connection, path: Path) -> None:
    """Hold the head file against the chain: write it anew where it is older, durably when this returns; note evidence
    where the chain does not hold it, or where there is none.

    A head that the chain does not hold stays until it is charged. A missing one is written once that it was missing
    stands in the chain, so that from then on its absence is told again. Whoever holds the file's lock writes the newest
    head there is, so an older one never replaces a newer one.

    Raises: LedgerError.
    """
    try:
        with head_lock(path, BUSY_SECONDS):
            try:
                found = read_head(path)
            except UnreadableHead:
                found = None
            with transaction(connection, path, "DEFERRED") as db:  # begun after the file was read
                head = newest(db)
                behind = found is None or not holds(db, found)
            if behind:
                with transaction(connection, path, "IMMEDIATE") as db:
                    note(db, "missing" if found is None else "file", found)
                    head = newest(db)
            if found is None or (not behind and found != head):
                write_head(path, head)
    except OSError as error:
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
        version = _version(connection, path)
    if version < SCHEMA:
        with head_lock(path, BUSY_SECONDS), transaction(connection, path, "IMMEDIATE") as db:
            version = _version(connection, path)  # another process may have been faster
            if version < SCHEMA:
                _bring_up(db, path, version)
    _write_ahead(connection, path)
    with transaction(connection, path, "DEFERRED") as db:
        chain.glance(db)
    if thorough and [row[0] for row in connection.execute("PRAGMA integrity_check(1)")] != ["ok"]:
        raise LedgerError("the file is damaged.", where=str(path), mend=DAMAGED)


def _bring_up(db: sqlite3.Connection, path: Path, version: int) -> None:
    """Make or migrate the tables; the first head is written before the caller's transaction commits, under the lock.

    A head that is there already is left to `keep_head`, but for a genesis whose ledger was never made.
    """
    try:
        found = read_head(path)
        vacant = found is None or (version == 0 and found.seq == 1)
    except UnreadableHead:
        vacant = False
    if version == 0:
        make(db)
    else:
        migrate(db, version)
    if vacant and version < 2:  # one of schema 2 has had a head file
        write_head(path, newest(db))


def _version(connection: sqlite3.Connection, path: Path) -> int:
    """Its schema, 0 for an empty file. Raises: LedgerError where it is another program's or a newer privet's."""
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
    return int(version)


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
