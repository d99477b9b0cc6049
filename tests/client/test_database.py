"""Records from a database, on SQLite: values, faults in our own words, reading only, and nothing of it logged."""

import datetime
import logging
import os
import sqlite3
import traceback
import tracemalloc
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from privet.client import app, database, dpia, report
from privet.client.data import Records, load_records
from privet.client.database import read_password, read_query
from privet.client.postgres import tls_warning
from privet.client.twins import note, twins
from privet.common.columns import Rows, as_text
from privet.common.delimited import MAX_FIELD
from privet.common.errors import DataError
from tests.client.test_data import LABELS, make_site, write_csv

SECRET = "Zebrafinch77"
QUERY = "SELECT unit, text, label FROM notes ORDER BY rowid"
ROWS = [("p1", "chest pain", "cardiology"), ("p2", "dizzy spells", "neurology"), ("p1", "short breath", "cardiology")]


def make(path: Path, rows: list[Any], columns: str = "unit, text, label") -> Path:
    """A database with the table `notes`."""
    path.unlink(missing_ok=True)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA synchronous = OFF")
    with connection:
        connection.execute(f"CREATE TABLE notes ({columns})")
        connection.executemany(f"INSERT INTO notes VALUES ({', '.join('?' * len(columns.split(',')))})", rows)
    connection.close()
    return path


def load(path: Path, query: str = QUERY, *, allow_empty: bool = False, **data: Any) -> Records:
    return load_records(make_site(f"sqlite:///{path}", query=query, **data), LABELS, allow_empty=allow_empty)


def everything(error: BaseException) -> str:
    """All that could be shown of an error, its causes too."""
    shown = "".join(traceback.format_exception(error)) if error.__cause__ or error.__context__ else ""
    return f"{error} {error!r} {error.__cause__!r} {error.__context__!r} {shown}"


def fault(path: Path | str, query: str = QUERY, **data: Any) -> str:
    """What the operator is told."""
    source = path if isinstance(path, str) else f"sqlite:///{path}"
    with pytest.raises(DataError) as caught:
        load_records(make_site(source, query=query, **data), LABELS)
    assert caught.value.mend
    assert SECRET not in everything(caught.value)
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)
    return str(caught.value)


# --- values ----------------------------------------------------------------------------------------------------------


def test_a_query_gives_records_as_a_file_does(tmp_path: Path) -> None:
    records = load(make(tmp_path / "n.db", ROWS))
    assert records.texts == [text for _, text, _ in ROWS]
    assert records.labels.tolist() == [0, 1, 0]
    assert records.units.tolist() == [0, 1, 0]
    kept = load(tmp_path / "n.db", "SELECT label AS label, unit||'x' AS unit, text, text FROM notes", text="unit")
    assert kept.texts == ["p1x", "p2x", "p1x"]


def test_values_that_are_not_text_become_text_and_binary_ones_cost_their_row(tmp_path: Path) -> None:
    values = [7, "7", 7.0, 2.5, None, b"\xff", "a\0", "ö", -(2**63), float("inf")]
    path = make(tmp_path / "n.db", [(value, f"t{n}", "other") for n, value in enumerate(values)])
    report = load(path).report
    assert (report.rows, report.units, report.records) == (10, 4, 6)
    assert report.unreadable.first == (6, 7)
    assert report.no_unit.first == (5, 10)
    table, _ = read_query(make_site(f"sqlite:///{path}", query=QUERY).data, ["unit"])
    assert table.columns["unit"] == ["7", "7", "7", "2.5", None, "ö", str(-(2**63)), None]


def test_text_that_is_not_utf8_or_too_long_costs_its_own_row(tmp_path: Path) -> None:
    path = make(tmp_path / "n.db", ROWS)
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(f"INSERT INTO notes VALUES ('p3', CAST(x'ff41' AS TEXT), '{SECRET}')")
        connection.execute("INSERT INTO notes VALUES ('p3', ?, 'other')", ["x" * (MAX_FIELD + 1)])
        connection.execute("INSERT INTO notes VALUES ('p3', 'good', 'other')")
    connection.close()
    records = load(path)
    assert records.report.unreadable.first == (4, 5)
    assert records.texts[-1] == "good"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Decimal("12345678901234567890123456789012345.670"), "12345678901234567890123456789012345.67"),
        (Decimal("-0.00"), "0"),
        (Decimal("1E+3"), "1000"),
        (Decimal("3.00"), "3"),
        (Decimal("NaN"), None),
        (datetime.date(2024, 2, 29), "2024-02-29"),
        (datetime.datetime(2024, 2, 29, 7, 30), "2024-02-29 07:30:00"),
        (uuid.UUID(int=7), "00000000-0000-0000-0000-000000000007"),
    ],
)
def test_further_types_have_one_stable_text(value: object, text: str | None) -> None:
    assert as_text(value) == text


