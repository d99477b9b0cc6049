"""The hash chain: any alteration of the tables or of the chain itself is found when an agent opens the ledger."""

import hashlib
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from privet.client.ledger import Ledger, LedgerError, New, Stored, chain
from privet.client.ledger import file as ledger_file
from privet.client.ledger.check import agree
from privet.client.ledger.migration import make
from privet.common.errors import Code, RefusedError
from privet.common.privacy.events import EvaluateEvent
from tests.client.ledger_cases import DATA_ID, make_admission, make_plan, make_site

BODY = hashlib.sha256(b"request").hexdigest()
PLAN = make_plan()
WIDE = make_site(member={"epsilon": 8.0, "delta": 1e-5})
METRICS = EvaluateEvent(noise_multiplier=20.0, release="accuracy", unit="unit")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / f"{DATA_ID}.sqlite"


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("full") / f"{DATA_ID}.sqlite"
    _fill(path)
    return path


@pytest.fixture
def filled(path: Path, full: Path) -> Path:
    """A ledger with an approved and a waiting plan, a stored, a reserved and lost events, and a charge."""
    for suffix in (".sqlite", ".head"):
        shutil.copy(full.with_suffix(suffix), path.with_suffix(suffix))
    return path


def _fill(path: Path) -> None:
    with Ledger.open(path, agent=True) as ledger:
        ledger.record_plan(PLAN, make_admission(PLAN, evaluation=METRICS, num_evaluations=2), make_site())
        ledger.record_plan(make_plan(1), make_admission(make_plan(1), decision="pending", code=Code.PENDING), WIDE)
        reserved = ledger.reserve(PLAN.digest, 1, "train", BODY)
        assert isinstance(reserved, New)
        ledger.store(reserved.event_id, b"reply")
        ledger.reserve(PLAN.digest, 1, "evaluate", BODY)
    path.with_suffix(".head").unlink()
    with Ledger.open(path) as ledger:
        charge = ledger.charge_all()
        assert charge is not None
        assert charge.num_lost == 4


def tamper(path: Path, *statements: str) -> None:
    """Run the statements without the triggers, which are put back as they were."""
    db = sqlite3.connect(path, isolation_level=None)
    db.create_function("sha256", 1, lambda raw: hashlib.sha256(raw).hexdigest())
    guards = db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
    for name, _ in guards:
        db.execute(f"DROP TRIGGER {name}")
    for statement in statements:
        assert db.execute(statement).rowcount != 0
    for _, sql in guards:
        db.execute(sql)
    db.close()


def test_an_untouched_ledger_is_verified(filled: Path) -> None:
    tamper(filled, "UPDATE plans SET reason = 'said otherwise'")  # words for the operator are not part of the chain
    with Ledger.open(filled, agent=True) as ledger:
        words = "\n".join(ledger.verify())
    for said in ("integrity check", "chain: 7 entries", "agree with the chain", "replies: 1 stored", "head file"):
        assert said in words


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE plans SET epsilon = 0.1 WHERE state = 'approved'",
        "UPDATE plans SET delta = 1e-9 WHERE state = 'approved'",
        "UPDATE plans SET noise_multiplier = 0.01 WHERE state = 'approved'",
        "UPDATE plans SET sample_rate = 1 WHERE state = 'approved'",
        "UPDATE plans SET horizon = 400 WHERE state = 'approved'",
        "UPDATE plans SET num_evaluations = 9 WHERE state = 'approved'",
        "UPDATE plans SET evaluation = replace(evaluation, '20', '2') WHERE state = 'approved'",
        "UPDATE plans SET unit_column = 'ward' WHERE state = 'approved'",
        "UPDATE plans SET reading = replace(reading, 'utf-8', 'cp1252') WHERE state = 'approved'",
        "UPDATE plans SET reading = NULL WHERE state = 'approved'",
        "UPDATE plans SET plan = replace(plan, 'calm', 'loud') WHERE state = 'approved'",
        "UPDATE plans SET state = 'pending' WHERE state = 'approved'",
        "UPDATE plans SET state = 'approved', approved_at = judged_at, entry = 3 WHERE state = 'pending'",
        "UPDATE events SET round = 9 WHERE id = 1",
        "UPDATE events SET kind = 'train', round = 9 WHERE id = 2",
        "UPDATE events SET request_sha256 = reply_sha256 WHERE id = 1",
        "UPDATE events SET reply = X'00', reply_sha256 = sha256(X'00') WHERE id = 1",
        "UPDATE events SET reply = NULL, reply_sha256 = NULL, stored_at = NULL, state = 'reserved' WHERE id = 1",
        "UPDATE events SET stored_at = '2020-01-01T00:00:00+00:00' WHERE id = 1",
        "DELETE FROM events WHERE id = 2",
        "DELETE FROM events WHERE state = 'lost' AND round = 2",
        "UPDATE charges SET epsilon = 1",
        "UPDATE charges SET num_lost = 3",
        "UPDATE evidence SET charge_epsilon = 1",
        "UPDATE evidence SET charge = NULL",
        "UPDATE evidence SET seq = 9",
        "DELETE FROM chain WHERE seq = 3",
        "DELETE FROM chain WHERE seq = 7",
        "UPDATE chain SET body = replace(body, 'reserve', 'Reserve') WHERE seq = 3",
        "UPDATE chain SET previous = zeroblob(32) WHERE seq = 4",
        "UPDATE chain SET hash = zeroblob(32) WHERE seq = 7",
        "UPDATE chain SET seq = seq + 10",
    ],
)
def test_an_altered_row_is_found(filled: Path, statement: str) -> None:
    tamper(filled, statement)
    with pytest.raises(LedgerError, match="altered") as caught:
        Ledger.open(filled, agent=True)
    assert "do not delete it" in str(caught.value)


