"""A PostgreSQL session that only reads, and its values as text.

Every value comes as the server's own text and is decoded here, one by one: an infinite date or a byte that is no text
costs its own row, where the driver would give up the whole result.
"""

import ipaddress
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from privet.common.columns import as_text
from privet.common.decoding import MARKING
from privet.common.errors import DataError

if TYPE_CHECKING:
    from sqlalchemy import Connection

Text = Callable[[Any], str | None]

# Reading in one snapshot; the session itself is read-only too, should its transaction end.
OPTIONS: Mapping[str, Any] = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}

_CONNECT_SECONDS = 30
_BOOL, _FLOATS, _NUMERIC = 16, (700, 701), 1700
_NO_TEXT = frozenset({17, 114, 3802, 2249})  # bytea, json, jsonb, record


def connect_args(given: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """libpq's parameters: bounded waiting, and a dead connection is noticed; `given` are the URL's, which win."""
    own = {
        "connect_timeout": max(2, min(_CONNECT_SECONDS, int(seconds))),
        "application_name": "privet",
        "client_encoding": "utf8",  # until `prepare`
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
        "tcp_user_timeout": 60_000,  # milliseconds
    }
    return {name: value for name, value in own.items() if name not in given}


def prepare(connection: "Connection", seconds: float, where: str) -> None:
    """Begin the reading transaction: forms of values that no setting of the server changes, bounded statements.

    Raises: DataError where the server does not hold the transaction to reading.
    """
    import psycopg
    from psycopg.adapt import Loader

    class Raw(Loader):
        def load(self, data: Any) -> bytes:
            return bytes(data)

    settings = {
        "default_transaction_read_only": "on",
        "statement_timeout": f"{max(1, int(seconds * 1000))}",
        "datestyle": "ISO, YMD",
        "timezone": "UTC",
        "intervalstyle": "postgres",
        "extra_float_digits": "1",
    }
    calls = ", ".join(f"set_config('{name}', '{value}', false)" for name, value in settings.items())
    connection.exec_driver_sql(f"SELECT {calls}")
    read_only, encoding = connection.exec_driver_sql(
        "SELECT current_setting('transaction_read_only'), current_setting('server_encoding')"
    ).one()
    if read_only != "on":
        mend = "connect to the server itself, or through a pooler in session mode."
        raise DataError("cannot be held to reading.", where=where, mend=mend)

    raw: Any = connection.connection.dbapi_connection
    # The server converts nothing: a value that it cannot convert would end the whole result.
    connection.exec_driver_sql(f"SELECT set_config('client_encoding', '{encoding}', false)")
    try:
        _ = raw.info.encoding
    except psycopg.NotSupportedError:  # one that Python does not know
        connection.exec_driver_sql("SELECT set_config('client_encoding', 'UTF8', false)")
    for kind in raw.adapters.types:
        raw.adapters.register_loader(kind.oid, Raw)
    raw.adapters.register_loader(0, Raw)  # every type that is not named


def texts(connection: "Connection", description: Sequence[Any], where: str) -> list[Text]:
    """What makes the values of each column text; they raise ValueError for what is none.

    Raises: DataError for a column of a type that holds no text.
    """
    raw: Any = connection.connection.dbapi_connection
    encoding = raw.info.encoding
    encoding = "utf-8" if encoding == "ascii" else encoding  # a server that does not know its encoding
    arrays = {kind.array_oid for kind in raw.adapters.types} - {0}
    found = []
    for column in description:
        if column.type_code in _NO_TEXT or column.type_code in arrays:
            mend = "convert it in the query, for example with `column::text`, convert_from or array_to_string."
            raise DataError(f"the column {column.name!r} is of a type that holds no text.", where=where, mend=mend)
        found.append(_text(column.type_code, encoding))
    return found


def _text(oid: int, encoding: str) -> Text:
    if oid == _BOOL:
        return lambda value: None if value is None else as_text(value == b"t")
    if oid in _FLOATS:
        return lambda value: None if value is None else as_text(float(value))
    if oid == _NUMERIC:
        return lambda value: None if value is None else as_text(Decimal(value.decode("ascii")))
    return lambda value: None if value is None else str(value, encoding, MARKING)


def warning(connection: "Connection") -> str | None:
    """What to say where the data crosses a network to a server that does not prove who it is."""
    raw: Any = connection.connection.dbapi_connection
    return tls_warning(
        raw.info.hostaddr or raw.info.host,
        raw.info.get_parameters().get("sslmode", "prefer"),
        encrypted=bool(raw.pgconn.ssl_in_use),
    )


def tls_warning(host: str, sslmode: str, *, encrypted: bool) -> str | None:
    """host: a name, an address, or the folder of a Unix socket."""
    if local(host) or (sslmode == "verify-full" and encrypted):
        return None
    how = "its certificate is not verified" if encrypted else "the connection is not encrypted"
    return (
        f"The database is not on this machine and {how}: who is on the network between them could read or change the "
        "records. Add ?sslmode=verify-full&sslrootcert=FILE to data.source."
    )


def local(host: str) -> bool:
    """Whether a host is this machine."""
    if not host or host.startswith(("/", "@")) or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