@pytest.mark.parametrize("value", [b"x", bytearray(b"x"), [1], {"a": 1}, Decimal("1E+999999"), datetime.timedelta(1)])
def test_other_values_are_unreadable(value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        as_text(value)


CELL = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), max_size=8)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20, deadline=None)
@given(
    rows=st.lists(st.tuples(CELL | st.sampled_from(["p1", "p2"]), CELL, CELL | st.sampled_from(LABELS)), max_size=8),
    unit=st.sampled_from(["unit", "record"]),
)
def test_the_same_rows_by_csv_and_by_a_query_are_the_same_records(tmp_path: Path, rows: Any, unit: str) -> None:
    by_file = load_records(make_site(write_csv(tmp_path / "n.csv", rows), unit=unit), LABELS, allow_empty=True)
    by_query = load(make(tmp_path / "n.db", rows), unit=unit, allow_empty=True)
    for name in ("texts", "local_labels", "num_units"):
        assert getattr(by_file, name) == getattr(by_query, name)
    for name in ("labels", "units", "points"):
        np.testing.assert_array_equal(getattr(by_file, name), getattr(by_query, name))
    assert by_file.report.label_counts == by_query.report.label_counts


# --- faults ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "words"),
    [
        (f"SELECT unit, text FROM notes -- {SECRET}", "has no column 'label'"),
        (f"SELECT unit, text, '{SECRET}' FROM notes", "name each column of the query, with AS"),
        ("SELECT unit, text, Label AS Labell FROM notes", "did you mean 'Labell'"),
        ("SELECT *, text FROM notes", "the column 'text' twice"),
        (f"SELECT {SECRET} FROM notes", "a column that does not exist"),
        (f"SELECT * FROM {SECRET}", "a table that does not exist"),
        (f"SELECT {SECRET}(text) FROM notes", "a function or an operator that does not exist"),
        (f"SELECT * FROM notes WHERE '{SECRET}' ==== 1", "syntax is wrong"),
        (f"SELECT '{SECRET}", "syntax is wrong"),
        ("SELECT *, json(text) FROM notes", "fails on a value"),
        (f"WITH a AS (SELECT '{SECRET}') DELETE FROM notes RETURNING unit, text, label", "tries to write"),
    ],
)
def test_a_fault_of_the_query_is_told_in_our_words(tmp_path: Path, query: str, words: str) -> None:
    path = make(tmp_path / "n.db", [*ROWS, ("p3", f"{SECRET} {{", "other")])
    before = path.read_bytes()
    assert words in fault(path, query)
    assert path.read_bytes() == before


def test_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    assert "no such file" in fault(tmp_path / "gone.db")
    assert not (tmp_path / "gone.db").exists()
    (tmp_path / "n.csv").write_text(f"unit,text,label\n{SECRET}\n" * 50)
    assert "not a SQLite database" in fault(tmp_path / "n.csv")
    path = make(tmp_path / "n.db", [("p", "x" * 100, "other")] * 5000)
    content = bytearray(path.read_bytes())
    content[8192 : len(content) - 8192] = os.urandom(len(content) - 16384)
    path.write_bytes(content)
    assert "is damaged" in fault(path)


def test_a_query_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    endless = "WITH RECURSIVE a(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM a) SELECT max(x) AS text FROM a"
    assert "did not answer in time" in fault(make(tmp_path / "n.db", ROWS), endless, timeout=0.2)


def test_a_fault_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    path = make(tmp_path / "n.db", [("p", "{}", "other")] * 2000 + [("p", SECRET, "other")])
    assert "fails on a value" in fault(path, "SELECT unit, json(text) AS text, label FROM notes")


