"""Columns of a data file: CSV, TSV, JSON lines or Parquet, in any text encoding.

Reads a site's private records and the server's public evaluation file. A row that cannot be read is told by its number
and leaves its neighbours untouched; nothing here shows a cell. Nothing is written: no cache, no temporary file.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from privet.common import delimited
from privet.common.columns import Rows, Table, as_text, candidates, joined_text, plain, positions
from privet.common.decoding import MARK, MARKING, text_codec
from privet.common.errors import DataError

__all__ = ["FORMATS", "Table", "read_columns", "table_format"]

FORMATS = ("csv", "tsv", "jsonl", "parquet")
_SUFFIXES = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}


def read_columns(
    path: Path,
    columns: Sequence[str],
    *,
    format: str | None = None,
    encoding: str = "utf-8",
    lists: Mapping[str, str] | None = None,
) -> Table:
    """Read the named columns; `format` is one of FORMATS, or by the file's suffix.

    CSV and TSV have a header line, double quotes, and line breaks inside quotes; blank lines are skipped. A row is
    unreadable when it holds undecodable bytes, a NUL or a field longer than MAX_FIELD, when its quotes do not match,
    its number of fields is not the header's, its JSON is not one object, or a wanted value is a list or an object.
    A row whose quotes do not match ends with its first line, so that it cannot swallow the rows after it.

    Values that are not text become text: true and false; whole numbers as digits, also when written 3.0; other numbers
    in their shortest form; dates in ISO form. null, NaN and infinities become None, as does a key that is absent.
    A file with a header and no row gives an empty table. lists: columns in which JSON lines and Parquet may hold a list
    of values, and what is put between these.

    Raises: DataError when the file is missing, empty or not of its format, a column is absent, or the format or
    encoding is unknown.
    """
    kind = table_format(path, format)
    if kind not in FORMATS:
        mend = f"state format = one of {', '.join(FORMATS)}, or use a suffix of {', '.join(_SUFFIXES)}."
        raise DataError("its format is unknown.", where=str(path), mend=mend)
    codec = text_codec(encoding)
    if codec is None:
        mend = 'state a known one, for example "utf-8", "cp1252", "latin-1", "utf-16" or "gb18030".'
        raise DataError(f"the encoding {encoding!r} is unknown.", where=str(path), mend=mend)
    wanted = tuple(dict.fromkeys(columns))
    problem = ""
    try:
        check_file(path)
        if kind == "parquet":
            return _read_parquet(path, wanted, codec, lists or {})
        with path.open(encoding=codec, errors=MARKING, newline="\n" if kind == "jsonl" else "") as file:
            if kind == "jsonl":
                return _read_json_lines(file, path, wanted, lists or {})
            return _read_delimited(file, path, wanted, "," if kind == "csv" else "\t")
    except OSError as error:
        problem = f"cannot be read ({error.strerror or 'input or output failed'})."
    except UnicodeError:  # a codec that gives up as a whole, such as utf-16 without a byte order mark
        problem = f"cannot be decoded as {encoding}."
    mend = (
        "check the file's permissions and its encoding (utf-16 needs a byte order mark: else utf-16-le or utf-16-be)."
    )
    raise DataError(problem, where=str(path), mend=mend)


def table_format(path: Path, format: str | None = None) -> str | None:
    """As stated, or by the file's suffix; None where neither says so."""
    return format or _SUFFIXES.get(path.suffix.lower())


def check_file(path: Path) -> None:
    """Raises: DataError unless there is an ordinary file that is not empty."""
    if path.is_dir():
        raise DataError("this is a folder.", where=str(path), mend="give the path of one file.")
    if not path.exists():
        raise DataError("no such file.", where=str(path), mend="correct the path.")
    if not path.is_file():
        raise DataError("this is not an ordinary file.", where=str(path), mend="give the path of an ordinary file.")
    if path.stat().st_size == 0:
        raise DataError("the file is empty.", where=str(path), mend="give a file with a header and rows.")


def _read_delimited(file: TextIO, path: Path, wanted: Sequence[str], delimiter: str) -> Table:
    found, rows = Rows(wanted), delimited.rows(file, delimiter)
    _, header = next(rows, (0, None))
    if header is None:
        mend = "give a file whose first line names the columns, and state its encoding."
        raise DataError("its header cannot be read.", where=str(path), mend=mend)
    other = next((mark for mark in ";\t|," if len(header) == 1 and mark != delimiter and mark in header[0]), "")
    hint = f"its header seems to be separated by {other!r}: save the file with {delimiter!r}." if other else ""
    places = positions(header, wanted, str(path), hint)
    for number, fields in rows:
        if fields is None:
            found.unreadable.append(number)
        else:
            found.add(number, [fields[place] for place in places])
    return found.table()


