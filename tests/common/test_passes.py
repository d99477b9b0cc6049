"""Passes of mixed lengths: every window once, in a row of its own bucket's length, and nobody in what is left over."""

from itertools import pairwise

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from privet.common.examples import TokenExamples
from privet.common.grouping import Units
from privet.common.passes import Pass, mixed
from privet.common.tasks.targets import NO_TAG

BUCKETS = (4, 6, 10)
PAD = 0


def examples(lengths: list[int], *, tagged: bool = False) -> TokenExamples:
    """tagged: a piece's tag is a thousand above its id."""
    ids = [np.arange(1, n + 1, dtype=np.int32) + 20 * place for place, n in enumerate(lengths)]
    tags = [row + 1000 for row in ids] if tagged else None
    return TokenExamples(ids, np.arange(len(ids)), Units(np.arange(len(ids)), len(ids)), BUCKETS, PAD, tags=tags)


@given(st.lists(st.integers(1, 10), min_size=1, max_size=30), st.integers(1, 40), st.data())
def test_every_window_is_in_one_row(lengths: list[int], num_tokens: int, data: st.DataObject) -> None:
    store = examples(lengths)
    windows = np.array(data.draw(st.lists(st.integers(0, len(lengths) - 1), unique=True)), np.int64)
    owners = np.array(data.draw(st.lists(st.integers(0, 3), min_size=len(windows), max_size=len(windows))), np.int64)
    passes = list(mixed(store, windows, num_tokens, owners))
    assert sorted(place for one in passes for place in one.places.tolist()) == list(range(len(windows)))
    for one in passes:
        assert len(one.ids) == len(one.mask) == len(one.positions) == max(num_tokens, BUCKETS[-1])
        assert len(one.labels) == len(one.rows) <= one.capacity
        used = 0
        for segment in one.segments:
            assert segment.start == used
            used = segment.tokens.stop
            rows = range(segment.rows.start, segment.rows.stop)
            ids, mask = (part[segment.tokens].view(-1, segment.length) for part in (one.ids, one.mask))
            for row, own_ids, own_mask in zip(rows, ids, mask, strict=True):
                window = int(windows[one.places[row]])
                own = lengths[window]
                assert min(b for b in BUCKETS if b >= own) == segment.length
                assert own_ids.tolist() == [20 * window + k for k in range(1, own + 1)] + [PAD] * (segment.length - own)
                assert own_mask.tolist() == [1] * own + [0] * (segment.length - own)
                assert int(one.labels[row]) == window
                assert one.owners is not None
                assert one.owners[row] == owners[one.places[row]]
        assert int(one.mask[used:].sum()) == 0
        assert set(one.ids[used:].tolist()) <= {PAD}


def test_no_pass_has_room_for_the_next_ones_first_row() -> None:
    store = examples([4] * 7 + [6] * 5 + [10] * 2)
    passes = list(mixed(store, np.arange(14), 24))
    for one, following in pairwise(passes):
        assert one.segments[-1].tokens.stop + following.segments[0].length > 24


def test_a_window_that_no_bucket_holds_is_in_no_pass() -> None:
    store = examples([3, 11, 5])
    [one] = mixed(store, np.arange(3), 24)
    assert one.places.tolist() == [0, 2]


def test_alone_a_window_keeps_its_place_and_everything_else_is_nobodys() -> None:
    [one] = mixed(examples([3, 5, 9, 4]), np.arange(4), 40)
    for alone in one.apart():
        [row] = alone.rows.tolist()
        starts = one.starts()
        lengths = [s.length for s in one.segments for _ in range(s.num_rows)]
        own = slice(int(starts[row]), int(starts[row]) + lengths[row])
        assert torch.equal(alone.ids[own], one.ids[own])
        assert torch.equal(alone.mask[own], one.mask[own])
        others = torch.ones(len(one.ids), dtype=torch.bool)
        others[own] = False
        assert set(alone.ids[others].tolist()) == {PAD}
        assert alone.mask[others].sum() == len(one.labels) - 1  # a dummy attends to its first token
        assert alone.weights.tolist() == [float(r == row) for r in range(len(one.labels))]


@settings(max_examples=25)
@given(st.lists(st.integers(1, 10), min_size=1, max_size=30), st.integers(1, 40))
def test_every_piece_keeps_its_tag(lengths: list[int], num_tokens: int) -> None:
    """In a pass, in a batch, and alone, where the others have none; padding and what is left over never have."""
    store, windows = examples(lengths, tagged=True), np.arange(len(lengths))[::-1].copy()
    passes = list(mixed(store, windows, num_tokens))
    passes += [Pass.of(batch) for batch in store.packed(windows, (3, 2, 2))]
    for one in [*passes, *(alone for each in passes for alone in each.apart())]:
        assert one.tags is not None
        assert torch.equal(one.tags, torch.where((one.ids > PAD) & (one.mask > 0), one.ids + 1000, NO_TAG))
        assert len(one.labels) == len(one.weights)
    for alone in passes[0].apart():
        assert alone.tags is not None
        assert int((alone.tags != NO_TAG).sum()) == lengths[windows[alone.places[0]]]


def test_a_batch_is_a_pass_of_one_segment() -> None:
    store = examples([3, 2, 4])
    [batch] = store.packed(np.arange(3), (4, 4, 4), np.array([2, 0, 1]))
    one = Pass.of(batch)
    assert [(s.length, s.start, s.rows) for s in one.segments] == [(4, 0, slice(0, 4))]
    assert one.ids.view(4, 4).tolist() == batch.inputs[0].tolist()
    assert one.positions.tolist() == [0, 1, 2, 3] * 4
    assert one.capacity == 4
    assert one.blank == PAD
