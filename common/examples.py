"""Examples grouped by unit, and the batches that training reads.

No coupling through arithmetic: a record's gradient must be the same to the last bit whoever else was drawn. A matrix
product can round a row differently at another place in the batch, and a hostile server can choose weights that make the
difference large. So a record's padded length and its row are functions of the record alone, and the batches of a length
all have the same number of rows, filled up with dummies.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Integers = NDArray[np.int64]

UNKNOWN = -1  # label of a record that the plan has no label for: it contributes zero

TRAINING_ROWS = 4  # few rows: a draw fills them evenly
_INFERENCE_ROWS = 8
_FEATURE_ROWS = 1024


@dataclass(frozen=True)
class Batch:
    """Model inputs of one shape. `rows` says where each of `records` lies; all other rows are dummies of weight 0."""

    inputs: tuple[Tensor, ...]
    labels: Tensor  # int64 [N]
    weights: Tensor  # float32 [N], 0 or 1
    records: Integers
    rows: Integers


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
        """Batches of these records, each once."""
        ...


def _placed(labels: Integers, records: Integers, rows: Integers, num_rows: int) -> tuple[Tensor, Tensor]:
    placed = np.zeros(num_rows, np.int64)
    weights = np.zeros(num_rows, np.float32)
    found = labels[records]
    placed[rows] = np.where(found == UNKNOWN, 0, found)
    weights[rows] = found != UNKNOWN
    return torch.from_numpy(placed), torch.from_numpy(weights)


class TokenExamples:
    """Token ids in buckets of padded length."""

    def __init__(
        self, ids: Sequence[NDArray[np.int32]], labels: Integers, units: Units, buckets: Sequence[int], pad: int
    ) -> None:
        self.labels, self.units, self._pad = labels, units, pad
        lengths = np.array([len(row) for row in ids], np.int64)
        self.bucket_of = np.searchsorted(np.asarray(buckets), lengths)  # the shortest that holds the record
        self.buckets = tuple(buckets)
        self._key = np.array([_content_key(row) for row in ids], np.uint64)
        self._row = np.zeros(len(ids), np.int64)
        self._ids: list[NDArray[np.int32]] = []
        self._lengths: list[Integers] = []
        for index, length in enumerate(buckets):
            members = np.flatnonzero(self.bucket_of == index)
            matrix = np.full((len(members), length), pad, np.int32)
            for row, record in enumerate(members.tolist()):
                matrix[row, : len(ids[record])] = ids[record]
            self._row[members] = np.arange(len(members))
            self._ids.append(matrix)
            self._lengths.append(lengths[members])

    def batches(self, records: Integers, num_rows: int = TRAINING_ROWS) -> Iterator[Batch]:
        for bucket, length in enumerate(self.buckets):
            mine = records[self.bucket_of[records] == bucket]
            rows = (self._key[mine] % np.uint64(num_rows)).astype(np.int64)
            for part in _one_a_row(rows):
                yield self._batch(bucket, length, mine[part], rows[part], num_rows)

    def _batch(self, bucket: int, length: int, records: Integers, rows: Integers, num_rows: int) -> Batch:
        ids = np.full((num_rows, length), self._pad, np.int64)
        mask = np.zeros((num_rows, length), np.int64)
        mask[:, 0] = 1  # a dummy row attends to one padding token
        stored = self._row[records]
        ids[rows] = self._ids[bucket][stored]
        mask[rows] = np.arange(length) < self._lengths[bucket][stored, None]
        labels, weights = _placed(self.labels, records, rows, num_rows)
        return Batch((torch.from_numpy(ids), torch.from_numpy(mask)), labels, weights, records, rows)

    def for_inference(self) -> Iterator[Batch]:
        """Every record once, in larger batches."""
        return self.batches(np.arange(len(self.labels)), _INFERENCE_ROWS)


class FeatureExamples:
    """Frozen features [N, d], computed once: what the method `head` trains on. Their engine works in float64, where no
    row needs a fixed place."""

    def __init__(self, features: Tensor, labels: Integers, units: Units) -> None:
        self.features, self.labels, self.units = features, labels, units

    def batches(self, records: Integers) -> Iterator[Batch]:
        for start in range(0, len(records), _FEATURE_ROWS):
            part = records[start : start + _FEATURE_ROWS]
            rows = np.arange(len(part))
            labels, weights = _placed(self.labels, part, rows, len(part))
            yield Batch((self.features[torch.from_numpy(part)],), labels, weights, part, rows)


def _content_key(ids: NDArray[np.int32]) -> int:
    return int.from_bytes(hashlib.blake2b(np.ascontiguousarray(ids).tobytes(), digest_size=8).digest(), "little")


def _one_a_row(rows: Integers) -> Iterator[Integers]:
    """Split positions into batches with at most one record a row."""
    order = np.argsort(rows, kind="stable")
    ordered = rows[order]
    turn = np.arange(len(rows)) - np.searchsorted(ordered, ordered)  # how many of the same row came before
    for number in range(int(turn.max()) + 1 if len(turn) else 0):
        yield order[turn == number]


def tokenise(
    texts: Sequence[str],
    labels: Integers,
    units: Integers,
    num_units: int,
    tokenizer: Any,
    buckets: Sequence[int],
    vocabulary: int | None = None,
) -> TokenExamples:
    """Tokenise once; texts over the last bucket's length are cut there.

    The tokenizer came with the base that a server named: a record that it fails on, or for which it gives ids outside
    the `vocabulary`, becomes one padding token with no label. No record can raise.
    """
    pad = int(tokenizer.pad_token_id or 0)
    ids: list[NDArray[np.int32]] = []
    usable = np.ones(len(texts), bool)
    for start in range(0, len(texts), 2048):
        part = list(texts[start : start + 2048])
        for offset, row in enumerate(_encode(tokenizer, part, buckets[-1])):
            sound = row is not None and 0 < len(row) <= buckets[-1]
            if sound and vocabulary is not None:
                sound = bool(row.min() >= 0 and row.max() < vocabulary)  # type: ignore[union-attr]
            usable[start + offset] = sound
            ids.append(row.astype(np.int32) if sound and row is not None else np.array([pad], np.int32))
    return TokenExamples(ids, np.where(usable, labels, UNKNOWN), Units(units, num_units), buckets, pad)


def _encode(tokenizer: Any, texts: list[str], longest: int) -> list[NDArray[np.int64] | None]:
    try:
        encoded = tokenizer(texts, truncation=True, max_length=longest, return_attention_mask=False)["input_ids"]
        return [np.asarray(row, np.int64) for row in encoded]
    except KeyboardInterrupt:
        raise
    except BaseException:  # a panic in the tokenizer's Rust is not an Exception; one record must not tell on itself
        if len(texts) == 1:
            return [None]
        return [row for text in texts for row in _encode(tokenizer, [text], longest)]
