"""What a classifier of tokens says of texts: tags word by word, and counts of entities; a text's are the same to the
last bit whoever else is there."""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from privet.common.adapter import Floats
from privet.common.batch import Batch, fill
from privet.common.model import Classifier
from privet.common.tagged import TaggedExamples
from privet.common.tasks.entities import entity_counts
from privet.common.tasks.tags import OUTSIDE, Tags
from privet.common.tasks.targets import NO_TAG, UNKNOWN

__all__ = ["entity_table", "said_tags"]


def entity_table(classifier: Classifier, examples: TaggedExamples) -> Floats:
    """Of every record TP, FP and FN by type and the mean loss of its words, float32 [N, 3 L + 1].

    A word that no window holds counts as said to be outside, and in no loss. nan for a record that cannot be computed,
    and for one of unknown tags.
    """
    num_types = len(classifier.plan.task.labels)
    tags, losses = said_tags(classifier, examples)
    table = np.full((len(examples.tags), 3 * num_types + 1), np.nan, np.float32)
    for record, said in enumerate(tags):
        if said is not None and examples.labels[record] != UNKNOWN:
            table[record, :-1] = entity_counts(examples.tags.of_text(record).tolist(), said.tolist(), num_types)
            table[record, -1] = losses[record]
    return table


def said_tags(classifier: Classifier, examples: TaggedExamples) -> tuple[list[Tags | None], NDArray[np.float64]]:
    """Each record's tags [words], as many as it has tags itself, None for one that cannot be computed; and the mean
    loss of its words that a window holds, [N]."""
    windows = examples.windows
    tags: list[Tags | None] = [
        np.full(len(examples.tags.of_text(record)), OUTSIDE, np.int16) for record in range(len(examples.tags))
    ]
    losses, counts = np.zeros(len(tags)), np.zeros(len(tags), np.int64)

    def compute(batch: Batch) -> Tensor:
        logits = classifier(*batch.inputs)
        every = torch.nn.functional.cross_entropy(
            logits.transpose(1, 2), batch.labels, ignore_index=NO_TAG, reduction="none"
        )
        found = logits.float().numpy()
        said = np.where(np.isfinite(found).all(axis=2), found.argmax(axis=2), np.nan)  # of equal ones the first
        return torch.cat([torch.from_numpy(said).to(every.dtype), every], dim=1)

    with torch.inference_mode():
        for batch in examples.for_inference():
            length = batch.labels.shape[1]
            table = torch.zeros(len(batch.places), 2 * length)
            fill(table, replace(batch, places=np.arange(len(batch.places))), compute, torch.nan)
            for window, row in zip(batch.places.tolist(), table.numpy(), strict=True):
                record = int(windows.record[window])
                words = examples.words_of(window)
                own = tags[record]
                if own is None:
                    continue
                here = np.flatnonzero((words >= 0) & (words < len(own)))
                if not np.isfinite(row[here]).all() or not np.isfinite(row[length + here]).all():
                    tags[record] = None
                    continue
                own[words[here]] = row[here].astype(np.int16)
                losses[record] += float(row[length + here].astype(np.float64).sum())
                counts[record] += len(here)
    return tags, losses / np.maximum(1, counts)
