"""The machine under the generated text: a stream of exact draws, and phrases with slots filled from it.

Every draw is integer arithmetic on raw Philox words, so the same seed gives the same text on every platform, Python and
numpy; numpy's own distributions may change between its releases.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

Phrases = tuple[str, ...] | range
Wording = Mapping[str, Phrases]

MILLION = 1_000_000


class Draws:
    """Uniform choices from one Philox4x64-10 stream (Salmon et al. 2011), named by `words`."""

    def __init__(self, *words: str | int) -> None:
        name = "/".join(("privet corpus", *map(str, words)))
        key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], "little")
        self._source = np.random.Philox(key=key)
        self._words = self._stream()

    def _stream(self) -> Iterator[int]:
        while True:
            yield from self._source.random_raw(64).tolist()

    def below(self, n: int) -> int:
        """An integer in [0, n), n <= 2**32: the high half of a 64-bit product, biased by less than 2**-32."""
        return (next(self._words) * n) >> 64

    def chance(self, parts_per_million: int) -> bool:
        """True with the stated probability."""
        return self.below(MILLION) < parts_per_million

    def weighted(self, weights: Sequence[int]) -> int:
        """An index, drawn in proportion to integer weights (not all zero)."""
        point = self.below(sum(weights))
        for index, weight in enumerate(weights):
            point -= weight
            if point < 0:
                return index
        raise AssertionError("unreachable: the point lies below the sum of the weights")


@dataclass(slots=True)
class Writer:
    """Fills the slots of phrases from one or several wordings; the first that knows a slot wins.

    `{slot}` is a phrase of the record's own class or of the shared wording. `{other_slot}` is one of another class,
    drawn anew for each sentence. No phrase is used twice in a text while the wording has a fresh one within reach.
    """

    draws: Draws
    shared: Wording  # the house style first: callers merge it over the common wording
    classes: Sequence[Wording]
    own: int  # index of the class that the text is about
    other: int = 0
    _used: set[str] = field(default_factory=set)

    def __getitem__(self, slot: str) -> str:
        if slot.startswith("other_"):
            wording, slot = self.classes[self.other], slot.removeprefix("other_")
        else:
            wording = self.classes[self.own]
        phrases = wording.get(slot)
        return self._choose(self.shared[slot] if phrases is None else phrases)

    def _choose(self, phrases: Phrases) -> str:
        if isinstance(phrases, range):
            return str(phrases[self.draws.below(len(phrases))])
        phrase = phrases[self.draws.below(len(phrases))]
        for _ in range(3):
            if phrase not in self._used:
                break
            phrase = phrases[self.draws.below(len(phrases))]
        self._used.add(phrase)
        return self.fill(phrase)

    def fill(self, phrase: str) -> str:
        """The phrase with every slot filled, slots within slots included."""
        return phrase.format_map(self) if "{" in phrase else phrase

    def sentence(self, slot: str) -> str:
        """A phrase of that slot as a sentence: a capital first, a full stop last."""
        self.other = (self.own + 1 + self.draws.below(len(self.classes) - 1)) % len(self.classes)
        text = self[slot]
        return text[0].upper() + text[1:] + ("" if text[-1] in ".?!" else ".")


class Shorthand:
    """A house's abbreviations: whole phrases replaced wherever they stand."""

    def __init__(self, abbreviations: Mapping[str, str]) -> None:
        self._short = dict(abbreviations)
        longest_first = sorted(self._short, key=lambda phrase: (-len(phrase), phrase))
        self._pattern = re.compile(r"\b(" + "|".join(map(re.escape, longest_first)) + r")\b") if self._short else None

    def apply(self, text: str) -> str:
        """The text in shorthand."""
        return text if self._pattern is None else self._pattern.sub(lambda match: self._short[match[0]], text)
