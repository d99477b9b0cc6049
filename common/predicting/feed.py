"""A thread that reads rows ahead, and chunks of what it has read.

At most `most` rows, and little more than `MOST_CHARACTERS`, wait to be taken.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

from privet.common.predicting.source import Row

__all__ = ["MOST_CHARACTERS", "Feed"]

MOST_CHARACTERS = 2**21  # of a chunk, unless it is a single row: a tokenizer needs some hundred bytes for each


class Feed:
    """Use it with `with`; leaving it ends the thread. `cancel` makes `rows` end if it waits for input."""

    def __init__(self, rows: Iterator[Row], most: int, cancel: Callable[[], None] = lambda: None) -> None:
        self._rows, self._most, self._cancel = rows, most, cancel
        self._held: deque[Row] = deque()
        self._characters = 0
        self.num_read = 0
        self._done = self._stopped = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read, name="privet-rows", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._cancel()
        self._thread.join()
        self._held.clear()

    def _full(self, most: int) -> bool:
        return len(self._held) >= most or self._characters >= MOST_CHARACTERS

    def _read(self) -> None:
        try:
            for row in self._rows:
                with self._changed:
                    while self._full(self._most) and not self._stopped:
                        self._changed.wait()
                    if self._stopped:
                        return
                    self._held.append(row)
                    self.num_read += 1
                    self._characters += len(row.text or "")
                    self._changed.notify_all()
        except BaseException as error:  # told by whoever takes
            self._error = error
        finally:
            with self._changed:
                self._done = True
                self._changed.notify_all()

    def ready(self) -> None:
        """Wait until there is a row or the end. Raises: what reading did, where it was at the very start."""
        with self._changed:
            while not self._held and not self._done:
                self._changed.wait()
            if not self._held and self._error is not None:
                raise self._error

    def take(self, most: int, patience: float | None = None) -> list[Row]:
        """The next rows, at most `most`; none at the end.

        patience: seconds without a further row after which those that came are enough; None: only a whole chunk, or
        the end, is. So the chunks of a file do not depend on how fast it is read.
        Raises: what reading did, when all rows before that were taken.
        """
        most = min(most, self._most)
        with self._changed:
            while not self._held and not self._done:
                self._changed.wait()
            while not self._full(most) and not self._done:
                before = len(self._held)
                until = None if patience is None else time.monotonic() + patience
                while len(self._held) == before and not self._done:
                    left = None if until is None else until - time.monotonic()
                    if left is not None and left <= 0:
                        break
                    self._changed.wait(left)
                if len(self._held) == before:
                    break
            taken: list[Row] = []
            characters = 0
            while self._held and len(taken) < most:
                length = len(self._held[0].text or "")
                if taken and characters + length > MOST_CHARACTERS:
                    break
                characters += length
                taken.append(self._held.popleft())
            self._characters -= characters
            self._changed.notify_all()
            if not taken and self._error is not None:
                raise self._error
            return taken
