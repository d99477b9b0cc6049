"""Records from a real PostgreSQL server: logging in, values, streaming, reading only, a server that dies meanwhile."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("psycopg", reason="needs psycopg")

from privet.client import database, postgres
from privet.client.data import Records, load_records
from privet.client.database import read_query
from privet.common.columns import Rows
from privet.common.config import Site
from privet.common.errors import DataError
from tests.client.postgres_server import PASSWORD, READER, PostgresServer, binaries
from tests.client.test_data import LABELS, make_site
from tests.client.test_database import SECRET, everything

pytestmark = pytest.mark.skipif(binaries() is None, reason="needs PostgreSQL's initdb and postgres")

QUERY = "SELECT unit, text, label FROM notes ORDER BY unit, text"


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with PostgresServer() as running:
        running.execute(
            "INSERT INTO notes VALUES (1, 'chest pain', 'cardiology'), (1, 'short breath', 'cardiology'), "
            f"(2, '{SECRET}', 'neurology'), (NULL, 'nobody', 'other')"
        )
        yield running


@pytest.fixture(autouse=True)
def password(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PGPASSWORD", "PGUSER", "PGHOST", "PGSERVICE", "PGPASSFILE", "PGOPTIONS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PRIVET_TEST_PASSWORD", PASSWORD)


@pytest.fixture(autouse=True)
def _silence(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Whatever a test does, nothing of password, text or statement is logged or printed."""
    caplog.set_level(logging.DEBUG)
    yield
    out, err = capfd.readouterr()
    for planted in (SECRET, PASSWORD, "SELECT", "127.0.0.1"):
        assert planted not in caplog.text + out + err


def site_of(server: PostgresServer, query: str = QUERY, **data: Any) -> Site:
    login = {"user": READER, "password_env": "PRIVET_TEST_PASSWORD"}
    return make_site(**({"source": server.url, "query": query} | login | data))


def load(server: PostgresServer, query: str = QUERY, **data: Any) -> Records:
    return load_records(site_of(server, query, **data), LABELS)


def fault(server: PostgresServer, query: str = QUERY, **data: Any) -> str:
    """What the operator is told."""
    with pytest.raises(DataError) as caught:
        load(server, query, **data)
    assert caught.value.mend
    shown = everything(caught.value)
    assert not [planted for planted in (SECRET, PASSWORD, READER, "SELECT 1") if planted in shown]
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)
    return str(caught.value)


# --- logging in ------------------------------------------------------------------------------------------------------


def test_records_come_by_a_password_from_the_environment_or_a_file(
    server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = load(server)
    assert records.texts == ["chest pain", "short breath", SECRET]
    assert (records.units.tolist(), records.labels.tolist()) == ([0, 0, 1], [0, 0, 1])
    assert records.report.no_unit.first == (4,)
    assert records.report.source_warnings == ()
    file = tmp_path / "pw"
    file.write_text(f"{PASSWORD}\n")
    file.chmod(0o600)
    assert load(server, password_env=None, password_file=file).texts == records.texts
    in_url = server.url.replace("//", f"//{READER}@")
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    assert load(server, source=in_url, user=None, password_env=None).texts == records.texts
    monkeypatch.delenv("PGPASSWORD")
    passfile = tmp_path / "pgpass"
    passfile.write_text(f"127.0.0.1:{server.port}:clinic:{READER}:{PASSWORD}\n")
    passfile.chmod(0o600)
    assert load(server, source=f"{server.url}?passfile={passfile}", password_env=None).texts == records.texts
    (tmp_path / "service.conf").write_text(f"[ward]\nhost=127.0.0.1\nport={server.port}\ndbname=clinic\n")
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "service.conf"))
    assert load(server, source="postgresql+psycopg:///?service=ward").texts == records.texts


