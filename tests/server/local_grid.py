"""A Flower Grid whose nodes live in this process: messages are function calls."""

import time
from collections.abc import Callable, Iterable, Mapping

from flwr.app import Error, Message, Metadata, RecordDict
from flwr.serverapp import Grid

Answer = Callable[[RecordDict], RecordDict]

_RUN = 1
_SERVER = 1
_UNAVAILABLE = 1  # Flower's code for an answer that failed


class LocalGrid(Grid):  # type: ignore[misc]
    """nodes: what each node id answers. `on_reply` hears of each reply as it comes."""

    def __init__(self, nodes: Mapping[int, Answer]) -> None:
        self._nodes = dict(nodes)
        self._replies: dict[str, Message] = {}
        self._count = 0
        self.on_reply: Callable[[Message], None] | None = None

    def set_run(self, run: object) -> None:
        """There is one run."""

    @property
    def run(self) -> object:
        """There is no run record: nothing is served to anyone."""
        return None

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        self._count += 1
        metadata = Metadata(
            run_id=_RUN,
            message_id=str(self._count),
            src_node_id=_SERVER,
            dst_node_id=dst_node_id,
            reply_to_message_id="",
            group_id=group_id,
            created_at=time.time(),
            ttl=ttl or 1e6,
            message_type=message_type,
        )
        return Message(content, metadata=metadata)

    def get_node_ids(self) -> Iterable[int]:
        return list(self._nodes)

    def get_nodes(self) -> Iterable[object]:
        return []

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            self._replies[message.metadata.message_id] = self._call(message)
            ids.append(message.metadata.message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [self._replies.pop(name) for name in message_ids if name in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Each message in turn; `timeout` does not apply to a function call."""
        replies = []
        for message in messages:
            replies.append(self._call(message))
            if self.on_reply is not None:
                self.on_reply(replies[-1])
        return replies

    def _call(self, message: Message) -> Message:
        answer = self._nodes.get(message.metadata.dst_node_id)
        if answer is None:
            return Message(Error(_UNAVAILABLE, "no such node"), reply_to=message)
        return Message(answer(message.content), reply_to=message)
