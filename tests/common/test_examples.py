"""Batches of a fixed shape: nothing about a record's batch-mates may show in how it is computed."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from privet.common.examples import UNKNOWN, Examples, FeatureExamples, TokenExamples, Units, tokenise
from privet.common.model import load_tokenizer
from tests.tiny_models import WORDS, tiny_base

BUCKETS = (8, 16, 64)
PAD = 0
lengths = st.lists(st.integers(1, BUCKETS[-1]), min_size=1, max_size=60)


def _tokens(lengths: Sequence[int], labels: Sequence[int] | None = None) -> TokenExamples:
    """Record i holds i + 1 over and over."""
    ids = [np.full(length, index + 1, np.int32) for index, length in enumerate(lengths)]
    given = np.array(labels if labels is not None else [index % 3 for index in range(len(ids))], np.int64)
    return TokenExamples(ids, given, Units(np.arange(len(ids)), len(ids)), BUCKETS, PAD)


def _all(examples: Any) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.arange(len(examples.labels))


@given(lengths, st.data())
def test_each_record_comes_exactly_once_whole_and_in_its_row(lengths: list[int], data: Any) -> None:
    examples = _tokens(lengths)
    chosen = np.array(data.draw(st.lists(st.sampled_from(range(len(lengths))), unique=True)), np.int64)
    seen = []
    for batch in examples.batches(chosen):
        ids, mask = batch.inputs
        for row, record in enumerate(batch.records):
            length = lengths[record]
            assert ids[row, :length].tolist() == [record + 1] * length
            assert ids[row, length:].eq(PAD).all()
            assert mask[row].tolist() == [1] * length + [0] * (ids.shape[1] - length)
            assert batch.labels[row] == record % 3
            assert batch.weights[row] == 1
        seen += batch.records.tolist()
    assert sorted(seen) == sorted(chosen.tolist())


@given(lengths)
def test_a_records_padded_length_depends_on_it_alone(lengths: list[int]) -> None:
    examples = _tokens(lengths)
    among = {int(r): b.inputs[0].shape for b in examples.batches(_all(examples)) for r in b.records}
    for record, length in enumerate(lengths):
        (alone,) = examples.batches(np.array([record]))
        assert alone.inputs[0].shape == among[record]
        assert alone.inputs[0].shape[1] == min(bucket for bucket in BUCKETS if bucket >= length)
        (elsewhere,) = _tokens([length]).batches(np.array([0]))  # in another data set
        assert elsewhere.inputs[0].shape == among[record]


@given(lengths, st.data())
def test_a_batchs_shape_is_a_constant_of_its_bucket(lengths: list[int], data: Any) -> None:
    examples = _tokens(lengths)
    shapes = {bucket: examples.rows(index) for index, bucket in enumerate(BUCKETS)}
    chosen = np.array(data.draw(st.lists(st.sampled_from(range(len(lengths))), unique=True)), np.int64)
    for batch in examples.batches(chosen):
        ids, mask = batch.inputs
        rows = shapes[ids.shape[1]]
        assert ids.shape == mask.shape == (rows, ids.shape[1])
        assert batch.labels.shape == batch.weights.shape == (rows,)
        assert 0 < len(batch.records) <= rows
        assert (ids.dtype, mask.dtype, batch.labels.dtype) == (torch.int64,) * 3
        assert batch.weights.dtype == torch.float32


def test_rows_are_a_budget_of_tokens_within_bounds() -> None:
    examples = TokenExamples([], np.zeros(0, np.int64), Units(np.zeros(0, np.int64), 0), (8, 64, 128, 512), PAD)
    assert [examples.rows(index) for index in range(4)] == [32, 16, 8, 4]


@given(lengths)
def test_dummy_rows_weigh_nothing_and_can_be_computed(lengths: list[int]) -> None:
    examples = _tokens(lengths)
    for batch in examples.batches(_all(examples)):
        ids, mask = (tensor[len(batch.records) :] for tensor in batch.inputs)
        assert ids.eq(PAD).all()
        assert mask.sum(1).eq(1).all()  # a softmax over nothing would be NaN
        assert batch.weights[len(batch.records) :].eq(0).all()
        assert batch.labels[len(batch.records) :].eq(0).all()


def test_no_record_makes_no_batch() -> None:
    assert list(_tokens([3, 20]).batches(np.zeros(0, np.int64))) == []
    empty = TokenExamples([], np.zeros(0, np.int64), Units(np.zeros(0, np.int64), 0), BUCKETS, PAD)
    assert list(empty.batches(np.zeros(0, np.int64))) == []


def _features(labels: Sequence[int]) -> FeatureExamples:
    rows = torch.arange(2 * len(labels), dtype=torch.float32).reshape(-1, 2) + 1
    return FeatureExamples(rows, np.array(labels, np.int64), Units(np.arange(len(labels)), len(labels)))


@pytest.mark.parametrize("make", [lambda labels: _tokens([5] * len(labels), labels), _features])
def test_an_unknown_label_weighs_nothing_and_is_a_legal_index(make: Any) -> None:
    examples: Examples = make([2, UNKNOWN, 1])
    (batch,) = examples.batches(np.arange(3))
    assert batch.labels[:3].tolist() == [2, 0, 1]
    assert batch.weights[:3].tolist() == [1, 0, 1]


@pytest.mark.parametrize("count", [1, 255, 256, 257, 600])
def test_features_come_in_batches_of_one_shape(count: int) -> None:
    examples = _features([0] * count)
    chosen = np.random.default_rng(0).permutation(count)
    seen = []
    for batch in examples.batches(chosen):
        (rows,) = batch.inputs
        assert rows.shape == (256, 2)
        assert torch.equal(rows[: len(batch.records)], examples.features[torch.from_numpy(batch.records)])
        assert rows[len(batch.records) :].eq(0).all()
        assert batch.weights.tolist() == [1] * len(batch.records) + [0] * (256 - len(batch.records))
        seen += batch.records.tolist()
    assert seen == chosen.tolist()


@given(st.lists(st.integers(0, 9), max_size=60), st.integers(0, 3))
def test_units_part_the_records_exactly(units: list[int], num_further: int) -> None:
    num_units = max(units, default=-1) + 1 + num_further
    table = Units(np.array(units, np.int64), num_units)
    for unit in range(num_units):
        assert table.records(unit).tolist() == [row for row, owner in enumerate(units) if owner == unit]
    assert sorted(row for unit in range(num_units) for row in table.records(unit)) == list(range(len(units)))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_tokenizer(tiny_base(tmp_path_factory.mktemp("base")))


def test_texts_are_cut_at_the_last_bucket(tokenizer: Any) -> None:
    texts = ["a rash", " ".join(WORDS * 10), "", " ".join(WORDS[:7])]
    examples = tokenise(texts, np.array([0, 1, 0, 1]), np.arange(4), 4, tokenizer, (8, 16))
    found = {int(r): b.inputs[0][i] for b in examples.batches(np.arange(4)) for i, r in enumerate(b.records)}
    whole = [tokenizer(text)["input_ids"] for text in texts]
    assert len(whole[1]) > 16
    assert found[1].tolist() == [*whole[1][:15], whole[1][-1]]  # the closing mark stays
    assert found[0][: len(whole[0])].tolist() == whole[0]
    assert found[2][:2].tolist() == whole[2]
    assert [len(found[record]) for record in range(4)] == [8, 16, 8, 16]


def test_tokenising_depends_on_the_text_alone(tokenizer: Any) -> None:
    """Neither on its neighbours nor on how many there are: 2,048 are tokenised at a time."""
    texts = ["a rash", "chest pain today"] + ["please refund my card"] * 2100
    many = tokenise(texts, np.zeros(len(texts), np.int64), np.arange(len(texts)), len(texts), tokenizer, (8, 16))
    for record in (0, 1, 2047, 2048, 2101):
        (among,) = many.batches(np.array([record]))
        one = tokenise([texts[record]], np.zeros(1, np.int64), np.zeros(1, np.int64), 1, tokenizer, (8, 16))
        (alone,) = one.batches(np.array([0]))
        assert all(torch.equal(x, y) for x, y in zip(among.inputs, alone.inputs, strict=True))
    assert tokenise([], np.zeros(0, np.int64), np.zeros(0, np.int64), 0, tokenizer, (8,)).units.num_units == 0
