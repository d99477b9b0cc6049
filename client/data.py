"""A site's private records: read once, held in memory only, grouped by unit.

What the operator must mend (a missing file or column, an unknown encoding, no usable row) is a DataError before
anything connects. A single faulty row is dropped and counted and raises nothing. Rows are told by number, never by
content.
"""

import hmac
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from privet.client.database import read_query
from privet.client.report import DataReport, RowNumbers, Spread
from privet.client.split import beyond_limit, point, split_key, taken, trains
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


@dataclass(frozen=True, eq=False, repr=False)
class Records:
    """A site's usable records.

    texts: [N]. labels: the targets of the plan's task (`common.tasks.targets`), or UNKNOWN: the record stays and
    contributes zero.
    units: int64 [N], dense, 0 ≤ unit < num_units; numbered by first appearance and never sent.
    report: for the operator only; of the whole data set.
    """

    texts: list[str]
    labels: Targets
    units: npt.NDArray[np.int64]
    num_units: int
    report: DataReport
    local_labels: list[str]  # [N], NFC, trimmed: as the file has them
    points: npt.NDArray[np.uint64]  # [num_units], each unit's place in [0, 1) by a keyed hash of its id
    tags: list[Tags | None] | None = None  # [N], of the words, where the plan's task labels tokens

    def split(self, train_fraction: float) -> tuple["Records", "Records"]:
        """The records of the units that train, and those of the validation units; units are numbered anew in each.

        Where a unit goes is a function of its id, the data set's id and the fraction alone. With `data.person` all
        units of one person go together. At 1 every unit trains.
        """
        chosen = trains(self.points, train_fraction)
        return self._of(chosen), self._of(~chosen)

    def _of(self, chosen: npt.NDArray[np.bool_]) -> "Records":
        """The records of the chosen units (bool [num_units]), in their order."""
        kept, units = taken(self.units, chosen)
        return replace(
            self,
            texts=[self.texts[index] for index in kept],
            labels=_fixed(self.labels[kept]),
            units=_fixed(units),
            num_units=int(chosen.sum()),
            local_labels=[self.local_labels[index] for index in kept],
            points=self.points[chosen],
            tags=None if self.tags is None else [self.tags[index] for index in kept],
        )

    def relabel(self, task: TaskSpec | Sequence[str], label_map: Mapping[str, str], separator: str = ";") -> "Records":
        """The same records under a plan's task; the report stays that of the first reading. Labels alone are those of
        a classification; separator: between several labels in one cell.

        A function of plan and site file only: no file is read again, and no record makes it fail.
        Raises: DataError where the map does not fit the plan.
        """
        found = task_of(task)
        known = _known_labels(label_map, found.spec.labels, outside=found.per_token)
        if found.per_token:
            tags = read_tags(self.texts, self.local_labels, known)
            return replace(self, labels=_fixed(tag_targets(tags)), tags=tags)
        return replace(self, tags=None, labels=_fixed(found.targets(self.local_labels, known, separator)))

    def __repr__(self) -> str:
        return "Records(private)"


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
    known = {} if chosen is None else _known_labels(data.label_map, chosen.spec.labels, outside=chosen.per_token)
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
    local_labels = [_plain(label or "") for label in table.columns[data.label]]
    contents = [
        _content(secret, text, label) if text.strip() else None for text, label in zip(texts, local_labels, strict=True)
    ]
    owners = None if owner is None else [_plain(name or "") for name in table.columns[owner]]
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
    ids = [_plain(line) for line in text.split("\n")]
    return frozenset(
        name.removeprefix("\\") if name.startswith("\\#") else name for name in ids if name and name[0] != "#"
    )


def _plain(text: str) -> str:
    """The form in which unit ids and labels are compared."""
    return unicodedata.normalize("NFC", text).strip()


def _known_labels(label_map: Mapping[str, str], labels: Sequence[str], *, outside: bool = False) -> dict[str, int]:
    """Local label -> index of the plan's label. outside: "O" is one too, -1. Raises: DataError when the map does not
    fit the plan."""
    plan = {_plain(label): index for index, label in reversed(list(enumerate(labels)))}
    plan |= {"O": -1} if outside else {}
    absent = sorted({target for target in label_map.values() if _plain(target) not in plan})
    if absent:
        shown = ", ".join(repr(label) for label in labels[:20]) + (", …" if len(labels) > 20 else "")
        what = f"names {', '.join(map(repr, absent[:5]))}, which the plan does not have."
        raise DataError(what, where="data.label_map", mend=f"the plan's labels are {shown}.")
    if len({_plain(local) for local in label_map}) < len(label_map):
        raise DataError("names one label twice.", where="data.label_map", mend="keep one of the entries.")
    return plan | {_plain(local): plan[_plain(target)] for local, target in label_map.items()}


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
        unit_array, num_units = _fixed(np.array(self.members, np.int64)), len(self.units)
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
        return Records(self.texts, _fixed(targets), unit_array, num_units, report, self.local_labels, points)


def _content(key: bytes, text: str, label: str) -> bytes:
    """HMAC-SHA256 of a record's content, 32 bytes; the length keeps text and label apart."""
    encoded = _plain(text).encode()
    return hmac.digest(key, len(encoded).to_bytes(8, "big") + encoded + label.encode(), "sha256")


def _fixed(values: Targets) -> Targets:
    array = np.array(values)
    array.setflags(write=False)
    return array
