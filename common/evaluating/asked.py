"""What an evaluation is asked for, and what it finds."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from privet.common import columns
from privet.common.config import Plan
from privet.common.errors import ConfigError, DataError, ModelError
from privet.common.evaluating.calibration import Calibration
from privet.common.evaluating.groups import Comparison
from privet.common.evaluating.reading import Value, read_rows
from privet.common.evaluating.scores import Scores

__all__ = ["RECORD", "Asked", "Evaluation", "LeftOut", "Names", "Skipped", "nothing_judged", "plain"]

_MAX_NUMBERS = 20  # row numbers told of one kind
RECORD = "record"  # in place of a unit's column


@dataclass(frozen=True)
class Asked:
    """What to read, and how to judge it."""

    source: Path
    text: str = "text"
    label: str = "label"
    encoding: str = "utf-8"
    label_map: Mapping[str, str] = field(default_factory=dict)
    unit: str = RECORD  # a column: its records are of one person, say
    by: str | None = None  # a column of groups
    confidence: float = 0.95
    seed: int = 0
    separator: str = ";"  # between several labels of one cell, where the adapter gives several

    def __post_init__(self) -> None:
        if not 0.5 <= self.confidence < 1:
            raise ConfigError("Expected at least 0.5 and less than 1.", where="--confidence", mend="give 0.95, say.")

    @property
    def columns(self) -> list[str]:
        """Those that are read."""
        return list(dict.fromkeys([self.text, self.label, *self.further]))

    @property
    def further(self) -> list[str]:
        """Beside text and label."""
        return [*([self.unit] if self.unit != RECORD else []), *([] if self.by is None else [self.by])]

    def check_source(self) -> None:
        """Read the file's beginning. Raises: DataError where it is not there, is empty, or lacks a column."""
        next(read_rows(self.source, self.columns, encoding=self.encoding, lists=self.label), None)

    def places(self, labels: Sequence[str], *, outside: bool = False) -> dict[str, int]:
        """Of the adapter's labels, by the names that the file gives them, NFC and trimmed. outside: a type of entities
        that is mapped to "O" counts as none: -1.

        Raises: ConfigError where the map names a label that the adapter lacks.
        """
        plan = {plain(label): place for place, label in enumerate(labels)}
        named = plan | ({"O": -1} if outside else {})
        for local, label in self.label_map.items():
            if plain(label) not in named:
                shown = ", ".join(repr(name) for name in labels[:20]) + (", …" if len(labels) > 20 else "")
                what = f"{local!r} is mapped to {label!r}, which is none of the adapter's labels."
                raise ConfigError(what, where="--label-map", mend=f"they are {shown}.")
        return plan | {plain(local): named[plain(label)] for local, label in self.label_map.items()}


@dataclass
class Skipped:
    """Rows of one kind that were left out: how many, and the first of their numbers."""

    num: int = 0
    rows: list[int] = field(default_factory=list)

    def add(self, row: int) -> None:
        self.num += 1
        if len(self.rows) < _MAX_NUMBERS:
            self.rows.append(row)


@dataclass(frozen=True)
class LeftOut:
    """What took no part. unknown_labels: label -> records; the most frequent ones."""

    unreadable: Skipped = field(default_factory=Skipped)
    no_text: Skipped = field(default_factory=Skipped)
    no_label: Skipped = field(default_factory=Skipped)
    no_unit: Skipped = field(default_factory=Skipped)
    unknown: Skipped = field(default_factory=Skipped)
    unfit: Skipped = field(default_factory=Skipped)  # logits that are not finite
    unknown_labels: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Evaluation:
    """All that was found out."""

    asked: Asked
    plan: Plan
    num_records: int
    num_units: int
    accuracy_name: str
    scores: Scores
    calibration: Calibration | None  # None where entities are found: they have no probability of their own
    label_errors: dict[str, float]  # expected calibration errors
    confusion: list[list[int]] | None
    comparison: Comparison | None
    left: LeftOut

    @property
    def labels(self) -> tuple[str, ...]:
        return self.plan.task.labels


class Names:
    """Names by the order in which they come."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}

    @property
    def names(self) -> list[str]:
        return list(self._places)

    def place(self, name: str) -> int:
        return self._places.setdefault(name, len(self._places))


def plain(value: Value) -> str:
    """A cell in the form in which labels, units and groups are compared; empty where there is none."""
    return columns.plain(value) if isinstance(value, str) else ""


def nothing_judged(asked: Asked, plan: Plan, left: LeftOut) -> DataError | ModelError:
    """Why no record could be judged."""
    where = str(asked.source)
    if left.unfit.num:
        return ModelError("gives no finite number for any text.", where=plan.name, mend="train it anew.")
    if left.unknown.num:
        shown = ", ".join(repr(name) for name, _ in left.unknown_labels.most_common(5))
        expected = ", ".join(repr(name) for name in plan.task.labels[:5])
        return DataError(
            f"none of its rows has one of the adapter's labels ({expected}, …); it has {shown}.",
            where=where,
            mend="name the labels' column by --label, or map its labels by --label-map.",
        )
    return DataError(
        f"has no row with text and label ({left.no_text.num:,} without text, {left.no_label.num:,} without label, "
        f"{left.no_unit.num:,} without unit, {left.unreadable.num:,} unreadable).",
        where=where,
        mend="correct --text, --label, --unit or --encoding.",
    )
