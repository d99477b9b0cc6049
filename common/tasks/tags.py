"""Tags of named entities: a word's tag, what the tags of a text say of entities, and the other way round.

A plan's labels are the types of entities. Tags are numbered 0 for "O" (outside), 2 i + 1 for "B-x" (the first word of
an entity of type x, the i-th label) and 2 i + 2 for "I-x" (its further words): IOB2, also called BIO.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["OUTSIDE", "Entity", "Tags", "entities", "parse_tags", "tag_names"]

Tags = NDArray[np.int16]

OUTSIDE = 0  # the tag O
_BEGINS, _ENDS = frozenset("BSU"), frozenset("SUEL")
_TAG = re.compile(r"([BIESLU])-(.+)")


class Entity(NamedTuple):
    """Words start to end - 1 of a text are an entity; type: its number among the plan's labels."""

    type: int
    start: int
    end: int


def tag_names(types: Sequence[str]) -> tuple[str, ...]:
    """Names of the tags by number.

    >>> tag_names(["Disease"])
    ('O', 'B-Disease', 'I-Disease')
    """
    return ("O", *(f"{prefix}-{name}" for name in types for prefix in "BI"))


def parse_tags(names: Sequence[str], known: Mapping[str, int]) -> Tags | None:
    """Numbers of a text's tags [words], from names in IOB2, IOB1, BIOES or BILOU; None where one is not sound.

    known: type -> its number, or -1 for a type whose entities do not count. Each word's number depends on its own tag
    and the one before it, so no scheme is guessed: S-x and U-x begin an entity, E-x and L-x continue one, and what
    continues nothing (the first I-x of an entity in IOB1) begins one. Sound is "O", and a prefix of those with a type
    that is known.

    >>> parse_tags(["I-A", "I-A", "O", "S-B", "B-A", "E-A"], {"A": 0, "B": 1}).tolist()
    [1, 2, 0, 3, 1, 2]
    >>> parse_tags(["B-C"], {"A": 0}) is None
    True
    """
    found = np.zeros(len(names), np.int16)
    before: str | None = None  # the type of the word before
    for place, name in enumerate(names):
        if name == "O":
            before = None
            continue
        match = _TAG.fullmatch(name)
        if match is None or match[2] not in known:
            return None
        prefix, kind = match[1], match[2]
        number = known[kind]
        if number >= 0:
            found[place] = 2 * number + (1 if prefix in _BEGINS or before != kind else 2)
        before = None if prefix in _ENDS else kind
    return found


def entities(tags: Sequence[int] | NDArray[np.integer], *, strict: bool = False) -> list[Entity]:
    """The entities that the numbers of a text's tags [words] say, in their order.

    Leniently, as seqeval's default (and conlleval): an I-x that continues nothing begins an entity. strict: as
    seqeval's strict mode with IOB2, such words are no entity.

    >>> entities([1, 2, 0, 2]), entities([1, 2, 0, 2], strict=True)
    ([Entity(type=0, start=0, end=2), Entity(type=0, start=3, end=4)], [Entity(type=0, start=0, end=2)])
    """
    found: list[Entity] = []
    kind, start = -1, 0  # of the entity that is open
    for place, tag in enumerate([*map(int, tags), OUTSIDE]):
        own = (tag - 1) // 2 if tag > OUTSIDE else -1
        begins = tag > OUTSIDE and tag % 2 == 1
        if kind >= 0 and (own != kind or begins):
            found.append(Entity(kind, start, place))
            kind = -1
        if own >= 0 and kind < 0 and (begins or not strict):
            kind, start = own, place
    return found
