"""From a labelled file and an adapter to its evaluation: rows are read and predicted piece by piece."""

import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from privet.common.config import Plan
from privet.common.errors import ConfigError, DataError, ModelError
from privet.common.evaluating.calibration import Calibration
from privet.common.evaluating.groups import Comparison, compare
from privet.common.evaluating.kinds import evaluator_of
from privet.common.evaluating.reading import Value, read_rows
from privet.common.evaluating.scores import Scores, scores

_ROWS_AT_ONCE = 4096
_CHARACTERS_AT_ONCE = 16_000_000
_MAX_NUMBERS = 20  # row numbers told of one kind
_MAX_NAMES = 50  # labels told that the plan does not have
RECORD = "record"  # in place of a unit's column


class Model(Protocol):
    """What predicts: `common.prediction.Predictor`."""

    @property
    def plan(self) -> Plan: ...
    def predict(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Logits [N, K], row by row as `texts`."""


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
        further = [self.unit] if self.unit != RECORD else []
        return list(dict.fromkeys([self.text, self.label, *further, *([] if self.by is None else [self.by])]))

    def check_source(self) -> None:
        """Read the file's beginning. Raises: DataError where it is not there, is empty, or lacks a column."""
        next(read_rows(self.source, self.columns, encoding=self.encoding, lists=self.label), None)

    def places(self, labels: Sequence[str]) -> dict[str, int]:
        """Of the adapter's labels, by the names that the file gives them, NFC and trimmed.

        Raises: ConfigError where the map names a label that the adapter lacks.
        """
        plan = {_plain(label): place for place, label in enumerate(labels)}
        for local, label in self.label_map.items():
            if _plain(label) not in plan:
                shown = ", ".join(repr(name) for name in labels[:20]) + (", …" if len(labels) > 20 else "")
                what = f"{local!r} is mapped to {label!r}, which is none of the adapter's labels."
                raise ConfigError(what, where="--label-map", mend=f"they are {shown}.")
        return plan | {_plain(local): plan[_plain(label)] for local, label in self.label_map.items()}


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
class Left:
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
    calibration: Calibration
    label_errors: dict[str, float]  # expected calibration errors
    confusion: list[list[int]] | None
    comparison: Comparison | None
    left: Left

    @property
    def labels(self) -> tuple[str, ...]:
        return self.plan.task.labels


def evaluate(model: Model, asked: Asked, progress: Callable[[int], None] = lambda _: None) -> Evaluation:
    """progress: told the number of records after each piece. Memory: some numbers a record, and one piece of texts.

    Raises: DataError, ConfigError, ModelError.
    """
    plan = model.plan
    evaluator = evaluator_of(plan.task, asked.separator)
    known = asked.places(plan.task.labels)
    left, units, groups = Left(), _Names(), _Names()
    unit_of: list[int] = []
    group_of: list[int] = []
    texts: list[str] = []
    waiting: list[tuple[int, tuple[int, ...], str, str]] = []  # row, labels, unit, group
    characters = num_records = 0

    def flush() -> None:
        nonlocal characters, num_records
        if not texts:
            return
        logits = model.predict(texts)
        fit = np.asarray(np.isfinite(logits).all(axis=1))
        for (row, _, unit, group), sound in zip(waiting, fit.tolist(), strict=True):
            if not sound:
                left.unfit.add(row)
                continue
            unit_of.append(num_records if asked.unit == RECORD else units.place(unit))
            group_of.append(groups.place(group) if group else -1)
            num_records += 1
        evaluator.add(
            logits[fit], [labels for (_, labels, _, _), sound in zip(waiting, fit.tolist(), strict=True) if sound]
        )
        texts.clear()
        waiting.clear()
        characters = 0
        progress(num_records)

    columns = asked.columns
    lists = asked.label if evaluator.takes_lists else None
    for number, values in read_rows(asked.source, columns, encoding=asked.encoding, lists=lists):
        cells: dict[str, Value] = {} if values is None else dict(zip(columns, values, strict=True))
        text = cells.get(asked.text)
        named = evaluator.labels_of(cells.get(asked.label))
        unit = "" if asked.unit == RECORD else _plain(cells.get(asked.unit))
        if values is None:
            left.unreadable.add(number)
        elif not isinstance(text, str) or not text.strip():
            left.no_text.add(number)
        elif asked.unit != RECORD and not unit:
            left.no_unit.add(number)
        elif named is None:
            left.no_label.add(number)
        elif strange := [label for label in map(_plain, named) if label not in known]:
            left.unknown.add(number)
            left.unknown_labels.update(strange)
        else:
            labels = tuple(dict.fromkeys(known[_plain(label)] for label in named))
            texts.append(text)
            waiting.append((number, labels, unit, "" if asked.by is None else _plain(cells.get(asked.by))))
            characters += len(text)
            if len(texts) == _ROWS_AT_ONCE or characters >= _CHARACTERS_AT_ONCE:
                flush()
    flush()
    if not num_records:
        raise _nothing(asked, plan, left)
    dense = np.array(unit_of, np.int64)
    tally = evaluator.tally(dense)
    labels_, confidence, seed = plan.task.labels, asked.confidence, asked.seed
    comparison = None
    if asked.by is not None:
        placed = np.array(group_of, np.int64)
        comparison = compare(asked.by, groups.names, placed, tally, labels_, evaluator.strata(), confidence, seed)
    return Evaluation(
        asked=asked,
        plan=plan,
        num_records=num_records,
        num_units=tally.num_units,
        accuracy_name=evaluator.accuracy_name,
        scores=scores(tally, labels_, confidence, seed),
        calibration=evaluator.calibration(dense, confidence, seed),
        label_errors=evaluator.label_errors(),
        confusion=evaluator.confusion(),
        comparison=comparison,
        left=left,
    )


class _Names:
    """Names by the order in which they come."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}

    @property
    def names(self) -> list[str]:
        return list(self._places)

    def place(self, name: str) -> int:
        return self._places.setdefault(name, len(self._places))


def _plain(value: Value) -> str:
    """The form in which labels, units and groups are compared."""
    return unicodedata.normalize("NFC", value).strip() if isinstance(value, str) else ""


def _nothing(asked: Asked, plan: Plan, left: Left) -> DataError | ModelError:
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
