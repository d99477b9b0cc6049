"""Rows in, results out in their order, chunk by chunk; within a chunk windows of like length are computed together."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privet.common.grouping import Windows
from privet.common.outputs import Answer, Output, Scores
from privet.common.predicting.feed import Feed
from privet.common.predicting.pieces import Pieces, Splitter, Words
from privet.common.predicting.reader import Reader
from privet.common.predicting.sinks import Sink
from privet.common.predicting.source import Row

__all__ = ["FIRST_ROWS", "MOST_ROWS", "Tally", "predict_rows", "predict_texts"]

FIRST_ROWS, MOST_ROWS = 64, 4096  # of a chunk: the first is small, so that results come at once
_GROWTH = 8  # of the next one
PATIENCE = 0.05  # seconds that a stream may be silent before what came of it is predicted
_SHOWN = 5  # row numbers of a kind that are named

Floats = NDArray[np.float32]


@dataclass
class Numbers:
    """How many rows, and which were the first."""

    count: int = 0
    first: list[int] = field(default_factory=list)

    def add(self, number: int) -> None:
        self.count += 1
        if len(self.first) < _SHOWN:
            self.first.append(number)

    def words(self, what: str) -> str:
        """
        >>> Numbers(7, [1, 2, 3, 4, 5]).words("without text")
        '7 rows without text (1, 2, 3, 4, 5, …)'
        """
        more = ", …" if self.count > len(self.first) else ""
        return f"{self.count:,} row{'s' * (self.count > 1)} {what} ({', '.join(map(str, self.first))}{more})"


@dataclass
class Tally:
    """What became of the rows. last: number of the last one whose result was written; cut: rows of which only a part
    was read; failed: rows that the tokenizer or the model could not compute."""

    rows: int = 0
    predicted: int = 0
    last: int = 0
    without_text: Numbers = field(default_factory=Numbers)
    unreadable: Numbers = field(default_factory=Numbers)
    failed: Numbers = field(default_factory=Numbers)
    cut: Numbers = field(default_factory=Numbers)

    def counts(self) -> dict[str, int]:
        return {
            "num_rows": self.rows,
            "num_predicted": self.predicted,
            "num_without_text": self.without_text.count,
            "num_unreadable": self.unreadable.count,
            "num_failed": self.failed.count,
            "num_cut": self.cut.count,
        }

    def notes(self) -> list[str]:
        """For people: what was skipped or cut, nothing where all is well."""
        skipped = ((self.without_text, "without text"), (self.unreadable, "that cannot be read"))
        notes = [f"Skipped {numbers.words(what)}." for numbers, what in skipped if numbers.count]
        if self.failed.count:
            notes.append(f"Skipped {self.failed.words('that the model cannot compute')}.")
        if self.cut.count:
            notes.append(
                f"Only the beginning was read of {self.cut.words('longer than the plan reads')}; --whole reads all."
            )
        return notes


def predict_rows(
    feed: Feed,
    reader: Reader,
    output: Output,
    sink: Sink,
    *,
    whole: bool = False,
    patience: float | None = None,
    most: int = MOST_ROWS,
    tally: Tally | None = None,
    on_rows: Callable[[int], None] = lambda _rows: None,
) -> Tally:
    """Predict all that `feed` gives, and finish the sink.

    most: rows of a chunk. patience: as `Feed.take`. tally: kept up to date, for whoever stops it. on_rows: called with
    the number of rows done, often.
    """
    tally = tally or Tally()
    tokenizer = Splitter(reader.tokenizer, reader.plan.task, reader.vocabulary, whole=whole)
    limit = min(FIRST_ROWS, most)
    while chunk := feed.take(limit, patience):
        limit = min(_GROWTH * limit, most)
        done, size = tally.rows, len(chunk)
        found = _answers(chunk, tokenizer, reader, output, tally, lambda part: on_rows(done + int(part * size)))  # noqa: B023
        for row, answer in zip(chunk, found, strict=True):
            sink.write(row, answer)
            tally.rows += 1
            tally.predicted += answer is not None
            tally.last = row.number
        sink.flush()
        on_rows(tally.rows)
    sink.finish(tally.counts())
    return tally


def _answers(
    chunk: Sequence[Row],
    tokenizer: Splitter,
    reader: Reader,
    output: Output,
    tally: Tally,
    on_part: Callable[[float], None],
) -> list[Answer | None]:
    given: list[tuple[int, str]] = []
    for place, row in enumerate(chunk):
        if row.text is None:
            tally.unreadable.add(row.number)
        elif not row.text.strip():
            tally.without_text.add(row.number)
        else:
            given.append((place, row.text))
    texts = [text for _, text in given]
    scores, sound, cut = predict_texts(texts, tokenizer, reader, words=output.words, on_part=on_part)
    for (place, _), fine, shortened in zip(given, sound.tolist(), cut.tolist(), strict=True):
        if not fine:
            tally.failed.add(chunk[place].number)
        elif shortened:
            tally.cut.add(chunk[place].number)
    kept = [each for each, fine in zip(given, sound.tolist(), strict=True) if fine]
    found: list[Answer | None] = [None] * len(chunk)
    if kept:
        for (place, _), answer in zip(kept, output.answers([text for _, text in kept], scores), strict=True):
            found[place] = answer
    return found


def predict_texts(
    texts: Sequence[str],
    tokenizer: Splitter,
    reader: Reader,
    *,
    words: bool = False,
    on_part: Callable[[float], None] = lambda _part: None,
) -> tuple[Scores, NDArray[np.bool_], NDArray[np.bool_]]:
    """Scores of the texts that can be computed; which those are [N]; of which only the beginning was read [N]."""
    pieces = tokenizer(texts, words=words)
    logits: list[Any] = [None] * len(pieces.ids)
    done = 0
    for batch, values in reader(pieces.ids):
        for window, value in zip(batch.tolist(), values, strict=True):
            logits[window] = value[pieces.words[window].places] if words else value
        done += len(batch)
        on_part(done / len(pieces.ids))
    return (*(_of_words if words else _of_texts)(pieces, logits), pieces.cut)


def _of_texts(pieces: Pieces, logits: list[Floats]) -> tuple[Scores, NDArray[np.bool_]]:
    """The mean over a text's windows, as in training."""
    import torch

    sound = pieces.counts > 0
    if not logits:
        return Scores(np.zeros((0, 1), np.float32)), sound
    means = Windows(pieces.counts[sound]).mean(torch.from_numpy(np.stack(logits)))
    finite = np.isfinite(means).all(1)
    sound[np.flatnonzero(sound)[~finite]] = False
    return Scores(means[finite]), sound


