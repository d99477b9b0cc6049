"""Where results go: lines or JSON on standard output, or a file that appears whole or not at all."""

import csv
import json
import os
import secrets
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TextIO

from privet.common.errors import ConfigError, RunError
from privet.common.outputs import Answer, Column, Output
from privet.common.outputs.base import one_line
from privet.common.predicting.source import Row

__all__ = ["FORMATS", "Sink", "output_format", "sink_to", "text_sink"]

FORMATS = ("lines", "tsv", "csv", "jsonl", "json", "parquet")
_SUFFIXES = {
    ".txt": "lines",
    ".tsv": "tsv",
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
}
_GROUP = 8192  # rows of a Parquet file that are written together


class Sink(Protocol):
    """Takes results in the order of the rows."""

    def write(self, row: Row, answer: Answer | None) -> None:
        """answer: None for a row that was skipped."""

    def flush(self) -> None:
        """What was written is there for whoever reads along."""

    def finish(self, counts: Mapping[str, Any]) -> None:
        """No row comes any more."""


def output_format(path: Path | None, format: str | None) -> str:
    """One of FORMATS: as asked for, else by the file's suffix, else lines. Raises: ConfigError."""
    found = format or ("lines" if path is None else _SUFFIXES.get(path.suffix.lower(), ""))
    if found not in FORMATS:
        raise ConfigError(
            f"no format {format!r}." if format else f"nothing is known to be written to a file {path}.",
            where="--output-format" if format else "--output",
            mend=f"give --output-format, one of {', '.join(FORMATS)}, or a suffix of {', '.join(_SUFFIXES)}.",
        )
    if found == "parquet" and path is None:
        raise ConfigError("Parquet is a file.", where="--output-format", mend="name it with --output.")
    return found


@contextmanager
def sink_to(path: Path | None, format: str, output: Output, *, with_id: bool) -> Iterator[Sink]:
    """The sink of `format`: to standard output, or to the file `path`, which is replaced when the block ends well.

    Raises: RunError where the file cannot be written.
    """
    if path is None:
        yield text_sink(sys.stdout, format, output, with_id)
        return
    draft = path.absolute().with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        try:
            if format == "parquet":
                sink = _Parquet(draft, output.columns, with_id)
                try:
                    yield sink
                finally:
                    sink.close()
            else:
                with draft.open("x", encoding="utf-8", newline="") as file:
                    yield text_sink(file, format, output, with_id)
            _flush_to_disk(draft)
            draft.replace(path)
            _flush_to_disk(draft.parent)
        except OSError as error:
            raise RunError(
                f"cannot be written ({error.strerror or type(error).__name__}).",
                where=str(path),
                mend="check the folder, its permissions and the disk's free space.",
            ) from None
    finally:
        draft.unlink(missing_ok=True)


def text_sink(file: TextIO, format: str, output: Output, with_id: bool) -> Sink:
    """Of every format but Parquet."""
    if format == "lines":
        return _Lines(file, with_id)
    if format in ("jsonl", "json"):
        return _Json(file, with_id, whole=format == "json")
    return _Delimited(file, output.columns, "," if format == "csv" else "\t", with_id)


class _Lines:
    """Line n is the n-th row's, empty where it was skipped; the id stands before it."""

    def __init__(self, file: TextIO, with_id: bool) -> None:
        self._file, self._with_id = file, with_id

    def write(self, row: Row, answer: Answer | None) -> None:
        line = "" if answer is None else answer.line()
        self._file.write(f"{one_line(row.id or '')}\t{line}\n" if self._with_id else line + "\n")

    def flush(self) -> None:
        self._file.flush()

    def finish(self, counts: Mapping[str, Any]) -> None:
        self.flush()


class _Delimited:
    """A table with a header; rows that were skipped are not in it."""

    def __init__(self, file: TextIO, columns: Sequence[Column], delimiter: str, with_id: bool) -> None:
        self._file, self._with_id = file, with_id
        self._writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
        self._writer.writerow(["row", *(["id"] if with_id else []), *(column.name for column in columns)])

    def write(self, row: Row, answer: Answer | None) -> None:
        before = (row.number, row.id) if self._with_id else (row.number,)
        for values in answer.table() if answer is not None else ():
            self._writer.writerow([*before, *values])

    def flush(self) -> None:
        self._file.flush()

    def finish(self, counts: Mapping[str, Any]) -> None:
        self.flush()


class _Json:
    """A JSON object a line; whole: all of them in one document, with the counts after them."""

    def __init__(self, file: TextIO, with_id: bool, whole: bool) -> None:
        self._file, self._with_id, self._whole, self._num = file, with_id, whole, 0

    def write(self, row: Row, answer: Answer | None) -> None:
        if answer is None:
            return
        members = {"row": row.number, **({"id": row.id} if self._with_id else {}), **answer.members()}
        text = json.dumps(members, ensure_ascii=False, allow_nan=False)
        if self._whole:
            text = (",\n  " if self._num else '{"predictions": [\n  ') + text
        self._num += 1
        self._file.write(text if self._whole else text + "\n")

    def flush(self) -> None:
        self._file.flush()

    def finish(self, counts: Mapping[str, Any]) -> None:
        if self._whole:
            tail = json.dumps(dict(counts), allow_nan=False)[1:]
            self._file.write(('{"predictions": [' if not self._num else "\n") + f"], {tail}\n")
        self.flush()


class _Parquet:
    """Columns of a file; rows that were skipped are not in it."""

    def __init__(self, path: Path, columns: Sequence[Column], with_id: bool) -> None:
        import pyarrow
        from pyarrow import parquet

        kinds = {"text": pyarrow.string(), "integer": pyarrow.int64(), "number": pyarrow.float64()}
        fields = [("row", pyarrow.int64()), *([("id", pyarrow.string())] if with_id else [])]
        self._schema = pyarrow.schema([*fields, *((column.name, kinds[column.kind]) for column in columns)])
        self._with_id = with_id
        self._rows: list[tuple[Any, ...]] = []
        self._writer = parquet.ParquetWriter(path, self._schema)

    def write(self, row: Row, answer: Answer | None) -> None:
        before = (row.number, row.id) if self._with_id else (row.number,)
        self._rows.extend((*before, *values) for values in (answer.table() if answer is not None else ()))
        if len(self._rows) >= _GROUP:
            self._write()

    def _write(self) -> None:
        import pyarrow

        columns = [[row[i] for row in self._rows] for i in range(len(self._schema))]
        arrays = [pyarrow.array(values, type=field.type) for values, field in zip(columns, self._schema, strict=True)]
        self._writer.write_table(pyarrow.Table.from_arrays(arrays, schema=self._schema))
        self._rows.clear()

    def flush(self) -> None:
        pass  # nobody reads a Parquet file before its end

    def finish(self, counts: Mapping[str, Any]) -> None:
        if self._rows:
            self._write()

    def close(self) -> None:
        self._writer.close()


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
