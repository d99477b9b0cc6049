"""One TLS channel to a server, with every call signed, timed, and cut short when the site is to stop.

Built on Flower's generated stub rather than on its connection: that one ends the process when it cannot register,
swallows errors, and hangs when its heartbeat has died.
"""

import contextlib
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import grpc
from cryptography.hazmat.primitives.asymmetric import ec

from privet.client.channel import open_channel
from privet.client.door import Door
from privet.client.flower import HEARTBEAT_DEFAULT_INTERVAL, FleetStub, Node, SendNodeHeartbeatRequest
from privet.common.handshake import SESSION_HEADER

CALL_SECONDS = 60.0
PULL_SECONDS = 35.0  # the server answers a poll within 20
OBJECT_SECONDS = 300.0  # an object has up to 64 MB
DRAIN_SECONDS = 5.0
"""How long a site that is to stop goes on trying to reach a server for a reply that is ready."""

_HEARTBEAT_SECONDS = 20.0  # the server takes a site for gone after 60
_STOP_CALL_SECONDS = 15.0
_POLL_SECONDS = 0.1
_TRANSFERS = frozenset({"PullObject", "PushObject"})


class StoppedError(Exception):
    """The site is to stop, and this call is not to be waited for."""


class Wire:
    """A channel to one server. The token in each call's metadata tells this process of the site from any other."""

    def __init__(
        self,
        address: str,
        door: Door,
        stop: threading.Event,
        max_message_bytes: int,
        reopen: Callable[[], Door] | None = None,
    ) -> None:
        """No connection is made before the first call.

        Args:
            reopen: reads the door's files anew. Raises ConfigError.

        Raises:
            TransportError: the door's CA holds no certificate.
        """
        self._address, self._door, self._reopen = address, door, reopen
        self._stop, self._stopped_at = stop, 0.0
        self._max_message_bytes = max_message_bytes
        self._metadata = ((SESSION_HEADER, secrets.token_hex(16)),)
        self._turn = threading.RLock()
        self._transfers, self._closed = 0, False
        self.generation = 0
        self._connect(door)

    def _connect(self, door: Door) -> None:
        channel = open_channel(self._address, door.ca, door.key, door.proxy, self._max_message_bytes)
        self._door, self._channel, self._stub = door, channel, FleetStub(channel)

    @property
    def key(self) -> ec.EllipticCurvePrivateKey:
        """The key that signs."""
        return self._door.key

    def renew(self, generation: int, *, key: bool) -> bool:
        """Whether the door's files hold something else than at that generation of the channel; if so, it is in use.

        Args:
            key: whether to look at the site's key, which serves as long as the server takes it; else at the CA and the
                proxy.

        Raises:
            ConfigError: a file cannot be read now.
            TransportError: the CA file holds no certificate now.
        """
        with self._turn:
            if generation != self.generation:
                return True
            if self._reopen is None:
                return False
            new = self._reopen()
            door = replace(self._door, key=new.key) if key else replace(new, key=self._door.key)
            if door == self._door:
                return False
            self._reconnect(door)
            return True

    def reconnect(self, generation: int) -> None:
        """A connection on which nothing comes back is dropped for a new one, unless objects are on their way on it."""
        with self._turn:
            if generation == self.generation and not self._transfers and not self._closed:
                self._reconnect(self._door)

    def _reconnect(self, door: Door) -> None:
        old = self._channel
        self._connect(door)
        self.generation += 1
        old.close()

    def call(self, method: str, request: Any, *, seconds: float, abandon: bool) -> Any:
        """One call, tried once.

        Args:
            method: name of the RPC in Flower's Fleet service.
            seconds: most time for it.
            abandon: whether to leave it as soon as the site is to stop; otherwise it gets another 15 s.

        Raises:
            grpc.RpcError: the call failed.
            StoppedError: the site is to stop.
        """
        if abandon and self._stop.is_set():
            raise StoppedError
        done = threading.Event()
        with self._turn:
            future = getattr(self._stub, method).future(request, timeout=seconds, metadata=self._metadata)
            self._transfers += method in _TRANSFERS
        future.add_done_callback(lambda _: done.set())
        try:
            return self._result(future, done, abandon)
        finally:
            with self._turn:
                self._transfers -= method in _TRANSFERS

    def _result(self, future: Any, done: threading.Event, abandon: bool) -> Any:
        limit = float("inf")
        while not done.wait(_POLL_SECONDS):
            if self._stop.is_set():
                limit = min(limit, time.monotonic() + (0.0 if abandon else _STOP_CALL_SECONDS))
            if time.monotonic() >= limit:
                future.cancel()
                raise StoppedError
        return future.result()

    def pause(self, seconds: float) -> None:
        """Wait before another try.

        Raises:
            StoppedError: the site is to stop, and DRAIN_SECONDS since the last success in stopping are over.
        """
        if not self._stop.wait(seconds):
            return
        now = time.monotonic()
        self._stopped_at = self._stopped_at or now
        left = self._stopped_at + DRAIN_SECONDS - now
        if left <= 0:
            raise StoppedError
        time.sleep(min(seconds, 0.5, left))

    def succeeded(self) -> None:
        """The server answered: what is being drained may go on."""
        self._stopped_at = 0.0

    @contextlib.contextmanager
    def heartbeats(self, node_id: int) -> Iterator[None]:
        """Tell the server in the background that the site is alive, however long an answer takes."""
        over = threading.Event()
        request = SendNodeHeartbeatRequest(node=Node(node_id=node_id), heartbeat_interval=HEARTBEAT_DEFAULT_INTERVAL)

        def beat() -> None:
            while not over.wait(_HEARTBEAT_SECONDS):
                # Refusals are met, and judged, by the next call of the main thread.
                generation = self.generation
                try:
                    self._stub.SendNodeHeartbeat(request, timeout=_HEARTBEAT_SECONDS / 2, metadata=self._metadata)
                except grpc.RpcError as error:
                    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                        self.reconnect(generation)
                except ValueError:  # the channel was closed
                    pass

        thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()

    def close(self) -> None:
        """Close the channel; calls under way end."""
        with self._turn:
            self._closed = True
            self._channel.close()
