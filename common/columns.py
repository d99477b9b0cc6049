"""What columns of private text are once they are read, from a file or a database: text or nothing, and sound.

A row that cannot be read is told by its number and leaves its neighbours untouched; nothing here shows a cell.
"""

import datetime
import difflib
import unicodedata
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from privet.common.delimited import MAX_FIELD
from privet.common.errors import DataError

_MAX_DIGITS = 10_000  # of a decimal number


@dataclass(frozen=True, repr=False)
class Table:
    """Some columns of a file or of a query's result, one value a readable row.

    columns: name -> values; None where the source says null.
    rows: where each value stands, counted from 1: the line on which the row begins, or its place in a Parquet file
    or in a query's result.
    unreadable: the numbers of rows that could not be read, ascending.
    """

    columns: dict[str, list[str | None]]
    rows: list[int]
    unreadable: list[int]

    def __repr__(self) -> str:
        return f"Table(columns={list(self.columns)})"


class Rows:
    """Collects readable and unreadable rows."""

    def __init__(self, wanted: Sequence[str]) -> None:
        self.wanted = wanted
        self.values: list[list[str | None]] = [[] for _ in wanted]
        self.rows: list[int] = []
        self.unreadable: list[int] = []

    def add(self, number: int, values: Sequence[str | None]) -> None:
        if not all(value is None or sound(value) for value in values):
            self.unreadable.append(number)
            return
        self.rows.append(number)
        for column, value in zip(self.values, values, strict=True):
            column.append(value)

    def table(self) -> Table:
        return Table(dict(zip(self.wanted, self.values, strict=True)), self.rows, self.unreadable)


def sound(value: str) -> bool:
    """Whether a value can be stored and tokenised: no NUL, no lone surrogate, not too long."""
    if len(value) > MAX_FIELD or "\0" in value:
        return False
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def as_text(value: object) -> str | None:
    """The text of one value; None for null, NaN and infinities.

    true and false; whole numbers as digits, also when written 3.0; other numbers in their shortest form; dates, times
    and UUIDs in ISO form. Raises: TypeError, ValueError for anything else.

    >>> from decimal import Decimal
    >>> [as_text(value) for value in (True, 7, 3.0, 2.5, Decimal("12.50"), Decimal("3.00"), float("nan"))]
    ['true', '7', '3', '2.5', '12.5', '3', None]
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):
            return None
        return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)
    if isinstance(value, Decimal):
        return _decimal(value)
    if isinstance(value, datetime.date | datetime.time | uuid.UUID):  # a datetime is a date
        return str(value)
    raise TypeError(type(value).__name__)


def joined_text(value: object, separator: str) -> str | None:
    """As `as_text`; a list of values is their texts with the separator between them, nulls left out.

    Raises: TypeError, ValueError for anything else, and for a value that holds the separator.

    >>> joined_text(["I10", 7], ";")
    'I10;7'
    """
    if not isinstance(value, list | tuple):
        return as_text(value)
    parts = [text for text in map(as_text, value) if text is not None]
    if any(separator in part for part in parts):
        raise ValueError("a value holds the separator")
    return separator.join(parts)


def _decimal(value: Decimal) -> str | None:
    """All its digits, without an exponent and without zeros at the end of the fraction."""
    if not value.is_finite():
        return None
    if abs(value.adjusted()) > _MAX_DIGITS:
        raise ValueError("too long a number")
    text = format(value, "f")
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text


def plain(name: str) -> str:
    """The form in which names of columns, units, groups and labels are compared: NFC, trimmed."""
    return unicodedata.normalize("NFC", name).strip()


def positions(names: Sequence[str], wanted: Sequence[str], where: str, hint: str = "") -> list[int]:
    """Where each wanted column stands among `names`; names are compared in NFC, trimmed. Raises: DataError."""
    found = [plain(name) for name in names]
    for column in wanted:
        if found.count(plain(column)) > 1:
            raise DataError(f"has the column {column!r} twice.", where=where, mend="rename one of them.")
        if plain(column) not in found:
            raise DataError(f"has no column {column!r}.", where=where, mend=hint or candidates(column, found))
    return [found.index(plain(column)) for column in wanted]


def header_positions(header: Sequence[str], delimiter: str, wanted: Sequence[str], where: str) -> list[int]:
    """As `positions`, in the header of a CSV or TSV file; the mend says so where another delimiter parts it."""
    other = next((mark for mark in ";\t|," if len(header) == 1 and mark != delimiter and mark in header[0]), "")
    hint = f"its header seems to be separated by {other!r}: save the file with {delimiter!r}." if other else ""
    return positions(header, wanted, where, hint)


def candidates(column: str, names: Sequence[str]) -> str:
    """The mend for an absent column. A first line that does not look like names may be a record: it is not shown."""
    if not all(len(n) <= 40 and len(n.split()) <= 5 and n.isprintable() and not n[:1].isdigit() for n in names):
        return "name an existing column (what stands where the names should be does not look like names)."
    folded = {name.casefold(): name for name in names}
    near = [folded[match] for match in difflib.get_close_matches(column.casefold(), list(folded), n=3)]
    listed = ", ".join(repr(name) for name in names[:50]) + (", …" if len(names) > 50 else "")
    return (
        f"did you mean {' or '.join(repr(name) for name in near)}? " if near else ""
    ) + f"choose one of its columns: {listed}."
