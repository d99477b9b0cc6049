"""What is told on standard error while a long input is read: rows, their rate, and the time left where it is known."""

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

__all__ = ["Progress"]

_EVERY = 10.0  # seconds between plain lines


class Progress:
    """quiet: nothing is told. fraction: of the input that was read and predicted, in [0, 1]; None where nobody knows.

    A terminal shows one line that changes; elsewhere a plain line comes every ten seconds.
    """

    def __init__(self, *, quiet: bool, fraction: Callable[[int], float | None]) -> None:
        self._quiet, self._fraction = quiet, fraction
        self._console = Console(stderr=True, highlight=False)
        # Where results go to the same terminal, they are the progress.
        shown = not quiet and self._console.is_terminal and not sys.stdout.isatty()
        settings: dict[str, Any] = {"refresh_per_second": 4, "transient": True}
        settings |= {"redirect_stdout": False, "redirect_stderr": False}  # results are not ours to redraw
        self._live = Live(console=self._console, **settings) if shown else None
        self._start = self._told = time.monotonic()
        self.was_told = False

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        self._start = self._told = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def rows(self, number: int) -> None:
        """So many rows are done."""
        now = time.monotonic()
        if self._live is not None:
            self.was_told = True
            self._live.update(Text(self.words(number, now - self._start)))
        elif not self._quiet and not self._console.is_terminal and now - self._told >= _EVERY:
            self._told = now
            self.was_told = True
            print(self.words(number, now - self._start), file=sys.stderr, flush=True)

    def summary(self, number: int) -> str:
        """At the end."""
        seconds = time.monotonic() - self._start
        return f"{number:,} rows in {_duration(seconds)}, {number / max(seconds, 1e-9):,.3g} rows/s."

    def words(self, number: int, seconds: float) -> str:
        """So many rows after so many seconds, in words."""
        rate = number / seconds if seconds > 0 else 0.0
        words = f"{number:,} rows, {rate:,.0f} rows/s" if rate >= 10 else f"{number:,} rows, {rate:.2g} rows/s"
        fraction = self._fraction(number)
        if fraction is None or fraction <= 0:
            return words
        left = seconds * (1 - fraction) / fraction
        return f"{words}, {fraction:.0%}, {_duration(left)} left"


def _duration(seconds: float) -> str:
    """
    >>> _duration(42.2), _duration(150), _duration(9000)
    ('42 s', '2 min 30 s', '2 h 30 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
