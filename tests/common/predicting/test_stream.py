"""Chunks, their order, and what is held between input and output."""

import io
import os
import threading
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from privet.common.outputs import output_of
from privet.common.predicting import feed as feeds
from privet.common.predicting import stream
from privet.common.predicting.feed import Feed
from privet.common.predicting.pieces import Splitter, Words
from privet.common.predicting.sinks import text_sink
from privet.common.predicting.source import Row, Source
from privet.common.predicting.stream import Tally, merged, predict_rows
from tests.common.predicting.stand_in import StandIn, stand_in
from tests.tiny_models import WORDS

ROWS = st.lists(
    st.one_of(
        st.none(),
        st.just(" "),
        st.text(max_size=20),
        st.lists(st.sampled_from(WORDS), min_size=1, max_size=40).map(" ".join),
    ),
    max_size=60,
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> StandIn:
    return stand_in(tmp_path_factory.mktemp("model"), max_length=16, windows=3, stride=4)


@pytest.fixture(scope="module")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> StandIn:
    return stand_in(tmp_path_factory.mktemp("tagger"), per_token=True, max_length=16, windows=2, stride=4)


def run(model: StandIn, texts: Sequence[str | None], most: int = 4096, format: str = "lines") -> tuple[str, Tally]:
    rows = (Row(number, text) for number, text in enumerate(texts, 1))
    output, out = output_of(model.plan.task), io.StringIO()
    with Feed(rows, 4096) as feed:
        tally = predict_rows(feed, model, output, text_sink(out, format, output, False), most=most)
    return out.getvalue(), tally


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=ROWS, most=st.integers(1, 70), first=st.integers(1, 70), ahead=st.integers(1, 70))
def test_chunks_of_any_size_give_the_same(
    model: StandIn,
    tagger: StandIn,
    monkeypatch: pytest.MonkeyPatch,
    texts: list[str | None],
    most: int,
    first: int,
    ahead: int,
) -> None:
    for each in (model, tagger):
        expected, tally = run(each, texts)
        with monkeypatch.context() as patch:
            patch.setattr(stream, "FIRST_ROWS", first)
            rows = (Row(number, text) for number, text in enumerate(texts, 1))
            output, out = output_of(each.plan.task), io.StringIO()
            with Feed(rows, ahead) as feed:
                again = predict_rows(feed, each, output, text_sink(out, "lines", output, False), most=most)
        assert out.getvalue() == expected
        assert again == tally


def test_results_stand_in_the_order_of_the_rows(model: StandIn) -> None:
    texts = [" ".join(WORDS[: 1 + (7 * i) % 11]) for i in range(200)]
    lines, tally = run(model, texts, most=50)
    alone = [run(model, [text])[0] for text in texts]
    assert lines.splitlines(keepends=True) == alone
    assert len(set(alone)) > 5
    assert (tally.rows, tally.predicted, tally.last) == (200, 200, 200)


def test_skipped_rows_have_a_line_and_are_counted(model: StandIn) -> None:
    lines, tally = run(model, ["rash", None, " ", *[None] * 6, "no"])
    assert [bool(line) for line in lines.split("\n")] == [True, *[False] * 8, True, False]
    assert tally.notes() == [
        "Skipped 1 row without text (3).",
        "Skipped 7 rows that cannot be read (2, 4, 5, 6, 7, …).",
    ]
    assert tally.counts()["num_predicted"] == 2


def test_only_so_many_rows_are_held(model: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    made = written = most = 0

    def rows() -> Iterator[Row]:
        nonlocal made
        for number in range(3000):
            made += 1
            yield Row(number + 1, WORDS[number % len(WORDS)])

    class Sink:
        def write(self, row: Row, answer: object) -> None:
            nonlocal written, most
            written += 1
            most = max(most, made - written)

        def flush(self) -> None: ...
        def finish(self, counts: object) -> None: ...

    monkeypatch.setattr(stream, "FIRST_ROWS", 8)
    with Feed(rows(), 100) as feed:
        predict_rows(feed, model, output_of(model.plan.task), Sink(), most=50)
    assert written == 3000
    assert most <= 100 + 50 + 1  # ahead, the chunk, and the one that waits for a place


def test_long_rows_are_held_by_their_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "MOST_CHARACTERS", 1000)
    made = 0

    def rows() -> Iterator[Row]:
        nonlocal made
        for number in range(50):
            made += 1
            yield Row(number, "x" * 300 if number != 20 else "y" * 5000)

    taken = 0
    with Feed(rows(), 4096) as feed:
        while chunk := feed.take(4096):
            assert sum(len(row.text or "") for row in chunk) <= 1000 or len(chunk) == 1
            taken += len(chunk)
            assert made - taken <= 4 + 4 + 1
    assert taken == 50


