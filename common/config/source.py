"""A data source that is a database: its URL and query, as site.toml may hold them. No credential stands in either."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy import URL

_SQLITE = ("sqlite", "sqlite+pysqlite")
_POSTGRESQL = ("postgresql", "postgresql+psycopg")
_SECRET = re.compile(r"pass|pwd|secret|token|credential|private|odbc_connect", re.IGNORECASE)
_PASSFILE = "passfile"  # libpq's: it names a file
_PORTS = {"postgresql": 5432, "mysql": 3306, "mariadb": 3306}
_NOT_CODE = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|\$(\w*)\$.*?\$\1\$|--[^\n]*|/\*.*?\*/""", re.DOTALL)
_READING = frozenset({"select", "with", "table", "values"})


def is_url(source: str) -> bool:
    """Whether a source is a database's URL rather than a path."""
    return "://" in source


def checked_url(source: str) -> str:
    """`source`, if it is a database's URL that holds no secret. Raises: ValueError, which quotes nothing of it."""
    before_host = source.partition("://")[2].rpartition("@")[0]
    if ":" in before_host and not source.startswith("sqlite"):
        raise ValueError(_no_password("The URL"))
    url = None if "\0" in source else _parsed(source)
    if url is None:
        raise ValueError("Expected a database's URL such as postgresql+psycopg://host/database or sqlite:///file.db.")
    if url.password is not None or any(_SECRET.search(key) and key != _PASSFILE for key in url.query):
        raise ValueError(_no_password("The URL"))
    if any(_SECRET.search(value) and "=" in value for key in url.query for value in url.normalized_query[key]):
        raise ValueError(_no_password("The URL"))
    if url.get_backend_name() == "sqlite":
        _check_sqlite(url)
    elif url.get_backend_name() == "postgresql" and url.drivername not in _POSTGRESQL:
        raise ValueError("Expected postgresql+psycopg://…: psycopg is the driver for PostgreSQL here.")
    return source


def _check_sqlite(url: "URL") -> None:
    if url.drivername not in _SQLITE:
        raise ValueError("Expected sqlite:///FILE, without another driver.")
    if not url.database or url.database == ":memory:" or url.host or url.username:
        raise ValueError("Expected sqlite:///FILE, or sqlite:////FILE for a path from the root.")
    if url.query or url.database.startswith("file:"):
        raise ValueError("Expected sqlite:///FILE without parameters: it is always opened for reading only.")


def _no_password(what: str) -> str:
    return (
        f"{what} holds a password or another secret. Take it out; name data.password_file, or in data.password_env an "
        "environment variable."
    )


def refuse_secrets(table: dict[str, object]) -> None:
    """Raises: ValueError, which quotes nothing, where a table of the file holds a password under its own name."""
    if any(_SECRET.search(str(key)) and key not in ("password_file", "password_env") for key in table):
        raise ValueError(_no_password("A key of this table"))


def checked_query(query: str) -> str:
    """`query`, if it is one reading statement. Raises: ValueError, which quotes nothing of it.

    For early and plain words only: the database itself holds the session to reading.
    """
    code = _NOT_CODE.sub(lambda found: " " if found[0][0] in "-/" else "''", query).strip().rstrip("; \t\r\n")
    if ";" in code:
        raise ValueError("Expected one statement in query: nothing may follow its semicolon.")
    first = re.match(r"[\s(]*([A-Za-z]+)", code)
    if first is None or first[1].lower() not in _READING:
        raise ValueError("Expected a query that reads: it begins with SELECT, WITH, TABLE or VALUES.")
    return query


def beside(source: str, folder: Path) -> str:
    """A SQLite URL with its path taken from `folder`; any other URL, and a faulty one, as it is."""
    url = _parsed(source)
    if url is None or url.drivername not in _SQLITE or url.database in (None, "", ":memory:"):
        return source
    return url.set(database=str(folder.absolute() / Path(url.database or "").expanduser())).render_as_string(False)


def place(source: str) -> str:
    """Where a URL leads, for people: without user and parameters."""
    url = _parsed(source)
    if url is None:
        return "a database"
    host = f"[{url.host}]" if ":" in (url.host or "") else url.host or ""
    port = "" if url.port is None else f":{url.port}"
    return f"{url.get_backend_name()}://{host}{port}/{url.database or ''}"


def origin(source: str, query: str) -> str:
    """What tells this source from others: where the URL leads and the query, however they are written."""
    url = _parsed(source)
    if url is None:
        return f"{source}\n{query}"
    backend = url.get_backend_name()
    if backend == "sqlite":
        return f"sqlite {Path(url.database or '').resolve()}\n{' '.join(query.split())}"
    named = [f"{key}={','.join(url.normalized_query.get(key, ()))}" for key in ("host", "port", "dbname", "service")]
    port = url.port or _PORTS.get(backend)
    return f"{backend} {(url.host or '').lower()} {port} {url.database} {' '.join(named)}\n{' '.join(query.split())}"


def _parsed(source: str) -> "URL | None":
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(source)
    except (ArgumentError, ValueError):
        return None
