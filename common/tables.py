"""Columns of a data file: CSV, TSV, JSON lines or Parquet, in any text encoding.

Reads a site's private records and the server's public evaluation file. A row that cannot be read is told by its number
and leaves its neighbours untouched; nothing here shows a cell. Nothing is written: no cache, no temporary file.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from privet.common import delimited
from privet.common.columns import Rows, Table, as_text, header_positions, joined_text, positions
from privet.common.decoding import MARKING, text_codec
from privet.common.errors import DataError
from privet.common.json_lines import Columns, objects

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
    places = header_positions(header, delimiter, wanted, str(path))
    for number, fields in rows:
        if fields is None:
            found.unreadable.append(number)
        else:
            found.add(number, [fields[place] for place in places])
    return found.table()


def _read_json_lines(file: TextIO, path: Path, wanted: Sequence[str], lists: Mapping[str, str]) -> Table:
    found, columns = Rows(wanted), Columns(wanted, str(path))
    texts = [_text_of(column, lists) for column in wanted]
    for number, record in objects(file):
        values: list[str | None] | None = None
        if record is not None:
            with contextlib.suppress(ValueError, TypeError):
                values = [text(value) for text, value in zip(texts, columns.of(record), strict=True)]
        if values is None:
            found.unreadable.append(number)
        else:
            found.add(number, values)
    columns.check()
    return found.table()


def _text_of(column: str, lists: Mapping[str, str]) -> Callable[[object], str | None]:
    """What makes a value of this column text."""
    return partial(joined_text, separator=lists[column]) if column in lists else as_text


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