def test_the_first_results_come_before_the_input_ends(model: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    output, came, out = output_of(model.plan.task), threading.Event(), io.StringIO()

    class Told(io.StringIO):
        def flush(self) -> None:
            came.set()

    out = Told()
    with os.fdopen(read, "r") as file, monkeypatch.context() as patch:
        patch.setattr("sys.stdin", file)
        with Source("-") as source, Feed(source.rows(), 4096, source.cancel) as feed:
            work = threading.Thread(
                target=lambda: predict_rows(feed, model, output, text_sink(out, "lines", output, False), patience=0.01)
            )
            work.start()
            os.write(write, b"rash\nno\n")
            assert came.wait(60)  # the stream is still open
            assert out.getvalue()
            os.close(write)
            work.join(60)
    assert len(out.getvalue().splitlines()) == 2


def test_what_reading_raises_comes_after_the_rows_before_it(model: StandIn) -> None:
    def rows() -> Iterator[Row]:
        yield Row(1, "rash")
        yield Row(2, "no")
        raise OSError("the disk is gone")

    output, out = output_of(model.plan.task), io.StringIO()
    with Feed(rows(), 10) as feed, pytest.raises(OSError, match="gone"):
        predict_rows(feed, model, output, text_sink(out, "lines", output, False))
    assert len(out.getvalue().splitlines()) == 2


def test_leaving_early_ends_the_thread() -> None:
    def rows() -> Iterator[Row]:
        while True:
            yield Row(1, "rash")

    with Feed(rows(), 10) as feed:
        assert len(feed.take(3)) == 3
    assert not feed._thread.is_alive()


def test_a_text_longer_than_the_plan_reads_is_counted_and_read_whole_on_demand(model: StandIn) -> None:
    text = " ".join([*WORDS, *WORDS, *WORDS])
    _, tally = run(model, ["rash", text])
    assert tally.cut.first == [2]
    assert "--whole" in tally.notes()[0]
    task = model.plan.task
    short = Splitter(model.tokenizer, task, model.vocabulary)([text])
    pieces = Splitter(model.tokenizer, task, model.vocabulary, whole=True)([text])
    assert short.counts.tolist() == [3]
    assert not pieces.cut.any()
    joined = pieces.ids[0][1:-1].tolist()
    for window in pieces.ids[1:]:
        assert window[1 : 1 + task.stride].tolist() == joined[-task.stride :]
        joined += window[1 + task.stride : -1].tolist()
    long = task.model_copy(update={"max_length": 512, "windows": 1, "stride": 0})
    assert joined == Splitter(model.tokenizer, long, model.vocabulary)([text]).ids[0][1:-1].tolist()
    assert len(joined) == 3 * len(WORDS)


def test_a_text_that_the_tokenizer_fails_on_leaves_its_neighbours(
    model: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing:
        def __init__(self, inner: object) -> None:
            self._inner = inner

        def __getattr__(self, name: str) -> object:
            return getattr(self._inner, name)

        def encode_batch_fast(self, texts: list[str]) -> object:
            if "rash" in texts:
                raise BaseException("a panic")
            return self._inner.encode_batch_fast(texts)  # type: ignore[attr-defined]

    expected, _ = run(model, ["no", "", "fever"])
    monkeypatch.setattr(model.tokenizer, "backend", Failing(model.tokenizer.backend))
    lines, tally = run(model, ["no", "rash", "fever"])
    assert lines == expected
    assert tally.failed.first == [2]


def test_entities_of_long_texts_are_those_of_the_whole(tagger: StandIn) -> None:
    """With logits that do not depend on context, windows must make no difference: each word once, in order."""
    text = "  The patient,  has a FEVER\u00a0and no rash! " * 6
    whole = Splitter(tagger.tokenizer, tagger.plan.task, tagger.vocabulary, whole=True)
    long = tagger.plan.task.model_copy(update={"max_length": 512, "windows": 1, "stride": 0})
    parts, sound, _ = stream.predict_texts([text, "rash"], whole, tagger, words=True)
    one, _, _ = stream.predict_texts([text, "rash"], Splitter(tagger.tokenizer, long, 4096), tagger, words=True)
    assert sound.all()
    assert one.spans is not None
    assert parts.spans is not None
    assert len(one.spans) == 6 * 10 + 1
    assert np.array_equal(parts.spans, one.spans)
    assert np.array_equal(parts.logits, one.logits)
    found = [text[start:end] for start, end in one.spans[:10].tolist()]
    assert found == ["The", "patient", ",", "has", "a", "FEVER", "and", "no", "rash", "!"]


def test_a_word_in_two_windows_is_judged_where_it_has_more_around_it() -> None:
    def window(numbers: list[int]) -> Words:
        spans = np.array([[10 * number, 10 * number + 5] for number in numbers])
        return Words(np.array(numbers), np.arange(1, len(numbers) + 1), spans)

    def logits(count: int, value: float) -> np.ndarray:
        return np.full((count, 1), value, np.float32)

    spans, values = merged([window([0, 1, 2, 3, 4]), window([3, 4, 5, 6])], [logits(5, 1), logits(4, 2)])
    assert spans[:, 0].tolist() == [0, 10, 20, 30, 40, 50, 60]
    assert values[:, 0].tolist() == [1, 1, 1, 1, 2, 2, 2]  # 3: one from an edge in the first; 4: none there, one here
