"""A database as the data's source, as site.toml names it: what is refused, where paths lead, and no secret quoted."""

import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from privet.common.config import Site, load_site
from privet.common.config.source import checked_query, checked_url, origin, place
from privet.common.errors import ConfigError

PASSWORD = "Mockingbird93"
DATA: dict[str, Any] = {"id": "0f" * 16, "text": "text", "label": "label", "unit": "unit", "query": "SELECT 1"}
URL = "postgresql+psycopg://db.clinic.example/notes"


def write_site(folder: Path, **data: Any) -> Path:
    """A site.toml with this `[data]`; None leaves a key out."""
    table = {key: value for key, value in (DATA | data).items() if value is not None}
    member = {"address": "localhost:1", "ca": "ca.crt", "key": "k", "epsilon": 1.0, "delta": 1e-9}
    budget = {"epsilon": 1.0, "delta": 1e-9, "declared_units": 10}
    raw = {"format": 1, "name": "north", "data": table, "budget": budget, "federation": {"a": member}}
    path = folder / "site.toml"
    path.write_text(tomli_w.dumps(raw))
    return path


def site(folder: Path, **data: Any) -> Site:
    return load_site(write_site(folder, **data))


def refusal(folder: Path, **data: Any) -> str:
    """What the operator is told, and all that a traceback would show beside it."""
    with pytest.raises(ConfigError) as caught:
        site(folder, **data)
    error = caught.value
    assert error.mend
    assert "data" in error.where
    shown = "".join(traceback.format_exception(error)).partition("privet.common.errors.ConfigError")[2]
    return f"{error} {error!r} {error.__cause__!r} {error.__context__!r} {shown}"


@pytest.mark.parametrize(
    "source",
    [
        f"postgresql+psycopg://reader:{PASSWORD}@db/notes",
        f"postgresql+psycopg://reader:{PASSWORD}/x@db/notes",
        f"postgresql+psycopg://reader:p@{PASSWORD}@db/notes",
        f"postgresql+psycopg://:{PASSWORD}@/notes",
        f"postgresql+psycopg://reader:99{PASSWORD}@[::1",
        "postgresql+psycopg://reader:@db/notes",
        f"postgresql+psycopg://db/notes?password={PASSWORD}",
        f"postgresql+psycopg://db/notes?sslpassword={PASSWORD}",
        f"mysql+pymysql://db/notes?passwd={PASSWORD}",
        f"mssql+pyodbc://?odbc_connect=DRIVER%3Dx%3BPWD%3D{PASSWORD}",
        f"mssql+pyodbc://?x=UID%3Dx%3BPWD%3D{PASSWORD}",
        f"snow://db/notes?access_token={PASSWORD}",
    ],
)
def test_a_password_in_the_url_is_refused_and_not_quoted(tmp_path: Path, source: str) -> None:
    told = refusal(tmp_path, source=source)
    assert "data.password_file" in told
    assert PASSWORD not in told
    assert "reader" not in told


@pytest.mark.parametrize("key", ["password", "passwd", "db_password", "token"])
def test_a_password_in_the_file_is_refused_and_not_quoted(tmp_path: Path, key: str) -> None:
    told = refusal(tmp_path, source=URL, **{key: PASSWORD})
    assert "data.password_file" in told
    assert PASSWORD not in told


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"query": None}, "Expected query"),
        ({"source": "notes.csv"}, "no data.query"),
        ({"source": "notes.csv", "query": None, "user": "u"}, "no data.user"),
        ({"source": "notes.csv", "query": None, "password_file": "p"}, "no data.password_file"),
        ({"format": "csv"}, "neither format nor encoding"),
        ({"encoding": "latin-1"}, "neither format nor encoding"),
        ({"password_file": "p", "password_env": "P"}, "not both"),
        ({"password_env": f"{PASSWORD}!"}, "the name of an environment variable"),
        ({"source": "sqlite:///a.db", "user": "u"}, "SQLite has none"),
        ({"source": "sqlite:///a.db", "password_env": "P"}, "SQLite has none"),
        ({"source": "sqlite://"}, "sqlite:///FILE"),
        ({"source": "sqlite:///:memory:"}, "sqlite:///FILE"),
        ({"source": "sqlite://host/a.db"}, "sqlite:///FILE"),
        ({"source": "sqlite:///a.db?mode=rwc"}, "without parameters"),
        ({"source": "sqlite+aiosqlite:///a.db"}, "without another driver"),
        ({"source": "postgresql+asyncpg://db/notes"}, "psycopg is the driver"),
        ({"source": "postgresql+psycopg2://db/notes"}, "psycopg is the driver"),
        ({"source": "post gres://db"}, "a database's URL such as"),
        ({"source": "postgresql://db:12x/notes"}, "a database's URL such as"),
        ({"timeout": 0.0}, "greater than 0"),
        ({"timeout": 1e6}, "less than or equal"),
    ],
)
def test_what_does_not_fit_together_is_refused(tmp_path: Path, data: dict[str, Any], words: str) -> None:
    told = refusal(tmp_path, **({"source": URL} | data))
    assert words in told
    assert PASSWORD not in told


