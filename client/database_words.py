"""What went wrong with a database, in our own words: theirs quote statements, addresses, names and values."""

import sqlite3
from dataclasses import dataclass
from typing import Any

_LATER = "see that the database is up, and start again."
_NETWORK = "check host and port in data.source, and that the database is up and reachable from here."
_LOGIN = "check data.user and data.password_file or data.password_env, and the database's own rules for logging in."
_QUERY = "correct data.query: try it with the database's own client first."
_READING = "write a query that only reads."

_NETWORK_GONE = ("the connection was lost in the middle; nothing of what was read is used.", _LATER)
_TIMEOUT = ("did not answer in time.", "raise data.timeout (seconds), or make data.query cheaper.")
_READ_ONLY = ("the query tries to write, and was not run.", _READING)
_LOGIN_REFUSED = ("does not let this user in.", _LOGIN)
_NO_DATABASE = ("there is no such database on the server.", "correct the name in data.source.")
_NO_PERMISSION = (
    "this user may not read what the query names.",
    "have the database's owner grant it SELECT there, and nothing else.",
)
_ON_VALUE = (
    "the query fails on a value that it computes with.",
    "correct data.query: convert values so that no row can make it fail.",
)
_RESOURCES = ("is out of room, memory or connections.", "ask who runs the database.")
_CHANGED = ("the rows changed while they were read.", "start again.")

# By SQLSTATE, the longest that fits: five characters, or the class of two.
_STATES = {
    "0A000": ("the query asks for what a reading cursor cannot do, such as writing.", _READING),
    "25006": _READ_ONLY,
    "28": _LOGIN_REFUSED,
    "3D000": _NO_DATABASE,
    "42501": _NO_PERMISSION,
    "42601": ("the query's syntax is wrong{position}.", _QUERY),
    "42703": ("the query names a column that does not exist{position}.", _QUERY),
    "42P01": ("the query names a table that does not exist, or is not on the search path{position}.", _QUERY),
    "42702": ("the query names a column that several tables have{position}.", _QUERY),
    "42883": ("the query calls a function or an operator that does not exist for these types{position}.", _QUERY),
    "42": ("the query is not valid{position}.", _QUERY),
    "22": _ON_VALUE,
    "25": ("the transaction was ended before the rows were read.", _QUERY),
    "26": ("the query is not valid.", _QUERY),
    "40": _CHANGED,
    "53": _RESOURCES,
    "54": ("the query is too large or too deep for the database.", _QUERY),
    "57014": _TIMEOUT,
    "57P03": ("is starting or stopping, and takes nobody in.", _LATER),
    "57P": _NETWORK_GONE,
    "08P01": ("the query holds a parameter, such as $1.", _QUERY),
    "08": _NETWORK_GONE,
    "57": _NETWORK_GONE,
    "58": ("had a fault of its own.", "ask who runs the database."),
    "XX": ("had a fault of its own.", "ask who runs the database."),
}
# What a PostgreSQL connection that was never made says: it has no SQLSTATE.
_CONNECTING = (
    (("password authentication failed", "no password supplied", "pg_hba", "authentication"), _LOGIN_REFUSED),
    (("role ", "does not exist"), _LOGIN_REFUSED),
    (("database ", "does not exist"), _NO_DATABASE),
    (("timeout", "timed out"), ("did not answer in time.", _NETWORK)),
    (
        ("translate host name", "resolve host", "not known", "No address"),
        ("its host is unknown.", "correct the host in data.source, or this machine's name service."),
    ),
    (("Connection refused",), ("refused the connection: nothing listens there.", _NETWORK)),
    (("No such file",), ("no server has its socket there.", _NETWORK)),
    (
        ("certificate", "SSL", "ssl"),
        ("TLS could not be agreed on, or its certificate is not the right one.", "check sslmode and sslrootcert."),
    ),
    (("too many", "remaining connection slots"), _RESOURCES),
    (("starting up", "shutting down", "not accepting"), ("is starting or stopping, and takes nobody in.", _LATER)),
    (("service",), ("its service file or the service is missing.", "check PGSERVICEFILE and the name.")),
)
_SQLITE_CODES = {
    sqlite3.SQLITE_READONLY: _READ_ONLY,
    sqlite3.SQLITE_AUTH: _READ_ONLY,
    sqlite3.SQLITE_CANTOPEN: ("cannot be opened: no such file, or not for this user.", "correct the path."),
    sqlite3.SQLITE_NOTADB: ("is not a SQLite database, or an encrypted one.", "give the path of one."),
    sqlite3.SQLITE_CORRUPT: ("the database file is damaged.", "restore it from a copy."),
    sqlite3.SQLITE_IOERR: ("cannot be read (input or output failed).", "check the disk and the permissions."),
    sqlite3.SQLITE_PERM: ("cannot be read by this user.", "check the file's permissions."),
    sqlite3.SQLITE_BUSY: ("is locked by another program.", "end that program's transaction, and start again."),
    sqlite3.SQLITE_LOCKED: ("is locked by another program.", "end that program's transaction, and start again."),
    sqlite3.SQLITE_INTERRUPT: _TIMEOUT,
    sqlite3.SQLITE_TOOBIG: ("a value is larger than SQLite can give.", _QUERY),
    sqlite3.SQLITE_NOMEM: _RESOURCES,
}
_SQLITE_MESSAGES = (
    ("no such column", _STATES["42703"]),
    ("no such table", ("the query names a table that does not exist.", _QUERY)),
    ("no such function", _STATES["42883"]),
    ("ambiguous column", _STATES["42702"]),
    ("syntax error", _STATES["42601"]),
    ("incomplete input", _STATES["42601"]),
    ("unrecognized token", _STATES["42601"]),
)


