"""The limit of a person's records: a plan keeps the one that it was approved with, and its statement tells of it."""

import hashlib
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from privet.client.ledger import Ledger, LedgerError, New
from privet.client.policy import Admission, admit, recheck, statement_for
from privet.common.config import Plan, Site
from privet.common.errors import Code, RefusedError
from tests.client.agent_bench import Bench, site_of
from tests.client.ledger_cases import DATA_ID, NOTHING, make_admission, make_plan, make_site
from tests.tiny_models import tiny_base, tiny_plan

BODY = hashlib.sha256(b"request").hexdigest()
PLAN = make_plan()


def site(person: str | None, limit: int | None) -> Site:
    raw = make_site(unit="record", member={"epsilon": 8.0, "delta": 1e-5}).model_dump()
    raw["data"] |= {"person": person, "max_per_person": limit}
    return Site.model_validate(raw)


def admission(plan: Plan) -> Admission:
    return make_admission(plan, unit="record", epsilon=1.0, delta=1e-6)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / f"{DATA_ID}.sqlite"


def test_a_site_file_that_was_changed_stops_the_plan(tmp_path: Path) -> None:
    """Rounds under a limit of 50 are not told as rounds under a limit of 1."""
    tiny_base(tmp_path / "base")
    plan = tiny_plan(tmp_path / "base", training={"rounds": 3, "local_steps": 2, "expected_batch": 5})
    keys: dict[str, Any] = {"data__unit": "record", "data__person": "patient"}
    bench = Bench(tmp_path, plan, tmp_path / "base", **keys, data__max_per_person=50)
    try:
        stated = bench.offer().body.statement
        assert stated is not None
        assert stated.max_per_person == 50
        assert bench.train(1).code is Code.OK
        for other in (1, 49, 51):
            bench.site = site_of(tmp_path, **keys, data__max_per_person=other)
            bench.restart()
            reply = bench.offer()
            assert (reply.code, reply.body.statement) == (Code.REFUSED_POLICY, None)
            assert bench.train(2).code is not Code.OK
        bench.site = site_of(tmp_path, data__unit="record")
        bench.restart()
        assert bench.offer().code is Code.REFUSED_POLICY
        bench.site = site_of(tmp_path, **keys, data__max_per_person=50)
        bench.restart()
        assert bench.offer().body.statement == stated
        assert bench.train(2).code is Code.OK
        assert [event.round for event in bench.ledger.events()] == [1, 2]
    finally:
        bench.close()


@pytest.mark.parametrize("approved", [("patient", 3), (None, None)])
@pytest.mark.parametrize("now", [("patient", 3), ("patient", 2), ("patient", 4), ("ward", 3), (None, None)])
def test_any_difference_is_refused(approved: tuple[str | None, int | None], now: tuple[str | None, int | None]) -> None:
    held = replace(admission(PLAN), person=approved[0], max_per_person=approved[1])
    if approved == now:
        recheck(PLAN, held, site(*now), NOTHING)
        return
    with pytest.raises(RefusedError) as caught:
        recheck(PLAN, held, site(*now), NOTHING)
    assert caught.value.code is Code.REFUSED_POLICY
    assert "again, or ask for a new plan" in str(caught.value)
    assert "data.max_per_person" in str(caught.value)


def test_a_judgement_names_the_limit_and_the_statement_follows_it() -> None:
    for policy_table in ({}, {"max_rounds": 1}):  # refused, too
        raw = site("patient", 3).model_dump()
        raw["policy"] |= policy_table
        judged = admit(PLAN, Site.model_validate(raw), NOTHING)
        assert (judged.person, judged.max_per_person) == ("patient", 3)
    judged = admit(PLAN, site("patient", 3), NOTHING)
    stated = [statement_for(judged, site("patient", limit), PLAN) for limit in (3, 1)]
    assert stated[0] == stated[1]
    assert stated[0].max_per_person == 3


def test_the_ledger_keeps_it_in_tables_and_chain(path: Path) -> None:
    with Ledger.open(path, agent=True) as ledger:
        row = ledger.record_plan(PLAN, admission(PLAN), site("patient", 3))
        assert (row.admission.person, row.admission.max_per_person) == ("patient", 3)
    with Ledger.open(path, agent=True) as ledger:
        assert ledger.plan(PLAN.digest) == row
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        ((name, guard),) = db.execute(
            "SELECT name, sql FROM sqlite_master WHERE name = 'approved_plans_stay'"
        ).fetchall()
        db.execute(f"DROP TRIGGER {name}")
        for change in ("max_per_person = 1", "person = NULL, max_per_person = NULL", "person = 'ward'"):
            db.execute("BEGIN")
            db.execute(f"UPDATE plans SET {change}")
            db.execute(guard)
            db.execute("COMMIT")
            with pytest.raises(LedgerError, match="differ on the entry approve"):
                Ledger.open(path, agent=True)
            db.execute(f"DROP TRIGGER {name}")
            db.execute("UPDATE plans SET person = 'patient', max_per_person = 3")
        with pytest.raises(sqlite3.IntegrityError):
            db.execute("UPDATE plans SET person = NULL")
        db.execute(guard)
    Ledger.open(path, agent=True).close()


def test_an_approval_by_hand_keeps_the_limit_of_that_day(path: Path) -> None:
    with Ledger.open(path) as ledger:
        ledger.record_plan(PLAN, replace(admission(PLAN), decision="pending"), site("patient", 9))
        row = ledger.approve(PLAN.digest, admission(PLAN), site("patient", 3))
        assert (row.admission.person, row.admission.max_per_person) == ("patient", 3)
        again = ledger.record_plan(PLAN, admission(PLAN), site("patient", 9))
        assert again == row


def test_a_data_set_has_one_kind_of_person_and_each_plan_its_limit(path: Path) -> None:
    plans = {
        key: make_plan(seed) for seed, key in enumerate([("patient", 3), ("ward", 3), ("patient", 5), (None, None)])
    }
    late = make_plan(9)
    with Ledger.open(path, agent=True) as ledger:
        for (person, limit), plan in plans.items():
            ledger.record_plan(plan, admission(plan), site(person, limit))
        free = plans[None, None]
        assert isinstance(ledger.reserve(free.digest, 1, "train", BODY), New)
        assert ledger.committed("wards").person is None  # a plan without a limit fixes nothing
        assert isinstance(ledger.reserve(plans["patient", 3].digest, 1, "train", BODY), New)
        assert ledger.committed("wards").person == "patient"
        assert isinstance(ledger.reserve(plans["patient", 5].digest, 1, "train", BODY), New)
        assert isinstance(ledger.reserve(free.digest, 2, "train", BODY), New)
        with pytest.raises(RefusedError, match="'patient', not by 'ward'") as caught:
            ledger.reserve(plans["ward", 3].digest, 1, "train", BODY)
        assert caught.value.code is Code.REFUSED_POLICY
        with pytest.raises(RefusedError, match="'patient', not by 'ward'"):
            ledger.record_plan(late, admission(late), site("ward", 1))
        committed = ledger.committed("wards")
    assert admit(late, site("ward", 1), committed).code is Code.REFUSED_POLICY
    assert admit(late, site("patient", 1), committed).decision != "refused"
    with pytest.raises(RefusedError, match="'patient', not by 'ward'"):
        recheck(late, replace(admission(late), person="ward", max_per_person=1), site("ward", 1), committed)
