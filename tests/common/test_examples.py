"""Batches of fixed shapes and rows: nothing about a record's batch-mates may show in how it is computed."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from privet.common.batch import Batch
from privet.common.examples import FEATURE_ROWS, TRAINING_ROWS, UNKNOWN, Examples, FeatureExamples, TokenExamples
from privet.common.grouping import Units, Windows

BUCKETS = (8, 16, 64)
PAD = 0
lengths = st.lists(st.integers(1, BUCKETS[-1]), min_size=1, max_size=60)


def _tokens(lengths: Sequence[int], labels: Sequence[int] | None = None) -> TokenExamples:
    """Record i holds i + 1 over and over."""
    ids = [np.full(length, index + 1, np.int32) for index, length in enumerate(lengths)]
    given = np.array(labels if labels is not None else [index % 3 for index in range(len(ids))], np.int64)
    return TokenExamples(ids, given, Units(np.arange(len(ids)), len(ids)), BUCKETS, PAD)


def _some(data: Any, count: int) -> NDArray[np.int64]:
    return np.array(data.draw(st.lists(st.sampled_from(range(count)), unique=True)), np.int64)


def _places(examples: Examples, chosen: NDArray[np.int64]) -> dict[int, tuple[Any, ...]]:
    """Of each window: the shape of its batch, its row, and all that stands in it."""
    return {
        int(window): (batch.inputs[0].shape, int(row), *(tensor[row].tolist() for tensor in batch.inputs))
        for batch in examples.batches(chosen)
        for window, row in zip(chosen[batch.places], batch.rows, strict=True)
    }


def _dummies(batch: Batch) -> NDArray[np.int64]:
    return np.setdiff1d(np.arange(len(batch.labels)), batch.rows)


@given(lengths, st.data())
def test_each_record_comes_exactly_once_whole_and_in_its_row(lengths: list[int], data: Any) -> None:
    examples, chosen, seen = _tokens(lengths), _some(data, len(lengths)), []
    for batch in examples.batches(chosen):
        ids, mask = batch.inputs
        assert len(set(batch.rows.tolist())) == len(batch.rows) == len(batch.places)
        for row, record in zip(batch.rows, chosen[batch.places], strict=True):
            length = lengths[record]
            assert ids[row, :length].tolist() == [record + 1] * length
            assert ids[row, length:].eq(PAD).all()
            assert mask[row].tolist() == [1] * length + [0] * (ids.shape[1] - length)
            assert batch.labels[row] == record % 3
            assert batch.weights[row] == 1
        seen += chosen[batch.places].tolist()
    assert sorted(seen) == sorted(chosen.tolist())


@given(lengths, st.data())
def test_a_records_place_depends_on_it_alone(lengths: list[int], data: Any) -> None:
    """Its padded length, its row and the number of rows: whoever else was drawn, in whatever order, in any data set."""
    examples = _tokens(lengths)
    among = _places(examples, np.arange(len(lengths)))
    some = _places(examples, _some(data, len(lengths)))
    assert all(among[record] == place for record, place in some.items())
    for record, length in enumerate(lengths):
        assert _places(examples, np.array([record]))[record] == among[record]
        assert among[record][0] == (TRAINING_ROWS, min(bucket for bucket in BUCKETS if bucket >= length))
        ids = [np.full(length, record + 1, np.int32)]
        elsewhere = TokenExamples(ids, np.array([0]), Units(np.array([0]), 1), BUCKETS, PAD)
        assert _places(elsewhere, np.array([0]))[0] == among[record]


@given(lengths, st.data())
def test_every_batch_of_a_length_has_one_shape(lengths: list[int], data: Any) -> None:
    for batch in _tokens(lengths).batches(_some(data, len(lengths))):
        ids, mask = batch.inputs
        assert ids.shape == mask.shape
        assert ids.shape[0] == TRAINING_ROWS == len(batch.labels) == len(batch.weights)
        assert ids.shape[1] in BUCKETS
        assert 0 < len(batch.places) <= TRAINING_ROWS
        assert (ids.dtype, mask.dtype, batch.labels.dtype) == (torch.int64,) * 3
        assert batch.weights.dtype == torch.float32


@given(lengths)
def test_dummy_rows_weigh_nothing_and_can_be_computed(lengths: list[int]) -> None:
    for batch in _tokens(lengths).batches(np.arange(len(lengths))):
        rows = torch.from_numpy(_dummies(batch))
        ids, mask = (tensor[rows] for tensor in batch.inputs)
        assert ids.eq(PAD).all()
        assert mask[:, 0].eq(1).all()  # a softmax over nothing would be NaN
        assert mask[:, 1:].eq(0).all()
        assert batch.weights[rows].eq(0).all()
        assert batch.labels[rows].eq(0).all()


def test_equal_texts_take_turns_in_their_row() -> None:
    ids = [np.full(5, 7, np.int32)] * 6
    examples = TokenExamples(ids, np.zeros(6, np.int64), Units(np.arange(6), 6), BUCKETS, PAD)
    batches = list(examples.batches(np.arange(6)))
    assert [len(batch.places) for batch in batches] == [1] * 6
    assert len({int(batch.rows[0]) for batch in batches}) == 1


def test_different_texts_are_spread_over_the_rows() -> None:
    examples = _tokens([5] * 400)
    places = _places(examples, np.arange(400))
    counts = np.bincount([place[1] for place in places.values()], minlength=TRAINING_ROWS)
    assert counts.min() > 0.7 * 400 / TRAINING_ROWS


def test_for_inference_every_record_comes_once() -> None:
    examples = _tokens([3, 20, 64, 5] * 20)
    batches = list(examples.for_inference())
    assert sorted(int(record) for batch in batches for record in batch.places) == list(range(80))
    assert len({len(batch.labels) for batch in batches}) == 1


def test_no_record_makes_no_batch() -> None:
    assert list(_tokens([3, 20]).batches(np.zeros(0, np.int64))) == []
    empty = TokenExamples([], np.zeros(0, np.int64), Units(np.zeros(0, np.int64), 0), BUCKETS, PAD)
    assert list(empty.batches(np.zeros(0, np.int64))) == []
    assert list(empty.for_inference()) == []
    assert list(_features([0]).batches(np.zeros(0, np.int64))) == []


def _features(labels: Sequence[int]) -> FeatureExamples:
    rows = torch.arange(2 * len(labels), dtype=torch.float32).reshape(-1, 2) + 1
    return FeatureExamples(rows, np.array(labels, np.int64), Units(np.arange(len(labels)), len(labels)))


@pytest.mark.parametrize("make", [lambda labels: _tokens([5, 20, 40], labels), _features], ids=["tokens", "features"])
def test_an_unknown_label_weighs_nothing_and_is_a_legal_index(make: Any) -> None:
    examples: Examples = make([2, UNKNOWN, 1])
    found = {
        int(record): (int(batch.labels[row]), float(batch.weights[row]))
        for batch in examples.batches(np.arange(3))
        for record, row in zip(batch.places, batch.rows, strict=True)
    }
    assert found == {0: (2, 1.0), 1: (0, 0.0), 2: (1, 1.0)}


@pytest.mark.parametrize("count", [1, 63, 64, 65, 300])
def test_features_lie_in_rows_of_their_own(count: int) -> None:
    examples = _features([0] * count)
    chosen = np.random.default_rng(0).permutation(count)
    seen = []
    for batch in examples.batches(chosen):
        (inputs,) = batch.inputs
        assert inputs.shape == (FEATURE_ROWS, 2)
        assert torch.equal(
            inputs[torch.from_numpy(batch.rows)], examples.features[torch.from_numpy(chosen[batch.places])]
        )
        assert inputs[torch.from_numpy(_dummies(batch))].eq(0).all()
        assert batch.weights.sum() == len(batch.places)
        seen += chosen[batch.places].tolist()
    assert sorted(seen) == list(range(count))


def test_features_that_are_not_finite_take_their_records_label() -> None:
    rows = torch.tensor([[1.0, 2.0], [3.0, torch.nan], [5.0, 6.0], [torch.inf, 7.0]])
    units = Units(np.arange(3), 3)
    examples = FeatureExamples(rows, np.array([0, 1, 2]), units, Windows(np.array([2, 1, 1])))
    assert examples.labels.tolist() == [UNKNOWN, 1, UNKNOWN]
    assert examples.features.tolist() == [[1, 2], [0, 0], [5, 6], [0, 0]]


@given(st.lists(st.integers(1, 5), max_size=30), st.data())
def test_windows_of_records_and_their_mean(counts: list[int], data: Any) -> None:
    windows, count = Windows(np.array(counts, np.int64)), len(counts)
    chosen = _some(data, count) if count else np.zeros(0, np.int64)
    owned = [[w for w, owner in enumerate(windows.record) if owner == record] for record in range(count)]
    found, each = windows.of(chosen)
    assert found.tolist() == [w for record in chosen for w in owned[record]]
    assert each.tolist() == [len(owned[record]) for record in chosen]
    values = torch.arange(2.0 * sum(counts)).reshape(-1, 2) ** 2
    expected = [values[owned[record]].double().mean(0).tolist() for record in range(count)]
    np.testing.assert_allclose(windows.mean(values), np.reshape(expected, (count, 2)), rtol=1e-6)


@given(st.lists(st.integers(0, 9), max_size=60), st.integers(0, 3))
def test_units_part_the_records_exactly(units: list[int], num_further: int) -> None:
    num_units = max(units, default=-1) + 1 + num_further
    table = Units(np.array(units, np.int64), num_units)
    for unit in range(num_units):
        assert table.records(unit).tolist() == [row for row, owner in enumerate(units) if owner == unit]
    assert sorted(row for unit in range(num_units) for row in table.records(unit)) == list(range(len(units)))
