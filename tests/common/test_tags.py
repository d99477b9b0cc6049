"""Tags of entities: what names and numbers mean, held against seqeval."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics.sequence_labeling import get_entities
from seqeval.scheme import IOB1, IOB2, IOBES, Entities

from privet.common.tasks.tags import entities, parse_tags, tag_names

TYPES = ("A", "B")
NAMES = tag_names(TYPES)
KNOWN = {"A": 0, "B": 1}
numbers = st.lists(st.integers(0, len(NAMES) - 1), max_size=12)


@given(numbers)
def test_entities_are_those_of_seqeval(tags: list[int]) -> None:
    names = [NAMES[tag] for tag in tags]
    expected = [(TYPES.index(kind), start, end + 1) for kind, start, end in get_entities(names)]
    assert entities(tags) == expected


@given(numbers.filter(bool))
def test_strict_entities_are_those_of_seqeval(tags: list[int]) -> None:
    names = [NAMES[tag] for tag in tags]
    expected = [(TYPES.index(e.tag), e.start, e.end) for e in Entities([names], IOB2).entities[0]]
    assert entities(tags, strict=True) == expected


spans = st.lists(st.tuples(st.integers(0, 2), st.integers(1, 3), st.sampled_from(TYPES)), min_size=1, max_size=5)


def _written(parts: list[tuple[int, int, str]], scheme: str) -> list[str]:
    """Entities of so many words after so many outside, in a scheme."""
    names: list[str] = []
    for gap, size, kind in parts:
        names += ["O"] * gap
        touches = gap == 0 and bool(names) and names[-1][2:] == kind
        if scheme == "IOB1":
            names += [("B-" if touches else "I-") + kind, *["I-" + kind] * (size - 1)]
        elif scheme == "IOB2":
            names += ["B-" + kind, *["I-" + kind] * (size - 1)]
        else:
            one, last = ("S-", "E-") if scheme == "BIOES" else ("U-", "L-")
            names += [one + kind] if size == 1 else ["B-" + kind, *["I-" + kind] * (size - 2), last + kind]
    return names


@given(spans, st.sampled_from(["IOB1", "BIOES", "BILOU"]))
def test_every_scheme_says_the_same_entities(parts: list[tuple[int, int, str]], scheme: str) -> None:
    plain, other = (parse_tags(_written(parts, name), KNOWN) for name in ("IOB2", scheme))
    assert plain is not None
    assert other is not None
    assert other.tolist() == plain.tolist()
    assert len(entities(plain)) == len(parts)
    judge = {"IOB1": IOB1, "BIOES": IOBES}.get(scheme)
    if judge is not None:
        found = Entities([_written(parts, scheme)], judge).entities[0]
        assert [(e.start, e.end) for e in found] == [(e.start, e.end) for e in entities(other)]


@pytest.mark.parametrize("name", ["B", "X-A", "B-C", "b-A", "3", "", "A", "o", "B-"])
def test_an_unsound_tag_makes_the_text_unknown(name: str) -> None:
    assert parse_tags(["O", name], KNOWN) is None


def test_a_type_that_does_not_count_is_outside() -> None:
    found = parse_tags(["B-C", "I-C", "I-A", "B-C"], {"A": 0, "C": -1})
    assert found is not None
    assert found.tolist() == [0, 0, 1, 0]
