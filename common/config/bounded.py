"""JSON from elsewhere, bounded before it is validated: a small text must not cost much time or memory."""

import json
from typing import Any

from privet.common.errors import ConfigError

MAX_BYTES = 1 << 20  # of UTF-8; the label limits of `TaskSpec` keep every plan below it
MAX_LABELS = 2_000
_MAX_ENTRIES = 64  # of any other list, and of any table
_MAX_CHARACTERS = 10_000  # of any string
_MAX_DEPTH = 8
_BY_LABEL = ("class_weights", "thresholds")  # tables of a plan that may name every label
_MEND = "ask whoever made the plan; this version's plans are far below these limits."


def read_json(text: str, where: str) -> Any:
    """The value of a JSON text of bounded size, depth, and length of its lists, tables and strings.

    Raises: ConfigError.
    """
    try:
        size = len(text.encode())
        if size > MAX_BYTES:
            raise ConfigError(f"Expected at most {MAX_BYTES:,} bytes, got {size:,}.", where=where, mend=_MEND)
        value = json.loads(text)
    except RecursionError:
        raise ConfigError("Tables inside tables without end.", where=where, mend=_MEND) from None
    except ValueError:  # also a number of thousands of digits, and half a surrogate pair
        raise ConfigError("not valid JSON.", where=where, mend="correct the text.") from None
    _bound(value, where)
    return value


def _bound(value: Any, where: str) -> None:
    """Raises: ConfigError for the first part that is too long or too deep; no part's text is told."""
    waiting: list[tuple[Any, int, int]] = [(value, 1, _MAX_ENTRIES)]  # (part, depth, most entries)
    while waiting:
        part, depth, most = waiting.pop()
        if isinstance(part, str):
            _bound_text(part, where)
        elif isinstance(part, (list, dict)):
            if len(part) > most:
                raise ConfigError(f"Expected at most {most:,} entries, got {len(part):,}.", where=where, mend=_MEND)
            if depth > _MAX_DEPTH:
                raise ConfigError(f"Expected at most {_MAX_DEPTH} levels.", where=where, mend=_MEND)
            if isinstance(part, list):
                waiting += [(inner, depth + 1, _MAX_ENTRIES) for inner in part]
                continue
            for key, inner in part.items():
                _bound_text(key, where)
                is_labels = (key == "labels" and isinstance(inner, list)) or key in _BY_LABEL
                waiting.append((inner, depth + 1, MAX_LABELS if is_labels else _MAX_ENTRIES))


def _bound_text(text: str, where: str) -> None:
    if len(text) > _MAX_CHARACTERS:
        what = f"Expected strings of at most {_MAX_CHARACTERS:,} characters, got {len(text):,}."
        raise ConfigError(what, where=where, mend=_MEND)
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise ConfigError("A string holds half a surrogate pair.", where=where, mend="correct the text.")
