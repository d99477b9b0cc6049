"""What a classifier of tokens says of texts: tags word by word, and counts of entities; a text's are the same to the
last bit whoever else is there."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from privet.common.adapter import Floats
from privet.common.batch import Batch, fill
from privet.common.examples import Integers
from privet.common.model import Classifier
from privet.common.tagged import TaggedExamples
from privet.common.tasks.entities import entity_counts
from privet.common.tasks.tags import OUTSIDE, Tags
from privet.common.tasks.targets import NO_TAG, UNKNOWN

__all__ = ["counted", "entity_table", "pieces_of", "said_tags"]

Pieces = Iterable[tuple[int, Floats]]  # of windows, by their places among those asked for, rows as `pieces_of` has them


def entity_table(classifier: Classifier, examples: TaggedExamples) -> Floats:
    """Of every record TP, FP and FN by type and the mean loss of its words, float32 [N, 3 L + 1].

    A word that no window holds counts as said to be outside, and in no loss. nan for a record that cannot be computed,
    and for one of unknown tags.
    """
    records = np.arange(len(examples.tags))
    return counted(examples, records, _read(classifier, examples), len(classifier.plan.task.labels))


def counted(examples: TaggedExamples, records: Integers, pieces: Pieces, num_types: int) -> Floats:
    """The rows of `entity_table` of these records. pieces: of their windows, those of the first record first."""
    tags, losses = _gathered(examples, records, pieces)
    table = np.full((len(records), 3 * num_types + 1), np.nan, np.float32)
    for row, (record, said) in enumerate(zip(records.tolist(), tags, strict=True)):
        if said is not None and examples.labels[record] != UNKNOWN:
            table[row, :-1] = entity_counts(examples.tags.of_text(record).tolist(), said.tolist(), num_types)
            table[row, -1] = losses[row]
    return table


def said_tags(classifier: Classifier, examples: TaggedExamples) -> tuple[list[Tags | None], NDArray[np.float64]]:
    """Each record's tags [words], as many as it has tags itself, None for one that cannot be computed; and the mean
    loss of its words that a window holds, [N]."""
    return _gathered(examples, np.arange(len(examples.tags)), _read(classifier, examples))


def pieces_of(logits: Tensor, targets: Tensor) -> Tensor:
    """[N, 2 T]: which tag is said at every place, nan where a logit is not finite; and the loss there, 0 at NO_TAG.

    logits: [N, T, K]; targets: [N, T].
    """
    losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), targets, ignore_index=NO_TAG, reduction="none")
    found = logits.numpy()
    said = np.where(np.isfinite(found).all(axis=2), found.argmax(axis=2), np.nan)  # of equal ones the first
    return torch.cat([torch.from_numpy(said).to(losses.dtype), losses], dim=1)


def _read(classifier: Classifier, examples: TaggedExamples) -> Iterator[tuple[int, Floats]]:
    """Of every window."""

    def compute(batch: Batch) -> Tensor:
        return pieces_of(classifier(*batch.inputs).float(), batch.labels)

    with torch.inference_mode():
        for batch in examples.for_inference():
            table = torch.zeros(len(batch.places), 2 * batch.labels.shape[1])
            fill(table, replace(batch, places=np.arange(len(batch.places))), compute, torch.nan)
            yield from zip(batch.places.tolist(), table.numpy(), strict=True)


def _gathered(
    examples: TaggedExamples, records: Integers, pieces: Pieces
) -> tuple[list[Tags | None], NDArray[np.float64]]:
    """As `said_tags`, of these records."""
    windows, per_record = examples.windows.of(records)
    owners = np.repeat(np.arange(len(records)), per_record)
    tags: list[Tags | None] = [
        np.full(len(examples.tags.of_text(record)), OUTSIDE, np.int16) for record in records.tolist()
    ]
    losses, counts = np.zeros(len(tags)), np.zeros(len(tags), np.int64)
    for place, row in pieces:
        owner, length = int(owners[place]), len(row) // 2
        words = examples.words_of(int(windows[place]))
        own = tags[owner]
        if own is None:
            continue
        here = np.flatnonzero((words >= 0) & (words < len(own)))
        if not np.isfinite(row[here]).all() or not np.isfinite(row[length + here]).all():
            tags[owner] = None
            continue
        own[words[here]] = row[here].astype(np.int16)
        losses[owner] += float(row[length + here].astype(np.float64).sum())
        counts[owner] += len(here)
    return tags, losses / np.maximum(1, counts)
