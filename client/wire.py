"""One TLS channel to a server, with every call signed, timed, and cut short when the site is to stop.

Built on Flower's generated stub rather than on its connection: that one ends the process when it cannot register,
swallows errors, and hangs when its heartbeat has died.
"""

import contextlib
import secrets
import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
from cryptography.hazmat.primitives.asymmetric import ec

from privet.client.flower import (
    HEARTBEAT_DEFAULT_INTERVAL,
    FleetStub,
    Node,
    NodeAuthClientInterceptor,
    SendNodeHeartbeatRequest,
)
from privet.common.errors import TransportError
from privet.common.handshake import SESSION_HEADER

CALL_SECONDS = 60.0
OBJECT_SECONDS = 300.0  # an object has up to 64 MB
DRAIN_SECONDS = 5.0
"""How long a site that is to stop goes on trying to reach a server for a reply that is ready."""

_HEARTBEAT_SECONDS = 20.0  # the server takes a site for gone after 60
_STOP_CALL_SECONDS = 15.0
_POLL_SECONDS = 0.1


class StoppedError(Exception):
    """The site is to stop, and this call is not to be waited for."""


class Wire:
    """A channel to one server. The token in each call's metadata tells this process of the site from any other."""

    def __init__(
        self,
        address: str,
        ca: bytes,
        key: ec.EllipticCurvePrivateKey,
        stop: threading.Event,
        max_message_bytes: int,
    ) -> None:
        """No connection is made before the first call.

        Raises:
            TransportError: `ca` holds no certificate.
        """
        if b"-----BEGIN CERTIFICATE-----" not in ca:
            raise TransportError(
                "The CA file holds no certificate.",
                where=address,
                mend="Take the CA file (PEM) from the server's operator anew.",
            )
        self._stop, self._stopped_at = stop, 0.0
        self._metadata = ((SESSION_HEADER, secrets.token_hex(16)),)
        self._channel = grpc.intercept_channel(
            grpc.secure_channel(
                address,
                grpc.ssl_channel_credentials(ca),
                options=[
                    ("grpc.max_send_message_length", -1),
                    ("grpc.max_receive_message_length", max_message_bytes),
                    ("grpc.initial_reconnect_backoff_ms", 500),
                    ("grpc.max_reconnect_backoff_ms", 5_000),
                    ("grpc.keepalive_time_ms", 310_000),  # servers of gRPC's defaults allow one ping in 300 s
                    ("grpc.keepalive_timeout_ms", 20_000),  # also TCP's limit for data that nobody acknowledges
                ],
            ),
            NodeAuthClientInterceptor(key, key.public_key()),
        )
        self._stub = FleetStub(self._channel)

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
        future = getattr(self._stub, method).future(request, timeout=seconds, metadata=self._metadata)
        future.add_done_callback(lambda _: done.set())
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
                with contextlib.suppress(grpc.RpcError, ValueError):  # ValueError: the channel was closed
                    self._stub.SendNodeHeartbeat(request, timeout=_HEARTBEAT_SECONDS / 2, metadata=self._metadata)

        thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()

    def close(self) -> None:
        """Close the channel; calls under way end."""
        self._channel.close()
