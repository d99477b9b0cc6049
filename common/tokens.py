"""Texts to windows of token ids, by a tokenizer that came with the base that a server named."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from privet.common.tasks.targets import without

if TYPE_CHECKING:
    from privet.common.examples import Integers, TokenExamples
    from privet.common.tasks.targets import Targets

T = TypeVar("T")

_TEXTS_AT_ONCE = 2048
_CHARACTERS_AT_ONCE = 2**21  # the tokenizer needs some hundred bytes for each
_CHARACTERS_PER_TOKEN = 64  # ordinary text has 2 to 6
_LEAST_CHARACTERS = 4096


def tokenise(
    texts: Sequence[str],
    labels: "Targets",
    units: "Integers",
    num_units: int,
    tokenizer: Any,
    buckets: Sequence[int],
    vocabulary: int | None = None,
    *,
    windows: int = 1,
    stride: int = 0,
) -> "TokenExamples":
    """Tokenise once. A text over the last bucket's length is read in its first `windows` windows of that length, which
    share `stride` tokens; what lies beyond them is cut off, `character_limit` first of all.

    The tokenizer is not to be trusted: a record that it fails on, or for which it gives ids outside the `vocabulary`,
    becomes one padding token with no label. No record can raise.
    """
    from privet.common.examples import TokenExamples  # with torch; the rest needs none
    from privet.common.grouping import Units, Windows

    pad = padding(tokenizer, vocabulary)
    ids, counts, usable = token_rows(texts, tokenizer, pad, buckets[-1], vocabulary, windows=windows, stride=stride)
    labels = without(labels, ~usable)
    return TokenExamples(ids, labels, Units(units, num_units), buckets, pad, Windows(counts))


def padding(tokenizer: Any, vocabulary: int | None) -> int:
    """The id that fills rows up."""
    pad = int(tokenizer.pad_token_id or 0)
    return 0 if vocabulary is not None and not 0 <= pad < vocabulary else pad


def token_rows(
    texts: Sequence[str],
    tokenizer: Any,
    pad: int,
    longest: int,
    vocabulary: int | None = None,
    *,
    windows: int = 1,
    stride: int = 0,
) -> tuple[list[NDArray[np.int32]], NDArray[np.int64], NDArray[np.bool_]]:
    """The ids of every window, text after text; how many windows each text has; and whether it is usable."""
    ids: list[NDArray[np.int32]] = []
    usable = np.ones(len(texts), bool)
    counts = np.ones(len(texts), np.int64)
    limit = character_limit(longest, windows)

    def encode(part: list[str]) -> list[list[NDArray[np.int64]]]:
        found = split(tokenizer, part, longest, windows, stride)
        return [[np.asarray(row[: longest + 1], np.int64) for row in rows] for rows in found]

    for start, end in runs([min(len(text), limit) for text in texts]):
        for record, rows in enumerate(one_by_one(encode, list(texts[start:end])), start):
            usable[record] = bool(rows) and all(sound(row, longest, vocabulary) for row in rows)
            if usable[record]:
                counts[record] = len(rows)
                ids += [row.astype(np.int32) for row in rows]
            else:
                ids.append(np.array([pad], np.int32))
    return ids, counts, usable


def character_limit(longest: int, windows: int) -> int:
    """Characters of a text that are read: 64 for every token that `windows` windows of `longest` tokens could keep, at
    least 4,096. A tokenizer's memory and time are thereby bounded by the plan, not by the longest record.

    No window changes where a token stands for at most 64 characters on average: in any text but one of, say, pages of
    spaces.
    """
    return max(_LEAST_CHARACTERS, _CHARACTERS_PER_TOKEN * longest * windows)


def split(tokenizer: Any, texts: list[str], longest: int, windows: int, stride: int) -> list[list[list[int]]]:
    """Token ids of the first windows of each text's first `character_limit` characters, special tokens in each.

    Raises: whatever the tokenizer does; ValueError, IndexError or TypeError where its answer does not fit the texts.
    """
    settings: dict[str, Any] = {"truncation": True, "max_length": longest, "return_attention_mask": False}
    if windows > 1:
        settings |= {"stride": stride, "return_overflowing_tokens": True}
    limit = character_limit(longest, windows)
    encoded = tokenizer([text[:limit] for text in texts], **settings)
    owners = encoded["overflow_to_sample_mapping"] if windows > 1 else range(len(texts))
    return first_windows(encoded["input_ids"], owners, len(texts), windows)


def first_windows(rows: Sequence[T], owners: Iterable[int], num_texts: int, windows: int) -> list[list[T]]:
    """What a tokenizer gave for windows, text by text, at most `windows` of each; owners: whose each row is.

    Raises: ValueError, IndexError or TypeError where it does not fit the texts.
    """
    found: list[list[T]] = [[] for _ in range(num_texts)]
    for row, owner in zip(rows, owners, strict=True):
        if owner < 0:
            raise ValueError("Expected no negative number of a text.")
        if len(found[owner]) < windows:
            found[owner].append(row)
    if not all(found):
        raise ValueError("Expected a window of every text.")
    return found


def one_by_one(encode: Callable[[list[str]], list[list[T]]], texts: list[str]) -> list[list[T]]:
    """What `encode` gives for each text; none of one that it fails on. It is asked for all at once, and for each alone
    where that fails."""
    try:
        return encode(texts)
    except KeyboardInterrupt:
        raise
    except BaseException:  # a panic in the tokenizer's Rust is not an Exception; one record must not tell on itself
        if len(texts) == 1:
            return [[]]
        return [found for text in texts for found in one_by_one(encode, [text])]


def runs(lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
    """From and to of each run of texts that are tokenised together; a run is a single text or within both limits."""
    start = total = 0
    for at, length in enumerate(lengths):
        if at > start and (at - start == _TEXTS_AT_ONCE or total + length > _CHARACTERS_AT_ONCE):
            yield start, at
            start, total = at, 0
        total += length
    if lengths:
        yield start, len(lengths)


def sound(row: NDArray[np.int64], longest: int, vocabulary: int | None) -> bool:
    """Whether a window's ids [T] may be read: as many as were asked for at most, all within the vocabulary."""
    if row.ndim != 1 or not 0 < len(row) <= longest:
        return False
    return vocabulary is None or bool(row.min() >= 0 and row.max() < vocabulary)
