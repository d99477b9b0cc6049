"""The ledger held against its chain, and what was sent, taken out again: `--verify` and `--export`."""

import hashlib
import json
import os
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from privet.client.ledger import chain
from privet.client.ledger.chain import Body, Entry, altered
from privet.client.ledger.events import stored_reply
from privet.client.ledger.migration import triggers
from privet.client.ledger.schema import DAMAGED, LedgerError
from privet.common.errors import InputError

_EVENTS = "SELECT id, plan, round, kind, request_sha256, state, reply_sha256, reserved_at, stored_at FROM events"


def agree(db: sqlite3.Connection) -> list[Entry]:
    """Verify the whole chain, and that tables and chain say the same, either way; the entries.

    Raises: LedgerError.
    """
    entries = chain.walk(db)
    guards = dict(map(tuple, db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")))
    if guards != triggers():
        raise altered("its triggers are not those of this version")
    written: dict[tuple[str, Any], Body] = {}
    lost: set[tuple[str, str, int]] = set()
    settled: dict[int, int] = {}
    for entry in entries:
        body, kind = dict(entry.body), entry.body["entry"]
        body.pop("known", None)
        if kind == "charge":
            body["num_lost"] = sum(last - first + 1 for _, _, first, last in body["lost"])
            for plan, of, first, last in body.pop("lost"):
                lost |= {(plan, of, round) for round in range(first, last + 1)}
            settled |= dict.fromkeys(body.pop("evidence"), body["id"])
        key = {"approve": "plan", "reserve": "event", "store": "event", "charge": "id", "evidence": "id"}.get(kind)
        if key is not None:
            if (kind, body[key]) in written:
                raise altered(f"entry {entry.seq} of its chain is there twice")
            written[kind, body[key]] = body if key == "event" else {**body, "at": entry.seq}
    _same(written, _tables(db))
    events = db.execute("SELECT plan, kind, round FROM events WHERE state = 'lost'")
    if {(row[0], row[1], row[2]) for row in events} != lost:
        raise altered("its lost events are not those that were charged")
    if dict(map(tuple, db.execute("SELECT id, charge FROM evidence WHERE charge IS NOT NULL"))) != settled:
        raise altered("its evidence is not settled by the charges that its chain names")
    return entries


def verify(db: sqlite3.Connection) -> list[str]:
    """What was verified, in words: file, chain, tables and stored replies.

    Raises: LedgerError.
    """
    if [row[0] for row in db.execute("PRAGMA integrity_check(1)")] != ["ok"]:
        raise LedgerError("the file is damaged.", mend=DAMAGED)
    entries, num_replies = agree(db), 0
    for row in db.execute("SELECT id, reply, reply_sha256 FROM events WHERE state = 'stored' ORDER BY id"):
        stored_reply(row, f"event {row['id']}")
        num_replies += 1
    return [
        "file: SQLite's integrity check passed",
        f"chain: {len(entries):,} entries, each follows the one before; the newest is {entries[-1].hash[:16]}",
        "tables: plans, events, charges and evidence agree with the chain, and the chain with them",
        f"replies: {num_replies:,} stored, each of the SHA-256 that it was stored with",
    ]


def export(db: sqlite3.Connection, folder: Path) -> list[Body]:
    """Write the exact bytes of every stored reply, a manifest and the chain to `folder`; the manifest's entries.

    Everything is read back and compared.
    Raises: InputError where the folder exists and is not empty, or cannot be written; LedgerError.
    """
    entries = agree(db)
    hashes = {entry.body["event"]: entry.hash for entry in entries if entry.body["entry"] == "store"}
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise InputError("is not empty.", where=str(folder), mend="name a new folder.")
        manifest: list[Body] = []
        for row in db.execute("SELECT * FROM events WHERE state = 'stored' ORDER BY id"):
            name = f"{row['plan'][:16]}-{row['kind']}-{row['round']}.safetensors"
            _write(folder / name, stored_reply(row, name))
            columns = ("plan", "round", "kind", "request_sha256", "reply_sha256", "reserved_at", "stored_at")
            manifest.append({"file": name, **{column: row[column] for column in columns}, "chain": hashes[row["id"]]})
        _write(folder / "manifest.json", (json.dumps(manifest, indent=2) + "\n").encode())
        _write(folder / "chain.jsonl", b"".join(_line(row) for row in db.execute("SELECT * FROM chain ORDER BY seq")))
        for one in manifest:
            if hashlib.sha256((folder / one["file"]).read_bytes()).hexdigest() != one["reply_sha256"]:
                raise LedgerError("what was written is not what was stored.", where=str(folder / one["file"]))
    except OSError as error:
        mend = "name a folder on a disk with space that this user may write."
        raise InputError(f"cannot be written ({error.strerror}).", where=str(folder), mend=mend) from None
    return manifest


def _tables(db: sqlite3.Connection) -> dict[tuple[str, Any], Body]:
    """What the tables say that the chain must hold."""
    found: dict[tuple[str, Any], Body] = {}
    for row in db.execute("SELECT * FROM plans WHERE state = 'approved'"):
        if hashlib.sha256(row["plan"].encode()).hexdigest() != row["digest"]:
            raise altered(f"the text of plan {row['digest'][:16]} is another one")
        found["approve", row["digest"]] = {**chain.approve_body(row), "at": row["entry"]}
    for row in db.execute(_EVENTS):
        if row["state"] != "lost":
            found["reserve", row["id"]] = chain.reserve_body(row)
        if row["state"] == "stored":
            found["store", row["id"]] = chain.store_body(row)
    for row in db.execute("SELECT * FROM evidence"):
        found["evidence", row["id"]] = {**chain.evidence_body(row), "at": row["entry"]}
    for row in db.execute("SELECT * FROM charges"):
        found["charge", row["id"]] = {
            "entry": "charge", "time": row["charged_at"], "id": row["id"], "epsilon": row["epsilon"],
            "delta": row["delta"], "num_lost": row["num_lost"], "at": row["entry"],
        }  # fmt: skip
    return found


def _same(written: Mapping[tuple[str, Any], Body], found: Mapping[tuple[str, Any], Body]) -> None:
    for kind, key in sorted(written.keys() ^ found.keys(), key=str):
        where = "its chain does not hold" if (kind, key) in found else "its tables do not hold"
        raise altered(f"{where} the entry {kind} of {str(key)[:16]}")
    for (kind, key), body in found.items():
        if chain.canonical(written[kind, key]) != chain.canonical(body):
            raise altered(f"tables and chain differ on the entry {kind} of {str(key)[:16]}")


def _line(row: sqlite3.Row) -> bytes:
    entry = {"seq": row["seq"], "previous": bytes(row["previous"]).hex(), "hash": bytes(row["hash"]).hex()}
    return (chain.canonical({**entry, "body": row["body"]}) + "\n").encode()


def _write(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
