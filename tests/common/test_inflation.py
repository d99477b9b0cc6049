import json

import pytest

from privet.common.errors import WireError
from privet.common.inflation import MAX_ENTRIES, MAX_TABLE_BYTES, TOO_LARGE, inflate_message, inflated_bytes
from privet.server.fleet.flower import inflate_object_from_contents


def deflated(kind: str, children: list[str], body: bytes) -> bytes:
    return f"{kind} {','.join(children)} {len(body)}".encode() + b"\x00" + body


CHUNK = deflated("ArrayChunk", [], b"x" * 100)


def array(*indices: int) -> bytes:
    return deflated("Array", ["c"], json.dumps({"arraychunk_ids": list(indices)}).encode())


def test_objects_count_with_their_length() -> None:
    contents = {"c": CHUNK, "m": deflated("ConfigRecord", [], b"abc")}
    assert inflated_bytes(contents) == sum(map(len, contents.values()))


def test_every_use_of_a_chunk_counts() -> None:
    once, often = ({"c": CHUNK, "a": array(*[0] * times)} for times in (1, 1000))
    assert inflated_bytes(once) == len(CHUNK) + len(once["a"]) + len(CHUNK)
    assert inflated_bytes(often) == len(CHUNK) + len(often["a"]) + 1000 * len(CHUNK)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no zero byte",
        b"Array\x00{}",
        b"Array  2\x00{}",
        deflated("Array", ["elsewhere"], b'{"arraychunk_ids": [0]}'),
        deflated("Array", ["c"], b'{"arraychunk_ids": [1]}'),
        deflated("Array", ["c"], b'{"arraychunk_ids": ["0"]}'),
        deflated("Array", ["c"], b'{"arraychunk_ids": 0}'),
        deflated("Array", ["c"], b"[" * 100_000),
        deflated("Array", ["c"], b"\xff"),
    ],
)
def test_malformed_objects_are_wire_errors(content: bytes) -> None:
    with pytest.raises(WireError):
        inflated_bytes({"c": CHUNK, "a": content})


@pytest.mark.parametrize("kind", ["Array", "ArrayRecord", "RecordDict"])
def test_tables_are_short(kind: str) -> None:
    """A megabyte of brackets would be sixty of lists."""
    body = b'{"arraychunk_ids":[' + b"0," * (MAX_TABLE_BYTES // 2) + b"0]}"
    with pytest.raises(WireError, match="too long a table"):
        inflated_bytes({"c": CHUNK, "a": deflated(kind, ["c"], body)})


@pytest.mark.parametrize("kind", ["ConfigRecord", "MetricRecord"])
def test_records_have_few_entries(kind: str) -> None:
    entry = b"\x0a\x02\x0a\x00"  # an empty name, no value
    assert inflated_bytes({"r": deflated(kind, [], entry * (MAX_ENTRIES // 2 - 10))})
    with pytest.raises(WireError, match="too many entries"):
        inflated_bytes({"r": deflated(kind, [], entry * (MAX_ENTRIES // 2 + 1))})


def test_too_large_is_told_before_anything_is_inflated() -> None:
    contents = {"c": CHUNK, "a": array(*[0] * 1000)}
    called: list[str] = []
    with pytest.raises(WireError, match=TOO_LARGE):
        inflate_message("a", contents, 10_000, lambda name, _: called.append(name))
    assert called == []
    with pytest.raises(WireError, match="no message"):
        inflate_message("a", contents, 1_000_000, inflate_object_from_contents)
    assert set(contents) == {"c", "a"}  # Flower takes out what it inflates; the caller's stay


@pytest.mark.parametrize("error", [RecursionError, MemoryError, KeyError, AssertionError, UnicodeDecodeError])
def test_whatever_the_parsers_raise_is_one_error(error: type[Exception]) -> None:
    def fail(_name: str, _contents: object) -> None:
        raise error(*(("utf-8", b"", 0, 1, "x") if error is UnicodeDecodeError else ("Jane Doe",)))

    with pytest.raises(WireError) as caught:
        inflate_message("c", {"c": CHUNK}, 10_000, fail)
    assert "Jane" not in str(caught.value)
    assert caught.value.__suppress_context__
