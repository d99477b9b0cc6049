"""Labelled rows of a file one by one: CSV, TSV, JSON lines, Parquet, in any encoding. Nothing is held but the present
row (of Parquet: a batch). A row that cannot be read is told by its number and leaves its neighbours untouched."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from privet.common import delimited
from privet.common.columns import as_text, header_positions, positions, sound
from privet.common.decoding import MARKING, text_codec
from privet.common.errors import DataError
from privet.common.json_lines import Columns, objects
from privet.common.tables import FORMATS, check_file, table_format

Value = str | tuple[str, ...] | None  # a tuple: a JSON list of text, where the caller takes lists
Row = tuple[
    int, tuple[Value, ...] | None
]  # its number from 1 (of a text file: the line on which it begins), its values

_BATCH = 512  # rows of Parquet


def read_rows(
    path: Path, columns: Sequence[str], *, encoding: str = "utf-8", lists: str | None = None
) -> Iterator[Row]:
    """Rows of the named columns, None for one that cannot be read; blank lines are skipped. Values as
    `common.tables.read_columns` gives them; lists: the column that may hold lists of text.

    Raises: DataError.
    """
    kind = table_format(path)
    if kind is None:
        raise DataError(
            "its format is unknown.",
            where=str(path),
            mend=f"use a suffix of {', '.join('.' + name for name in FORMATS)}.",
        )
    codec = text_codec(encoding)
    if codec is None:
        mend = 'state a known one, for example "utf-8", "cp1252", "latin-1", "utf-16" or "gb18030".'
        raise DataError(f"the encoding {encoding!r} is unknown.", where=str(path), mend=mend)
    problem = ""
    try:
        check_file(path)
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
    """Whether a value can be tokenised."""
    if isinstance(value, tuple):
        return all(map(sound, value))
    return value is None or sound(value)


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
    places = header_positions(header, delimiter, columns, str(path))
    for number, fields in rows:
        yield number, None if fields is None else tuple(fields[place] for place in places)


def _json_lines(file: TextIO, path: Path, columns: Sequence[str], lists: str | None) -> Iterator[Row]:
    """A column that no object of the file has is an error, told at the file's end: one that some lack is null there."""
    wanted = Columns(columns, str(path))
    for number, record in objects(file):
        values: tuple[Value, ...] | None = None
        if record is not None:
            with suppress(ValueError, TypeError):
                values = tuple(
                    _value(value, name == lists) for value, name in zip(wanted.of(record), columns, strict=True)
                )
        yield number, values
    wanted.check()


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
