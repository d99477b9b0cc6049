"""What one forward and backward pass reads: rows of several padded lengths, one after the other in a row of tokens.

A pass has a fixed number of tokens, so that the frozen products, which see tokens and no rows, have one shape whatever
was drawn; what is left over belongs to nobody. Products of a row by itself (attention, LoRA) go by `Segment`s, runs of
rows of one length.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from privet.common.batch import Batch
from privet.common.examples import Integers, TokenExamples
from privet.common.tasks.targets import NO_TAG


@dataclass(frozen=True)
class Segment:
    """Rows `rows` of a pass, each of `length` tokens; the first begins at token `start`."""

    length: int
    start: int
    rows: slice

    @property
    def num_rows(self) -> int:
        return int(self.rows.stop - self.rows.start)

    @property
    def tokens(self) -> slice:
        return slice(self.start, self.start + self.num_rows * self.length)


@dataclass(frozen=True)
class Pass:
    """Tokens [M] and rows [R] of a pass. Row rows[i] is the window that stands at places[i] of those asked for; the
    other rows are dummies of weight 0. capacity: rows of what is computed once a row, at least R, fixed like M."""

    ids: Tensor  # int64 [M]
    mask: Tensor  # int64 [M]
    positions: Tensor  # int64 [M], of a token in its row
    segments: tuple[Segment, ...]
    labels: Tensor  # int64 [R], or float32 [R, L] of 0 and 1; where there are tags, of no meaning
    weights: Tensor  # float32 [R], 0 or 1; with tags a window's share
    places: Integers
    rows: Integers
    owners: Integers | None  # [R], which of several sites a row belongs to
    capacity: int
    blank: int | None  # id of a dummy's token; None where a failure is to be raised
    tags: Tensor | None = None  # int64 [M], NO_TAG where no loss is counted; None where rows are labelled as a whole
    states: Tensor | None = None  # float32 [M, d], what `layer` reads, where that was computed before
    layer: int = 0

    @classmethod
    def of(cls, batch: Batch) -> "Pass":
        """The pass of a batch, of whose rows all are of one length."""
        ids, mask = batch.inputs
        num_rows, length = ids.shape
        per_token = batch.labels.ndim == 2 and not batch.labels.is_floating_point()
        return cls(
            ids=ids.reshape(-1),
            mask=mask.reshape(-1),
            positions=torch.arange(length).repeat(num_rows),
            segments=(Segment(length, 0, slice(0, num_rows)),),
            labels=torch.zeros(num_rows, dtype=torch.int64) if per_token else batch.labels,
            weights=batch.weights,
            places=batch.places,
            rows=batch.rows,
            owners=batch.owners,
            capacity=num_rows,
            blank=None if batch.blank is None else int(batch.blank[0][0]),
            tags=batch.labels.reshape(-1) if per_token else None,
        )

    def starts(self) -> Integers:
        """The first token of each row, [R]."""
        return np.concatenate([s.start + np.arange(s.num_rows) * s.length for s in self.segments])

    def apart(self) -> Iterator["Pass"]:
        """Each window in a pass of its own: same shape, same row, dummies elsewhere."""
        assert self.blank is not None
        starts = self.starts()
        lengths = np.concatenate([np.full(s.num_rows, s.length) for s in self.segments])
        for place, row in zip(self.places.tolist(), self.rows.tolist(), strict=True):
            ids, mask = torch.full_like(self.ids, self.blank), torch.zeros_like(self.mask)
            mask[torch.from_numpy(starts)] = 1
            own = slice(int(starts[row]), int(starts[row] + lengths[row]))
            ids[own], mask[own] = self.ids[own], self.mask[own]
            labels, weights = torch.zeros_like(self.labels), torch.zeros_like(self.weights)
            labels[row], weights[row] = self.labels[row], self.weights[row]
            tags = None if self.tags is None else torch.full_like(self.tags, NO_TAG)
            if tags is not None and self.tags is not None:
                tags[own] = self.tags[own]
            states = None if self.states is None else torch.zeros_like(self.states)
            if states is not None and self.states is not None:
                states[own] = self.states[own]
            yield replace(
                self,
                ids=ids,
                mask=mask,
                labels=labels,
                weights=weights,
                places=np.array([place]),
                rows=np.array([row]),
                tags=tags,
                states=states,
            )


def mixed(data: TokenExamples, windows: Integers, num_tokens: int, owners: Integers | None = None) -> Iterator[Pass]:
    """Passes of these windows in ascending length, as many in each as find room; owners: of each window."""
    buckets = data.bucket_of[windows]
    order = np.argsort(buckets, kind="stable")
    order = order[buckets[order] < len(data.buckets)]  # a window that no bucket holds is in no pass
    widths = np.array(data.buckets)[buckets[order]]
    num_tokens = max(num_tokens, data.buckets[-1])
    first = 0
    while first < len(order):
        count = int(np.searchsorted(np.cumsum(widths[first:]), num_tokens, side="right"))
        yield _pass(data, windows, order[first : first + count], num_tokens, owners)
        first += count


def _pass(data: TokenExamples, windows: Integers, chosen: Integers, num_tokens: int, owners: Integers | None) -> Pass:
    ids = np.full(num_tokens, data.pad, np.int64)
    mask, positions = np.zeros(num_tokens, np.int64), np.zeros(num_tokens, np.int64)
    tags = None
    found, start, row = [], 0, 0
    of_chosen = data.bucket_of[windows[chosen]]
    for bucket in np.unique(of_chosen).tolist():
        length, mine = data.buckets[bucket], windows[chosen[of_chosen == bucket]]
        segment = Segment(length, start, slice(row, row + len(mine)))
        tokens = segment.tokens
        own_ids, own_mask = data.padded(bucket, mine)
        ids[tokens], mask[tokens] = own_ids.reshape(-1), own_mask.reshape(-1)
        positions[tokens] = np.tile(np.arange(length), len(mine))
        own_tags = data.tagged(bucket, mine)
        if own_tags is not None:
            tags = np.full(num_tokens, NO_TAG, np.int64) if tags is None else tags
            tags[tokens] = own_tags.reshape(-1)
        found.append(segment)
        start, row = tokens.stop, segment.rows.stop
    rows = np.arange(len(chosen))
    labels, weights = data.placed(windows[chosen], rows, len(chosen))
    return Pass(
        ids=torch.from_numpy(ids),
        mask=torch.from_numpy(mask),
        positions=torch.from_numpy(positions),
        segments=tuple(found),
        labels=labels,
        weights=weights,
        places=chosen,
        rows=rows,
        owners=None if owners is None else owners[chosen],
        capacity=num_tokens // data.buckets[0],
        blank=data.pad,
        tags=None if tags is None else torch.from_numpy(tags),
    )
