"""Bytes and lines of an input that never ends of itself: a reader is woken when it is cancelled, a line has an end."""

import io
import os
import select
import sys
from collections.abc import Iterator
from typing import IO, Any, TextIO

from privet.common.delimited import MAX_FIELD

STEP = 2**16  # bytes read at once


class Input(io.RawIOBase):
    """Bytes of a file or a pipe: counted, and given up at once when cancelled, also while none comes."""

    def __init__(self, inner: IO[bytes] | io.RawIOBase) -> None:
        self._inner = inner
        self.count = 0
        self.cancelled = False
        self._wake: tuple[int, int] | None = None
        try:
            inner.fileno()
        except (OSError, AttributeError):
            return
        self._wake = os.pipe()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._inner.seekable()

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._inner.seek(offset, whence)

    def tell(self) -> int:
        return self._inner.tell()

    def readinto(self, buffer: Any) -> int:
        if self._wake is not None:
            ready = select.poll()
            ready.register(self._wake[0], select.POLLIN)
            ready.register(self._inner.fileno(), select.POLLIN)
            ready.poll()
        if self.cancelled:
            return 0
        data = self._inner.read(len(buffer)) or b""
        buffer[: len(data)] = data
        self.count += len(data)
        return len(data)

    def cancel(self) -> None:
        self.cancelled = True
        if self._wake is not None:
            os.write(self._wake[1], b"x")

    def release(self) -> None:
        """Close what it reads from; `close` leaves that be, for whoever wraps it may be gone before it is cancelled."""
        wake, self._wake = self._wake, None
        if wake is not None:
            for end in wake:
                os.close(end)
            self._inner.close()  # of standard input: a handle of our own


def standard_input() -> IO[bytes] | io.RawIOBase:
    stream = sys.stdin.buffer
    try:
        number = stream.fileno()
    except (OSError, AttributeError):  # a test's, a notebook's
        return stream
    return io.FileIO(number, closefd=False)


def bounded(file: TextIO) -> Iterator[str]:
    """Lines; of one that is too long for a row, its start and a NUL, by which the row is unreadable."""
    first = True
    while line := file.readline(MAX_FIELD + 2):
        if len(line) == MAX_FIELD + 2 and not line.endswith("\n"):
            rest = line
            while rest and not rest.endswith(("\n", "\r")):
                rest = file.readline(STEP)
            line = line[:MAX_FIELD] + "\0\n"
        yield line.removeprefix("\ufeff") if first else line
        first = False
