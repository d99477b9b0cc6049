"""Examples grouped by unit, and the batches that training reads.

A record is read in one or more windows. No coupling through arithmetic: a window's gradient must be the same to the
last bit whoever else was drawn. A matrix product can round a row differently at another place in the batch, and a
hostile server can choose weights that make the difference large. So a window's padded length and its row are functions
of the window alone, and the batches of a length all have the same number of rows, filled up with dummies.
"""

import hashlib
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from privet.common.batch import Batch
from privet.common.grouping import Units, Windows
from privet.common.tasks.targets import NO_TAG, Targets, known, without
from privet.common.tasks.targets import UNKNOWN as UNKNOWN

if TYPE_CHECKING:
    from privet.common.states import States

Integers = NDArray[np.int64]

TRAINING_ROWS = 4  # few rows: a draw fills them evenly
FEATURE_ROWS = 64
INFERENCE_ROWS = 8
_LARGEST = 1e6  # magnitude of a feature; sound ones are thousands of times smaller


class Examples(Protocol):
    """What the trainer needs of the data."""

    labels: Targets  # of N records, UNKNOWN where the plan has none (`common.tasks.targets`)
    units: Units
    windows: Windows

    def batches(self, windows: Integers) -> Iterator[Batch]:
        """Batches of these windows, each once."""
        ...

    def for_inference(self) -> Iterator[Batch]:
        """Every window once; their places are their numbers."""
        ...


class TokenExamples:
    """Token ids of every window, in buckets of padded length.

    ids: of each window; windows: whose they are, None where every record has one. tags: of each window as many as ids,
    NO_TAG where a piece has none; None where records are labelled as a whole.
    """

    def __init__(
        self,
        ids: Sequence[NDArray[np.int32]],
        labels: Targets,
        units: Units,
        buckets: Sequence[int],
        pad: int,
        windows: Windows | None = None,
        tags: Sequence[NDArray[np.int32]] | None = None,
    ) -> None:
        starts = np.cumsum([0] + [len(row) for row in ids])
        flat = np.concatenate([np.zeros(0, np.int32), *ids])
        flat_tags = None if tags is None else np.concatenate([np.zeros(0, np.int32), *tags])
        windows = windows or Windows(np.ones(len(ids), np.int64))
        self._lay_out(flat, starts, labels, units, buckets, pad, windows, flat_tags)

    @classmethod
    def of(
        cls,
        ids: NDArray[np.int32],
        starts: Integers,
        labels: Targets,
        units: Units,
        buckets: Sequence[int],
        pad: int,
        windows: Windows,
        tags: NDArray[np.int32] | None = None,
    ) -> "TokenExamples":
        """The same from the ids of all windows one after the other: window w is ids[starts[w]:starts[w + 1]], and so
        are its tags."""
        made = cls.__new__(cls)
        made._lay_out(ids, starts, labels, units, buckets, pad, windows, tags)
        return made

    def _lay_out(
        self,
        flat: NDArray[np.int32],
        starts: Integers,
        labels: Targets,
        units: Units,
        buckets: Sequence[int],
        pad: int,
        windows: Windows,
        tags: NDArray[np.int32] | None,
    ) -> None:
        self.labels, self.units, self.pad, self.windows, self.starts = labels, units, pad, windows, starts
        self.states: States | None = None  # for the fused engine, where layers below LoRA's are computed once
        self.buckets = tuple(buckets)
        lengths = np.diff(starts)
        self.bucket_of = np.searchsorted(np.asarray(buckets), lengths)  # the shortest that holds the window
        self._row = np.zeros(len(lengths), np.int64)
        self._ids: list[NDArray[np.int32]] = []
        self._tags: list[NDArray[np.int32]] = []  # as the ids; none where records are labelled as a whole
        self._lengths: list[Integers] = []
        self._keys: list[NDArray[np.uint64]] = []  # none before they are asked for; shared by all views
        for index, length in enumerate(buckets):
            members = np.flatnonzero(self.bucket_of == index)
            own = lengths[members]
            matrix = np.full((len(members), length), pad, np.int32)
            rows = np.repeat(np.arange(len(members)), own)
            columns = np.arange(int(own.sum())) - np.repeat(np.cumsum(own) - own, own)
            places = np.repeat(starts[members], own) + columns
            matrix[rows, columns] = flat[places]
            if tags is not None:
                tagged = np.full_like(matrix, NO_TAG)
                tagged[rows, columns] = tags[places]
                self._tags.append(tagged)
            self._row[members] = np.arange(len(members))
            self._ids.append(matrix)
            self._lengths.append(own)

    @property
    def _key(self) -> NDArray[np.uint64]:
        """Of each window: a hash of its ids."""
        if not self._keys:
            keys = np.zeros(len(self.bucket_of), np.uint64)
            for window, (bucket, row) in enumerate(zip(self.bucket_of.tolist(), self._row.tolist(), strict=True)):
                keys[window] = _content_key(self._ids[bucket][row, : self._lengths[bucket][row]])
            self._keys.append(keys)
        return self._keys[0]

    def batches(self, windows: Integers, num_rows: int = TRAINING_ROWS) -> Iterator[Batch]:
        for bucket, length in enumerate(self.buckets):
            mine = np.flatnonzero(self.bucket_of[windows] == bucket)
            for part, rows in _pinned(self._key[windows[mine]], num_rows):
                yield self._batch(bucket, length, windows[mine[part]], mine[part], rows, num_rows)

    def packed(self, windows: Integers, num_rows: Sequence[int], owners: Integers | None = None) -> Iterator[Batch]:
        """Batches of these windows, one after the other in rows, num_rows[b] of them in every batch of bucket b.

        For an engine under which a row's result is the same to the last bit at every place of a batch of one shape.
        """
        buckets = self.bucket_of[windows]
        for bucket, length in enumerate(self.buckets):
            mine = np.flatnonzero(buckets == bucket)
            for start in range(0, len(mine), num_rows[bucket]):
                part = mine[start : start + num_rows[bucket]]
                rows = np.arange(len(part))
                batch = self._batch(bucket, length, windows[part], part, rows, num_rows[bucket])
                if owners is not None:
                    of_rows = np.zeros(num_rows[bucket], np.int64)
                    of_rows[rows] = owners[part]
                    batch = replace(batch, owners=of_rows)
                yield batch

    def padded(self, bucket: int, windows: Integers) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """Ids and mask [windows, T] of windows that this bucket holds."""
        stored = self._row[windows]
        return self._ids[bucket][stored], np.arange(self.buckets[bucket]) < self._lengths[bucket][stored, None]

    def tagged(self, bucket: int, windows: Integers) -> Integers | None:
        """The targets of the pieces of windows that this bucket holds, [windows, T]; None where records are labelled
        as a whole."""
        return self._tags[bucket][self._row[windows]].astype(np.int64) if self._tags else None

    def placed(self, windows: Integers, rows: Integers, num_rows: int) -> tuple[Tensor, Tensor]:
        """Labels and weights [num_rows] with these windows' in these rows; those of dummies elsewhere."""
        return _placed(self.labels[self.windows.record[windows]], rows, num_rows)

    def at_site(self, units: Units) -> "TokenExamples":
        """The same store seen by one site of many: `units` names its records by their numbers here."""
        view = copy(self)
        view.units = units
        return view

    def _batch(
        self, bucket: int, length: int, windows: Integers, places: Integers, rows: Integers, num_rows: int
    ) -> Batch:
        ids, mask = dummies(num_rows, length, self.pad)
        blank = (torch.from_numpy(ids[0].copy()), torch.from_numpy(mask[0].copy()))
        ids[rows], mask[rows] = self.padded(bucket, windows)
        labels, weights = self.placed(windows, rows, num_rows)
        tags = self.tagged(bucket, windows)
        if tags is not None:
            targets = np.full((num_rows, length), NO_TAG, np.int64)
            targets[rows] = tags
            labels = torch.from_numpy(targets)
        return Batch((torch.from_numpy(ids), torch.from_numpy(mask)), labels, weights, places, rows, blank)

    def for_inference(self) -> Iterator[Batch]:
        """Every window once, in larger batches."""
        return self.batches(np.arange(len(self.bucket_of)), INFERENCE_ROWS)


