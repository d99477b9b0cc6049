"""A ledger of schema 1 goes on: everything it held stays, and stands in a chain."""

import hashlib
import shutil
import sqlite3
from contextlib import closing
from dataclasses import fields
from pathlib import Path

import pytest

from privet.client.ledger import Ledger, New, Stored, chain
from privet.client.ledger import rows as ledger_rows
from privet.client.ledger.head import read_head
from privet.common.errors import Code, RefusedError
from privet.common.privacy.events import TrainEvent
from tests.client.killed import killed
from tests.client.ledger_cases import DATA_ID, make_admission, make_plan, make_site

BODY = hashlib.sha256(b"request").hexdigest()
PLAN, WAITING = make_plan(0), make_plan(1)

SCHEMA_1 = """
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
PRAGMA application_id = 1886549620;
PRAGMA user_version = 1;
PRAGMA journal_mode = WAL;
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A closed ledger of schema 1: an approved and a waiting plan, a stored round and a lost one."""
    path = tmp_path / f"{DATA_ID}.sqlite"
    db = sqlite3.connect(path)
    db.executescript(SCHEMA_1)
    for plan, state in ((PLAN, "approved"), (WAITING, "pending")):
        admission = make_admission(plan)
        values = {"digest": plan.digest, "federation": plan.name, "plan": plan.canonical(), "state": state}
        values |= {"code": "ok" if state == "approved" else "pending", "reason": "test"}
        event = {field.name: getattr(admission.event, field.name) for field in fields(TrainEvent)}
        times = {"seen_at": "2030-01-01", "judged_at": "2030-01-02"}
        times |= {"approved_at": "2030-01-03"} if state == "approved" else {}
        row = {**values, **event, **times, "horizon": admission.horizon, "epsilon": 3.0, "delta": 5e-6}
        db.execute(f"INSERT INTO plans ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})", tuple(row.values()))
    columns = "plan, round, kind, request_sha256, state, reply, reply_sha256, reserved_at, stored_at"
    reply = (b"reply", hashlib.sha256(b"reply").hexdigest())
    for values_of in (
        (PLAN.digest, 1, "train", BODY, "stored", *reply, "2030-01-04", "2030-01-05"),
        (PLAN.digest, 2, "train", BODY, "reserved", None, None, "2030-01-06", None),
    ):
        db.execute(f"INSERT INTO events ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values_of)
    db.commit()
    db.close()
    return path


def test_it_is_carried_over(path: Path) -> None:
    with Ledger.open(path, agent=True) as ledger:
        assert {row.digest for row in ledger.plans()} == {PLAN.digest, WAITING.digest}
        row = ledger.plan(PLAN.digest)
        assert row is not None
        assert row.admission == make_admission(PLAN)
        assert (row.approved_at, row.unit_column) == ("2030-01-03", None)
        assert [(event.id, event.round, event.state) for event in ledger.events()] == [
            (1, 1, "stored"),
            (2, 2, "reserved"),
        ]
        assert ledger.reserve(PLAN.digest, 1, "train", BODY) == Stored(reply=b"reply")
        with pytest.raises(RefusedError) as caught:
            ledger.reserve(PLAN.digest, 2, "train", BODY)
        assert caught.value.code is Code.ROUND_LOST
        assert ledger.committed("wards").epsilon == 3.0
        assert (ledger.committed("wards").unit, ledger.committed("wards").unit_column) == ("unit", None)
        reserved = ledger.reserve(PLAN.digest, 3, "train", BODY)
        assert reserved == New(event_id=3)
        assert "chain: 7 entries" in "\n".join(ledger.verify())  # genesis, plan, 2 + 1 of events, migrated, reserved
    with Ledger.open(path, agent=True) as ledger:
        assert ledger.behind() == []
        assert ledger.verify()


def test_a_migration_that_breaks_off_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(chain, "store_body", broken)
        with pytest.raises(Exception, match="disk I/O"):
            Ledger.open(path)
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA user_version").fetchone()[0] == 1
    assert db.execute("SELECT COUNT(*) FROM sqlite_master WHERE type = 'trigger'").fetchone()[0] == 5
    assert db.execute("SELECT COUNT(*) FROM events").fetchone()[0] == 2
    db.close()
    with Ledger.open(path, agent=True) as ledger:
        assert len(ledger.events()) == 2


@pytest.mark.parametrize("moment", ["before the head", "after the head", "after the commit"])
def test_killed_while_it_is_brought_up(path: Path, moment: str) -> None:
    """The head file is there before the chain is, and the chain is made again the same."""
    killed(path, moment)
    first = read_head(path)
    assert (first is None) == (moment == "before the head")
    with Ledger.open(path, agent=True) as ledger:
        assert ledger.behind() == []
        assert first in (None, ledger.head())
        assert read_head(path) == ledger.head()
        assert ledger.verify()
        assert isinstance(ledger.reserve(PLAN.digest, 3, "train", BODY), New)


@pytest.mark.parametrize("moment", ["after the commit", None])
def test_brought_up_and_put_back_without_its_head_file(path: Path, moment: str | None) -> None:
    if moment is None:
        Ledger.open(path).close()
    else:
        killed(path, moment)
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(path.with_suffix(".backup"))) as copy:
        source.backup(copy)
    with Ledger.open(path, agent=True) as ledger:
        assert isinstance(ledger.reserve(PLAN.digest, 3, "train", BODY), New)
    for old in (*path.parent.glob("*.sqlite*"), path.with_suffix(".head")):
        old.unlink()
    path.with_suffix(".backup").rename(path)
    with Ledger.open(path, agent=True) as ledger:
        assert [evidence.source for evidence in ledger.behind()] == ["missing"]
        with pytest.raises(RefusedError) as caught:
            ledger.reserve(PLAN.digest, 3, "train", BODY)
        assert caught.value.code is Code.LEDGER_BEHIND