def _read_json_lines(file: TextIO, path: Path, wanted: Sequence[str], lists: Mapping[str, str]) -> Table:
    found, absent = Rows(wanted), set(map(plain, wanted))
    names: dict[str, None] | None = None  # those that every row has: the others may be content
    decoder, texts = json.JSONDecoder(object_pairs_hook=members), [_text_of(column, lists) for column in wanted]
    for number, line in enumerate(file, start=1):
        line = line.removeprefix("\ufeff").strip() if number == 1 else line.strip()
        if not line:
            continue
        values: list[str | None] | None = None
        if "\0" not in line and MARK not in line:
            try:
                record = decoder.decode(line)
                if isinstance(record, dict):
                    names = {name: None for name in (record if names is None else names) if name in record}
                    if absent:
                        absent.difference_update(map(plain, record))
                    if not all(column in record for column in wanted):
                        record = {plain(key): value for key, value in record.items()} | record
                    values = [
                        text(record.get(column, record.get(plain(column))))
                        for column, text in zip(wanted, texts, strict=True)
                    ]
            except (ValueError, TypeError, RecursionError):
                values = None
        if values is None:
            found.unreadable.append(number)
        else:
            found.add(number, values)
    if absent and names is not None:
        column = next(column for column in wanted if plain(column) in absent)
        raise DataError(f"has no column {column!r}.", where=str(path), mend=candidates(column, list(names)))
    return found.table()


def _text_of(column: str, lists: Mapping[str, str]) -> Callable[[object], str | None]:
    """What makes a value of this column text."""
    return partial(joined_text, separator=lists[column]) if column in lists else as_text


def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose names are distinct: which of two units a row belongs to is not guessed."""
    record = dict(pairs)
    if len(record) != len(pairs):
        raise ValueError("a name stands twice")
    return record


def _read_parquet(path: Path, wanted: Sequence[str], codec: str, lists: Mapping[str, str]) -> Table:
    import pyarrow
    from pyarrow import parquet

    found, number = Rows(wanted), 0
    try:
        with parquet.ParquetFile(path) as file:
            names: list[str] = file.schema_arrow.names
            kept = [names[position] for position in positions(names, wanted, str(path))]
            for batch in file.iter_batches(columns=kept, use_threads=False):
                decoded = [
                    _values(batch.column(name), codec, lists.get(column))
                    for name, column in zip(kept, wanted, strict=True)
                ]
                for row in zip(*(values for values, _ in decoded), strict=True):
                    number += 1
                    try:
                        texts = [text(value) for (_, text), value in zip(decoded, row, strict=True)]
                    except (ValueError, TypeError):  # also bytes that are no text
                        found.unreadable.append(number)
                    else:
                        found.add(number, texts)
    except (pyarrow.ArrowException, OSError, ValueError, TypeError):
        broken = True
    else:
        broken = False
    if broken:
        mend = "give a whole, unencrypted Parquet file whose named columns hold text, numbers or dates."
        raise DataError("cannot be read as Parquet.", where=str(path), mend=mend)
    return found.table()


def _values(array: Any, codec: str, separator: str | None) -> tuple[list[Any], Callable[[Any], str | None]]:
    """As `scalars`; a list is that of its values, so that one which is no text spoils its own row alone."""
    from pyarrow import types

    if separator is None or not (types.is_list(array.type) or types.is_large_list(array.type)):
        return scalars(array, codec)
    values, text = scalars(array.values, codec)
    ends = array.offsets.to_pylist()
    rows = [
        values[ends[row] : ends[row + 1]] if there else None for row, there in enumerate(array.is_valid().to_pylist())
    ]

    def joined(row: list[Any] | None) -> str | None:
        return None if row is None else joined_text([text(value) for value in row], separator)

    return rows, joined


def scalars(array: Any, codec: str) -> tuple[list[Any], Callable[[Any], str | None]]:
    """One column of a batch as Python values, and what makes a value text. Text is kept as bytes: it may be unsound."""
    import pyarrow
    from pyarrow import types

    if types.is_dictionary(array.type):
        array = array.dictionary_decode()
    kind = array.type
    if types.is_boolean(kind) or types.is_integer(kind) or types.is_floating(kind) or types.is_null(kind):
        return array.to_pylist(), as_text
    binary = types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind)
    if not binary and not types.is_large_string(kind):
        array = array.cast(pyarrow.large_string())
    if not binary:
        codec, array = "utf-8", array.cast(pyarrow.large_binary())
    return array.to_pylist(), lambda value: None if value is None else str(value, codec)