@dataclass
class Stage:
    """How far reading has come: connect, session, query, rows, end."""

    name: str = "connect"
    before: int = 0  # characters that stand before the query in what the server is sent

    def note_cursor(self, _connection: Any, cursor: Any, *_further: Any) -> None:
        """psycopg's cursor on the server is declared for the query: positions count from that declaration's start."""
        name = getattr(cursor, "name", None)
        self.before = len(f'DECLARE "{name}" CURSOR FOR ') if isinstance(name, str) else 0


def words(error: Exception, stage: Stage) -> tuple[str, str]:
    """What went wrong and the mend. Nothing of the error's own text is in either."""
    cause = getattr(error, "orig", None) or error  # SQLAlchemy's errors hold the driver's
    what, mend = _words(cause, stage)
    return what.format(position=_position(cause, stage)), mend


def _words(cause: BaseException, stage: Stage) -> tuple[str, str]:
    if isinstance(cause, sqlite3.Error):
        return _of_sqlite(cause)
    state = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
    if isinstance(state, str):
        for length in (5, 3, 2):
            if state[:length] in _STATES:
                return _STATES[state[:length]]
    if isinstance(cause, TimeoutError) or "Timeout" in type(cause).__name__:
        return _TIMEOUT if stage.name != "connect" else ("did not answer in time.", _NETWORK)
    if isinstance(cause, UnicodeEncodeError):
        return "the query holds a character that the database's encoding does not have.", _QUERY
    if stage.name == "connect":
        text = str(cause)
        for patterns, found in _CONNECTING:
            both = "does not exist" in patterns
            if (all if both else any)(pattern in text for pattern in patterns):
                return found
        return "cannot be connected to.", _NETWORK
    if stage.name in ("rows", "end") or type(cause).__name__ in ("OperationalError", "InterfaceError"):
        return _NETWORK_GONE
    return "the query cannot be run.", _QUERY


def _of_sqlite(cause: sqlite3.Error) -> tuple[str, str]:
    code = getattr(cause, "sqlite_errorcode", None)
    if isinstance(code, int) and code & 0xFF in _SQLITE_CODES:
        return _SQLITE_CODES[code & 0xFF]
    text = str(cause)
    for pattern, found in _SQLITE_MESSAGES:
        if pattern in text:
            return found
    return "the query is not valid, or fails on a value.", _QUERY


def _position(cause: BaseException, stage: Stage) -> str:
    """Where in the query, as far as the server said: a number, nothing else."""
    try:
        position = int(getattr(getattr(cause, "diag", None), "statement_position", None) or 0) - stage.before
    except (TypeError, ValueError):
        return ""
    return f", at character {position} of it" if position > 0 and stage.name == "query" else ""