def test_missing_triggers_are_found(filled: Path) -> None:
    with sqlite3.connect(filled) as db:
        db.execute("DROP TRIGGER events_stay")
    db.close()
    with pytest.raises(LedgerError, match="triggers"):
        Ledger.open(filled, agent=True)


def test_an_altered_reply_is_found_by_verify(filled: Path) -> None:
    tamper(filled, "UPDATE events SET reply = X'00' WHERE id = 1")
    with Ledger.open(filled) as ledger, pytest.raises(LedgerError, match="reply of event 1 was altered"):
        ledger.verify()


def test_a_reader_sees_that_the_end_is_missing(filled: Path) -> None:
    tamper(filled, "UPDATE chain SET body = '{}' WHERE seq = 7")
    with pytest.raises(LedgerError, match="entry 7"):
        Ledger.open(filled)


@pytest.mark.parametrize(
    "statement",
    ["DELETE FROM chain", "UPDATE chain SET body = ''", "DELETE FROM charges", "UPDATE charges SET epsilon = 0",
     "DELETE FROM evidence", "UPDATE evidence SET charge = NULL", "UPDATE evidence SET epsilon = 0",
     "UPDATE events SET state = 'reserved' WHERE state = 'lost'"],
)  # fmt: skip
def test_the_database_refuses_to_forget(filled: Path, statement: str) -> None:
    other = sqlite3.connect(filled)
    with pytest.raises(sqlite3.IntegrityError, match=r"never|key"):
        other.execute(statement)
    other.close()


def test_hashes_of_two_ledgers_differ(tmp_path: Path) -> None:
    heads = []
    for name in "ab":
        with Ledger.open(tmp_path / name / f"{DATA_ID}.sqlite") as ledger:
            heads.append(ledger.head())
    assert heads[0].seq == heads[1].seq == 1
    assert heads[0].hash != heads[1].hash


def test_a_long_chain_verifies(path: Path) -> None:
    """10,000 events, 20,000 entries: written in one transaction, walked and compared as at every start."""
    connection, _ = ledger_file.open_file(path, agent=False)
    plan = make_plan(rounds=10_000, spare_rounds=0)
    with Ledger.open(path) as ledger:
        ledger.record_plan(plan, make_admission(plan), make_site())
    with ledger_file.transaction(connection, path, "IMMEDIATE") as db:
        for id in range(1, 10_001):
            row: dict[str, Any] = {"id": id, "plan": plan.digest, "round": id, "kind": "train", "request_sha256": BODY}
            row |= {"state": "stored", "reply": b"", "reply_sha256": hashlib.sha256(b"").hexdigest()}
            row |= {"reserved_at": "2030-01-01T00:00:00+00:00", "stored_at": "2030-01-01T00:00:01+00:00"}
            db.execute(f"INSERT INTO events VALUES ({', '.join('?' * len(row))})", tuple(
                row[name] for name in ("id", "plan", "round", "kind", "request_sha256", "state", "reply",
                                       "reply_sha256", "reserved_at", "stored_at")
            ))  # fmt: skip
            chain.append(db, chain.reserve_body(row))
            chain.append(db, chain.store_body(row))
        assert len(agree(db)) == 20_002
    connection.close()


