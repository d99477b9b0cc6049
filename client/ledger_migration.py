"""Making the tables of a new ledger, and bringing an older one up to date; in a transaction of the caller's."""

import sqlite3
from collections.abc import Iterator

from privet.client import chain
from privet.client.ledger_schema import APPLICATION, NEW_TABLES, PLANS_ADDED, SCHEMA, TABLES, TRIGGERS


def make(db: sqlite3.Connection) -> None:
    """The tables of a new ledger, and the genesis of its chain."""
    _run(db, TABLES + TRIGGERS)
    chain.begin(db)
    db.execute(f"PRAGMA application_id = {APPLICATION}")
    db.execute(f"PRAGMA user_version = {SCHEMA}")


def migrate(db: sqlite3.Connection) -> None:
    """From schema 1: approved plans and events stay as they are and become entries of a chain, in their order.

    The column that counted as the unit was not kept by schema 1: such plans have none, and do not fix it.
    """
    for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        db.execute(f'DROP TRIGGER "{name}"')
    db.execute("ALTER TABLE events RENAME TO events_of_schema_1")
    for column in PLANS_ADDED:
        db.execute(f"ALTER TABLE plans ADD COLUMN {column}")
    _run(db, NEW_TABLES)
    columns = "id, plan, round, kind, request_sha256, state, reply, reply_sha256, reserved_at, stored_at"
    db.execute(f"INSERT INTO events ({columns}) SELECT {columns} FROM events_of_schema_1 ORDER BY id")
    db.execute("DROP TABLE events_of_schema_1")
    chain.begin(db, schema=1)
    approved = "SELECT digest FROM plans WHERE state = 'approved' ORDER BY approved_at, seen_at, digest"
    for (digest,) in db.execute(approved).fetchall():
        db.execute("UPDATE plans SET entry = ? WHERE digest = ?", (chain.length(db) + 1, digest))
        row = db.execute("SELECT * FROM plans WHERE digest = ?", (digest,)).fetchone()
        chain.append(db, {**chain.approve_body(row), "known": list(chain.known_sums(db))})
    for row in db.execute(f"SELECT {columns.replace('reply, ', '')} FROM events ORDER BY id").fetchall():
        chain.append(db, chain.reserve_body(row))
        if row["state"] == "stored":
            chain.append(db, chain.store_body(row))
    chain.append(db, {"entry": "migrated", "time": chain.now(), "schema": 1})
    _run(db, TRIGGERS)
    db.execute(f"PRAGMA user_version = {SCHEMA}")


def triggers() -> dict[str, str]:
    """Name -> text of every trigger, as SQLite keeps it."""
    texts = [text.strip().removesuffix(";") for text in _statements(TRIGGERS)]
    return {text.split()[2]: text for text in texts}


def _run(db: sqlite3.Connection, script: str) -> None:
    for statement in _statements(script):
        db.execute(statement)


def _statements(script: str) -> Iterator[str]:
    """The single statements of `script` (`executescript` would commit the transaction)."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
