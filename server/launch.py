"""What a run and a rehearsal share: one server a state folder, the fleet on its port, and waiting for it."""

import fcntl
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict

from privet.common.adapter import AdapterSpec
from privet.common.config import Federation, ServerSpec
from privet.common.errors import TransportError
from privet.common.live import Listener
from privet.common.messages import max_reply_bytes
from privet.server.fleet import Fleet
from privet.server.metrics import plan_cells


def lock(server: ServerSpec) -> int:
    """One server a state folder: a second one would end the first one's run in the database they share.

    Raises: TransportError.
    """
    server.state.mkdir(parents=True, exist_ok=True)
    path = server.state / "server.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        for patience in (0.05, 0.1, 0.2, 0.0):  # `privet status` holds it for a moment to look
            try:
                fcntl.flock(
                    descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB
                )  # let go by the system, however this process ends
                break
            except OSError:
                if not patience:
                    raise
                time.sleep(patience)
    except OSError:
        os.close(descriptor)
        raise TransportError(
            f"a server for {server.address} is running already.",
            where=str(path),
            mend="stop it first, or give this one its own [server] state, runs and address.",
        ) from None
    return descriptor


@contextmanager
def serving(
    federation: Federation,
    spec: AdapterSpec,
    certificates: tuple[bytes, bytes, bytes],
    allowed: Mapping[bytes, str],
    on_event: Listener,
) -> Iterator[Fleet]:
    """A fleet that listens; its replies are bounded by what the plan needs. Keys that it refuses are told.

    Raises: TransportError.
    """
    server = federation.server
    fleet = Fleet(
        address=server.address,
        certificates=certificates,
        database=server.state / "fleet.sqlite",
        allowed=allowed,
        on_refusal=lambda refused: on_event({"event": "refused_key", **asdict(refused)}),
    )
    fleet.max_reply_bytes = max_reply_bytes(spec.size + plan_cells(federation))  # an update, or counts
    try:
        fleet.start()
        yield fleet
    finally:
        fleet.close()


def pausing(fleet: Fleet, on_event: Listener) -> Callable[[float], None]:
    """Wait for a change at the fleet, then tell who is there."""

    def pause(seconds: float) -> None:
        fleet.wait_for_change(min(seconds, 2.0))
        on_event({"event": "online", "sites": sorted(fleet.online().values())})

    return pause
