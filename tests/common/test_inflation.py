import json

import pytest

from privet.common.errors import WireError
from privet.common.inflation import inflated_bytes


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
