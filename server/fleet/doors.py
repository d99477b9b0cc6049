"""Where the waiting pulls of sites stand: each at its site's own door, so that a knock at one wakes no other."""

import threading
from collections.abc import Callable, Iterable


class Doors:
    """Conditions by node id, all on one lock, which the caller of `knock` holds."""

    def __init__(self, lock: threading.RLock) -> None:
        self._lock = lock
        self._doors: dict[int, threading.Condition] = {}

    def wait(self, node_id: int, met: Callable[[], bool], timeout: float) -> None:
        """Return once `met()` holds, looked at with each knock, or `timeout` seconds passed."""
        with self._lock:
            door = self._doors.setdefault(node_id, threading.Condition(self._lock))
            door.wait_for(met, max(0.0, timeout))

    def knock(self, node_ids: Iterable[int] | None = None) -> None:
        """Have who waits at these doors, or at all, look again."""
        for node_id in list(self._doors) if node_ids is None else node_ids:
            if node_id in self._doors:
                self._doors[node_id].notify_all()
