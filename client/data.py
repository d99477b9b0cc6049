"""A site's private records: read once, held in memory only, grouped by unit.

What the operator must mend (a missing file or column, an unknown encoding, no usable row) is a DataError before
anything connects. A single faulty row is dropped and counted and raises nothing. Rows are told by number, never by
content.
"""

import hmac
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from privet.client.database import read_query
from privet.client.records import Records, fixed, known_labels
from privet.client.report import DataReport, RowNumbers, Spread
from privet.client.split import beyond_limit, point, split_key
from privet.common.columns import plain
from privet.common.config import Site, TaskSpec
from privet.common.errors import DataError
from privet.common.sequences import is_tagged, read_sequences
from privet.common.tables import read_columns
from privet.common.tasks.base import task_of
from privet.common.tasks.tags import Tags
from privet.common.tasks.targets import UNKNOWN, Targets, per_label
from privet.common.tasks.targets import known as is_known
from privet.common.tasks.tokens import num_entities, read_tags, tag_targets

__all__ = ["RECORD", "UNKNOWN", "DataReport", "Records", "load_records", "read_exclude"]

RECORD = "record"  # as data.unit: each record is a unit


def load_records(site: Site, task: TaskSpec | Sequence[str] | None, *, allow_empty: bool = False) -> Records:
    """Read the site's file or its database's rows and group the records by unit; `task` is the plan's, None where no
    plan is known yet: then every label is UNKNOWN until `Records.relabel`. Labels alone are those of a classification.

    A local label becomes a plan label by `data.label_map`, else as it stands; both are compared in NFC, trimmed. Unit
    ids are text, NFC, trimmed. With `unit = "record"` the id is an HMAC of text and label, so that duplicates are one
    unit; with `data.person` duplicates of one person are. Rows without a unit (or person), excluded rows, rows without
    text and those beyond `data.max_per_person` are dropped and counted, in this order.

    Raises: DataError for what the operator must mend; for no usable row, unless `allow_empty`.
    """
    data = site.data
    chosen = None if task is None else task_of(task)
    known = {} if chosen is None else known_labels(data.label_map, chosen.spec.labels, outside=chosen.per_token)
    if data.unit == RECORD and data.exclude is not None:
        mend = "name a unit column, or remove data.exclude and take those rows out of the file."
        raise DataError('with unit = "record" no record has an id to exclude.', where="data.exclude", mend=mend)
    excluded = read_exclude(data.exclude) if data.exclude is not None else frozenset()
    owner = data.person if data.unit == RECORD else data.unit  # the column that says whose a row is
    columns = list(dict.fromkeys([data.text, data.label] + ([] if owner is None else [owner])))
    notes: tuple[str, ...] = ()
    if isinstance(data.source, Path) and is_tagged(data.source, data.format):
        further, form = columns[len({data.text, data.label}) :], data.format
        table = read_sequences(data.source, data.text, data.label, further, format=form, encoding=data.encoding)
    elif isinstance(data.source, Path):
        lists = {data.label: data.label_separator}
        table = read_columns(data.source, columns, format=data.format, encoding=data.encoding, lists=lists)
    else:
        table, notes = read_query(data, columns)

    secret = bytes.fromhex(data.id)
    texts = [text or "" for text in table.columns[data.text]]
    local_labels = [plain(label or "") for label in table.columns[data.label]]
    contents = [
        _content(secret, text, label) if text.strip() else None for text, label in zip(texts, local_labels, strict=True)
    ]
    owners = None if owner is None else [plain(name or "") for name in table.columns[owner]]
    over = np.zeros(len(table.rows), np.bool_)
    if data.max_per_person is not None and owners is not None:
        over = beyond_limit(secret, owners, contents, data.max_per_person)

    kept = _Kept(split_key(secret), excluded, by_record=data.unit == RECORD)
    for index, row in enumerate(table.rows):
        name = None if owners is None else owners[index]
        kept.add(row, texts[index], local_labels[index], name, contents[index], over=bool(over[index]))

    labelled: Targets = np.full(len(kept.local_labels), UNKNOWN, np.int64)
    tags: list[Tags | None] | None = None
    if chosen is not None and chosen.per_token:
        tags = read_tags(kept.texts, kept.local_labels, known)
        labelled = tag_targets(tags)
    elif chosen is not None:
        labelled = chosen.targets(kept.local_labels, known, data.label_separator)
    names = () if chosen is None else chosen.spec.labels
    records = kept.records(site, labelled, names, table.unreadable, len(table.rows) + len(table.unreadable), notes)
    if tags is not None:
        entities = dict(zip(names, num_entities(tags, len(names)).tolist(), strict=True))
        records = replace(records, tags=tags, report=replace(records.report, label_counts=entities, tagged=True))
    if not records.texts and not allow_empty:
        report = records.report
        what = (
            f"has no usable row: of {report.rows}, {report.unreadable.count} are unreadable, {report.no_unit.count} "
            f"without a unit, {report.excluded.count} excluded, {report.no_text.count} without text."
        )
        looked_at = "the file" if isinstance(data.source, Path) else "the query"
        raise DataError(what, where=data.shown, mend=f"check {looked_at}, and the keys text, unit and encoding.")
    return records


