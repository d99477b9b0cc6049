"""Making the tables of a new ledger, and bringing an older one up to date; in a transaction of the caller's."""

import hashlib
import math
import secrets
import sqlite3
from collections.abc import Iterator

from privet.client.ledger import chain
from privet.client.ledger.schema import (
    ADDED_BY_2,
    ADDED_BY_3,
    ADDED_BY_4,
    ADDED_BY_5,
    APPLICATION,
    NEW_TABLES,
    SCHEMA,
    TABLES,
    TRIGGERS,
)

_EVENTS = "id, plan, round, kind, request_sha256, state, reply, reply_sha256, reserved_at, stored_at"
_NO_TIME = "1970-01-01T00:00:00+00:00"  # of a ledger of schema 1 that held nothing


def make(db: sqlite3.Connection) -> None:
    """The tables of a new ledger, and the genesis of its chain."""
    _run(db, TABLES + TRIGGERS)
    chain.begin(db, time=chain.now(), random=secrets.token_hex(32))
    db.execute(f"PRAGMA application_id = {APPLICATION}")
    db.execute(f"PRAGMA user_version = {SCHEMA}")


def migrate(db: sqlite3.Connection, version: int) -> None:
    """From schema 1, 2, 3 or 4: approved plans and events stay as they are."""
    if version == 1:
        _from_1(db)
    for column in (*(ADDED_BY_3 if version < 3 else ()), *(ADDED_BY_4 if version < 4 else ()), *ADDED_BY_5):
        db.execute(f"ALTER TABLE plans ADD COLUMN {column}")
    if version == 1:
        _link(db)
    else:  # its chain goes on; what its plans' rows did not keep it does not claim: no limit of a person's records
        chain.append(db, {"entry": "migrated", "time": chain.now(), "schema": version})
    db.execute(f"PRAGMA user_version = {SCHEMA}")


def _from_1(db: sqlite3.Connection) -> None:
    """The tables of schema 2. The column that counted as the unit was not kept by schema 1: such plans have none, and
    do not fix it."""
    for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        db.execute(f'DROP TRIGGER "{name}"')
    db.execute("ALTER TABLE events RENAME TO events_of_schema_1")
    for column in ADDED_BY_2:
        db.execute(f"ALTER TABLE plans ADD COLUMN {column}")
    _run(db, NEW_TABLES)
    db.execute(f"INSERT INTO events ({_EVENTS}) SELECT {_EVENTS} FROM events_of_schema_1 ORDER BY id")
    db.execute("DROP TABLE events_of_schema_1")


def _link(db: sqlite3.Connection) -> None:
    """What schema 1 held becomes the entries of a chain, in its order.

    The chain is a function of what was held, with no clock and no chance in it: made a second time, after a crash or
    from a copy, it is the same one, so that the head file that the first time wrote names an entry of it.
    """
    plans = "SELECT * FROM plans WHERE state = 'approved' ORDER BY approved_at, seen_at, digest"
    events = db.execute(f"SELECT {_EVENTS.replace('reply, ', '')} FROM events ORDER BY id").fetchall()
    held = [chain.approve_body(row) for row in db.execute(plans).fetchall()]
    for row in events:
        held += [chain.reserve_body(row)] + ([chain.store_body(row)] if row["state"] == "stored" else [])
    time = max((str(body["time"]) for body in held), default=_NO_TIME)
    chain.begin(db, time=time, random=hashlib.sha256(chain.canonical(held).encode()).hexdigest(), schema=1)
    linked: list[chain.Body] = []
    for body in held:
        if body["entry"] == "approve":
            db.execute("UPDATE plans SET entry = ? WHERE digest = ?", (chain.length(db) + 1, body["plan"]))
            linked.append(body)
            body = {**body, "known": [math.fsum(one[name] for one in linked) for name in ("epsilon", "delta")]}
        chain.append(db, body)
    chain.append(db, {"entry": "migrated", "time": time, "schema": 1})
    _run(db, TRIGGERS)


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