def test_what_keeps_one_out_is_told_in_our_words(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert "does not let this user in" in fault(server, password_env=None)
    assert "does not let this user in" in fault(server, user="stranger")
    monkeypatch.setenv("PRIVET_TEST_PASSWORD", f"x{SECRET}")
    assert "does not let this user in" in fault(server)
    monkeypatch.setenv("PRIVET_TEST_PASSWORD", PASSWORD)
    assert "no such database" in fault(server, source=server.url.replace("clinic", "gone"))
    assert "nothing listens there" in fault(server, source="postgresql+psycopg://127.0.0.1:1/clinic")
    assert "its host is unknown" in fault(server, source="postgresql+psycopg://no-such-host.invalid/clinic")
    assert "TLS could not be agreed on" in fault(server, source=f"{server.url}?sslmode=require")
    assert "no server has its socket" in fault(server, source=f"postgresql+psycopg:///clinic?host={tmp_path}")
    assert "differs from the user" in fault(server, source=server.url.replace("//", "//other@"))


# --- the query -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "words"),
    [
        (f"SELECT unit, text FROM notes -- {SECRET}", "has no column 'label'"),
        ("SELECT *, text FROM notes", "the column 'text' twice"),
        (f"SELECT unit, '{SECRET}' AS text, FROM notes", "syntax is wrong, at character 38 of it"),
        (f"SELECT {SECRET} FROM notes", "a column that does not exist, at character 8 of it"),
        (f"SELECT * FROM {SECRET}", "a table that does not exist, or is not on the search path, at character 15"),
        (f"SELECT {SECRET}(text) FROM notes", "a function or an operator that does not exist"),
        ("SELECT * FROM pg_authid", "may not read"),
        ("SELECT unit, text::int AS text, label FROM notes", "fails on a value"),
        ("SELECT unit, text::bytea AS text, label FROM notes", "'text' is of a type that holds no text"),
        ("SELECT unit, array[text] AS text, label FROM notes", "'text' is of a type that holds no text"),
        ("SELECT to_jsonb(unit) AS unit, text, label FROM notes", "'unit' is of a type that holds no text"),
        ("SELECT $1 AS unit, text, label FROM notes", "the query holds a parameter"),
    ],
)
def test_a_fault_of_the_query_is_told_in_our_words(server: PostgresServer, query: str, words: str) -> None:
    assert words in fault(server, query)


def test_signs_that_drivers_give_a_meaning_stand_for_themselves(server: PostgresServer) -> None:
    query = "SELECT unit, text, label FROM notes WHERE text LIKE '%pain%' AND ':x' <> '%s' AND unit = 1::int % 2"
    assert load(server, query).texts == ["chest pain"]


def test_values_have_one_text_whatever_the_server_is_set_to(server: PostgresServer) -> None:
    server.execute(
        "ALTER DATABASE clinic SET datestyle = 'SQL, DMY'", "ALTER DATABASE clinic SET timezone = 'Asia/Tokyo'"
    )
    values = {
        "7::int": "7",
        "3.00::numeric": "3",
        "12345678901234567890123456789012.50::numeric": "12345678901234567890123456789012.5",
        "'NaN'::numeric": None,
        "2.5::float8": "2.5",
        "1e15::float8": "1000000000000000",
        "'infinity'::float4": None,
        "true": "true",
        "NULL::text": None,
        "'ö 🙂'::varchar": "ö 🙂",
        "date '2024-02-29'": "2024-02-29",
        "date 'infinity'": "infinity",  # beyond the driver's own dates
        "date '0044-03-15 BC'": "0044-03-15 BC",
        "timestamptz '2024-02-29 07:30:00+01'": "2024-02-29 06:30:00+00",
        "'6ba7b810-9dad-11d1-80b4-00c04fd430c8'::uuid": "6ba7b810-9dad-11d1-80b4-00c04fd430c8",
        "'10.0.0.7'::inet": "10.0.0.7",
        "interval '1 day'": "1 day",
    }
    query = "SELECT " + ", ".join(f"{value} AS c{number}" for number, value in enumerate(values))
    table, _ = read_query(site_of(server, query).data, [f"c{number}" for number in range(len(values))])
    assert [column[0] for column in table.columns.values()] == list(values.values())


def test_a_server_without_an_encoding_costs_only_the_rows_that_are_no_text(server: PostgresServer) -> None:
    server.execute(
        "CREATE DATABASE old ENCODING 'SQL_ASCII' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'", database="postgres"
    )
    server.execute(
        "CREATE TABLE notes (unit int, text text, label text)",
        "INSERT INTO notes VALUES (1, 'ä', 'other'), (2, E'\\xff\\xfe', 'other'), (3, 'good', 'other')",
        f"GRANT SELECT ON notes TO {READER}",
        database="old",
    )
    records = load(server, source=server.url.replace("clinic", "old"))
    assert records.texts == ["ä", "good"]
    assert records.report.unreadable.first == (2,)


