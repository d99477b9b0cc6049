"""Labelled rows of a file one by one: CSV, TSV, JSON lines, Parquet, in any encoding. Nothing is held but the present
row (of Parquet: a batch). A row that cannot be read is told by its number and leaves its neighbours untouched."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from privet.common import delimited
from privet.common.columns import as_text, candidates, plain, positions
from privet.common.decoding import MARK, MARKING, text_codec
from privet.common.delimited import MAX_FIELD
from privet.common.errors import DataError

Value = str | tuple[str, ...] | None  # a tuple: a JSON list of text, where the caller takes lists
Row = tuple[
    int, tuple[Value, ...] | None
]  # its number from 1 (of a text file: the line on which it begins), its values

_SUFFIXES = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
_BATCH = 512  # rows of Parquet


def read_rows(
    path: Path, columns: Sequence[str], *, encoding: str = "utf-8", lists: str | None = None
) -> Iterator[Row]:
    """Rows of the named columns, None for one that cannot be read; blank lines are skipped. Values as
    `common.tables.read_columns` gives them; lists: the column that may hold lists of text.

    Raises: DataError.
    """
    kind = _SUFFIXES.get(path.suffix.lower())
    if kind is None:
        raise DataError("its format is unknown.", where=str(path), mend=f"use a suffix of {', '.join(_SUFFIXES)}.")
    codec = text_codec(encoding)
    if codec is None:
        mend = 'state a known one, for example "utf-8", "cp1252", "latin-1", "utf-16" or "gb18030".'
        raise DataError(f"the encoding {encoding!r} is unknown.", where=str(path), mend=mend)
    if not path.is_file():
        what = "this is a folder." if path.is_dir() else "no such file."
        raise DataError(what, where=str(path), mend="give the path of a file.")
    problem = ""
    try:
        if path.stat().st_size == 0:
            raise DataError("the file is empty.", where=str(path), mend="give a file with a header and rows.")
        found = _parquet(path, columns, lists) if kind == "parquet" else _text(path, columns, kind, codec, lists)
        for number, values in found:
            yield number, values if values is not None and all(map(_sound, values)) else None
        return
    except OSError as error:
        problem = f"cannot be read ({error.strerror or 'input or output failed'})."
    except UnicodeError:  # a codec that gives up as a whole, such as utf-16 without a byte order mark
        problem = f"cannot be decoded as {encoding}."
    mend = "check the file's permissions and its --encoding (utf-16 needs a byte order mark: else utf-16-le or -be)."
    raise DataError(problem, where=str(path), mend=mend)


def _sound(value: Value) -> bool:
    """Whether a value can be tokenised: no NUL, no lone surrogate, not too long."""
    if isinstance(value, tuple):
        return all(map(_sound, value))
    if value is None or (len(value) <= MAX_FIELD and value.isascii() and "\0" not in value):
        return True
    try:
        return len(value) <= MAX_FIELD and b"\0" not in value.encode()
    except UnicodeEncodeError:
        return False


def _text(path: Path, columns: Sequence[str], kind: str, codec: str, lists: str | None) -> Iterator[Row]:
    with path.open(encoding=codec, errors=MARKING, newline="\n" if kind == "jsonl" else "") as file:
        if kind == "jsonl":
            yield from _json_lines(file, path, columns, lists)
        else:
            yield from _delimited(file, path, columns, "," if kind == "csv" else "\t")


def _delimited(file: TextIO, path: Path, columns: Sequence[str], delimiter: str) -> Iterator[Row]:
    rows = delimited.rows(file, delimiter)
    _, header = next(rows, (0, None))
    if header is None:
        mend = "give a file whose first line names the columns, and state its --encoding."
        raise DataError("its header cannot be read.", where=str(path), mend=mend)
    other = next((mark for mark in ";\t|," if len(header) == 1 and mark != delimiter and mark in header[0]), "")
    hint = f"its header seems to be separated by {other!r}: save the file with {delimiter!r}." if other else ""
    places = positions(header, columns, str(path), hint)
    for number, fields in rows:
        yield number, None if fields is None else tuple(fields[place] for place in places)


def _json_lines(file: TextIO, path: Path, columns: Sequence[str], lists: str | None) -> Iterator[Row]:
    """A column that no object of the file has is an error, told at the file's end: one that some lack is null there."""
    keys = [plain(name) for name in columns]
    absent, names = set(keys), dict[str, None]()
    decoder = json.JSONDecoder(object_pairs_hook=_members)
    for number, line in enumerate(file, start=1):
        line = line.removeprefix("\ufeff").strip() if number == 1 else line.strip()
        if not line:
            continue
        values: tuple[Value, ...] | None = None
        if "\0" not in line and MARK not in line:
            try:
                record = decoder.decode(line)
                if isinstance(record, dict):
                    record = {plain(key): value for key, value in record.items()}
                    if absent:
                        absent.difference_update(record)
                        names = {name: None for name in (names or record) if name in record}
                    values = tuple(
                        _value(record.get(key), name == lists) for key, name in zip(keys, columns, strict=True)
                    )
            except (ValueError, TypeError, RecursionError):
                values = None
        yield number, values
    if absent and names:
        column = next(name for name, key in zip(columns, keys, strict=True) if key in absent)
        raise DataError(f"has no column {column!r}.", where=str(path), mend=candidates(column, list(names)))


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose names are distinct: which of two labels a row has is not guessed."""
    record = dict(pairs)
    if len(record) != len(pairs):
        raise ValueError("a name stands twice")
    return record


def _value(value: object, may_be_list: bool) -> Value:
    if may_be_list and isinstance(value, list):
        texts = [as_text(part) for part in value]
        if None in texts:
            raise ValueError("a list with null")
        return tuple(text or "" for text in texts)
    return as_text(value)


def _parquet(path: Path, columns: Sequence[str], lists: str | None) -> Iterator[Row]:
    import pyarrow
    from pyarrow import parquet

    number, broken = 0, False
    try:
        with parquet.ParquetFile(path) as file:
            names: list[str] = file.schema_arrow.names
            kept = [names[place] for place in positions(names, columns, str(path))]
            for batch in file.iter_batches(batch_size=_BATCH, columns=kept, use_threads=False):
                held = [batch.column(name) for name in kept]
                for row in range(batch.num_rows):
                    number += 1
                    try:
                        values = tuple(
                            _value(array[row].as_py(), name == lists) for array, name in zip(held, columns, strict=True)
                        )
                    except (ValueError, TypeError):  # UnicodeDecodeError is a ValueError
                        yield number, None
                    else:
                        yield number, values
    except (pyarrow.ArrowException, OSError, ValueError, TypeError):
        broken = True
    if broken:
        mend = "give a whole, unencrypted Parquet file whose named columns hold text, numbers or dates."
        raise DataError("cannot be read as Parquet.", where=str(path), mend=mend)