def _of_words(pieces: Pieces, logits: list[Floats]) -> tuple[Scores, NDArray[np.bool_]]:
    """The words of each text: one that stands in two windows is judged where it is further from the edge."""
    sound = pieces.counts > 0
    spans, values, counts, start = list[NDArray[np.int64]](), list[Floats](), [0], 0
    for text, count in enumerate(pieces.counts.tolist()):
        if not count:
            continue
        own, found = merged(pieces.words[start : start + count], logits[start : start + count])
        start += count
        if not np.isfinite(found).all():
            sound[text] = False
            continue
        spans.append(own)
        values.append(found)
        counts.append(len(own))
    if not values:
        return Scores(np.zeros((0, 1), np.float32), np.zeros(1, np.int64), np.zeros((0, 2), np.int64)), sound
    return Scores(np.concatenate(values), np.cumsum(counts), np.concatenate(spans)), sound


def merged(windows: Sequence[Words], logits: Sequence[Floats]) -> tuple[NDArray[np.int64], Floats]:
    """Characters [words, 2] and logits [words, K] of a text's words, in their order."""
    if len(windows) == 1:
        return windows[0].spans, logits[0]
    numbers = np.concatenate([window.numbers for window in windows])
    spans = np.concatenate([window.spans for window in windows])
    values = np.concatenate(logits)
    far = np.concatenate([_distance(window.places) for window in windows])
    order = np.lexsort((np.arange(len(numbers)), -far, numbers))  # the earlier window where both are as far
    first = np.flatnonzero(np.diff(numbers[order], prepend=-1))
    if not len(first):
        return spans, values
    low = np.minimum.reduceat(spans[order, 0], first)  # a window may hold a part of a word
    high = np.maximum.reduceat(spans[order, 1], first)
    return np.column_stack([low, high]), values[order[first]]


def _distance(places: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.minimum(places - places[0], places[-1] - places) if len(places) else places
