"""From a labelled file and an adapter to its evaluation: rows are read and predicted piece by piece."""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from privet.common.config import Plan
from privet.common.evaluating.asked import RECORD, Asked, Evaluation, LeftOut, Names, Skipped, nothing_judged, plain
from privet.common.evaluating.groups import compare
from privet.common.evaluating.kinds import evaluator_of
from privet.common.evaluating.reading import Value, read_rows
from privet.common.evaluating.scores import scores

_ROWS_AT_ONCE = 4096
_CHARACTERS_AT_ONCE = 16_000_000

__all__ = ["Asked", "Evaluation", "Model", "Skipped", "evaluate"]


class Model(Protocol):
    """What predicts: `common.prediction.Predictor`."""

    @property
    def plan(self) -> Plan: ...
    def predict(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Logits [N, K], row by row as `texts`."""


def evaluate(model: Model, asked: Asked, progress: Callable[[int], None] = lambda _: None) -> Evaluation:
    """progress: told the number of records after each piece. Memory: some numbers a record, and one piece of texts.

    Raises: DataError, ConfigError, ModelError.
    """
    plan = model.plan
    evaluator = evaluator_of(plan.task, asked.separator)
    known = asked.places(plan.task.labels)
    left, units, groups = LeftOut(), Names(), Names()
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
        unit = "" if asked.unit == RECORD else plain(cells.get(asked.unit))
        if values is None:
            left.unreadable.add(number)
        elif not isinstance(text, str) or not text.strip():
            left.no_text.add(number)
        elif asked.unit != RECORD and not unit:
            left.no_unit.add(number)
        elif named is None:
            left.no_label.add(number)
        elif strange := [label for label in map(plain, named) if label not in known]:
            left.unknown.add(number)
            left.unknown_labels.update(strange)
        else:
            labels = tuple(dict.fromkeys(known[plain(label)] for label in named))
            texts.append(text)
            waiting.append((number, labels, unit, "" if asked.by is None else plain(cells.get(asked.by))))
            characters += len(text)
            if len(texts) == _ROWS_AT_ONCE or characters >= _CHARACTERS_AT_ONCE:
                flush()
    flush()
    if not num_records:
        raise nothing_judged(asked, plan, left)
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