def test_a_new_ledgers_triggers_are_those_that_are_verified() -> None:
    db = sqlite3.connect(":memory:")
    make(db)
    assert db.execute("SELECT COUNT(*) FROM sqlite_master WHERE type = 'trigger'").fetchone()[0] == 12
    db.close()


# Events of two kinds, and the column that counts as the unit


def code_of(ledger: Ledger, digest: str, round: int, kind: str) -> Code:
    with pytest.raises(RefusedError) as caught:
        ledger.reserve(digest, round, kind, BODY)  # type: ignore[arg-type]
    return caught.value.code


def test_evaluations_have_their_own_horizon(path: Path) -> None:
    with Ledger.open(path, agent=True) as ledger:
        admission = make_admission(PLAN, evaluation=METRICS, num_evaluations=2)
        row = ledger.record_plan(PLAN, admission, make_site())
        assert row.admission == admission
        assert row.unit_column == "patient"
        for round in (0, 3, 4):
            assert code_of(ledger, PLAN.digest, round, "evaluate") is Code.OUTSIDE_HORIZON
        for round in (1, 2):
            first, second = (ledger.reserve(PLAN.digest, round, kind, BODY) for kind in ("train", "evaluate"))
            assert isinstance(first, New)
            assert isinstance(second, New)
            ledger.store(second.event_id, b"counts")
            assert ledger.reserve(PLAN.digest, round, "evaluate", BODY) == Stored(reply=b"counts")
            assert code_of(ledger, PLAN.digest, round, "train") is Code.ROUND_LOST
        assert code_of(ledger, PLAN.digest, 1, "other") is Code.OUTSIDE_HORIZON
        assert (ledger.summary(make_site()).num_events, ledger.summary(make_site()).num_evaluations) == (4, 2)
    with Ledger.open(path) as ledger:
        assert ledger.plans() == [row]


def test_no_evaluation_without_an_approved_one(path: Path) -> None:
    with Ledger.open(path, agent=True) as ledger:
        ledger.record_plan(PLAN, make_admission(PLAN, num_evaluations=2), make_site())
        assert code_of(ledger, PLAN.digest, 1, "evaluate") is Code.OUTSIDE_HORIZON


def test_the_first_event_fixes_the_column(path: Path) -> None:
    visits = make_site(unit="visit", member={"epsilon": 8.0, "delta": 1e-5})
    second, third = make_plan(1), make_plan(2)
    with Ledger.open(path, agent=True) as ledger:
        ledger.record_plan(PLAN, make_admission(PLAN, epsilon=1.0, delta=1e-6), make_site())
        ledger.record_plan(second, make_admission(second, epsilon=1.0, delta=1e-6), visits)
        assert ledger.committed("wards").unit_column is None
        ledger.reserve(PLAN.digest, 1, "train", BODY)
        assert ledger.committed("wards").unit_column == "patient"
        assert code_of(ledger, second.digest, 1, "train") is Code.REFUSED_POLICY
        ledger.record_plan(third, make_admission(third, decision="pending", code=Code.PENDING), visits)
        with pytest.raises(RefusedError, match="'patient', not by 'visit'") as caught:
            ledger.approve(third.digest, make_admission(third, epsilon=1.0, delta=1e-6), visits)
        assert caught.value.code is Code.REFUSED_POLICY
        ledger.approve(third.digest, make_admission(third, epsilon=1.0, delta=1e-6), WIDE)
        assert isinstance(ledger.reserve(third.digest, 1, "train", BODY), New)


def test_the_plan_to_compare_with(path: Path) -> None:
    first, second, other = make_plan(1), make_plan(2), make_plan(3, name="branches")
    with Ledger.open(path) as ledger:
        assert ledger.latest(first) is None
        ledger.record_plan(first, make_admission(first, decision="pending", code=Code.PENDING), make_site())
        ledger.record_plan(other, make_admission(other), make_site(name="branches"))
        assert ledger.latest(first) is None
        assert ledger.latest(second) == first
        ledger.record_plan(PLAN, make_admission(PLAN), make_site())
        ledger.record_plan(second, make_admission(second, decision="pending", code=Code.PENDING), make_site())
        assert ledger.latest(first) == PLAN  # the approved one
        assert ledger.latest(PLAN) in (first, second)
