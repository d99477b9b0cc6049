"""Examples grouped by unit, and the fixed-shape batches that training reads.

A record's padded length depends on it alone (a bucket of the plan), and a bucket's batches always have the same number
of rows, filled up with dummy rows: otherwise one record's presence would shift the rounding of its batch-mates.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Integers = NDArray[np.int64]

UNKNOWN = -1  # label of a record that the plan has no label for: it contributes zero

_TOKENS_PER_BATCH = 1024
_FEATURE_ROWS = 64


@dataclass(frozen=True)
class Batch:
    """Fixed-shape model inputs. Rows past `len(records)` are dummies; `weights` is 0 there and where no label is."""

    inputs: tuple[Tensor, ...]
    labels: Tensor  # int64 [rows]
    weights: Tensor  # float32 [rows], 0 or 1
    records: Integers  # which record each of the first rows is


class Units:
    """Which records belong to which unit, in compressed rows."""

    def __init__(self, units: Integers, num_units: int) -> None:
        self.num_units = num_units
        self._order = np.argsort(units, kind="stable")
        self._start = np.searchsorted(units[self._order], np.arange(num_units + 1))

    def records(self, unit: int) -> Integers:
        """The records of one unit."""
        return self._order[self._start[unit] : self._start[unit + 1]]


class Examples(Protocol):
    """What the trainer needs of the data."""

    units: Units

    def batches(self, records: Integers) -> Iterator[Batch]:
        """Fixed-shape batches of these records, each once."""
        ...


def _padded(labels: Integers, records: Integers, rows: int) -> tuple[Tensor, Tensor]:
    padded = np.zeros(rows, np.int64)
    weights = np.zeros(rows, np.float32)
    found = labels[records]
    padded[: len(records)] = np.where(found == UNKNOWN, 0, found)
    weights[: len(records)] = found != UNKNOWN
    return torch.from_numpy(padded), torch.from_numpy(weights)


class TokenExamples:
    """Token ids in buckets of padded length."""

    def __init__(
        self, ids: Sequence[NDArray[np.int32]], labels: Integers, units: Units, buckets: Sequence[int], pad: int
    ) -> None:
        self.labels, self.units, self._pad = labels, units, pad
        lengths = np.array([len(row) for row in ids], np.int64)
        self.bucket_of = np.searchsorted(np.asarray(buckets), lengths)  # the shortest that holds the record
        self.buckets = tuple(buckets)
        self._row = np.zeros(len(ids), np.int64)
        self._ids: list[NDArray[np.int32]] = []
        self._lengths: list[Integers] = []
        for index, length in enumerate(buckets):
            members = np.flatnonzero(self.bucket_of == index)
            matrix = np.full((len(members), length), pad, np.int32)
            for row, record in enumerate(members):
                matrix[row, : len(ids[record])] = ids[record]
            self._row[members] = np.arange(len(members))
            self._ids.append(matrix)
            self._lengths.append(lengths[members])

    def rows(self, bucket: int) -> int:
        """Rows of a batch in this bucket: a constant, whatever was drawn."""
        return int(np.clip(_TOKENS_PER_BATCH // self.buckets[bucket], 4, 32))

    def batches(self, records: Integers) -> Iterator[Batch]:
        for bucket, length in enumerate(self.buckets):
            mine = records[self.bucket_of[records] == bucket]
            rows = self.rows(bucket)
            for start in range(0, len(mine), rows):
                part = mine[start : start + rows]
                ids = np.full((rows, length), self._pad, np.int64)
                mask = np.zeros((rows, length), np.int64)
                mask[len(part) :, 0] = 1  # a dummy row attends to one padding token
                ids[: len(part)] = self._ids[bucket][self._row[part]]
                mask[: len(part)] = np.arange(length) < self._lengths[bucket][self._row[part], None]
                labels, weights = _padded(self.labels, part, rows)
                yield Batch((torch.from_numpy(ids), torch.from_numpy(mask)), labels, weights, part)


class FeatureExamples:
    """Frozen features [N, d], computed once: what the method `head` trains on."""

    def __init__(self, features: Tensor, labels: Integers, units: Units) -> None:
        self.features, self.labels, self.units = features, labels, units

    def batches(self, records: Integers) -> Iterator[Batch]:
        for start in range(0, len(records), _FEATURE_ROWS):
            part = records[start : start + _FEATURE_ROWS]
            rows = torch.zeros(_FEATURE_ROWS, self.features.shape[1])
            rows[: len(part)] = self.features[torch.from_numpy(part)]
            labels, weights = _padded(self.labels, part, _FEATURE_ROWS)
            yield Batch((rows,), labels, weights, part)


def tokenise(
    texts: Sequence[str], labels: Integers, units: Integers, num_units: int, tokenizer: Any, buckets: Sequence[int]
) -> TokenExamples:
    """Tokenise once; texts over the last bucket's length are cut there."""
    ids: list[NDArray[np.int32]] = []
    for start in range(0, len(texts), 2048):
        part = list(texts[start : start + 2048])
        encoded = tokenizer(part, truncation=True, max_length=buckets[-1], return_attention_mask=False)["input_ids"]
        ids.extend(np.asarray(row, np.int32) for row in encoded)
    return TokenExamples(ids, labels, Units(units, num_units), buckets, int(tokenizer.pad_token_id or 0))
