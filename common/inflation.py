"""How much memory Flower objects take once inflated, read from their heads alone.

A Flower object on the wire is ``TYPE CHILDREN LENGTH`` (CHILDREN: comma-separated SHA-256 hex digests, may be empty), a
zero byte, then a body of LENGTH bytes. An ``Array`` names its chunks by index and may name one chunk many times, so
a few kilobytes can inflate to terabytes. Both ends look here before they inflate what the other end sent.
"""

import json
from collections.abc import Mapping

from privet.common.errors import WireError


def inflated_bytes(contents: Mapping[str, bytes]) -> int:
    """Bytes that the objects in `contents` (id -> deflated object) hold once inflated: bodies and repeated chunks.

    Raises:
        WireError: an object is malformed or names a chunk that is not there.
    """
    return sum(len(content) + _chunk_bytes(content, contents) for content in contents.values())


def _chunk_bytes(content: bytes, contents: Mapping[str, bytes]) -> int:
    """Bytes that an Array joins from its chunks; 0 for every other object."""
    head, divider, body = content.partition(b"\x00")
    parts = head.split(b" ")
    if not divider or len(parts) != 3:
        raise WireError("an object without a head arrived")
    if parts[0] != b"Array":
        return 0
    children = parts[1].decode("ascii", "replace").split(",")
    try:
        indices = json.loads(body)["arraychunk_ids"]
        return sum(len(contents[children[index]]) for index in indices)
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        raise WireError("an array names chunks that did not arrive") from None