@pytest.mark.parametrize("error", [RuntimeError(SECRET), ValueError(SECRET), MemoryError(SECRET), UnicodeError(SECRET)])
def test_whatever_a_driver_raises_is_told_in_our_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def broken(*_: Any) -> None:
        raise error

    monkeypatch.setattr(database, "_hold_to_reading", broken)
    assert "the query cannot be run" in fault(make(tmp_path / "n.db", ROWS))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("mysql+absentdriver://db/notes", "does not know here"),
        ("absent://db/notes", "does not know here"),
        ("oracle+oracledb://db/notes", "needs the Python package oracledb"),
    ],
)
def test_a_driver_that_is_not_installed_is_named(source: str, words: str) -> None:
    assert words in fault(source)


def test_full_text_tables_and_views_are_read(tmp_path: Path) -> None:
    path = make(tmp_path / "n.db", ROWS)
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("CREATE VIEW urgent AS SELECT * FROM notes WHERE label <> 'neurology'")
        connection.execute("CREATE VIRTUAL TABLE found USING fts5(unit, text, label)")
        connection.execute("INSERT INTO found SELECT * FROM notes")
    connection.close()
    assert load(path, "SELECT * FROM urgent").report.records == 2
    assert load(path, "SELECT * FROM found WHERE found MATCH 'pain'").texts == ["chest pain"]


def test_no_usable_row_names_the_query(tmp_path: Path) -> None:
    assert "check the query" in fault(make(tmp_path / "n.db", []))


def test_a_fault_is_found_before_anything_connects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "serve", lambda **_: pytest.fail("connected"))
    site = make_site(f"sqlite:///{make(tmp_path / 'n.db', ROWS)}", query="SELECT * FROM gone")
    with pytest.raises(DataError):
        app.run_client(site, lambda _event: None)


# --- reading only ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM notes RETURNING unit, text, label",
        "WITH a AS (SELECT 1) UPDATE notes SET text = 'x' RETURNING unit, text, label",
        "INSERT INTO notes VALUES ('a', 'b', 'c') RETURNING unit, text, label",
        "DROP TABLE notes",
        "CREATE TABLE other AS SELECT * FROM notes",
        "PRAGMA user_version = 7",
        "ATTACH DATABASE '{folder}/other.db' AS other",
        "VACUUM INTO '{folder}/other.db'",
    ],
)
def test_the_database_holds_the_session_to_reading_whatever_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, statement: str
) -> None:
    """With the judgement of the statement's first word out of the way."""
    monkeypatch.setattr("privet.common.config.site.checked_query", lambda query: query)
    path = make(tmp_path / "n.db", ROWS)
    before = path.read_bytes()
    fault(path, statement.format(folder=tmp_path))
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["n.db"]


def test_the_file_is_opened_for_reading_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the mode of the connection alone."""
    monkeypatch.setattr(database, "_hold_to_reading", lambda *_: None)
    monkeypatch.setattr("privet.common.config.site.checked_query", lambda query: query)
    assert "tries to write" in fault(make(tmp_path / "n.db", ROWS), "DELETE FROM notes RETURNING unit, text, label")


def test_a_kind_of_database_that_cannot_be_held_to_reading_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite under another name: it does not understand SET TRANSACTION READ ONLY."""
    from sqlalchemy.dialects import registry
    from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite

    class Other(SQLiteDialect_pysqlite):
        name = "otherdb"
        supports_statement_cache = True

    monkeypatch.setitem(registry.impls, "otherdb", lambda: Other)
    path = make(tmp_path / "n.db", ROWS)
    assert "cannot be held to reading" in fault(f"otherdb:///{path}")


# --- memory and silence ----------------------------------------------------------------------------------------------


NUMBERS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < {}) "


