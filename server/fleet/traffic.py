"""What is under way between server and sites: sessions, messages handed out, uploads; and the wake-up for it all.

A site works on one message at a time: it pulls, answers, uploads, pulls again. So a site that restarts, leaves or pulls
again while a message handed to it has no complete reply has lost that message, and the Grid may send it anew. With the
message goes what was uploaded for it: nothing that a site sent stays in memory but replies that wait to be collected.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from privet.server.fleet.doors import Doors
from privet.server.fleet.upload import MAX_UPLOADS, Upload

PRESENCE_SECONDS = 60.0
"""A site not heard of for this long counts as gone (Flower: two heartbeat intervals of 30 s)."""


@dataclass
class Traffic:
    """Shared by the service's threads and the Grid; every method is atomic. Node ids are Flower's.

    database: held while Flower's database is written; SQLite's own waiting for its lock sleeps for long.
    discard: called with the message id of a reply whose objects are not wanted any more. It must not call back.
    """

    discard: Callable[[str], None] = lambda _message_id: None
    database: threading.Lock = field(default_factory=threading.Lock)
    closing: bool = False
    version: int = 0
    allowed: frozenset[int] = frozenset()
    _change: threading.Condition = field(init=False)
    _sessions: dict[int, str] = field(default_factory=dict)  # node -> token of the process that speaks for it
    _heard: dict[int, float] = field(default_factory=dict)  # node -> time.monotonic() of its last request
    _pulls: dict[int, int] = field(default_factory=dict)  # node -> number of its newest pull
    _mail: Counter[int] = field(default_factory=Counter)  # node -> messages that may not have been handed out
    _handed: dict[int, str] = field(default_factory=dict)  # node -> message handed out and not answered yet
    _lost: set[str] = field(default_factory=set)
    _uploads: dict[str, Upload] = field(default_factory=dict)  # by the reply's message id
    _by_push_session: dict[str, Upload] = field(default_factory=dict)

    def __post_init__(self) -> None:
        lock = threading.RLock()
        self._change, self._doors = threading.Condition(lock), Doors(lock)

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

    def wait_for_call(self, node_id: int, met: Callable[[], bool], timeout: float) -> None:
        """As `wait_until`, for a site's pull: looked at when something changed for this site, and for no other."""
        self._doors.wait(node_id, lambda: self.closing or met(), timeout)

    def close(self) -> None:
        """Wake everybody for the last time."""
        with self._change:
            self.closing = True
            self._doors.knock()
        self.notify()

    # Sites

    def allow(self, nodes: Iterable[int]) -> None:
        """Replace the set of nodes that may take part; what the others held is lost."""
        with self._change:
            self.allowed = frozenset(nodes)
            for node_id in [node for node in self._sessions if node not in self.allowed]:
                self.leave(node_id)
            self._doors.knock()
        self.notify()

    def enter(self, node_id: int, token: str) -> None:
        """A process of the site registers; an older one is cut off and what it worked on is lost."""
        with self._change:
            self._give_up(node_id)
            self._sessions[node_id] = token
            self._heard[node_id] = time.monotonic()
            self._doors.knock([node_id])
        self.notify()

    def leave(self, node_id: int) -> None:
        """The site's process said goodbye."""
        with self._change:
            self._give_up(node_id)
            self._sessions.pop(node_id, None)
            self._heard.pop(node_id, None)
            self._doors.knock([node_id])
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

    def silences(self) -> dict[int, float]:
        """node id -> seconds since the last request of each site that was heard of."""
        with self._change:
            now = time.monotonic()
            return {node: now - at for node, at in self._heard.items()}

    # Messages

    def post(self, nodes: Iterable[int]) -> None:
        """Messages for these nodes are ready to be pulled: one each time that a node is named."""
        named = list(nodes)
        if not named:
            return  # nothing changed: whoever waits for a change goes on waiting
        with self._change:
            self._mail.update(named)
            self._doors.knock(named)
        self.notify()

    def begin_pull(self, node_id: int) -> int:
        """The site pulls, so it has no work in hand. The number tells this pull from a later one."""
        with self._change:
            self._give_up(node_id)
            self._pulls[node_id] = self._pulls.get(node_id, 0) + 1
            self._doors.knock([node_id])
            return self._pulls[node_id]

    def is_newest_pull(self, node_id: int, number: int) -> bool:
        """Whether the site still waits for this pull, as far as anyone can tell."""
        with self._change:
            return self._pulls.get(node_id) == number

    def take_mail(self, node_id: int) -> bool:
        """Whether to look into the database for one message of the site, which counts as taken then."""
        with self._change:
            if self._mail[node_id] <= 0:
                return False
            self._mail[node_id] -= 1
            return True

    def has_mail(self, node_id: int) -> bool:
        """Whether a look into the database may find a message for the site."""
        with self._change:
            return self._mail[node_id] > 0

    def hand_out(self, node_id: int, message_id: str) -> None:
        """The site was given a message."""
        with self._change:
            self._give_up(node_id)
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

    def answered(self, message_ids: Collection[str]) -> set[str]:
        """Those of `message_ids` to which a complete reply waits to be collected."""
        with self._change:
            return {u.reply_to for u in self._uploads.values() if u.complete}.intersection(message_ids)

    def withdraw(self, message_id: str) -> None:
        """The Grid waits no longer for an answer to this message: it is in nobody's hand, and no upload answers it."""
        with self._change:
            for node_id in [node for node, handed in self._handed.items() if handed == message_id]:
                del self._handed[node_id]
            for upload in [upload for upload in self._uploads.values() if upload.reply_to == message_id]:
                self.end(upload.message_id)

    def expire(self) -> None:
        """Give up what lies with sites that were not heard of for PRESENCE_SECONDS in the middle of an upload."""
        with self._change:
            before = time.monotonic() - PRESENCE_SECONDS
            for upload in list(self._uploads.values()):
                if not (upload.complete or upload.lost) and self._heard.get(upload.node_id, before) <= before:
                    self._give_up(upload.node_id)

    def _give_up(self, node_id: int) -> None:
        message_id = self._handed.pop(node_id, "")
        if not message_id:
            return
        self._lost.add(message_id)
        for upload in self._uploads.values():
            if upload.reply_to == message_id and not upload.complete:
                upload.lost = True  # it stays in the books, so that the Grid does not take it for a malformed one
                self._free(upload)
        self.notify()

    # Uploads

    def begin(self, upload: Upload, limit: int) -> bool:
        """A reply was announced; until `expect` it is not complete, whatever the database says.

        False where the site has not the message in hand that it answers, sends another answer to it already, or would
        exceed `limit` bytes with all that waits to be collected from it. An announcement made again replaces the first.
        """
        with self._change:
            if self._handed.get(upload.node_id) != upload.reply_to:
                return False
            if any(
                other.reply_to == upload.reply_to and other.message_id != upload.message_id
                for other in self._of(upload)
            ):
                return False
            self.end(upload.message_id)
            for other in self._of(upload)[: 1 - MAX_UPLOADS]:
                self.end(other.message_id)  # the oldest: answers that nobody waits for
            if self.num_bytes(upload.node_id) + upload.num_bytes > limit:
                return False
            self._uploads[upload.message_id] = upload
            return True

    def expect(self, upload: Upload, push_session: str, missing: Iterable[str]) -> bool:
        """Flower accepted the announcement and waits for the objects `missing`. False: it was given up meanwhile."""
        with self._change:
            if upload.lost or self._uploads.get(upload.message_id) is not upload:
                self.discard(upload.message_id)
                return False
            upload.outstanding = set(missing)
            self._by_push_session[push_session] = upload
        self._settle(upload)
        return True

    def upload(self, message_id: str) -> Upload | None:
        """The upload of a reply."""
        with self._change:
            return self._uploads.get(message_id)

    def upload_in(self, push_session: str) -> Upload | None:
        """The upload that a push session belongs to."""
        with self._change:
            return self._by_push_session.get(push_session)

    def reserve(self, upload: Upload, num_bytes: int, limit: int) -> bool:
        """Count bytes about to be stored; False if all that waits from this site would exceed `limit`."""
        with self._change:
            if upload.lost or upload.fault or self._uploads.get(upload.message_id) is not upload:
                return False
            if self.num_bytes(upload.node_id) + num_bytes > limit:
                return False
            upload.num_bytes += num_bytes
            return True

    def num_bytes(self, node_id: int) -> int:
        """Bytes announced and stored of all uploads of a site that wait to be collected."""
        with self._change:
            return sum(upload.num_bytes for upload in self._uploads.values() if upload.node_id == node_id)

    def arrived(self, upload: Upload, object_id: str) -> None:
        """An object of the reply is stored."""
        with self._change:
            upload.outstanding.discard(object_id)
        self._settle(upload)

    def fail(self, upload: Upload, fault: str) -> None:
        """The reply is void, unless it was given up with its message."""
        with self._change:
            if upload.lost:
                return
            upload.fault = upload.fault or fault
            self._free(upload)
        self._settle(upload)

    def end(self, message_id: str) -> None:
        """The reply was collected, or nobody waits for it: nothing of it is kept."""
        with self._change:
            upload = self._uploads.pop(message_id, None)
            if upload is None:
                return
            self._free(upload)
        self.notify()

    def collected(self, node_id: int) -> bool:
        """Whether no complete reply of the site waits to be collected."""
        with self._change:
            return not any(upload.node_id == node_id and upload.complete for upload in self._uploads.values())

    def reset(self) -> None:
        """The run is over: nothing is under way."""
        with self._change:
            for upload in list(self._uploads.values()):
                self._free(upload)
            for book in (self._mail, self._handed, self._lost, self._uploads, self._by_push_session):
                book.clear()
        self.notify()

    def _of(self, upload: Upload) -> list[Upload]:
        """The uploads of its site, oldest first."""
        return [other for other in self._uploads.values() if other.node_id == upload.node_id]

    def _free(self, upload: Upload) -> None:
        """Keep nothing of what arrived of a reply, and take nothing more."""
        upload.num_bytes, upload.object_ids = 0, frozenset()
        for session in [key for key, value in self._by_push_session.items() if value is upload]:
            del self._by_push_session[session]
        self.discard(upload.message_id)

    def _settle(self, upload: Upload) -> None:
        with self._change:
            if not upload.complete:
                return
            if self._handed.get(upload.node_id) == upload.reply_to:
                del self._handed[upload.node_id]
        self.notify()
