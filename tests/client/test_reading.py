"""How records are told apart is fixed when a plan is approved: else one could be trained on and judged on as well."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from privet.client.check import judge
from privet.client.data import load_records
from privet.client.ledger import Ledger, New
from privet.client.ledger.rows import allow_kept
from privet.client.reading import allow_reading, read_back, reading_of, written
from privet.common.config import Site
from privet.common.errors import Code, RefusedError
from tests.client.agent_bench import Bench, site_of
from tests.client.ledger_cases import DATA_ID, make_admission, make_plan, make_site
from tests.tiny_models import tiny_base, tiny_plan

PLAN = make_plan()
BODY = hashlib.sha256(b"request").hexdigest()


def site(unit: str = "record", **data: Any) -> Site:
    raw = make_site(unit=unit, member={"epsilon": 8.0, "delta": 1e-5}).model_dump()
    raw["data"] |= data
    return Site.model_validate(raw)


CHANGES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("encoding", {}, {"encoding": "cp1252"}),
    ("text", {}, {"text": "summary"}),
    ("label", {}, {"label": "diagnosis"}),
    ("format", {}, {"format": "tsv"}),
    ("format", {}, {"source": Path("notes.parquet")}),  # with lists, in which the separator counts
    ("format", {"source": Path("a.jsonl")}, {"source": Path("a.jsonl"), "format": "tokens"}),
    ("label_separator", {"source": Path("a.jsonl")}, {"source": Path("a.jsonl"), "label_separator": "|"}),
    ("label_separator", {"source": Path("a.parquet")}, {"source": Path("a.parquet"), "label_separator": ", "}),
]


@pytest.mark.parametrize(("key", "then", "now"), CHANGES)
def test_another_reading_is_refused_and_said_plainly(key: str, then: dict[str, Any], now: dict[str, Any]) -> None:
    approved = read_back(written(site(**then).data))
    allow_reading(site(**then).data, approved)
    with pytest.raises(RefusedError) as caught:
        allow_reading(site(**now).data, approved)
    error = caught.value
    assert error.code is Code.REFUSED_POLICY
    assert f"data.{key}" in error.where
    assert approved is not None
    was, found = approved[key].removesuffix("-sig"), reading_of(site(**now).data)[key].removesuffix("-sig")
    assert f"data.{key} was {was!r} and is {found!r}" in error.what
    assert f"set data.{key} to {was!r} again" in error.mend
    assert "new plan" in error.mend


def test_a_database_in_place_of_a_file_is_told_as_such() -> None:
    database = {"source": "sqlite:///notes.db", "query": "SELECT 1"}
    with pytest.raises(RefusedError, match=r"data\.source was a csv file and is a database") as caught:
        allow_reading(site(**database).data, reading_of(site().data))
    assert "set data.source to a csv file again" in caught.value.mend
    with pytest.raises(RefusedError, match=r"data\.source was a database and is a csv file"):
        allow_reading(site().data, reading_of(site(**database).data))


def test_another_query_is_another_reading_and_is_not_quoted() -> None:
    """It says what the columns hold: the note, or a summary of it by the same name."""
    first, spaced, second = (
        site(source="sqlite:///notes.db", query=text)
        for text in ("SELECT note AS text FROM a", "SELECT note AS text\n  FROM a", "SELECT summary AS text FROM a")
    )
    approved = reading_of(first.data)
    allow_reading(spaced.data, approved)
    with pytest.raises(RefusedError, match=r"data\.query was the statement of sha256") as caught:
        allow_reading(second.data, approved)
    assert "note" not in str(caught.value)
    assert "note" not in written(first.data)


SAME: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"encoding": "UTF8"}),
    ({}, {"format": "csv"}),
    ({}, {"source": Path("later.csv")}),  # records may be added
    ({}, {"label_separator": "|"}),  # of a cell that is text already: what the record is does not hang on it
    ({}, {"label_map": {"ruhig": "calm"}, "max_records": 9}),
    ({"source": Path("a.jsonl")}, {"source": Path("b.ndjson")}),
]


@pytest.mark.parametrize(("then", "now"), SAME)
def test_what_moves_no_record_may_change(then: dict[str, Any], now: dict[str, Any]) -> None:
    allow_reading(site(**now).data, reading_of(site(**then).data))


def test_a_unit_of_a_column_goes_by_its_id_whatever_its_texts_are() -> None:
    approved = reading_of(site("patient").data)
    changed = {"text": "summary", "label": "diagnosis", "format": "tsv"}
    allow_reading(site("patient", **changed).data, approved)
    with pytest.raises(RefusedError, match=r"data\.encoding was 'utf-8' and is 'cp1252'"):  # ids are read by it
        allow_reading(site("patient", encoding="cp1252").data, approved)


def test_the_separator_of_lists_moves_records(tmp_path: Path) -> None:
    """The danger itself: the same file, and units that change sides."""
    path = tmp_path / "notes.jsonl"
    rows = [{"text": f"note {n}", "label": ["I10", "E11"]} for n in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    sides = []
    for separator in (";", "|"):
        train, _ = load_records(site(source=path, label_separator=separator), None).split(0.5)
        sides.append(set(train.texts))
    assert sides[0] - sides[1]
    assert sides[1] - sides[0]


def test_the_ledger_keeps_it_and_a_new_plan_may_come_with_another(tmp_path: Path) -> None:
    path, second = tmp_path / f"{DATA_ID}.sqlite", make_plan(1)
    with Ledger.open(path, agent=True) as ledger:
        ledger.record_plan(PLAN, make_admission(PLAN, unit="record", epsilon=1.0, delta=1e-6), site())
        ledger.record_plan(second, make_admission(second, unit="record", epsilon=1.0, delta=1e-6), site(text="b"))
        assert isinstance(ledger.reserve(PLAN.digest, 1, "train", BODY), New)
        assert isinstance(ledger.reserve(second.digest, 1, "train", BODY), New)  # shares are added up
    with Ledger.open(path, agent=True) as ledger:
        assert ledger.verify()
        row, other = ledger.plan(PLAN.digest), ledger.plan(second.digest)
    assert row is not None
    assert other is not None
    assert row.reading == reading_of(site().data)
    allow_kept(site().data, row)
    allow_kept(site(text="b").data, other)
    for held, now in ((row, site(text="b")), (other, site())):
        with pytest.raises(RefusedError, match=r"data\.text"):
            allow_kept(now.data, held)


def test_a_site_file_that_was_changed_stops_the_plan(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    training = {"rounds": 3, "local_steps": 1, "expected_batch": 2, "train_fraction": 0.6}
    plan = tiny_plan(base, training=training, evaluation={"release": "accuracy", "every": 1})
    keys: dict[str, Any] = {"data__unit": "record", "federation__tiny__release": ("update", "accuracy")}
    bench = Bench(tmp_path, plan, base, **keys)
    try:
        assert bench.offer().code is Code.OK
        assert bench.train(1).code is Code.OK
        bench.site = site_of(tmp_path, **keys, data__encoding="latin-1")
        bench.restart()
        assert bench.offer().code is Code.REFUSED_POLICY
        assert [bench.train(2).code, bench.evaluate(1).code] != [Code.OK] * 2
        assert Code.OK not in (bench.train(2).code, bench.evaluate(1).code)
        assert any("data.encoding was 'utf-8' and is 'iso8859-1'" in text for _, text in bench.told)
        assert len(bench.ledger.events()) == 1
        judged = judge(plan, bench.site, bench.path)  # `privet check` says so before the client is started
        assert (judged.admission.decision, judged.admission.code) == ("refused", Code.REFUSED_POLICY)
        assert "data.encoding" in judged.admission.reason
        bench.site = site_of(tmp_path, **keys)
        bench.restart()
        assert bench.offer().code is Code.OK
        assert bench.train(2).code is Code.OK
    finally:
        bench.close()
