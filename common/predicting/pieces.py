"""Texts to the windows of token ids that a plan's model reads, and how much of each text that is.

As `privet.common.tokens`, and beside the ids: whether a text goes on beyond what is read, and for a model that marks
tokens where each word lies in the text.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privet.common.config.task import TaskSpec
from privet.common.tokens import character_limit

__all__ = ["WHOLE_CHARACTERS", "Pieces", "Splitter"]

WHOLE_CHARACTERS = 2**20  # of a text that are read where the plan's number of windows does not end it

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Words:
    """The words that begin in one window: of each its number in the text, its first piece's place in the window, and
    its characters [start, end) in the text."""

    numbers: Integers
    places: Integers
    spans: Integers  # [words, 2]


@dataclass(frozen=True)
class Pieces:
    """Of N texts: `ids` of their windows, text after text; how many each has, 0 for one that the tokenizer fails on;
    whether a text goes on; `words` of each window where they were asked for."""

    ids: list[NDArray[np.int32]]
    counts: Integers
    cut: NDArray[np.bool_]
    words: list[Words]


class Splitter:
    """The base's tokenizer, called on many texts at once, with as many threads as OMP_NUM_THREADS says."""

    def __init__(self, tokenizer: Any, task: TaskSpec, vocabulary: int, *, whole: bool = False) -> None:
        """tokenizer: of `quick_tokenizer` or `load_tokenizer`; its settings are changed."""
        threads = os.environ.get("OMP_NUM_THREADS", "1")
        os.environ.setdefault("RAYON_NUM_THREADS", threads)  # read when the library first works on a batch
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false" if threads == "1" else "true")
        self._backend = getattr(tokenizer, "backend_tokenizer", None) or tokenizer.backend
        self._backend.no_padding()
        self._backend.encode_special_tokens = False
        stride = task.stride if task.windows > 1 or whole else 0
        self._backend.enable_truncation(task.max_length, stride=stride, strategy="longest_first", direction="right")
        self._windows = None if whole else task.windows
        self._limit = WHOLE_CHARACTERS if whole else character_limit(task.max_length, task.windows)
        self._longest, self._vocabulary = task.max_length, vocabulary

    def __call__(self, texts: Sequence[str], *, words: bool = False) -> Pieces:
        """No text can raise, whatever is in it."""
        found = self._encode([text[: self._limit] for text in texts], words)
        pieces = Pieces([], np.zeros(len(texts), np.int64), np.zeros(len(texts), bool), [])
        for number, (text, encoding) in enumerate(zip(texts, found, strict=True)):
            windows = [] if encoding is None else [encoding, *encoding.overflowing]
            kept = windows[: self._windows]
            ids = [np.array(window.ids, np.int32) for window in kept]
            if not all(self._sound(row) for row in ids):
                continue
            pieces.ids.extend(ids)
            pieces.counts[number] = len(ids)
            pieces.cut[number] = len(windows) > len(kept) or bool(text[self._limit :].strip())
            if words:
                pieces.words.extend(_words(window) for window in kept)
        return pieces

    def _sound(self, row: NDArray[np.int32]) -> bool:
        return 0 < len(row) <= self._longest and bool(row.min() >= 0 and row.max() < self._vocabulary)

    def _encode(self, texts: list[str], words: bool) -> list[Any]:
        """The tokenizer's own answers; None for a text that it fails on."""
        encode = self._backend.encode_batch if words else self._backend.encode_batch_fast  # without offsets
        try:
            return list(encode(texts))
        except KeyboardInterrupt:
            raise
        except BaseException:  # a panic in the tokenizer's Rust is not an Exception
            if len(texts) == 1:
                return [None]
            return [each for text in texts for each in self._encode([text], words)]


def _words(window: Any) -> Words:
    """Neighbouring pieces of one word; where a window begins within a word, the rest of it counts as one too."""
    numbers = np.array([-1 if word is None else word for word in window.word_ids], np.int64)
    spans = np.array(window.offsets, np.int64).reshape(-1, 2)
    starts = np.flatnonzero(np.diff(numbers, prepend=-2))
    ends = np.append(starts[1:], len(numbers)) - 1
    real = numbers[starts] >= 0
    starts, ends = starts[real], ends[real]
    return Words(numbers[starts], starts, np.column_stack([spans[starts, 0], spans[ends, 1]]))
