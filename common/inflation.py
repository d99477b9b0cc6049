"""How much memory Flower objects take once inflated, read from their heads alone; and inflating them safely.

A Flower object on the wire is ``TYPE CHILDREN LENGTH`` (CHILDREN: comma-separated SHA-256 hex digests, may be empty), a
zero byte, then a body of LENGTH bytes. An ``Array`` names its chunks by index and may name one chunk many times, so
a few kilobytes can inflate to terabytes; JSON and records grow on parsing too. Both ends look here before they
inflate what the other end sent.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from flwr.app import Message

from privet.common.errors import WireError

TOO_LARGE = "a message that takes too much memory arrived"
MAX_TABLE_BYTES = 64 << 10
"""Most bytes of a body that is JSON: the chunks of an array, the names in a record."""
MAX_ENTRIES = 64 << 10
"""Most entries of a record of values."""

_TABLES = (b"Array", b"ArrayRecord", b"RecordDict")
_VALUES = (b"ConfigRecord", b"MetricRecord")
_ENTRY = b"\x0a"  # protobuf's tag of a repeated field number 1: each entry begins with it


def inflate_message(
    object_id: str,
    contents: Mapping[str, bytes],
    max_bytes: int,
    inflate: Callable[[str, dict[str, bytes]], Any],
) -> Message:
    """The message whose objects are `contents`; `inflate` is Flower's function for it.

    Raises:
        WireError: the objects do not make a message, or one of more than `max_bytes` (TOO_LARGE). Whatever Flower's
            parsers raise on hostile bytes is this error too; its text holds nothing that arrived.
    """
    if inflated_bytes(contents) > max_bytes:
        raise WireError(TOO_LARGE)
    try:
        message = inflate(object_id, dict(contents))
    except Exception:
        raise WireError("the objects that arrived make no message") from None
    if type(message) is not Message:
        raise WireError("what arrived is no message")
    return message


def inflated_bytes(contents: Mapping[str, bytes]) -> int:
    """Bytes that the objects in `contents` (id -> deflated object) hold once inflated: bodies and repeated chunks.

    Raises:
        WireError: an object is malformed, too crowded, or names a chunk that is not there.
    """
    return sum(len(content) + _chunk_bytes(content, contents) for content in contents.values())


def _chunk_bytes(content: bytes, contents: Mapping[str, bytes]) -> int:
    """Bytes that an Array joins from its chunks; 0 for every other object."""
    end = content.find(b"\x00")
    parts = content[: max(0, end)].split(b" ")
    if end < 0 or len(parts) != 3:
        raise WireError("an object without a head arrived")
    if parts[0] in _TABLES and len(content) - end > MAX_TABLE_BYTES:
        raise WireError("an object with too long a table arrived")
    if parts[0] in _VALUES and content.count(_ENTRY, end) > MAX_ENTRIES:
        raise WireError("a record with too many entries arrived")
    if parts[0] != b"Array":
        return 0
    children = parts[1].decode("ascii", "replace").split(",")
    try:
        indices = json.loads(content[end + 1 :])["arraychunk_ids"]
        return sum(len(contents[children[index]]) for index in indices)
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        raise WireError("an array names chunks that did not arrive") from None
