"""Python's logging, warnings and uncaught errors on standard error: where something happened, never with what.

The words of an error or of a library's warning may hold a record's text, and a service's standard error is kept by
the system's journal. So they are withheld: what stays is the type and the places in the code. `PRIVET_LOG=debug` in
the environment shows them too; the other levels (info, warning, error; default warning) choose how much is told.
"""

import json
import logging
import os
import sys
import threading
import traceback
import warnings
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from privet.common.errors import ConfigError
from privet.common.terminal import printable

VARIABLE = "PRIVET_LOG"
_LEVELS = {name: getattr(logging, name.upper()) for name in ("debug", "info", "warning", "error")}
_MAX_CAUSES = 8
_MAX_FRAMES = 40


def outline(error: BaseException) -> str:
    """An error's type and the places it came through, with those of its causes; nothing of its words.

    >>> try:
    ...     int("the patient")
    ... except ValueError as error:
    ...     outline(error).split(" at ")[0]
    'ValueError'
    """
    told, seen = list[str](), set[int]()
    now: BaseException | None = error
    while now is not None and id(now) not in seen and len(told) < _MAX_CAUSES:
        seen.add(id(now))
        frames = traceback.extract_tb(now.__traceback__)[-_MAX_FRAMES:]
        places = ", ".join(f"{_place(frame.filename)}:{frame.lineno} in {frame.name}" for frame in reversed(frames))
        told.append(type(now).__name__ + (f" at {places}" if places else ""))
        now = now.__cause__ or (None if now.__suppress_context__ else now.__context__)
    return "; caused by ".join(told)


def unforeseen(log: logging.Logger, what: str, error: BaseException) -> None:
    """Log an error that nobody foresaw: its outline always, its words at level debug only.

    Safe however logging is set up: the words are part of no record of another level.
    """
    log.error("%s: %s", what, outline(error))
    log.debug("%s", what, exc_info=error)


def set_up(*, as_json: bool = False, level: str | None = None, stream: TextIO | None = None) -> None:
    """Send the root logger, warnings and uncaught errors of this process to standard error (or `stream`).

    as_json: one JSON object a line. level: of `PRIVET_LOG` in the environment, where it is not given.

    Raises: ConfigError for an unknown level.
    """
    wanted = (level or os.environ.get(VARIABLE) or "warning").lower()
    if wanted not in _LEVELS:
        raise ConfigError(f"got {wanted[:40]!r}.", where=VARIABLE, mend=f"give one of {', '.join(_LEVELS)}.")
    words = wanted == "debug"
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_Formatter(as_json=as_json, words=words))
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old.formatter, _Formatter)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(_LEVELS[wanted])
    log = logging.getLogger("privet")

    def warned(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        text = f": {message}" if words else ""
        log.warning("%s at %s:%d%s", category.__name__, _place(filename), lineno, text)

    warnings.showwarning = warned
    sys.excepthook = lambda kind, error, trace: _uncaught(log, "uncaught", error, words, trace)
    threading.excepthook = lambda args: _uncaught(log, "a thread ended", args.exc_value, words, args.exc_traceback)
    sys.unraisablehook = lambda args: _uncaught(log, "ignored", args.exc_value, words, args.exc_traceback)


def _uncaught(
    log: logging.Logger, what: str, error: BaseException | None, words: bool, trace: TracebackType | None
) -> None:
    if error is None or isinstance(error, SystemExit):
        return
    if trace is not None and error.__traceback__ is None:
        error = error.with_traceback(trace)
    unforeseen(log, what, error)
    if not words:
        log.error("its words are withheld, for they may hold private text; %s=debug shows them", VARIABLE)


class _Formatter(logging.Formatter):
    """privet's own words as they are; of other loggers' records only the place, unless `words`."""

    def __init__(self, *, as_json: bool, words: bool) -> None:
        super().__init__()
        self._as_json, self._words = as_json, words

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        place = f"{_place(record.pathname)}:{record.lineno}"
        text = self._text(record)
        if record.exc_info and isinstance(record.exc_info[1], BaseException):
            error = record.exc_info[1]
            text += f": {outline(error)}"
            if self._words:
                text += "\n" + "".join(traceback.format_exception(error)).rstrip()
        if self._as_json:
            told: dict[str, Any] = {
                "time": time, "level": record.levelname.lower(), "logger": record.name, "at": place, "text": text
            }  # fmt: skip
            return json.dumps(told, sort_keys=True)
        return printable(f"{time} {record.levelname.lower()} {record.name}: {text}")

    def _text(self, record: logging.LogRecord) -> str:
        if self._words or record.name == "privet" or record.name.startswith("privet."):
            return record.getMessage()
        return f"a message from {_place(record.pathname)}:{record.lineno} (words withheld)"


def _place(filename: str) -> str:
    """A file of code, as its package names it: no folder of this machine."""
    parts = Path(filename).parts
    for mark in ("site-packages", "dist-packages", "privet"):
        if mark in parts:
            at = len(parts) - 1 - parts[::-1].index(mark)
            return "/".join(parts[at + (mark != "privet") :])
    return "/".join(parts[-2:])
