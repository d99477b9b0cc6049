"""Texts to windows of token ids: of the text alone, whatever the tokenizer does."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from privet.common.examples import UNKNOWN, TokenExamples
from privet.common.model import load_tokenizer
from privet.common.tokens import character_limit, tokenise
from tests.tiny_models import WORDS, tiny_base


def _places(examples: TokenExamples, chosen: NDArray[np.int64]) -> dict[int, tuple[Any, ...]]:
    """Of each window: the shape of its batch, its row, and all that stands in it."""
    return {
        int(window): (batch.inputs[0].shape, int(row), *(tensor[row].tolist() for tensor in batch.inputs))
        for batch in examples.batches(chosen)
        for window, row in zip(chosen[batch.places], batch.rows, strict=True)
    }


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


# Windows


def _contents(examples: TokenExamples) -> list[list[list[int]]]:
    """Token ids of each record's windows."""
    found = _places(examples, np.arange(len(examples.windows.record)))
    rows = [[token for token, kept in zip(found[w][2], found[w][3], strict=True) if kept] for w in sorted(found)]
    start = examples.windows.start
    return [rows[a:b] for a, b in itertools.pairwise(start)]


def _windowed(texts: Sequence[str], tokenizer: Any, windows: int, stride: int = 0) -> TokenExamples:
    count = len(texts)
    given = (texts, np.zeros(count, np.int64), np.arange(count), count, tokenizer, (8, 16), 10_000)
    return tokenise(*given, windows=windows, stride=stride)