def test_a_chain_is_a_function_of_what_schema_1_held(path: Path, tmp_path: Path) -> None:
    again, more = (tmp_path / name / path.name for name in ("again", "more"))
    for copy in (again, more):
        copy.parent.mkdir()
        shutil.copy(path, copy)
    with closing(sqlite3.connect(more)) as db:
        db.execute("UPDATE events SET reserved_at = '2030-01-07' WHERE id = 2")
        db.commit()
    heads = []
    for one in (path, again, more):
        with Ledger.open(one, agent=True) as ledger:
            heads.append(ledger.head())
    assert heads[0] == heads[1]
    assert not set(heads[0].marks) & set(heads[2].marks)


# From schema 2: no limit of a person's records was kept


def _record(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """As before schema 5: nothing of how records are told stands in tables and chain."""
    with monkeypatch.context() as patch:
        patch.setattr(ledger_rows, "written", lambda _: None)
        ledger.record_plan(PLAN, make_admission(PLAN), make_site())


def as_schema_2(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("ALTER TABLE plans DROP COLUMN reading")
        db.execute("ALTER TABLE plans DROP COLUMN evaluate_only")
        db.execute("ALTER TABLE plans DROP COLUMN max_per_person")
        db.execute("ALTER TABLE plans DROP COLUMN person")
        db.execute("PRAGMA user_version = 2")
        db.commit()


@pytest.mark.parametrize("moment", ["before the head", "after the commit", None])
def test_schema_2_goes_on(tmp_path: Path, moment: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "two" / f"{DATA_ID}.sqlite"
    with Ledger.open(path, agent=True) as ledger:
        _record(ledger, monkeypatch)
        ledger.reserve(PLAN.digest, 1, "train", BODY)
    as_schema_2(path)
    if moment is not None:
        killed(path, moment)
    with Ledger.open(path, agent=True) as ledger:
        assert ledger.behind() == []
        assert ledger.verify()
        row = ledger.plan(PLAN.digest)
        assert row is not None
        assert (row.admission.person, row.admission.max_per_person) == (None, None)
        assert isinstance(ledger.reserve(PLAN.digest, 2, "train", BODY), New)


@pytest.mark.parametrize("schema", [3, 4])
def test_schemas_3_and_4_go_on(tmp_path: Path, schema: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans of schema 3 train: none was approved for evaluating only. Of neither is it known how records were told."""
    path = tmp_path / "three" / f"{DATA_ID}.sqlite"
    with Ledger.open(path, agent=True) as ledger:
        _record(ledger, monkeypatch)
        ledger.reserve(PLAN.digest, 1, "train", BODY)
    with closing(sqlite3.connect(path)) as db:
        for column in ("reading", "evaluate_only")[: 5 - schema]:
            db.execute(f"ALTER TABLE plans DROP COLUMN {column}")
        db.execute(f"PRAGMA user_version = {schema}")
        db.commit()
    with Ledger.open(path, agent=True) as ledger:
        assert ledger.behind() == []
        assert ledger.verify()
        row = ledger.plan(PLAN.digest)
        assert row is not None
        assert not row.admission.evaluate_only
        assert row.reading is None
        assert isinstance(ledger.reserve(PLAN.digest, 2, "train", BODY), New)


def test_schema_2_without_its_head_file_is_found(tmp_path: Path) -> None:
    path = tmp_path / "two" / f"{DATA_ID}.sqlite"
    Ledger.open(path).close()
    as_schema_2(path)
    path.with_suffix(".head").unlink()
    with Ledger.open(path, agent=True) as ledger:
        assert [evidence.source for evidence in ledger.behind()] == ["missing"]


def test_an_old_copy_of_schema_1_is_found(path: Path) -> None:
    old = path.read_bytes()
    with Ledger.open(path, agent=True) as ledger:
        ledger.reserve(PLAN.digest, 3, "train", BODY)
    path.write_bytes(old)
    with Ledger.open(path, agent=True) as ledger:
        assert len(ledger.behind()) == 1
        assert ledger.charge_all() is not None
        assert ledger.committed("wards").epsilon >= 3.0
        with pytest.raises(RefusedError):
            ledger.reserve(PLAN.digest, 3, "train", BODY)


def test_a_unit_column_is_fixed_by_the_first_event_that_knows_one(path: Path) -> None:
    site = make_site(unit="visit", member={"epsilon": 8.0, "delta": 1e-5})
    with Ledger.open(path, agent=True) as ledger:
        ledger.approve(WAITING.digest, make_admission(WAITING, epsilon=1.0, delta=1e-6), site)
        ledger.reserve(WAITING.digest, 1, "train", BODY)
        assert ledger.committed("wards").unit_column == "visit"
