"""Named entities: a file of tagged texts against what an adapter says of its words. Counts are seqeval's: an entity is
found where its type, first and last word are all right."""

import unicodedata
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from privet.common.config import Plan
from privet.common.errors import DataError
from privet.common.evaluating.asked import RECORD, Asked, Evaluation, LeftOut, Names, nothing_judged, plain
from privet.common.evaluating.groups import compare
from privet.common.evaluating.intervals import Integers
from privet.common.evaluating.scores import entity_scores
from privet.common.evaluating.tally import Tally
from privet.common.sequences import read_tagged, types_of, words_of
from privet.common.tasks.entities import entity_counts
from privet.common.tasks.tags import Tags
from privet.common.tasks.tokens import read_tags

__all__ = ["SCORE_NAME", "Tagger", "evaluate_tagged"]

SCORE_NAME = "micro F1"  # of entities, over all types
_ROWS_AT_ONCE = 512


class Tagger(Protocol):
    """What says tags: `common.prediction.Predictor`."""

    @property
    def plan(self) -> Plan: ...
    def tags(self, texts: Sequence[str], words: Sequence[int]) -> list[Tags | None]:
        """Of each text, words joined by single spaces, as many tags as it has words; None where it has none."""


def evaluate_tagged(model: Tagger, asked: Asked, progress: Callable[[int], None] = lambda _: None) -> Evaluation:
    """As `judge.evaluate`, of a file that `common.sequences.read_tagged` reads, which is held whole.

    Raises: DataError, ConfigError, ModelError.
    """
    plan = model.plan
    labels = plan.task.labels
    known = types_of(asked.places(labels, outside=True))
    table = read_tagged(asked.source, asked.text, asked.label, asked.further, encoding=asked.encoding)
    left, units, groups = LeftOut(), Names(), Names()
    for number in table.unreadable:
        left.unreadable.add(number)
    unit_of: list[int] = []
    group_of: list[int] = []
    counts: list[Integers] = []
    waiting: list[tuple[int, str, Tags, str, str]] = []  # row, text, tags, unit, group

    def flush() -> None:
        said = model.tags([row[1] for row in waiting], [len(row[2]) for row in waiting])
        for (number, _, truth, unit, group), given in zip(waiting, said, strict=True):
            if given is None:
                left.unfit.add(number)
                continue
            unit_of.append(len(unit_of) if asked.unit == RECORD else units.place(unit))
            group_of.append(groups.place(group) if group else -1)
            counts.append(entity_counts(truth.tolist(), given.tolist(), len(labels)))
        waiting.clear()
        progress(len(counts))

    columns = table.columns
    for place, number in enumerate(table.rows):
        text, cell = columns[asked.text][place], columns[asked.label][place]
        cell = unicodedata.normalize("NFC", cell or "")
        unit = "" if asked.unit == RECORD else plain(columns[asked.unit][place])
        strange = [kind for kind in map(_type, words_of(cell)) if kind not in known and kind]
        if not text or not text.strip():
            left.no_text.add(number)
        elif asked.unit != RECORD and not unit:
            left.no_unit.add(number)
        elif not cell:
            left.no_label.add(number)
        elif strange:
            left.unknown.add(number)
            left.unknown_labels.update(set(strange))
        elif (tags := read_tags([text], [cell], known)[0]) is None:
            left.unreadable.add(number)
        else:
            waiting.append((number, text, tags, unit, "" if asked.by is None else plain(columns[asked.by][place])))
            if len(waiting) == _ROWS_AT_ONCE:
                flush()
    if waiting:
        flush()
    if not counts:
        raise nothing_judged(asked, plan, left)
    tally = _tally(np.array(counts), np.array(unit_of, np.int64))
    if not tally.actual.sum():
        raise DataError(
            f"none of its {len(counts):,} texts has an entity.",
            where=str(asked.source),
            mend="give a file with some, name the tags' column by --label, or map its types by --label-map.",
        )
    comparison = None
    if asked.by is not None:
        same = np.zeros(len(counts), np.int64)
        placed = np.array(group_of, np.int64)
        arguments: Any = (tally, labels, same, asked.confidence, asked.seed)
        comparison = compare(asked.by, groups.names, placed, *arguments, entities=True)
    return Evaluation(
        asked=asked,
        plan=plan,
        num_records=len(counts),
        num_units=tally.num_units,
        accuracy_name=SCORE_NAME,
        scores=entity_scores(tally, labels, asked.confidence, asked.seed),
        calibration=None,
        label_errors={},
        confusion=None,
        comparison=comparison,
        left=left,
    )


def _type(tag: str) -> str:
    """
    >>> _type("B-Disease"), _type("O")
    ('Disease', '')
    """
    return tag.partition("-")[2]


def _tally(counts: Integers, units: Integers) -> Tally:
    """counts: [N, 3 L], TP, FP and FN by type."""
    from scipy import sparse

    hits, wrong, missed = np.moveaxis(counts.reshape(len(counts), -1, 3), 2, 0).astype(np.float64)
    right = ((wrong + missed).sum(1) == 0).astype(np.float64)
    rightly, actual, said = (sparse.csr_array(part) for part in (hits, hits + missed, hits + wrong))
    return Tally(rightly, actual, said, right, units)
