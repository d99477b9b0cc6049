"""Batches of fixed shapes and rows: nothing about a record's batch-mates may show in how it is computed."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from privet.common.examples import (
    TRAINING_ROWS,
    UNKNOWN,
    Batch,
    Examples,
    FeatureExamples,
    TokenExamples,
    Units,
    tokenise,
)
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


def _some(data: Any, count: int) -> NDArray[np.int64]:
    return np.array(data.draw(st.lists(st.sampled_from(range(count)), unique=True)), np.int64)


def _places(examples: Examples, chosen: NDArray[np.int64]) -> dict[int, tuple[Any, ...]]:
    """Of each record: the shape of its batch, its row, and all that stands in it."""
    return {
        int(record): (batch.inputs[0].shape, int(row), *(tensor[row].tolist() for tensor in batch.inputs))
        for batch in examples.batches(chosen)
        for record, row in zip(batch.records, batch.rows, strict=True)
    }


def _dummies(batch: Batch) -> NDArray[np.int64]:
    return np.setdiff1d(np.arange(len(batch.labels)), batch.rows)


@given(lengths, st.data())
def test_each_record_comes_exactly_once_whole_and_in_its_row(lengths: list[int], data: Any) -> None:
    examples, chosen, seen = _tokens(lengths), _some(data, len(lengths)), []
    for batch in examples.batches(chosen):
        ids, mask = batch.inputs
        assert len(set(batch.rows.tolist())) == len(batch.rows) == len(batch.records)
        for row, record in zip(batch.rows, batch.records, strict=True):
            length = lengths[record]
            assert ids[row, :length].tolist() == [record + 1] * length
            assert ids[row, length:].eq(PAD).all()
            assert mask[row].tolist() == [1] * length + [0] * (ids.shape[1] - length)
            assert batch.labels[row] == record % 3
            assert batch.weights[row] == 1
        seen += batch.records.tolist()
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
        assert 0 < len(batch.records) <= TRAINING_ROWS
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
    assert [len(batch.records) for batch in batches] == [1] * 6
    assert len({int(batch.rows[0]) for batch in batches}) == 1


def test_different_texts_are_spread_over_the_rows() -> None:
    examples = _tokens([5] * 400)
    places = _places(examples, np.arange(400))
    counts = np.bincount([place[1] for place in places.values()], minlength=TRAINING_ROWS)
    assert counts.min() > 0.7 * 400 / TRAINING_ROWS


def test_for_inference_every_record_comes_once() -> None:
    examples = _tokens([3, 20, 64, 5] * 20)
    batches = list(examples.for_inference())
    assert sorted(int(record) for batch in batches for record in batch.records) == list(range(80))
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
        for record, row in zip(batch.records, batch.rows, strict=True)
    }
    assert found == {0: (2, 1.0), 1: (0, 0.0), 2: (1, 1.0)}


@pytest.mark.parametrize("count", [1, 1023, 1024, 1025, 2100])
def test_features_come_in_bounded_batches(count: int) -> None:
    examples = _features([0] * count)
    chosen = np.random.default_rng(0).permutation(count)
    seen = []
    for batch in examples.batches(chosen):
        (rows,) = batch.inputs
        assert len(rows) <= 1024
        assert torch.equal(rows[torch.from_numpy(batch.rows)], examples.features[torch.from_numpy(batch.records)])
        assert batch.weights.tolist() == [1] * len(batch.records)
        seen += batch.records.tolist()
    assert seen == chosen.tolist()


@given(st.lists(st.integers(0, 9), max_size=60), st.integers(0, 3))
def test_units_part_the_records_exactly(units: list[int], num_further: int) -> None:
    num_units = max(units, default=-1) + 1 + num_further
    table = Units(np.array(units, np.int64), num_units)
    for unit in range(num_units):
        assert table.records(unit).tolist() == [row for row, owner in enumerate(units) if owner == unit]
    assert sorted(row for unit in range(num_units) for row in table.records(unit)) == list(range(len(units)))


# Tokens


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_tokenizer(tiny_base(tmp_path_factory.mktemp("base")))


def _tokenised(texts: Sequence[str], tokenizer: Any, vocabulary: int | None = None) -> TokenExamples:
    count = len(texts)
    return tokenise(texts, np.zeros(count, np.int64), np.arange(count), count, tokenizer, (8, 16), vocabulary)


def test_texts_are_cut_at_the_last_bucket(tokenizer: Any) -> None:
    texts = ["a rash", " ".join(WORDS * 10), "", " ".join(WORDS[:7])]
    found = {record: place[2] for record, place in _places(_tokenised(texts, tokenizer), np.arange(4)).items()}
    whole = [tokenizer(text)["input_ids"] for text in texts]
    assert len(whole[1]) > 16
    assert found[1] == [*whole[1][:15], whole[1][-1]]  # the closing mark stays
    assert found[0][: len(whole[0])] == whole[0]
    assert found[2][:2] == whole[2]
    assert [len(found[record]) for record in range(4)] == [8, 16, 8, 16]


def test_tokenising_depends_on_the_text_alone(tokenizer: Any) -> None:
    """Neither on its neighbours nor on how many there are: 2,048 are tokenised at a time."""
    texts = ["a rash", "chest pain today"] + ["please refund my card"] * 2100
    many = _tokenised(texts, tokenizer)
    for record in (0, 1, 2047, 2048, 2101):
        alone = _places(_tokenised([texts[record]], tokenizer), np.array([0]))[0]
        assert _places(many, np.array([record]))[record] == alone
    assert _tokenised([], tokenizer).units.num_units == 0


class Faulty:
    """A tokenizer that a server named: it fails on some texts, and gives odd ids for others."""

    pad_token_id = 0
    odd: Any = None

    def __call__(self, texts: list[str], **_: Any) -> dict[str, Any]:
        class Panic(BaseException):
            """As the tokenizer's Rust raises: no Exception."""

        if "raise" in texts:
            raise ValueError("Jane Doe")
        if "panic" in texts:
            raise Panic
        return {"input_ids": [self.odd if text == "odd" else [1, 2, 3] for text in texts]}


@pytest.mark.parametrize("odd", [[1, 9, 10], [-1, 2], [], [1] * 17, [2**40]])
def test_a_record_the_tokenizer_fails_on_has_no_label_and_leaves_the_others_alone(odd: list[int]) -> None:
    tokenizer = Faulty()
    tokenizer.odd = odd
    texts = ["a", "raise", "b", "panic", "odd", "c"]
    examples = _tokenised(texts, tokenizer, vocabulary=10)
    assert examples.labels.tolist() == [0, UNKNOWN, 0, UNKNOWN, UNKNOWN, 0]
    places = _places(examples, np.arange(6))
    sound = _places(_tokenised(["a"], tokenizer, vocabulary=10), np.array([0]))[0]
    assert all(places[record] == sound for record in (0, 2, 5))
    for record in (1, 3, 4):
        assert set(places[record][2]) == {0}
        assert sum(places[record][3]) == 1


def test_the_operators_interrupt_is_no_fault_of_a_record() -> None:
    def interrupted(texts: list[str], **_: Any) -> Any:
        raise KeyboardInterrupt

    interrupted.pad_token_id = 0  # type: ignore[attr-defined]
    with pytest.raises(KeyboardInterrupt):
        _tokenised(["a", "b"], interrupted)