def test_rows_are_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first rows of a query without end are taken while it runs."""
    taken: list[int] = []

    class Counted(Rows):
        def add(self, number: int, values: Any) -> None:
            taken.append(number)

    monkeypatch.setattr(database, "Rows", Counted)
    query = NUMBERS.format("1e18") + "SELECT x AS unit, 'a note' AS text, 'other' AS label FROM n"
    assert "did not answer in time" in fault(make(tmp_path / "n.db", []), query, timeout=0.5)
    assert taken[:2] == [1, 2]
    assert len(taken) % database.AT_ONCE == 0


@pytest.mark.slow
def test_little_is_held_beside_what_is_kept(tmp_path: Path) -> None:
    """200,000 rows with a wide column that is not wanted, 80 MB in all."""
    query = (
        NUMBERS.format(200_000) + "SELECT x % 50 AS unit, 'a' AS text, 'o' AS label, printf('%.400c', 'x') AS w FROM n"
    )
    site = make_site(f"sqlite:///{make(tmp_path / 'n.db', [])}", query=query)
    tracemalloc.start()
    table, _ = read_query(site.data, ["unit", "text", "label"])
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(table.rows) == 200_000
    assert peak - kept < 4e6


def test_nothing_is_logged_or_printed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    path = make(tmp_path / "n.db", [("p", SECRET, "other")])
    logger = logging.getLogger("sqlalchemy.engine")
    logger.setLevel(logging.DEBUG)
    try:
        load(path, f"SELECT *, '{SECRET}' AS further FROM notes")
        fault(path, f"SELECT {SECRET} FROM notes")
        assert logger.level == logging.DEBUG
    finally:
        logger.setLevel(logging.NOTSET)
    out, err = capfd.readouterr()
    assert SECRET not in caplog.text + out + err
    assert "SELECT" not in caplog.text + out + err


# --- logging in, and twins -------------------------------------------------------------------------------------------


def test_a_password_comes_from_a_file_of_its_owner_or_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "pw"
    path.write_text(f"{SECRET} \r\n")
    path.chmod(0o600)
    assert read_password(path, None, {}) == f"{SECRET} "
    assert read_password(None, "PW", {"PW": SECRET}) == SECRET
    assert read_password(None, None, {"PW": SECRET}) is None
    for variable in ({}, {"PW": ""}):
        with pytest.raises(DataError, match="not set"):
            read_password(None, "PW", variable)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_password_file_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "pw"
    path.write_text(SECRET)
    path.chmod(mode)
    with pytest.raises(DataError, match=r"others than its owner.*mode 0600"):
        read_password(path, None, {})


@pytest.mark.parametrize("content", [b"", b"\n", b"a\nb", b"\xff", b"a\0b", b"x" * 5000])
def test_a_password_file_that_holds_no_password_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "pw"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(DataError):
        read_password(path, None, {})
    for absent in (tmp_path / "gone", tmp_path, Path("/dev/null")):
        with pytest.raises(DataError):
            read_password(absent, None, {})


@pytest.mark.parametrize(
    ("host", "sslmode", "encrypted", "warned"),
    [
        *(("/run/pg", "prefer", False, False), ("127.0.0.1", "disable", False, False), ("::1", "", False, False)),
        *(("10.0.0.7", "verify-full", True, False), ("10.0.0.7", "require", True, True), ("db", "prefer", False, True)),
        *(("db", "verify-ca", True, True), ("db", "verify-full", False, True), ("127.0.0.1.x", "prefer", True, True)),
    ],
)
def test_an_unproven_server_elsewhere_is_warned_of(host: str, sslmode: str, encrypted: bool, warned: bool) -> None:
    assert (tls_warning(host, sslmode, encrypted=encrypted) is not None) is warned


def test_the_page_to_be_signed_and_the_report_speak_of_the_database(tmp_path: Path) -> None:
    site = make_site(f"sqlite:///{make(tmp_path / 'n.db', ROWS)}", query=QUERY)
    assert dpia.DATABASE_RISK in dpia._risks(site)
    assert dpia.DATABASE_RISK not in dpia._risks(make_site(tmp_path / "n.csv"))
    told = report.lines(load_records(site, LABELS).report, site)
    assert told[0].startswith(f"Source: a database query (sqlite:///{tmp_path}/n.db) (unit")
    assert "without ORDER BY" in told[1]
    assert "SELECT" not in "\n".join(told)


def test_two_ledgers_of_one_query_are_twins(tmp_path: Path) -> None:
    first, second = (make_site(f"sqlite:///{tmp_path}/n.db", query=query) for query in (QUERY, f" {QUERY}"))
    other = make_site(f"sqlite:///{tmp_path}/n.db", query="TABLE notes")
    note(tmp_path / "ledgers" / "a.sqlite", first.data.origin, ["a text"])
    found = twins(tmp_path / "ledgers" / "b.sqlite", second.data.origin, [])
    assert [twin.same_source for twin in found] == [True]
    assert twins(tmp_path / "ledgers" / "b.sqlite", other.data.origin, []) == []
