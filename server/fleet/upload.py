"""One reply on its way in, and how much of such a site may have in the server's memory."""

from dataclasses import dataclass

OBJECT_BYTES = 1 << 10
"""What an announced object counts before it arrives: about what the books on it take."""
MAX_UPLOADS = 4
"""Most replies of a site in the books: one on its way, the others complete and not collected yet."""
_SPARE_OBJECTS = 64
_VALUE_BYTES = 1 << 20  # Flower cuts an array's values into objects of 5 MB


def max_objects(max_reply_bytes: int) -> int:
    """Most objects of one reply: a sound one has six, and one more for each 5 MB."""
    return _SPARE_OBJECTS + max_reply_bytes // _VALUE_BYTES


@dataclass
class Upload:
    """One reply on its way in. `fault` names why it is void, in words that hold nothing the site sent."""

    node_id: int
    message_id: str
    reply_to: str
    object_ids: frozenset[str]
    outstanding: set[str]
    num_bytes: int = 0  # announced and stored
    fault: str = ""
    lost: bool = False  # given up with the message that it answers: it will never be complete

    def __post_init__(self) -> None:
        self.num_bytes = self.num_bytes or OBJECT_BYTES * len(self.object_ids)

    @property
    def complete(self) -> bool:
        """Nothing more is to come: it can be collected, be it sound or void."""
        return bool(self.fault) or not (self.outstanding or self.lost)
