"""How the site file says that records are read: what tells one record from another, fixed when a plan is approved.

A plan's units are parted into training and validation by a keyed hash of their ids. With `unit = "record"` a record's
id is its content as these keys read it; with a column it is that column's text in the file's encoding. Were they
changed under a plan, a record could move from one part to the other and its loss be counted in both, though the plan
states the greater of the two only. A new plan may come with other keys: shares of plans are added up, whatever a record
was in each.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from privet.common.config.site import DataSpec
from privet.common.decoding import text_codec
from privet.common.errors import Code, RefusedError
from privet.common.sequences import is_tagged, sequence_format
from privet.common.tables import table_format

Reading = Mapping[str, str]  # by key of [data]

_RECORD = "record"
_LISTS = ("jsonl", "parquet", "database")  # formats in which a cell may be a list, which the separator makes text


def reading_of(data: DataSpec) -> dict[str, str]:
    """The keys of [data] on which the ids of this data set's units hang, as they are understood.

    >>> settings = {"id": "0" * 32, "source": Path("notes.csv"), "text": "note", "label": "ward"}
    >>> reading_of(DataSpec(unit="patient", **settings))
    {'encoding': 'utf-8-sig'}
    >>> reading_of(DataSpec(unit="record", **settings))
    {'encoding': 'utf-8-sig', 'format': 'csv', 'text': 'note', 'label': 'ward'}
    """
    found = {"encoding": text_codec(data.encoding) or data.encoding}
    if data.unit != _RECORD:
        return found
    found |= {"format": _format(data), "text": data.text, "label": data.label}
    if data.query is not None:  # it says what the columns hold; its own text may hold ids and is not kept
        found["query"] = hashlib.sha256(" ".join(data.query.split()).encode()).hexdigest()
    return found | ({"label_separator": data.label_separator} if found["format"] in _LISTS else {})


def allow_reading(data: DataSpec, approved: Reading | None) -> None:
    """Let pass the keys that a plan was approved with (None: not known, from a ledger that did not keep them).

    Raises: RefusedError with REFUSED_POLICY, which names what changed.
    """
    now = reading_of(data)
    changed = [key for key in now if key in approved and approved[key] != now[key]] if approved else []
    if approved is None or not changed:  # another format, and another kind of unit (`allow_unit`), have other keys
        return
    named = {key: _named(key, approved[key], now[key]) for key in changed}
    told = ", ".join(f"{name} was {was} and is {found}" for name, was, found in named.values())
    back = " and ".join(f"{name} to {was}" for name, was, _ in named.values())
    raise RefusedError(
        Code.REFUSED_POLICY,
        f"since this plan was approved {told}: records told apart otherwise could move between training and "
        "validation, and their loss be counted in both.",
        where=", ".join(name for name, _, _ in named.values()),
        mend=f"set {back} again (a file of another form: bring it into the earlier one), or ask for a new plan.",
    )


def written(data: DataSpec) -> str:
    """As the ledger keeps it: JSON of one form only."""
    return json.dumps(reading_of(data), sort_keys=True, separators=(",", ":"))


def read_back(text: str | None) -> dict[str, str] | None:
    """What `written` gave; None where nothing was kept. Raises: ValueError."""
    if text is None:
        return None
    found = json.loads(text)
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise ValueError("Expected keys and their text.")
    return found


def _format(data: DataSpec) -> str:
    if not isinstance(data.source, Path):
        return "database"
    tagged = sequence_format(data.source, data.format) if is_tagged(data.source, data.format) else None
    return tagged or table_format(data.source, data.format) or "unknown"


def _named(key: str, was: str, found: str) -> tuple[str, str, str]:
    """The key that the operator changed, what it was and what it is."""
    if key == "format" and "database" in (was, found):
        shown = [text if text == "database" else f"{text} file" for text in (was, found)]
        return "data.source", f"a {shown[0]}", f"a {shown[1]}"
    if key == "query":
        return "data.query", f"the statement of sha256 {was[:12]}", f"that of {found[:12]}"
    return f"data.{key}", repr(was.removesuffix("-sig")), repr(found.removesuffix("-sig"))
