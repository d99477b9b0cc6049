"""From the stored objects of a reply to a Message, or to an error that names the site and nothing it sent."""

from privet.common.errors import WireError
from privet.common.inflation import TOO_LARGE, inflate_message
from privet.server.fleet.flower import (
    SUPERLINK_NODE_ID,
    Error,
    Message,
    Metadata,
    inflate_object_from_contents,
    make_message,
)
from privet.server.fleet.service import MALFORMED_REPLY, REPLY_TOO_LARGE

MAX_REASON_CHARACTERS = 200


def assemble(row: Metadata, contents: dict[str, bytes], max_bytes: int) -> Message:
    """Inflate a reply whose database row has the metadata `row`; the inflated one's own metadata is not trusted.

    Args:
        row: metadata of the reply in the database, bound to the site that signed it.
        contents: object id -> deflated object, all objects of the reply.
        max_bytes: most bytes that the inflated reply may take.

    Raises:
        WireError: the objects do not make a message, or too large a one. Its text holds nothing that the site sent.
    """
    try:
        message = inflate_message(row.message_id, contents, max_bytes, inflate_object_from_contents)
        if message.has_error():
            return make_message(metadata=row, error=Error(message.error.code, _printable(message.error.reason)))
        return make_message(metadata=row, content=message.content)
    except WireError as error:
        raise WireError(REPLY_TOO_LARGE if error.what == TOO_LARGE else MALFORMED_REPLY) from None
    except Exception:  # a message with neither content nor error: one site's reply must not stop a round
        raise WireError(MALFORMED_REPLY) from None


def failure(instruction: Metadata, code: int, reason: str) -> Message:
    """The error that stands for a site's reply to `instruction`; its source is that site's node id."""
    metadata = Metadata(
        run_id=instruction.run_id,
        message_id="",
        src_node_id=instruction.dst_node_id,
        dst_node_id=SUPERLINK_NODE_ID,
        reply_to_message_id=instruction.message_id,
        group_id=instruction.group_id,
        created_at=instruction.created_at,
        ttl=instruction.ttl,
        message_type=instruction.message_type,
    )
    return make_message(metadata=metadata, error=Error(code, reason))


def _printable(reason: str) -> str:
    """A reason that may go to a terminal."""
    return "".join(c for c in reason[:MAX_REASON_CHARACTERS] if c.isascii() and c.isprintable())
