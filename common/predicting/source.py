"""The rows that `privet predict` reads, one by one: lines of text, CSV, TSV, JSON lines, Parquet; or standard input.

Nothing is held but the present row. A row that cannot be read is told by its number and leaves its neighbours
untouched.
"""

import contextlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from privet.common import delimited
from privet.common.columns import as_text, candidates, header_positions, plain, positions, sound
from privet.common.decoding import MARK, MARKING, text_codec
from privet.common.errors import ConfigError, DataError
from privet.common.json_lines import objects
from privet.common.predicting.input import STEP, Input, bounded, standard_input
from privet.common.tables import scalars

__all__ = ["FORMATS", "STANDARD_INPUT", "Row", "Source"]

STANDARD_INPUT = "-"
FORMATS = ("txt", "csv", "tsv", "jsonl", "parquet")
_SUFFIXES = {
    ".txt": "txt",
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}
_WITHOUT_COLUMN = 1000  # JSON lines from the start without the wanted key, after which it is taken to be absent


@dataclass(frozen=True, slots=True, repr=False)
class Row:
    """number: the line on which it begins, or its place in a Parquet file, from 1. text: None where it cannot be read,
    blank where there is none."""

    number: int
    text: str | None
    id: str | None = None


class Source:
    """An input that is open: `rows` may be taken once, by one thread; `cancel` ends them from any other.

    format: one of FORMATS; None: by the suffix, lines of text for standard input. column: of the text in a table,
    "text" unless told. id_column: of what is copied through.
    """

    def __init__(
        self,
        source: str,
        *,
        format: str | None = None,
        column: str | None = None,
        id_column: str | None = None,
        encoding: str = "utf-8",
    ) -> None:
        """Raises: DataError, ConfigError."""
        self.live = source == STANDARD_INPUT
        self.where = "standard input" if self.live else source
        self.format = _format(source, format)
        if self.format == "txt" and (column or id_column):
            raise ConfigError(
                "lines of text have no columns.",
                where="--text" if column else "--id",
                mend="leave it out, or give a table (--format says of which kind).",
            )
        codec = text_codec(encoding)
        if codec is None:
            raise DataError(
                f"cannot be decoded as {encoding!r}: no such encoding of text.",
                where=self.where,
                mend='name the text\'s --encoding, for example "utf-8", "cp1252", "utf-16" or "gb18030".',
            )
        self._codec, self._encoding = codec, encoding
        self._wanted = [column or "text", *([id_column] if id_column else [])]
        self._raw: Input | None = None
        self.size: int | None = None  # bytes, or rows of Parquet; None where nobody knows
        self._done = 0  # rows of Parquet
        if self.live:
            self._raw = Input(standard_input())
        else:
            path = Path(source)
            _check_file(path)
            try:
                self._raw = Input(path.open("rb", buffering=0))
            except OSError as error:
                raise _unreadable(self.where, error) from None
            if path.is_file():
                self.size = path.stat().st_size
            else:  # a named pipe
                self.live = True

    @property
    def done(self) -> int:
        """Of `size`, what was read."""
        return self._done if self.format == "parquet" else self._raw.count if self._raw else 0

    def cancel(self) -> None:
        """No further row comes."""
        if self._raw is not None:
            self._raw.cancel()

    def close(self) -> None:
        if self._raw is not None:
            self._raw.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def rows(self) -> Iterator[Row]:
        """Raises: DataError where the input is empty, not of its format, lacks a column or can be read no further."""
        assert self._raw is not None
        problem: DataError | None = None
        try:
            if self.format == "parquet":
                yield from self._parquet()
                return
            newline = "" if self.format in ("csv", "tsv") else "\n"
            file = io.TextIOWrapper(
                io.BufferedReader(self._raw, STEP), encoding=self._codec, errors=MARKING, newline=newline
            )
            if self.format == "txt":
                yield from self._lines(file)
            elif self.format == "jsonl":
                yield from self._json_lines(file)
            else:
                yield from self._delimited(file)
            if not self._raw.count and not self._raw.cancelled:
                problem = DataError("it is empty.", where=self.where, mend="see to it that what writes it works.")
        except OSError as error:
            problem = _unreadable(self.where, error)
        except UnicodeError:  # a codec that gives up as a whole, such as utf-16 without a byte order mark
            problem = DataError(
                f"cannot be decoded as {self._encoding}.",
                where=self.where,
                mend="name the text's --encoding (utf-16 needs a byte order mark: else utf-16-le or utf-16-be).",
            )
        if problem is not None:
            raise problem

    def _row(self, number: int, values: Sequence[str | None]) -> Row:
        if not all(value is None or sound(value) for value in values):
            return Row(number, None)
        return Row(number, values[0] or "", values[1] if len(values) > 1 else None)

    def _lines(self, file: TextIO) -> Iterator[Row]:
        for number, line in enumerate(bounded(file), start=1):
            line = line[:-1] if line.endswith("\n") else line
            yield Row(number, None if MARK in line or not sound(line) else line.removesuffix("\r"))

    def _delimited(self, file: TextIO) -> Iterator[Row]:
        assert self._raw is not None
        delimiter = "," if self.format == "csv" else "\t"
        # Reads no more of `file` than its iterator gives.
        found = delimited.rows(bounded(file), delimiter)  # type: ignore[arg-type]
        _, header = next(found, (0, None))
        if header is None:
            if not self._raw.count:
                return
            raise DataError(
                "its header cannot be read.",
                where=self.where,
                mend="see that its first line names the columns, and name its --encoding; or name its --format.",
            )
        places = header_positions(header, delimiter, self._wanted, self.where)
        for number, fields in found:
            yield Row(number, None) if fields is None else self._row(number, [fields[place] for place in places])

    def _json_lines(self, file: TextIO) -> Iterator[Row]:
        keys = [plain(name) for name in self._wanted]
        absent, waiting, names = set(keys), list[Row](), dict[str, None]()
        for number, record in objects(bounded(file)):
            row = Row(number, None)
            if record is not None:
                record = {plain(key): value for key, value in record.items()}
                if absent:
                    absent.difference_update(record)
                    names |= dict.fromkeys(record)
                with contextlib.suppress(ValueError, TypeError):
                    row = self._row(number, [as_text(record.get(key)) for key in keys])
            if not absent:
                if waiting:
                    yield from waiting
                    waiting.clear()
                yield row
                continue
            waiting.append(row)  # until it is known that the column is there
            if len(waiting) == _WITHOUT_COLUMN:
                break
        if absent and names:
            column = next(name for name, key in zip(self._wanted, keys, strict=True) if key in absent)
            raise DataError(f"has no column {column!r}.", where=self.where, mend=candidates(column, list(names)[:50]))
        yield from waiting

    def _parquet(self) -> Iterator[Row]:
        import pyarrow
        from pyarrow import parquet

        assert self._raw is not None
        broken = False
        try:
            with parquet.ParquetFile(io.BufferedReader(self._raw, STEP)) as file:
                self.size = file.metadata.num_rows
                names: list[str] = file.schema_arrow.names
                kept = [names[place] for place in positions(names, self._wanted, self.where)]
                for batch in file.iter_batches(batch_size=1024, columns=kept, use_threads=False):
                    decoded = [scalars(batch.column(name), self._codec) for name in kept]
                    for values in zip(*(column for column, _ in decoded), strict=True):
                        if self._raw.cancelled:
                            return
                        self._done += 1
                        try:
                            texts = [text(value) for (_, text), value in zip(decoded, values, strict=True)]
                        except UnicodeDecodeError:
                            yield Row(self._done, None)
                        else:
                            yield self._row(self._done, texts)
        except (pyarrow.ArrowException, OSError, ValueError, TypeError):
            broken = True
        if broken:
            mend = "give a whole, unencrypted Parquet file whose named columns hold text, numbers or dates."
            raise DataError("cannot be read as Parquet.", where=self.where, mend=mend)


def _format(source: str, format: str | None) -> str:
    found = format or ("txt" if source == STANDARD_INPUT else _SUFFIXES.get(Path(source).suffix.lower(), ""))
    if found not in FORMATS:
        raise DataError(
            f"its format {format!r} is unknown." if format else "its format is unknown.",
            where="--format" if format else source,
            mend=f"give --format, one of {', '.join(FORMATS)}, or a file with a suffix of {', '.join(_SUFFIXES)}.",
        )
    if source == STANDARD_INPUT and found == "parquet":
        raise ConfigError(
            "Parquet is read from its end, which a stream has not.", where="--format", mend="give a file."
        )
    return found


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise DataError("this is a folder.", where=str(path), mend="give the path of one file.")
    if not path.exists():
        raise DataError("no such file.", where=str(path), mend="correct the path.")
    if path.is_file() and path.stat().st_size == 0:
        raise DataError("the file is empty.", where=str(path), mend="give a file with texts.")


def _unreadable(where: str, error: OSError) -> DataError:
    what = f"cannot be read further ({error.strerror or 'input failed'})."
    return DataError(what, where=where, mend="check the file and its permissions.")
