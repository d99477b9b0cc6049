"""Rows of a CSV or TSV file, each told by the line on which it begins.

Quotes are double; a quoted field may hold delimiters, line breaks and doubled quotes. A row whose quotes do not match,
or whose number of fields is not the header's, ends with its first line and reading goes on at the next one. Otherwise
one stray quote would swallow the rows of others, and whether they take part would hang on a record that is not theirs.
"""

import csv
from collections import deque
from collections.abc import Iterator
from typing import TextIO

from privet.common.decoding import MARK

MAX_FIELD = 10_000_000  # characters; a longer field makes its row unreadable


class _Lines:
    """Lines that can be read again from the second line of the current row on."""

    def __init__(self, file: TextIO) -> None:
        self._file = iter(file)
        self._again: deque[str] = deque()
        self._taken: list[str] = []
        self.number = 0  # of the last line given
        self.spoiled = False  # whether the current row holds a NUL or undecodable bytes

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._file)
        if self.number == 0:
            line = line.removeprefix("\ufeff")
        self.number += 1
        self._taken.append(line)
        self.spoiled = self.spoiled or "\0" in line or MARK in line
        return line

    def begin(self) -> int:
        """Start a row; the number of its first line."""
        self._taken.clear()
        self.spoiled = False
        return self.number + 1

    def rewind(self) -> None:
        """Give back all but the current row's first line."""
        self._again.extendleft(reversed(self._taken[1:]))
        self.number -= len(self._taken) - 1


def rows(file: TextIO, delimiter: str) -> Iterator[tuple[int, list[str] | None]]:
    """Yield (line number, fields), the header first; None for the fields of an unreadable row. Blank lines are skipped.

    `file` is opened with `newline=""` and `errors=MARKING`.
    """
    csv.field_size_limit(max(MAX_FIELD, csv.field_size_limit()))  # of the whole process: raised, never lowered
    lines = _Lines(file)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    width = 0  # of the header
    damaged = 0  # the last line that a broken row reached
    while True:
        number = lines.begin()
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error:
            broken = True
        else:
            if len(fields) <= 1 and not "".join(fields).strip():
                continue
            width = width or len(fields)
            # The last line of a broken row may pass for a row of its own; it then holds that row's closing quote.
            broken = len(fields) != width or (number <= damaged and any('"' in field for field in fields))
        if broken:
            damaged = max(damaged, lines.number)
            lines.rewind()
        yield number, None if broken or lines.spoiled else fields
