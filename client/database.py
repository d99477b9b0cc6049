"""A site's private records from a database: one query in one read-only transaction, streamed, in memory only.

PostgreSQL and SQLite; another database of SQLAlchemy's where it understands SET TRANSACTION READ ONLY. What its driver
or the database says of a fault quotes statements, addresses and values: it is put into our own words, and not logged.
"""

import logging
import os
import sqlite3
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from privet.client import postgres
from privet.client.database_words import Stage, words
from privet.common.columns import Rows, Table, as_text, joined_text, positions
from privet.common.config.site import DataSpec
from privet.common.decoding import MARKING
from privet.common.errors import DataError

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection, Engine

AT_ONCE = 500  # rows that are held beside the texts that are kept
_LIBRARIES = ("sqlalchemy", "psycopg")
_MAX_PASSWORD = 4096  # bytes


def read_query(data: DataSpec, columns: Sequence[str]) -> tuple[Table, tuple[str, ...]]:
    """The named columns of the query's rows, numbered by their place in the result from 1; and warnings.

    A row is unreadable when a wanted value is binary, an array or another object, is not text in the database's
    encoding, or holds a NUL or more than MAX_FIELD characters. Values that are not text become it by `as_text`; times
    of PostgreSQL are its ISO form, in UTC where they have a zone.

    Raises: DataError where the database cannot be reached, read as a whole, or held to reading, or a column is absent.
    """
    stage = Stage()
    wanted = tuple(dict.fromkeys(columns))
    with _hushed():
        try:
            return _read(data, wanted, stage)
        except DataError as error:
            found = error
        except Exception as error:  # whatever a driver raises
            what, mend = words(error, stage)
            found = DataError(what, where=data.shown, mend=mend)
    raise DataError(found.what, where=found.where, mend=found.mend)  # anew: no cause that could quote something


def _read(data: DataSpec, wanted: Sequence[str], stage: Stage) -> tuple[Table, tuple[str, ...]]:
    from sqlalchemy import event

    end = time.monotonic() + data.timeout
    engine = _engine(data, end)
    backend = engine.dialect.name
    event.listen(engine, "before_cursor_execute", stage.note_cursor)
    try:
        options = postgres.OPTIONS if backend == "postgresql" else {}
        with engine.connect().execution_options(**options) as connection:
            stage.name = "session"
            _hold_to_reading(connection, backend, data)
            stage.name = "query"
            found = Rows(wanted)
            _fetch(connection, data, found, stage, end)
            stage.name = "end"
            connection.rollback()
            return found.table(), _warnings(connection, backend)
    finally:
        engine.dispose()


def _fetch(connection: "Connection", data: DataSpec, found: Rows, stage: Stage, end: float) -> None:
    """Add the rows, in parts of AT_ONCE. Raises: DataError."""
    result = connection.exec_driver_sql(
        data.query or "", execution_options={"no_parameters": True, "yield_per": AT_ONCE}
    )
    try:
        description: Sequence[Any] = result.cursor.description if result.cursor is not None else ()
        names = [str(column[0]) for column in description]
        # The name of a column without a name may be a piece of the query.
        hint = "" if all(name.isidentifier() for name in names) else "name each column of the query, with AS."
        places = positions(names, found.wanted, data.shown, hint)
        if connection.dialect.name == "postgresql":
            texts = postgres.texts(connection, [description[place] for place in places], data.shown)
        else:
            texts = [as_text] * len(places)
        separators = [data.label_separator if column == data.label else None for column in found.wanted]
        stage.name = "rows"
        number = 0
        for part in result.partitions(AT_ONCE):
            if time.monotonic() > end:
                raise TimeoutError
            for row in part:
                number += 1
                try:
                    values = [
                        text(row[place])
                        if separator is None or not isinstance(row[place], list)
                        else joined_text(row[place], separator)
                        for text, place, separator in zip(texts, places, separators, strict=True)
                    ]
                except (TypeError, ValueError, ArithmeticError):
                    found.unreadable.append(number)
                else:
                    found.add(number, values)
    finally:
        result.close()


def _engine(data: DataSpec, end: float) -> "Engine":
    """Raises: DataError for a password that cannot be read, and a database or driver that is not installed."""
    from sqlalchemy import NullPool, create_engine, make_url
    from sqlalchemy.exc import NoSuchModuleError

    url = make_url(str(data.source))
    if url.get_backend_name() == "sqlite":
        return create_engine("sqlite://", creator=lambda: _sqlite(url, end), poolclass=NullPool, hide_parameters=True)
    url, arguments = _with_login(url, data), dict[str, Any]()
    if url.get_backend_name() == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
        arguments = postgres.connect_args(url.query, data.timeout)
    missing = ""
    try:
        engine = create_engine(url, connect_args=arguments, poolclass=NullPool, hide_parameters=True)
    except ModuleNotFoundError as error:
        missing = f"needs the Python package {error.name}, which is not installed."
    except NoSuchModuleError:
        missing = "is of a kind that SQLAlchemy does not know here."
    if missing:
        mend = "install it: `pip install 'privet[postgres]'` for PostgreSQL, else SQLAlchemy's dialect for it."
        raise DataError(missing, where=data.shown, mend=mend)
    if engine.dialect.is_async:
        raise DataError("its driver is an asynchronous one.", where=data.shown, mend="name one that is not.")
    return engine


