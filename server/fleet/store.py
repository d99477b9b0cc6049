"""The objects of messages under way, in memory only: tensors never touch the disk.

Flower's in-memory store shares children between messages by counting references, takes the tree of whoever registers
an object first as the truth for all, and is not atomic against deletion. This one keeps each message's own set of
objects, so nothing that one site sends can alter or delete what belongs to another.
"""

import threading
from dataclasses import dataclass, field

from privet.server.fleet.flower import NoObjectInStoreError, ObjectStore, ObjectTree, iterate_object_tree


@dataclass
class _Root:
    """A message: its run, its tree as it was sent, the ids of all its objects."""

    run_id: int
    tree: ObjectTree
    object_ids: frozenset[str]


@dataclass
class _Entry:
    """An object's content (empty until it arrives) and the messages that hold it."""

    content: bytes = b""
    roots: set[str] = field(default_factory=set)


class MemoryStore(ObjectStore):  # type: ignore[misc]
    """Objects by id, owned by messages ("roots"); every method is atomic."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._roots: dict[str, _Root] = {}
        self._entries: dict[str, _Entry] = {}

    def preregister(self, run_id: int, object_tree: ObjectTree) -> list[str]:
        """Expect the objects of a message; the ids of those whose content is not here yet, children first."""
        ids = list(dict.fromkeys(node.object_id for node in iterate_object_tree(object_tree)))
        with self._lock:
            self.delete(object_tree.object_id)
            self._roots[object_tree.object_id] = _Root(run_id, object_tree, frozenset(ids))
            for object_id in ids:
                self._entries.setdefault(object_id, _Entry()).roots.add(object_tree.object_id)
            return [object_id for object_id in ids if not self._entries[object_id].content]

    def get_object_tree(self, object_id: str) -> ObjectTree:
        """The tree of a message as it was registered."""
        with self._lock:
            if object_id not in self._roots:
                raise NoObjectInStoreError(f"Message {object_id} was not registered.")
            return self._roots[object_id].tree

    def put(self, object_id: str, object_content: bytes) -> None:
        """Keep the content of an expected object. The caller has checked that the id is the content's hash."""
        with self._lock:
            if object_id not in self._entries:
                raise NoObjectInStoreError(f"Object {object_id} was not registered.")
            self._entries[object_id].content = object_content

    def get(self, object_id: str) -> bytes | None:
        """The content, empty if it has not arrived, None if it is not expected."""
        with self._lock:
            entry = self._entries.get(object_id)
            return None if entry is None else entry.content

    def contents(self, root: str) -> dict[str, bytes] | None:
        """All objects of a message by id, or None if the message is unknown or incomplete."""
        with self._lock:
            if root not in self._roots:
                return None
            found = {object_id: self._entries[object_id].content for object_id in self._roots[root].object_ids}
            return found if all(found.values()) else None

    def registered(self, root: str) -> bool:
        """Whether a message of this id is here."""
        with self._lock:
            return root in self._roots

    def holds(self, root: str, object_id: str) -> bool:
        """Whether the object belongs to the message."""
        with self._lock:
            return root in self._roots and object_id in self._roots[root].object_ids

    def delete(self, object_id: str) -> None:
        """Forget a message and every object that no other message holds. Ids of other objects are ignored."""
        with self._lock:
            root = self._roots.pop(object_id, None)
            for child in root.object_ids if root else ():
                entry = self._entries[child]
                entry.roots.discard(object_id)
                if not entry.roots:
                    del self._entries[child]

    def delete_objects_in_run(self, run_id: int) -> None:
        """Forget every message of a run."""
        with self._lock:
            for object_id in [key for key, root in self._roots.items() if root.run_id == run_id]:
                self.delete(object_id)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._roots.clear()
            self._entries.clear()

    def __contains__(self, object_id: str) -> bool:
        with self._lock:
            return object_id in self._entries

    def __len__(self) -> int:
        with self._lock:
            return len(self._entries)