class FeatureExamples:
    """Frozen features of every window, [W, d], computed once: what the method `head` trains on.

    A record with a window that is not finite, or beyond ±10^6 anywhere, has no label, and that window's features are
    zero.
    """

    def __init__(self, features: Tensor, labels: Targets, units: Units, windows: Windows | None = None) -> None:
        self.units = units
        self.windows = windows or Windows(np.ones(len(features), np.int64))
        sound = (features.abs() <= _LARGEST).all(dim=1, keepdim=True)  # false for nan
        self.features = torch.where(sound, features, torch.zeros_like(features))
        self.unsound = np.zeros(len(labels), bool)  # [N], the records that have such a window
        self.unsound[self.windows.record[~sound.numpy()[:, 0]]] = True
        self.labels = without(labels, self.unsound)
        self._key = np.array([_content_key(row) for row in self.features.numpy()], np.uint64)

    def batches(self, windows: Integers) -> Iterator[Batch]:
        for places, rows in _pinned(self._key[windows], FEATURE_ROWS):
            inputs = torch.zeros(FEATURE_ROWS, self.features.shape[1])
            inputs[torch.from_numpy(rows)] = self.features[torch.from_numpy(windows[places])]
            labels, weights = _placed(self.labels[self.windows.record[windows[places]]], rows, FEATURE_ROWS)
            yield Batch((inputs,), labels, weights, places, rows, (torch.zeros(self.features.shape[1]),))

    def for_inference(self) -> Iterator[Batch]:
        """Every window once."""
        return self.batches(np.arange(len(self.features)))


def dummies(num_rows: int, length: int, pad: int) -> tuple[Integers, Integers]:
    """Ids and mask [num_rows, length] of rows that stand for nobody: each attends to one padding token."""
    mask = np.zeros((num_rows, length), np.int64)
    mask[:, 0] = 1
    return np.full((num_rows, length), pad, np.int64), mask


def _placed(labels: Targets, rows: Integers, num_rows: int) -> tuple[Tensor, Tensor]:
    """Targets and weights of all rows: zero in those of nobody and of records without a label of the plan."""
    sound = known(labels)
    placed = np.zeros((num_rows, *labels.shape[1:]), np.int64 if labels.ndim == 1 else np.float32)
    weights = np.zeros(num_rows, np.float32)
    placed[rows[sound]] = labels[sound]
    weights[rows] = sound
    return torch.from_numpy(placed), torch.from_numpy(weights)


def _content_key(values: NDArray[Any]) -> int:
    return int.from_bytes(hashlib.blake2b(np.ascontiguousarray(values).tobytes(), digest_size=8).digest(), "little")


def _pinned(keys: NDArray[np.uint64], num_rows: int) -> Iterator[tuple[Integers, Integers]]:
    """Split positions into batches with at most one window a row; the row is a function of the key alone."""
    rows = (keys % np.uint64(num_rows)).astype(np.int64)
    order = np.argsort(rows, kind="stable")
    ordered = rows[order]
    turn = np.arange(len(rows)) - np.searchsorted(ordered, ordered)  # how many of the same row came before
    for number in range(int(turn.max()) + 1 if len(turn) else 0):
        part = order[turn == number]
        yield part, rows[part]