# --- reading only ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM notes RETURNING unit, text, label",
        "WITH gone AS (DELETE FROM notes RETURNING *) SELECT * FROM gone",
        "SELECT * INTO other FROM notes",
        "SELECT unit, text, label FROM notes FOR UPDATE",
        "SELECT unit, text, label FROM notes; COMMIT; DELETE FROM notes",
        "COMMIT; DELETE FROM notes",
        "SELECT lo_create(7) AS unit, text, label FROM notes",
        "CREATE TABLE other AS TABLE notes",
        "SET TRANSACTION READ WRITE",
        "TRUNCATE notes",
    ],
)
def test_the_database_holds_the_session_to_reading_whatever_is_asked(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch, statement: str
) -> None:
    """With the judgement of the statement's first word out of the way; this user may write by the grants."""
    monkeypatch.setattr("privet.common.config.site.checked_query", lambda query: query)
    fault(server, statement)
    assert server.execute("SELECT count(*) FROM notes") == [(4,)]
    assert server.execute("SELECT to_regclass('other')") == [(None,)]


def test_the_server_itself_refuses_to_write_in_our_transaction(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the cursor alone: a statement that runs beside it is refused as well, after our transaction too."""
    import psycopg

    refused: list[str | None] = []
    prepare = postgres.prepare

    def prepared(connection: Any, *rest: Any) -> None:
        prepare(connection, *rest)
        raw = connection.connection.dbapi_connection
        level = raw.execute("SHOW transaction_isolation").fetchone()
        assert level == (b"repeatable read",)
        for statement in ("SELECT 1; COMMIT; DELETE FROM notes", "DELETE FROM notes"):
            with pytest.raises(psycopg.Error) as caught:
                raw.execute(statement)
            refused.append(caught.value.sqlstate)
            raw.rollback()
        raise ArithmeticError

    monkeypatch.setattr(postgres, "prepare", prepared)
    fault(server)
    assert refused == ["25006", "25006"]


def test_a_session_that_is_not_held_to_reading_is_not_used(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "OPTIONS", {})
    assert "cannot be held to reading" in fault(server)


# --- streaming, time, and a server that dies -------------------------------------------------------------------------

MANY = "SELECT n % 100 AS unit, 'note ' || n AS text, 'other' AS label FROM generate_series(1, 20000) AS n"


def at_row(monkeypatch: pytest.MonkeyPatch, number: int, act: Any) -> None:
    """Do something once when this row is added."""

    class Watched(Rows):
        def add(self, row: int, values: Any) -> None:
            if row == number:
                act()
            super().add(row, values)

    monkeypatch.setattr(database, "Rows", Watched)


def test_rows_come_by_a_cursor_on_the_server(server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    activity = f"SELECT query, application_name FROM pg_stat_activity WHERE usename = '{READER}'"
    at_row(monkeypatch, 10_000, lambda: seen.extend(server.execute(activity)))
    assert load(server, MANY).report.rows == 20_000
    ((query, name),) = seen
    assert query.startswith(f"FETCH FORWARD {database.AT_ONCE} ")
    assert name == "privet"


def test_a_query_that_takes_too_long_is_ended(server: PostgresServer) -> None:
    slow = "SELECT 1 AS unit, pg_sleep(60)::text AS text, 'other' AS label"
    assert "did not answer in time" in fault(server, slow, timeout=0.3)


@pytest.mark.parametrize("row", [1, 12_000])
def test_a_server_that_dies_meanwhile_leaves_nothing(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch, row: int
) -> None:
    """Half of the data is never taken for all of it."""
    at_row(monkeypatch, row, server.stop)
    try:
        assert "lost in the middle; nothing of what was read is used" in fault(server, MANY)
    finally:
        server.start()


def test_a_session_that_is_ended_meanwhile_leaves_nothing(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{READER}'"
    at_row(monkeypatch, 19_000, lambda: server.execute(end))
    assert "lost in the middle" in fault(server, MANY)