def read_exclude(path: Path) -> frozenset[str]:
    """Unit ids that are never trained on: UTF-8, one a line, NFC, trimmed.

    A line that begins with `#` is a comment; `\\#7` stands for an id that begins with `#`.

    Raises: DataError when the file cannot be read as a whole: an exclusion is never lost in silence.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            text = file.read()
        problem = "holds a NUL." if "\0" in text else ""
    except FileNotFoundError:
        problem = "no such file."
    except OSError as error:
        problem = f"cannot be read ({error.strerror})."
    except UnicodeDecodeError:
        problem = "is not UTF-8."
    if problem:
        mend = "make it a readable UTF-8 file with one unit id a line, or remove data.exclude."
        raise DataError(problem, where=str(path), mend=mend)
    ids = [plain(line) for line in text.split("\n")]
    return frozenset(
        name.removeprefix("\\") if name.startswith("\\#") else name for name in ids if name and name[0] != "#"
    )


class _Kept:
    """Takes the rows one by one; what becomes of a row depends on that row alone."""

    def __init__(self, split_key: bytes, excluded: frozenset[str], *, by_record: bool) -> None:
        self.split_key, self.excluded, self.by_record = split_key, excluded, by_record
        self.texts: list[str] = []
        self.rows: list[int] = []
        self.local_labels: list[str] = []
        self.members: list[int] = []
        self.units: dict[str | bytes | tuple[str, bytes], int] = {}
        self.points: list[int] = []
        self.contents: set[bytes] = set()
        self.matched: set[str] = set()
        self.told: dict[str, list[int]] = {
            reason: [] for reason in ("no_unit", "excluded", "no_text", "over_person", "duplicates")
        }

    def add(self, row: int, text: str, label: str, owner: str | None, content: bytes | None, *, over: bool) -> None:
        """One row. owner: the unit's id; with a record as the unit, whose it is, or None where the file does not say.
        content: None where there is no text. over: beyond what is kept of one person."""
        if owner == "":
            self.told["no_unit"].append(row)
            return
        if owner is not None and owner in self.excluded:
            self.told["excluded"].append(row)
            self.matched.add(owner)
            return
        if content is None:
            self.told["no_text"].append(row)
            return
        if over:
            self.told["over_person"].append(row)
            return
        if content in self.contents:
            self.told["duplicates"].append(row)
        self.contents.add(content)
        self.rows.append(row)
        self.texts.append(text)
        self.local_labels.append(label)
        self.members.append(self._unit(owner, content))

    def _unit(self, owner: str | None, content: bytes) -> int:
        """The number of the row's unit; a new one gets its place in the split, all records of a person the same."""
        unit: str | bytes | tuple[str, bytes]
        if owner is None:
            unit, placed = content, content
        else:
            unit, placed = (owner, content) if self.by_record else owner, owner.encode("utf-8", "surrogatepass")
        if unit not in self.units:
            self.units[unit] = len(self.units)
            self.points.append(point(self.split_key, placed))
        return self.units[unit]

    def records(
        self,
        site: Site,
        targets: Targets,
        labels: Sequence[str],
        unreadable: Sequence[int],
        rows: int,
        notes: tuple[str, ...],
    ) -> Records:
        """What was kept, with its targets, and the report; `rows` counts readable and unreadable ones, `notes` warn of
        the source."""
        unit_array, num_units = fixed(np.array(self.members, np.int64)), len(self.units)
        sizes = np.bincount(unit_array, minlength=num_units)
        counts = per_label(targets, len(labels))
        unknown = np.array(self.rows, np.int64)[~is_known(targets)].tolist()
        told = {reason: RowNumbers.of(numbers) for reason, numbers in (self.told | {"unknown_label": unknown}).items()}
        report = DataReport(
            rows=rows,
            unreadable=RowNumbers.of(unreadable),
            **told,
            tagged=False,  # until entities are counted
            records=len(self.texts),
            label_counts={label: int(count) for label, count in zip(labels, counts, strict=True)},
            units=num_units,
            records_per_unit=Spread.of(sizes),
            over_max_records=float((sizes > site.data.max_records).mean()) if num_units else 0.0,
            words=Spread.of([len(text.split()) for text in self.texts]),
            characters=Spread.of([len(text) for text in self.texts]),
            exclude_ids=len(self.excluded),
            exclude_unmatched=len(self.excluded - self.matched),
            source_warnings=notes,
            declared_units_off=not num_units / 2 <= site.budget.declared_units <= 2 * num_units,
        )
        points = np.array(self.points, dtype=np.uint64)
        points.setflags(write=False)
        return Records(self.texts, fixed(targets), unit_array, num_units, report, self.local_labels, points)


def _content(key: bytes, text: str, label: str) -> bytes:
    """HMAC-SHA256 of a record's content, 32 bytes; the length keeps text and label apart."""
    encoded = plain(text).encode()
    return hmac.digest(key, len(encoded).to_bytes(8, "big") + encoded + label.encode(), "sha256")