@pytest.mark.parametrize(("windows", "stride"), [(1, 0), (2, 0), (3, 5), (16, 7)])
def test_a_long_text_is_read_in_its_first_windows(tokenizer: Any, windows: int, stride: int) -> None:
    texts = ["a rash", " ".join(WORDS * 2), "", " ".join(WORDS[:20]), "x" * 3000]
    contents = _contents(_windowed(texts, tokenizer, windows, stride))
    for text, found in zip(texts, contents, strict=True):
        first, *inner, last = tokenizer(text, truncation=False)["input_ids"]
        step = 14 - stride  # two of sixteen tokens are special
        expected = [[first, *inner[at : at + 14], last] for at in range(0, max(1, len(inner) - stride), step)]
        assert found == expected[:windows]
    assert [len(found) for found in contents][:3] == [1, min(windows, -(-(54 - stride) // (14 - stride))), 1]


def test_windows_depend_on_the_text_alone(tokenizer: Any) -> None:
    texts = [" ".join(WORDS[i:] * (1 + i % 3)) for i in range(20)]
    many = _contents(_windowed(texts, tokenizer, 4, 3))
    assert many == [_contents(_windowed([text], tokenizer, 4, 3))[0] for text in texts]
    assert max(map(len, many)) == 4


class Overflowing:
    """Answers as it is told, for windows too."""

    pad_token_id = 0

    def __init__(self, answer: dict[str, Any]) -> None:
        self.answer = answer

    def __call__(self, texts: list[str], **_: Any) -> dict[str, Any]:
        if "odd" not in texts:
            return {"input_ids": [[1, 2]] * len(texts), "overflow_to_sample_mapping": list(range(len(texts)))}
        return self.answer


@pytest.mark.parametrize(
    "answer",
    [
        {"input_ids": [[1]], "overflow_to_sample_mapping": [-1]},
        {"input_ids": [[1]], "overflow_to_sample_mapping": [7]},
        {"input_ids": [[1]], "overflow_to_sample_mapping": [0, 0]},
        {"input_ids": [[1]], "overflow_to_sample_mapping": ["0"]},
        {"input_ids": [[1]], "overflow_to_sample_mapping": None},
        {"input_ids": [[1]]},
        {"input_ids": [], "overflow_to_sample_mapping": []},
        {"input_ids": [[1], []], "overflow_to_sample_mapping": [0, 0]},
        {"input_ids": [[1], [10_000]], "overflow_to_sample_mapping": [0, 0]},
        {"input_ids": [[1], [[1]]], "overflow_to_sample_mapping": [0, 0]},
        {"input_ids": [[1], [2**80]], "overflow_to_sample_mapping": [0, 0]},
        {"input_ids": [[1] * 1_000_000], "overflow_to_sample_mapping": [0]},
    ],
)
def test_odd_windows_take_the_records_label_and_leave_the_others_alone(answer: dict[str, Any]) -> None:
    examples = _windowed(["a", "odd", "b"], Overflowing(answer), 3)
    assert examples.labels.tolist() == [0, UNKNOWN, 0]
    assert _contents(examples) == [[[1, 2]], [[0]], [[1, 2]]]


def test_an_absurd_number_of_windows_is_cut() -> None:
    answer = {"input_ids": [[1]] * 100_000, "overflow_to_sample_mapping": [0] * 100_000}
    assert _windowed(["odd"], Overflowing(answer), 3).windows.counts.tolist() == [3]


@given(st.text(max_size=200), st.integers(1, 16), st.integers(0, 7))
def test_no_text_raises(tokenizer: Any, text: str, windows: int, stride: int) -> None:
    examples = _windowed([text, "a rash"], tokenizer, windows, stride)
    assert 1 <= examples.windows.counts[0] <= windows
    assert _contents(examples)[1] == _contents(_windowed(["a rash"], tokenizer, windows, stride))[0]


# A record's characters


class Recording:
    """Notes how much it is given at once."""

    pad_token_id = 0

    def __init__(self) -> None:
        self.calls: list[list[int]] = []

    def __call__(self, texts: list[str], **_: Any) -> dict[str, Any]:
        self.calls.append([len(text) for text in texts])
        return {"input_ids": [[1]] * len(texts), "overflow_to_sample_mapping": list(range(len(texts)))}


@pytest.mark.parametrize(("windows", "limit"), [(1, 4096), (4, 4096), (16, 64 * 16 * 16)])
def test_a_text_is_read_up_to_a_limit_that_the_plan_sets(windows: int, limit: int) -> None:
    tokenizer = Recording()
    texts = ["x" * length for length in (1, limit, limit + 1, 3_000_000)]
    _windowed(texts, tokenizer, windows)
    assert tokenizer.calls == [[1, limit, limit, limit]]


def test_long_texts_are_tokenised_few_at_a_time() -> None:
    tokenizer = Recording()
    texts = ["x" * 16_384, "y"] * 700 + ["z"] * 5000
    assert _windowed(texts, tokenizer, 16).labels.tolist() == [0] * len(texts)
    assert sum(map(len, tokenizer.calls)) == len(texts)
    assert max(map(sum, tokenizer.calls)) <= 2**21
    assert max(map(len, tokenizer.calls)) <= 2048
    assert len(tokenizer.calls) < 20


@pytest.mark.parametrize(("windows", "stride"), [(1, 0), (3, 5), (16, 7)])
def test_the_limit_leaves_the_windows_of_ordinary_text_as_they_are(
    tokenizer: Any, windows: int, stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(3)
    texts = [
        " ".join(random.choice(WORDS, 6000)),
        "word\n\n  " * 6000,
        "transfer, " * 5000,
        "a" * 90 + " fever " * 9000,
    ]
    limit = character_limit(16, windows)
    assert all(len(text) > limit for text in texts)
    found = _contents(_windowed(texts, tokenizer, windows, stride))
    assert [len(rows) for rows in found] == [windows] * len(texts)
    assert found == [_contents(_windowed([text[:limit]], tokenizer, windows, stride))[0] for text in texts]
    monkeypatch.setattr("privet.common.tokens.character_limit", lambda *_: 10**9)
    assert _contents(_windowed(texts, tokenizer, windows, stride)) == found


def test_the_limit_is_of_plan_and_record_alone(tokenizer: Any) -> None:
    """A text that says nothing within the limit reads as such, whoever is beside it."""
    late = " " * character_limit(16, 2) + "fever"
    alone = _contents(_windowed([late], tokenizer, 2))
    assert alone == _contents(_windowed([""], tokenizer, 2))
    assert _contents(_windowed(["a rash", late, "x" * 10_000], tokenizer, 2))[1] == alone[0]
