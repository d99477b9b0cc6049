"""Tagged texts as examples: token ids of every window, and the tag of each word at the piece that stands for it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from privet.common.alignment import NO_WORD, Aligned, align
from privet.common.config.task import TaskSpec
from privet.common.examples import Integers, TokenExamples
from privet.common.grouping import Units, Windows
from privet.common.tasks.tags import Tags
from privet.common.tasks.targets import NO_TAG, UNKNOWN
from privet.common.tokens import padding

__all__ = ["TagTable", "TaggedExamples", "tag_examples", "tagged"]


@dataclass(frozen=True, repr=False)
class TagTable:
    """Tags of all words of texts: those of text n are tags[start[n]:start[n + 1]]. A text of unknown tags has none."""

    tags: Tags
    start: Integers  # [N + 1]

    @classmethod
    def of(cls, texts: Sequence[Tags | None]) -> "TagTable":
        rows = [np.zeros(0, np.int16) if row is None else row for row in texts]
        start = np.cumsum([0, *(len(row) for row in rows)])
        return cls(np.concatenate([np.zeros(0, np.int16), *rows]), start.astype(np.int64))

    def __len__(self) -> int:
        return len(self.start) - 1

    def of_text(self, text: int) -> Tags:
        return self.tags[self.start[text] : self.start[text + 1]]

    def at(self, texts: Integers, words: NDArray[Any]) -> Integers:
        """The tags of these words of these texts, int64, arrays of one shape; NO_TAG where there is no such word."""
        sizes = np.diff(self.start)[texts]
        there = (words >= 0) & (words < sizes)
        if not len(self.tags):
            return np.full(words.shape, NO_TAG, np.int64)
        found = self.tags[np.where(there, self.start[texts] + words, 0)]
        return np.where(there, found, NO_TAG).astype(np.int64)


class TaggedExamples(TokenExamples):
    """`TokenExamples` whose batches have a target for each piece.

    words: of each window, the word that each piece stands for, or NO_WORD; tags: of every record. labels: [N], 0, or
    UNKNOWN for a record that contributes nothing. A window's weight is its share of its record's tagged words, times
    the record's windows: the mean over the windows is the mean over the words.
    """

    def __init__(
        self,
        ids: Sequence[NDArray[np.int32]],
        words: Sequence[NDArray[np.int32]],
        tags: TagTable,
        labels: Integers,
        units: Units,
        buckets: Sequence[int],
        pad: int,
        windows: Windows,
    ) -> None:
        super().__init__(ids, labels, units, buckets, pad, windows)
        self.tags = tags
        self.words: list[NDArray[np.int32]] = [
            np.full((len(rows), length), NO_WORD, np.int32) for rows, length in zip(self._ids, buckets, strict=True)
        ]
        for window, row in enumerate(words):
            self.words[self.bucket_of[window]][self._row[window], : len(row)] = row
        tagged = np.zeros(len(ids), np.int64)
        for bucket, held in enumerate(self.words):
            members = np.flatnonzero(self.bucket_of == bucket)
            tagged[members] = (self._targets(windows.record[members], held) != NO_TAG).sum(axis=1)
        whole = np.bincount(windows.record, weights=tagged, minlength=len(labels)).astype(np.int64)[windows.record]
        self._weights = (tagged * windows.counts[windows.record] / np.maximum(1, whole)).astype(np.float32)

    def _targets(self, records: Integers, words: NDArray[np.int32]) -> Integers:
        """Of windows [rows] of these records, and of their pieces' words [rows, length]."""
        return self.tags.at(np.broadcast_to(records[:, None], words.shape), words)

    def tagged(self, bucket: int, windows: Integers) -> Integers:
        return self._targets(self.windows.record[windows], self.words[bucket][self._row[windows]])

    def placed(self, windows: Integers, rows: Integers, num_rows: int) -> tuple[Tensor, Tensor]:
        labels, _ = super().placed(windows, rows, num_rows)
        weights = np.zeros(num_rows, np.float32)
        known = self.labels[self.windows.record[windows]] != UNKNOWN
        weights[rows] = np.where(known, self._weights[windows], 0.0)
        return labels, torch.from_numpy(weights)

    def words_of(self, window: int) -> NDArray[np.int32]:
        """The word that each place of a window stands for, [padded length]."""
        row: NDArray[np.int32] = self.words[self.bucket_of[window]][self._row[window]]
        return row


def tag_examples(
    texts: Sequence[str],
    tags: Sequence[Tags | None],
    units: Integers,
    num_units: int,
    tokenizer: Any,
    buckets: Sequence[int],
    vocabulary: int | None = None,
    *,
    windows: int = 1,
    stride: int = 0,
) -> TaggedExamples:
    """Tokenise once. tags: of each text's words; None where they are unknown: the record contributes nothing.

    No record can raise.
    """
    pad = padding(tokenizer, vocabulary)
    found: Aligned = align(texts, tokenizer, pad, buckets[-1], vocabulary, windows=windows, stride=stride)
    labels = np.where(found.usable & np.array([row is not None for row in tags], np.bool_), 0, UNKNOWN)
    return TaggedExamples(
        found.ids,
        found.words,
        TagTable.of(tags),
        labels.astype(np.int64),
        Units(units, num_units),
        buckets,
        pad,
        Windows(found.counts),
    )


def tagged(data: Any, tokenizer: Any, task: TaskSpec, vocabulary: int | None) -> TaggedExamples:
    """The examples of texts with `tags` [N] (None where they are unknown), `units` and `num_units`."""
    return tag_examples(
        data.texts,
        data.tags,
        data.units,
        data.num_units,
        tokenizer,
        task.buckets,
        vocabulary,
        windows=task.windows,
        stride=task.stride,
    )