def test_every_driver_of_sqlalchemy_may_be_named() -> None:
    for url in ("mysql+pymysql://u@db:3306/notes?charset=utf8mb4", "oracle+oracledb://db/?service_name=x", URL):
        assert checked_url(url) == url
    assert checked_url(f"{URL}?sslmode=verify-full&passfile=/etc/pgpass&sslkey=/k") is not None


READING = (
    "SELECT 1",
    " \n select text from notes;  ",
    "WITH a AS (SELECT 1) SELECT * FROM a",
    "TABLE notes",
    "VALUES ('a;b')",
    "-- ours; and yours\n/* all; of it */ (SELECT 'it''s; so' AS \"a;b\", $x$;$x$)",
)
WRITING = (
    "",
    "-- nothing",
    "DELETE FROM notes RETURNING *",
    "INSERT INTO notes VALUES (1) RETURNING *",
    "CALL clear()",
    "EXPLAIN ANALYZE DELETE FROM notes",
    "COPY notes TO STDOUT",
    "SELECT 1; DELETE FROM notes",
    "SELECT 1; COMMIT; DROP TABLE notes",
    "SELECT ';'; SELECT 2",
    "/* SELECT */ DROP TABLE notes",
    "SET TRANSACTION READ WRITE",
    "selection",
    "1 SELECT",
)


@pytest.mark.parametrize("query", READING)
def test_a_query_that_reads(query: str) -> None:
    assert checked_query(query) == query


@pytest.mark.parametrize("query", WRITING)
def test_any_other_statement_is_refused_in_words_and_not_quoted(tmp_path: Path, query: str) -> None:
    told = refusal(tmp_path, source=URL, query=query)
    assert "Expected " in told
    assert "notes" not in told


def test_a_sqlite_path_is_taken_from_the_files_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "a b% é"
    folder.mkdir()
    monkeypatch.chdir("/")
    monkeypatch.setenv("HOME", "/home/north")
    places = {"sqlite:///n.db": folder / "n.db", "sqlite:////x/n.db": "/x/n.db", "sqlite:///~/n.db": "/home/north/n.db"}
    for source, file in places.items():
        found = site(folder, source=source)
        assert found.data.shown == f"a database query (sqlite:///{file})"
        assert checked_url(str(found.data.source)) == found.data.source
    named = site(folder, source=URL, password_file="pw").data
    assert (named.password_file, named.source) == (folder / "pw", URL)
    assert site(folder, source="notes.csv", query=None).data.source == folder / "notes.csv"


def test_what_is_shown_and_kept_of_a_source_holds_no_login(tmp_path: Path) -> None:
    first = site(tmp_path, source="postgresql://reader@DB.example/notes?sslmode=require", user="reader").data
    second = site(tmp_path, source="postgresql+psycopg://db.example:5432/notes", query=" SELECT\n1").data
    assert first.shown == "a database query (postgresql://DB.example/notes)"
    assert first.origin == second.origin
    assert "reader" not in f"{first.origin}{first.shown}"
    others = [
        site(tmp_path, source="postgresql://db.example/other"),
        site(tmp_path, source="postgresql://db.example:5433/notes"),
        site(tmp_path, source="postgresql:///notes?host=elsewhere"),
        site(tmp_path, source="postgresql:///?service=ward"),
        site(tmp_path, source="postgresql://db.example/notes", query="SELECT 2"),
        site(tmp_path, source="sqlite:///notes"),
    ]
    assert len({first.origin, *(other.data.origin for other in others)}) == 7


@given(text=st.text(max_size=40))
def test_any_text_is_a_url_or_refused_in_our_words(text: str) -> None:
    for source in (f"a://{text}", f"postgresql://{text}", f"sqlite:///{text}"):
        with suppress(OurWords):
            judged(checked_url, source)
            assert isinstance(place(source), str)
            assert isinstance(origin(source, text), str)
    with suppress(OurWords):
        judged(checked_query, text)


class OurWords(Exception):
    """A refusal that privet wrote."""


def judged(judge: Callable[[str], str], text: str) -> None:
    try:
        assert judge(text) == text
    except ValueError as error:
        raise (OurWords if str(error).startswith(("Expected", "The URL holds")) else AssertionError) from error
