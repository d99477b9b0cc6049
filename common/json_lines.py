"""Rows of a JSON lines file: one object a line, each told by its number."""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from privet.common.columns import candidates, plain
from privet.common.decoding import MARK
from privet.common.errors import DataError


def objects(lines: Iterable[str]) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """The number and the object of each line that is not blank; None where it holds undecodable bytes or a NUL, or is
    not one object of distinct names: which of two labels a row has is not guessed."""
    decoder = json.JSONDecoder(object_pairs_hook=_members)
    for number, line in enumerate(lines, start=1):
        line = line.removeprefix("\ufeff").strip() if number == 1 else line.strip()
        if line:
            yield number, None if "\0" in line or MARK in line else _object(decoder, line)


def _object(decoder: json.JSONDecoder, line: str) -> dict[str, Any] | None:
    try:
        found = decoder.decode(line)
    except (ValueError, TypeError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        raise ValueError("a name stands twice")
    return record


class Columns:
    """Takes the wanted columns out of objects, names compared in NFC, trimmed; notices a column that none has."""

    def __init__(self, wanted: Sequence[str], where: str) -> None:
        self._wanted, self._where = wanted, where
        self._absent = set(map(plain, wanted))
        self._names: dict[str, None] | None = None  # those that every object has: the others may be content

    def of(self, record: dict[str, Any]) -> list[Any]:
        """Its values in the order of the columns; None where it lacks one."""
        self._names = {name: None for name in (record if self._names is None else self._names) if name in record}
        if self._absent:
            self._absent.difference_update(map(plain, record))
        if not all(column in record for column in self._wanted):
            record = {plain(key): value for key, value in record.items()} | record
        return [record.get(column, record.get(plain(column))) for column in self._wanted]

    def check(self) -> None:
        """At the file's end; of a file without any object nothing is said. Raises: DataError."""
        if self._absent and self._names is not None:
            column = next(column for column in self._wanted if plain(column) in self._absent)
            raise DataError(f"has no column {column!r}.", where=self._where, mend=candidates(column, list(self._names)))
