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

from privet.client.report import DataReport, RowNumbers, Spread
from privet.common.config import Site
from privet.common.errors import DataError
from privet.common.tables import read_columns

__all__ = ["RECORD", "UNKNOWN", "DataReport", "Records", "load_records", "read_exclude"]

RECORD = "record"  # as data.unit: each record is a unit
UNKNOWN = -1  # the label of a record whose label the plan does not have


@dataclass(frozen=True, eq=False, repr=False)
class Records:
    """A site's usable records.

    texts: [N]. labels: int64 [N], an index into the plan's labels, or UNKNOWN: the record stays and contributes zero.
    units: int64 [N], dense, 0 ≤ unit < num_units; numbered by first appearance and never sent.
    report: for the operator only.
    """

    texts: list[str]
    labels: npt.NDArray[np.int64]
    units: npt.NDArray[np.int64]
    num_units: int
    report: DataReport
    local_labels: list[str]  # [N], NFC, trimmed: as the file has them

    def relabel(self, labels: Sequence[str], label_map: Mapping[str, str]) -> "Records":
        """The same records under a plan's labels; the report stays that of the first reading.

        A function of plan and site file only: no file is read again, and no record makes it fail.
        Raises: DataError where the map does not fit the plan.
        """
        known = _known_labels(label_map, labels)
        indices = _fixed([known.get(label, UNKNOWN) for label in self.local_labels])
        return replace(self, labels=indices)

    def __repr__(self) -> str:
        return "Records(private)"


def load_records(site: Site, labels: Sequence[str] | None, *, allow_empty: bool = False) -> Records:
    """Read the site's file and group its records by unit; `labels` are the plan's, None where no plan is known yet:
    then every label is UNKNOWN until `Records.relabel`.

    A local label becomes a plan label by `data.label_map`, else as it stands; both are compared in NFC, trimmed. Unit
    ids are text, NFC, trimmed. With `unit = "record"` the id is an HMAC of text and label, so that duplicates are one
    unit. Rows without a unit, excluded rows and rows without text are dropped and counted, in this order.

    Raises: DataError for what the operator must mend; for no usable row, unless `allow_empty`.
    """
    data = site.data
    known = {} if labels is None else _known_labels(data.label_map, labels)
    if data.unit == RECORD and data.exclude is not None:
        mend = "name a unit column, or remove data.exclude and take those rows out of the file."
        raise DataError('with unit = "record" no record has an id to exclude.', where="data.exclude", mend=mend)
    excluded = read_exclude(data.exclude) if data.exclude is not None else frozenset()
    columns = [data.text, data.label] + ([] if data.unit == RECORD else [data.unit])
    table = read_columns(data.source, columns, format=data.format, encoding=data.encoding)

    kept = _Kept(bytes.fromhex(data.id), known, excluded)
    units = table.columns[data.unit] if data.unit != RECORD else [None] * len(table.rows)
    texts, local_labels = table.columns[data.text], table.columns[data.label]
    for row, text, label, unit in zip(table.rows, texts, local_labels, units, strict=True):
        kept.add(row, text or "", _plain(label or ""), None if data.unit == RECORD else _plain(unit or ""))

    records = kept.records(site, labels or (), table.unreadable, len(table.rows) + len(table.unreadable))
    if not records.texts and not allow_empty:
        report = records.report
        what = (
            f"has no usable row: of {report.rows}, {report.unreadable.count} are unreadable, {report.no_unit.count} "
            f"without a unit, {report.excluded.count} excluded, {report.no_text.count} without text."
        )
        raise DataError(what, where=str(data.source), mend="check the file, and the keys text, unit and encoding.")
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


def _known_labels(label_map: Mapping[str, str], labels: Sequence[str]) -> dict[str, int]:
    """Local label -> index of the plan's label. Raises: DataError when the map does not fit the plan."""
    plan = {_plain(label): index for index, label in reversed(list(enumerate(labels)))}
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

    def __init__(self, key: bytes, known: Mapping[str, int], excluded: frozenset[str]) -> None:
        self.key, self.known, self.excluded = key, known, excluded
        self.texts: list[str] = []
        self.labels: list[int] = []
        self.local_labels: list[str] = []
        self.members: list[int] = []
        self.units: dict[str | bytes, int] = {}
        self.contents: set[bytes] = set()
        self.matched: set[str] = set()
        self.told: dict[str, list[int]] = {
            reason: [] for reason in ("no_unit", "excluded", "no_text", "unknown_label", "duplicates")
        }

    def add(self, row: int, text: str, label: str, unit: str | None) -> None:
        """One row; `unit` is None where each record is a unit."""
        if unit == "":
            self.told["no_unit"].append(row)
            return
        if unit is not None and unit in self.excluded:
            self.told["excluded"].append(row)
            self.matched.add(unit)
            return
        if not text.strip():
            self.told["no_text"].append(row)
            return
        content = _content(self.key, text, label)
        if content in self.contents:
            self.told["duplicates"].append(row)
        self.contents.add(content)
        index = self.known.get(label, UNKNOWN)
        if index == UNKNOWN:
            self.told["unknown_label"].append(row)
        self.texts.append(text)
        self.labels.append(index)
        self.local_labels.append(label)
        self.members.append(self.units.setdefault(content if unit is None else unit, len(self.units)))

    def records(self, site: Site, labels: Sequence[str], unreadable: Sequence[int], rows: int) -> Records:
        """What was kept, and the report; `rows` counts readable and unreadable ones."""
        label_array, unit_array, num_units = _fixed(self.labels), _fixed(self.members), len(self.units)
        sizes = np.bincount(unit_array, minlength=num_units)
        counts = np.bincount(label_array[label_array != UNKNOWN], minlength=len(labels))
        told = {reason: RowNumbers.of(numbers) for reason, numbers in self.told.items()}
        report = DataReport(
            rows=rows,
            unreadable=RowNumbers.of(unreadable),
            **told,
            records=len(self.texts),
            label_counts={label: int(count) for label, count in zip(labels, counts, strict=True)},
            units=num_units,
            records_per_unit=Spread.of(sizes),
            over_max_records=float((sizes > site.data.max_records).mean()) if num_units else 0.0,
            words=Spread.of([len(text.split()) for text in self.texts]),
            characters=Spread.of([len(text) for text in self.texts]),
            exclude_ids=len(self.excluded),
            exclude_unmatched=len(self.excluded - self.matched),
            declared_units_off=not num_units / 2 <= site.budget.declared_units <= 2 * num_units,
        )
        return Records(self.texts, label_array, unit_array, num_units, report, self.local_labels)


def _content(key: bytes, text: str, label: str) -> bytes:
    """HMAC-SHA256 of a record's content, 32 bytes; the length keeps text and label apart."""
    encoded = _plain(text).encode()
    return hmac.digest(key, len(encoded).to_bytes(8, "big") + encoded + label.encode(), "sha256")


def _fixed(values: list[int]) -> npt.NDArray[np.int64]:
    array = np.array(values, dtype=np.int64)
    array.setflags(write=False)
    return array
