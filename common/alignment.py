"""Words to word pieces: which piece stands for which word of a text, in its windows.

A text is its words joined by single spaces (`privet.common.sequences`) and is read as any other text is, so that a base
sees in training what it sees of running text later. The first piece of a word stands for it. Of a word in two windows
the one judges it in which it stands further from the edge. Words that no window holds are nobody's: they are
missed. Everything is a function of one text alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privet.common.sequences import words_of
from privet.common.tokens import character_limit, first_windows, one_by_one, runs, sound

__all__ = ["NO_WORD", "Aligned", "align"]

NO_WORD = -1

Integers = NDArray[np.int32]
Pieces = tuple[NDArray[np.int64], NDArray[np.int64]]  # of one window: ids, and characters from and to


@dataclass(frozen=True, repr=False)
class Aligned:
    """ids and words: of every window, text after text, an entry for each piece: its token id, and the number of the
    word that it stands for in its text, or NO_WORD. counts: [N], windows of each text. usable: [N], bool; a text that
    is not has one window of one padding token."""

    ids: list[Integers]
    words: list[Integers]
    counts: NDArray[np.int64]
    usable: NDArray[np.bool_]


def align(
    texts: Sequence[str],
    tokenizer: Any,
    pad: int,
    longest: int,
    vocabulary: int | None = None,
    *,
    windows: int = 1,
    stride: int = 0,
) -> Aligned:
    """The pieces of each text in its first `windows` windows of `longest` tokens, which share `stride`.

    The tokenizer is not to be trusted: a text that it fails on, or for which it gives ids outside the `vocabulary` or
    places outside the text, is not usable. No text can raise.
    """
    ids: list[Integers] = []
    words: list[Integers] = []
    usable = np.ones(len(texts), np.bool_)
    counts = np.ones(len(texts), np.int64)
    limit = character_limit(longest, windows)

    def encode(part: list[str]) -> list[list[Pieces]]:
        return _windows(tokenizer, part, longest, windows, stride)

    for start, end in runs([min(len(text), limit) for text in texts]):
        for number, found in enumerate(one_by_one(encode, [text[:limit] for text in texts[start:end]]), start):
            usable[number] = bool(found) and all(sound(row, longest, vocabulary) for row, _ in found)
            if not usable[number]:
                found = [(np.array([pad]), np.zeros((1, 2), np.int64))]
            counts[number] = len(found)
            ids += [row.astype(np.int32) for row, _ in found]
            words += judged(texts[number] if usable[number] else "", [spans for _, spans in found])
    return Aligned(ids, words, counts, usable)


def judged(text: str, spans: Sequence[NDArray[np.int64]]) -> list[Integers]:
    """For each window of a text, given its pieces' characters [pieces, 2] (from, to; equal where a piece has none), the
    words that they stand for, int32 [pieces]. Each word stands at most once in all windows."""
    ends = np.cumsum([len(word) + 1 for word in words_of(text)]) - 1  # one past the last character of each word
    starts = np.concatenate([np.zeros(1, np.int64), ends[:-1] + 1]) if len(ends) else ends
    tables = [np.full(len(window), NO_WORD, np.int32) for window in spans]
    if not len(ends):
        return tables
    claims: list[NDArray[np.int64]] = []  # word, nearness to the edge, window, place
    for number, window in enumerate(spans):
        word = np.minimum(np.searchsorted(ends, window[:, 0], side="right"), len(ends) - 1)
        real = (window[:, 1] > window[:, 0]) & (window[:, 0] < ends[word]) & (window[:, 1] > starts[word])
        places = np.flatnonzero(real)
        if not len(places):
            continue
        own, from_, last = word[places], window[places, 0], int(places[-1])
        first = (np.diff(own, prepend=NO_WORD) != 0) & (from_ <= starts[own])  # no window begins a word in its middle
        near = -np.minimum(places - int(places[0]), last - places)
        claims.append(np.stack([own, near, np.full(len(own), number), places])[:, first])
    if claims:
        every = np.concatenate(claims, axis=1)
        every = every[:, np.lexsort(every[::-1])]
        for word_, _, number, place in every[:, np.diff(every[0], prepend=NO_WORD) != 0].T.tolist():
            tables[number][place] = word_
    return tables


def _windows(tokenizer: Any, texts: list[str], longest: int, windows: int, stride: int) -> list[list[Pieces]]:
    """Ids and characters of the windows of each text. Raises: whatever the tokenizer does, and for a wrong answer."""
    settings: dict[str, Any] = {"truncation": True, "max_length": longest, "return_attention_mask": False}
    if windows > 1:
        settings |= {"stride": stride, "return_overflowing_tokens": True}
    encoded = tokenizer(texts, return_offsets_mapping=True, **settings)
    owners = encoded["overflow_to_sample_mapping"] if windows > 1 else range(len(texts))
    rows = list(zip(encoded["input_ids"], encoded["offset_mapping"], strict=True))
    return [
        [_pieces(row, spans, longest) for row, spans in found]
        for found in first_windows(rows, owners, len(texts), windows)
    ]


def _pieces(row: Any, spans: Any, longest: int) -> Pieces:
    characters = np.asarray(spans, np.int64).reshape(-1, 2)
    if len(characters) != len(row) or characters.min(initial=0) < 0:
        raise ValueError("Expected the characters of every piece.")
    return np.asarray(row[: longest + 1], np.int64), characters[: longest + 1]
