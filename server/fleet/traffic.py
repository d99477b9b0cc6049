"""What is under way between server and sites: sessions, messages handed out, uploads; and the wake-up for it all.

A site works on one message at a time: it pulls, answers, uploads, pulls again. So a site that restarts, leaves or pulls
again while a message handed to it has no complete reply has lost that message, and the Grid may send it anew.
"""

import threading
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

PRESENCE_SECONDS = 60.0
"""A site not heard of for this long counts as gone (Flower: two heartbeat intervals of 30 s)."""


@dataclass
class Upload:
    """One reply on its way in. `fault` names why it is void, in words that hold nothing the site sent."""

    node_id: int
    message_id: str
    reply_to: str
    object_ids: frozenset[str]
    outstanding: set[str]
    num_bytes: int = 0
    fault: str = ""

    @property
    def complete(self) -> bool:
        """Nothing more is to come: it can be collected, be it sound or void."""
        return bool(self.fault) or not self.outstanding


@dataclass
class Traffic:
    """Shared by the service's threads and the Grid; every method is atomic. Node ids are Flower's."""

    closing: bool = False
    version: int = 0
    allowed: frozenset[int] = frozenset()
    _change: threading.Condition = field(default_factory=threading.Condition)
    _sessions: dict[int, str] = field(default_factory=dict)  # node -> token of the process that speaks for it
    _heard: dict[int, float] = field(default_factory=dict)  # node -> time.monotonic() of its last request
    _pulls: dict[int, int] = field(default_factory=dict)  # node -> number of its newest pull
    _mail: set[int] = field(default_factory=set)  # nodes with a message that may not have been handed out
    _handed: dict[int, str] = field(default_factory=dict)  # node -> message handed out and not answered yet
    _lost: set[str] = field(default_factory=set)
    _uploads: dict[str, Upload] = field(default_factory=dict)  # by the reply's message id
    _by_push_session: dict[str, Upload] = field(default_factory=dict)

    # Changes

    def notify(self) -> None:
        """Say that something changed."""
        with self._change:
            self.version += 1
            self._change.notify_all()

    def wait(self, version: int, timeout: float) -> None:
        """Return once `version` is out of date, the server closes, or `timeout` seconds passed."""
        self.wait_until(lambda: self.version != version, timeout)

    def wait_until(self, met: Callable[[], bool], timeout: float) -> None:
        """Return once `met()` holds, the server closes, or `timeout` seconds passed."""
        with self._change:
            self._change.wait_for(lambda: self.closing or met(), max(0.0, timeout))

    def close(self) -> None:
        """Wake everybody for the last time."""
        with self._change:
            self.closing = True
        self.notify()

    # Sites

    def allow(self, nodes: Iterable[int]) -> None:
        """Replace the set of nodes that may take part; what the others held is lost."""
        with self._change:
            self.allowed = frozenset(nodes)
            for node_id in [node for node in self._sessions if node not in self.allowed]:
                self.leave(node_id)
        self.notify()

    def enter(self, node_id: int, token: str) -> None:
        """A process of the site registers; an older one is cut off and what it worked on is lost."""
        with self._change:
            self._give_up(node_id)
            self._sessions[node_id] = token
            self._heard[node_id] = time.monotonic()
        self.notify()

    def leave(self, node_id: int) -> None:
        """The site's process said goodbye."""
        with self._change:
            self._give_up(node_id)
            self._sessions.pop(node_id, None)
            self._heard.pop(node_id, None)
        self.notify()

    def session_of(self, node_id: int) -> str | None:
        """What tells the process that speaks for a site from an earlier one; None where none does."""
        with self._change:
            return self._sessions.get(node_id)

    def speaks_for(self, node_id: int, token: str) -> bool:
        """Whether this process is the site's newest. After a server's restart the first to speak is taken for it."""
        with self._change:
            return self._sessions.setdefault(node_id, token) == token

    def hear(self, node_id: int) -> None:
        """Note a request of the site; one that was gone for long is a change."""
        with self._change:
            now = time.monotonic()
            back = now - self._heard.get(node_id, -PRESENCE_SECONDS) >= PRESENCE_SECONDS
            self._heard[node_id] = now
        if back:
            self.notify()

    # Messages

    def post(self, nodes: Iterable[int]) -> None:
        """Messages for these nodes are ready to be pulled."""
        with self._change:
            self._mail.update(nodes)
        self.notify()

    def begin_pull(self, node_id: int) -> int:
        """The site pulls, so it has no work in hand. The number tells this pull from a later one."""
        with self._change:
            self._give_up(node_id)
            self._pulls[node_id] = self._pulls.get(node_id, 0) + 1
            return self._pulls[node_id]

    def is_newest_pull(self, node_id: int, number: int) -> bool:
        """Whether the site still waits for this pull, as far as anyone can tell."""
        with self._change:
            return self._pulls.get(node_id) == number

    def take_mail(self, node_id: int) -> None:
        """The site's mail is about to be looked up in the database."""
        with self._change:
            self._mail.discard(node_id)

    def has_mail(self, node_id: int) -> bool:
        """Whether a look into the database may find a message for the site."""
        with self._change:
            return node_id in self._mail

    def hand_out(self, node_id: int, message_id: str) -> None:
        """The site was given a message."""
        with self._change:
            self._handed[node_id] = message_id

    def in_hand(self, node_id: int) -> str:
        """The message that the site works on, or an empty string."""
        with self._change:
            return self._handed.get(node_id, "")

    def take_lost(self, message_ids: Collection[str]) -> set[str]:
        """Those of `message_ids` that their sites have lost; they are told once."""
        with self._change:
            lost = self._lost.intersection(message_ids)
            self._lost -= lost
            return lost

    def _give_up(self, node_id: int) -> None:
        if message_id := self._handed.pop(node_id, ""):
            self._lost.add(message_id)
            self.notify()

    # Uploads

    def begin(self, upload: Upload) -> None:
        """A reply was announced; until `expect` it is not complete, whatever the database says."""
        with self._change:
            self.end(upload.message_id)
            self._uploads[upload.message_id] = upload

    def expect(self, upload: Upload, push_session: str, missing: Iterable[str]) -> None:
        """Flower accepted the announcement and waits for the objects `missing`."""
        with self._change:
            upload.outstanding = set(missing)
            self._by_push_session[push_session] = upload
        self._settle(upload)

    def upload(self, message_id: str) -> Upload | None:
        """The upload of a reply."""
        with self._change:
            return self._uploads.get(message_id)

    def upload_in(self, push_session: str) -> Upload | None:
        """The upload that a push session belongs to."""
        with self._change:
            return self._by_push_session.get(push_session)

    def reserve(self, upload: Upload, num_bytes: int, limit: int) -> bool:
        """Count bytes about to be stored; False if the reply would exceed `limit`."""
        with self._change:
            if upload.num_bytes + num_bytes > limit:
                return False
            upload.num_bytes += num_bytes
            return True

    def arrived(self, upload: Upload, object_id: str) -> None:
        """An object of the reply is stored."""
        with self._change:
            upload.outstanding.discard(object_id)
        self._settle(upload)

    def fail(self, upload: Upload, fault: str) -> None:
        """The reply is void."""
        with self._change:
            upload.fault = upload.fault or fault
        self._settle(upload)

    def end(self, message_id: str) -> None:
        """The reply was collected, or never accepted."""
        with self._change:
            upload = self._uploads.pop(message_id, None)
            for session in [key for key, value in self._by_push_session.items() if value is upload]:
                del self._by_push_session[session]
        self.notify()

    def collected(self, node_id: int) -> bool:
        """Whether no complete reply of the site waits to be collected."""
        with self._change:
            return not any(upload.node_id == node_id and upload.complete for upload in self._uploads.values())

    def reset(self) -> None:
        """The run is over: nothing is under way."""
        with self._change:
            for book in (self._mail, self._handed, self._lost, self._uploads, self._by_push_session):
                book.clear()
        self.notify()

    def _settle(self, upload: Upload) -> None:
        with self._change:
            if not upload.complete:
                return
            if self._handed.get(upload.node_id) == upload.reply_to:
                del self._handed[upload.node_id]
        self.notify()
