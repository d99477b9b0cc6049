"""What a site's announcement and objects must look like before anything of them is kept."""

import math
import re
from typing import Any

from privet.server.fleet.flower import get_object_id, iterate_object_tree, validate_object_content

MAX_ENVELOPE_BYTES = 16 << 10
"""Most bytes of a reply's metadata; its content comes as objects."""
_SHA256 = re.compile(r"[0-9a-f]{64}")


def object_ids(tree: Any, limit: int) -> frozenset[str]:
    """The ids in a tree; none if they are more than `limit` or one is no SHA-256."""
    ids: set[str] = set()
    for count, node in enumerate(iterate_object_tree(tree), start=1):
        if count > limit or not _SHA256.fullmatch(node.object_id):
            return frozenset()
        ids.add(node.object_id)
    return frozenset(ids)


def is_sound(message: Any) -> bool:
    """A small envelope with finite times and no content of its own: Flower would write it to the database."""
    times = (message.metadata.created_at, message.metadata.ttl)
    return (
        message.ByteSize() <= MAX_ENVELOPE_BYTES
        and not message.content.ByteSize()
        and all(math.isfinite(time) for time in times)
    )


def is_genuine(object_id: str, content: bytes) -> bool:
    """Whether an object is well formed and its id is the hash of its content."""
    if get_object_id(content) != object_id:
        return False
    try:
        validate_object_content(content)
    except Exception:  # Flower raises more than it documents on bytes that are no text
        return False
    return True
