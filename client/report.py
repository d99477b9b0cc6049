"""The data report of `privet check`: counts and row numbers of a site's file, in words, as tables and as JSON.

Every number here is un-noised and meant for the operator's screen alone. No text, unit id or local label is in it.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from privet.common.config import Site

if TYPE_CHECKING:
    from rich.console import Group

    from privet.client.preflight.content import Content

Tokens = npt.NDArray[np.int64]
Section = tuple[str, list[tuple[str, str]]]  # a title; names and values
MAX_LABELS = 20  # shown one by one


@dataclass(frozen=True)
class RowNumbers:
    """Some rows of the file: how many, and the numbers of the first 20."""

    count: int
    first: tuple[int, ...]

    @classmethod
    def of(cls, rows: Sequence[int]) -> "RowNumbers":
        return cls(len(rows), tuple(rows[:20]))

    def __str__(self) -> str:
        if not self.count:
            return "0"
        more = ", …" if self.count > len(self.first) else ""
        return f"{self.count:,} ({'rows' if self.count > 1 else 'row'} {', '.join(map(str, self.first))}{more})"


@dataclass(frozen=True)
class Spread:
    """Quantiles and mean of some counts; all zero where there are none."""

    minimum: float
    p5: float
    median: float
    mean: float
    p95: float
    maximum: float

    @classmethod
    def of(cls, values: npt.ArrayLike) -> "Spread":
        array = np.asarray(values, dtype=np.float64)
        if array.size == 0:
            return cls(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
        low, p5, median, p95, high = (float(q) for q in np.quantile(array, [0, 0.05, 0.5, 0.95, 1]))
        return cls(low, p5, median, float(array.mean()), p95, high)

    def __str__(self) -> str:
        names = ("min", "5 %", "median", "mean", "95 %", "max")
        values = (self.minimum, self.p5, self.median, self.mean, self.p95, self.maximum)
        return ", ".join(f"{name} {_short(value)}" for name, value in zip(names, values, strict=True))


@dataclass(frozen=True, kw_only=True)
class DataReport:
    """What a data file or a query holds. Rows are numbered as a person would: by the line on which they begin."""

    rows: int  # readable and unreadable
    unreadable: RowNumbers
    no_unit: RowNumbers
    excluded: RowNumbers
    no_text: RowNumbers
    over_person: RowNumbers = RowNumbers(0, ())  # left out: beyond data.max_per_person of one person
    records: int  # kept
    unknown_label: RowNumbers  # kept, contributing zero
    duplicates: RowNumbers  # kept; text and label stand in an earlier row too
    label_counts: dict[str, int]  # by plan label
    units: int
    records_per_unit: Spread
    over_max_records: float  # share of the units with more than data.max_records records
    words: Spread  # of one text, between white space
    characters: Spread  # of one text
    exclude_ids: int  # in the exclude file
    exclude_unmatched: int  # of these, in no row
    declared_units_off: bool  # by more than a factor of two
    tagged: bool = False  # texts of which every word has a tag: label_counts are of entities
    source_warnings: tuple[str, ...] = ()  # of a database: how it is reached

    @property
    def readable(self) -> int:
        return self.rows - self.unreadable.count

    @property
    def one_class(self) -> bool:
        """Whether fewer than two labels of the plan occur."""
        return not self.tagged and sum(count > 0 for count in self.label_counts.values()) < 2


def warnings(report: DataReport) -> list[str]:
    """What the operator should look at before taking part, one sentence or two each."""
    found = list(report.source_warnings)
    if not report.records:
        found.append("No row is usable.")
    elif not report.label_counts:
        pass  # no plan yet: nothing is known or unknown
    elif report.tagged and not any(report.label_counts.values()):
        found.append("No text has an entity of the plan's types. Check data.label and data.label_map.")
    elif not any(report.label_counts.values()):
        found.append("No record has a label of the plan: every record would contribute zero. Check data.label_map.")
    elif report.one_class:
        found.append("All known labels are one and the same: such a site teaches the adapter one answer only.")
    if report.unreadable.count:
        found.append("Some rows are unreadable and left out. Check data.encoding, quotes and the number of fields.")
    if report.no_unit.count:
        found.append("Some rows name no unit and are left out.")
    if report.unknown_label.count and report.tagged:
        found.append(
            "Some texts have a tag that is none, or of a type that the plan does not have, and contribute zero. Map "
            'such types in data.label_map: to a label of the plan, or to "O" where their entities do not count.'
        )
    elif report.unknown_label.count and report.label_counts:
        found.append("Some records have a label that the plan does not have and contribute zero. Check data.label_map.")
    if report.exclude_unmatched:
        number = f"{report.exclude_unmatched:,} of {report.exclude_ids:,}"
        found.append(f"{number} ids of the exclude file stand in no row. Check their spelling.")
    if report.units == 1 and report.records > 1:
        found.append("All records belong to one unit. Check data.unit.")
    if report.records and report.declared_units_off:
        found.append(
            "budget.declared_units is off by more than a factor of two. State it again from public knowledge, not from "
            "a count of this file: such a count would tell something about the people in it."
        )
    return found


def _short(value: float) -> str:
    return f"{value:,.0f}" if value.is_integer() else f"{value:,.1f}"


def _printable(label: str) -> str:
    """A plan comes from the server: what would steer a terminal is replaced."""
    return "".join(character if character.isprintable() else "\ufffd" for character in label)


def _bucket_counts(token_lengths: Tokens, buckets: Sequence[int]) -> dict[str, int]:
    """Texts by the padded length that holds them; those longer than the last come last."""
    counts = np.bincount(np.searchsorted(np.asarray(buckets), token_lengths), minlength=len(buckets) + 1)
    names = [f"up to {bucket}" for bucket in buckets] + ([f"over {buckets[-1]}"] if buckets else ["any"])
    return {name: int(count) for name, count in zip(names, counts, strict=True)}


def _sections(
    report: DataReport, token_lengths: Tokens | None, buckets: Sequence[int], content: "Content | None"
) -> list[Section]:
    ordered = sorted(report.label_counts.items(), key=lambda item: -item[1])
    labels = [(_printable(label), f"{count:,}") for label, count in ordered[:MAX_LABELS]]
    if len(ordered) > MAX_LABELS:
        rest = ordered[MAX_LABELS:]
        labels.append((f"{len(rest):,} further labels", f"{sum(count for _, count in rest):,}"))
    sections: list[Section] = [
        (
            "Rows",
            [
                ("rows", f"{report.rows:,}"),
                ("readable", f"{report.readable:,}"),
                ("unreadable, left out", str(report.unreadable)),
                ("without a unit, left out", str(report.no_unit)),
                ("excluded", str(report.excluded)),
                ("without text, left out", str(report.no_text)),
                *([("beyond max_per_person, left out", str(report.over_person))] if report.over_person.count else []),
                ("records kept", f"{report.records:,}"),
                ("duplicates among them", str(report.duplicates)),
            ],
        ),
        (
            "Units",
            [
                ("units", f"{report.units:,}"),
                ("records per unit", str(report.records_per_unit)),
                ("units with more than max_records", f"{report.over_max_records:.1%}"),
            ],
        ),
        *(
            [
                (
                    "Entities" if report.tagged else "Labels",
                    [*labels, ("unknown, contributing zero", str(report.unknown_label))],
                )
            ]
            if ordered
            else []
        ),
        ("Texts", [("words", str(report.words)), ("characters", str(report.characters))]),
    ]
    if token_lengths is not None:
        counts = _bucket_counts(token_lengths, buckets)
        sections.append(
            ("Tokens", [("tokens", str(Spread.of(token_lengths)))] + [(k, f"{v:,}") for k, v in counts.items()])
        )
    if content is not None:
        from privet.client.preflight.content import facts

        sections += facts(content)
    return sections


def _all_warnings(report: DataReport, content: "Content | None") -> list[str]:
    if content is None:
        return warnings(report)
    from privet.client.preflight.content import warnings as of_content

    return warnings(report) + of_content(content)


def lines(
    report: DataReport,
    site: Site,
    *,
    token_lengths: Tokens | None = None,
    buckets: Sequence[int] = (),
    content: "Content | None" = None,
) -> list[str]:
    """Plain text, one fact a line. token_lengths: int64 [N], tokens of each text; buckets: the plan's, ascending;
    content: what the texts suggest."""
    kind = "Source: " if isinstance(site.data.source, str) else ""
    found = [f'{kind}{site.data.shown} (unit = "{site.data.unit}", max_records = {site.data.max_records})']
    if isinstance(site.data.source, str):
        found.append(
            "Rows are numbered by their place in the query's result: without ORDER BY another reading may number them "
            "otherwise."
        )
    for title, facts in _sections(report, token_lengths, buckets, content):
        found += [f"{title}: {name}: {value}" for name, value in facts]
    return found + [f"Warning: {text}" for text in _all_warnings(report, content)]


def render(
    report: DataReport,
    *,
    token_lengths: Tokens | None = None,
    buckets: Sequence[int] = (),
    content: "Content | None" = None,
) -> "Group":
    """The same as tables for a terminal; arguments as for `lines`."""
    from rich.console import Group, RenderableType
    from rich.table import Table
    from rich.text import Text

    parts: list[RenderableType] = []
    for title, facts in _sections(report, token_lengths, buckets, content):
        table = Table(title=title, title_justify="left", show_header=False)
        for name, value in facts:
            table.add_row(Text(name), Text(value))
        parts.append(table)
    return Group(*parts, *(Text(f"Warning: {text}", style="yellow") for text in _all_warnings(report, content)))


def to_json(
    report: DataReport,
    *,
    token_lengths: Tokens | None = None,
    buckets: Sequence[int] = (),
    content: "Content | None" = None,
) -> dict[str, Any]:
    """The same for `--json`; arguments as for `lines`. For this machine only: nothing of it may be sent."""
    document = asdict(report) | {
        "readable": report.readable,
        "one_class": report.one_class,
        "warnings": _all_warnings(report, content),
    }
    if content is not None:
        document["content"] = asdict(content)
    if token_lengths is not None:
        document["tokens"] = asdict(Spread.of(token_lengths)) | {"buckets": _bucket_counts(token_lengths, buckets)}
    return document