def _with_login(url: "URL", data: DataSpec) -> "URL":
    """The URL with user and password, as far as the site names them; the driver may find others by its own means."""
    if data.user is not None and url.username not in (None, data.user):
        raise DataError("differs from the user in data.source.", where="data.user", mend="name the user once.")
    password = read_password(data.password_file, data.password_env, os.environ)
    url = url if data.user is None else url.set(username=data.user)
    return url if password is None else url.set(password=password)


def read_password(file: Path | None, variable: str | None, environment: Mapping[str, str]) -> str | None:
    """The password: an environment variable, or the file's content without the line's end. Raises: DataError."""
    if variable is not None:
        password = environment.get(variable, "")
        if not password:
            mend = "set that environment variable for this process."
            raise DataError("names a variable that is not set.", where="data.password_env", mend=mend)
        return password
    if file is None:
        return None
    problem, content = "", b""
    try:
        with file.open("rb") as opened:
            status = os.fstat(opened.fileno())
            if not stat.S_ISREG(status.st_mode):
                problem = "is not an ordinary file."
            elif status.st_mode & 0o077:
                problem = "can be read by others than its owner."
            else:
                content = opened.read(_MAX_PASSWORD + 1)
    except OSError as error:
        problem = f"cannot be read ({error.strerror})."
    password = ""
    if not problem:
        try:
            password = content.decode().rstrip("\r\n")
        except UnicodeDecodeError:
            problem = "is not UTF-8."
        if not problem and (not password or len(content) > _MAX_PASSWORD or "\n" in password or "\0" in password):
            problem = "does not hold one line with the password."
    if problem:
        mend = "give a file of mode 0600 that holds the password alone."
        raise DataError(problem, where="data.password_file", mend=mend)
    return password


def _sqlite(url: "URL", end: float) -> sqlite3.Connection:
    """A connection to a file that must exist, for reading only. Raises: sqlite3.Error."""
    path = Path(url.database or "").absolute()
    connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=30.0, check_same_thread=False)
    connection.text_factory = lambda value: value.decode("utf-8", MARKING)
    connection.set_progress_handler(lambda: time.monotonic() > end, 10_000)
    return connection


def _may(action: int, _name: str | None, value: str | None, *_where: str | None) -> int:
    """SQLite's judgement of each step of a statement. The mode of a connection binds its own file only: ATTACH, which
    VACUUM INTO uses too, would write another. A pragma may be asked, as full-text tables do, and not set."""
    sets = action == sqlite3.SQLITE_PRAGMA and value is not None
    denied = sets or action in (sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_DETACH)
    return sqlite3.SQLITE_DENY if denied else sqlite3.SQLITE_OK


def _hold_to_reading(connection: "Connection", backend: str, data: DataSpec) -> None:
    """Raises: DataError where the database does not hold the session to reading."""
    if backend == "postgresql":
        postgres.prepare(connection, data.timeout, data.shown)
    elif backend == "sqlite":
        connection.exec_driver_sql("PRAGMA query_only = ON")
        connection.exec_driver_sql("PRAGMA temp_store = MEMORY")  # sorting writes the texts to no temporary file
        raw: Any = connection.connection.dbapi_connection
        raw.set_authorizer(_may)
    else:
        refused = False
        try:
            connection.exec_driver_sql("SET TRANSACTION READ ONLY")
        except Exception:
            refused = True
        if refused:
            mend = "use PostgreSQL or SQLite, or export the rows to a file."
            raise DataError("this kind of database cannot be held to reading.", where=data.shown, mend=mend)


def _warnings(connection: "Connection", backend: str) -> tuple[str, ...]:
    if backend == "postgresql":
        found = postgres.warning(connection)
    elif backend == "sqlite":
        found = None
    else:
        found = "Whether the connection to the database is encrypted and verified is not known: see to it yourself."
        found = None if postgres.local(connection.engine.url.host or "") else found
    return () if found is None else (found,)


@contextmanager
def _hushed() -> Iterator[None]:
    """The libraries' logs are silent meanwhile: they quote addresses, statements and what a server said."""
    loggers = [
        logging.getLogger(name)
        for name in {*_LIBRARIES, *logging.Logger.manager.loggerDict}
        if name.partition(".")[0] in _LIBRARIES
    ]
    levels = [(logger, logger.level) for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in levels:
            logger.setLevel(level)
