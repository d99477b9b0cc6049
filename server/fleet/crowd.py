"""How many calls of one site are served at once: what has not been admitted is not read from the network.

gRPC reads a request whole before it calls a handler, so the requests of one site that are under way must be few, or
many large ones at once would fill the memory whatever the handlers say.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import grpc

from privet.common.handshake import Refusal
from privet.server.fleet.flower import PUBLIC_KEY_HEADER, get_metadata_bytes

MAX_CALLS = 16
"""Most calls of one site at once: a process makes six, and the one that it replaces may still make as many."""


class CallLimit(grpc.ServerInterceptor):  # type: ignore[misc]
    """Counts the calls of each key; it stands before the gatekeeper, and counts only what that one let in."""

    def __init__(self, limit: int = MAX_CALLS) -> None:
        self._limit, self._lock = limit, threading.Lock()
        self._calls: Counter[bytes] = Counter()

    def intercept_service(self, continuation: Callable[[Any], Any], handler_call_details: Any) -> Any:
        """A handler that takes the request only while its site has less than `limit` calls under way."""
        handler = continuation(handler_call_details)
        if handler is None or handler.unary_unary is None:  # a refusal, which reads nothing
            return handler
        key = get_metadata_bytes(handler_call_details.invocation_metadata, PUBLIC_KEY_HEADER)

        def counted(requests: Iterator[Any], context: Any) -> Any:
            if not self._enter(key):
                context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, Refusal.TOO_MANY_CALLS)
            try:
                for request in requests:  # on the wire a stream of one request is a plain call
                    return handler.unary_unary(request, context)
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, Refusal.MALFORMED)
            finally:
                self._leave(key)

        return grpc.stream_unary_rpc_method_handler(
            counted,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def _enter(self, key: bytes) -> bool:
        with self._lock:
            if self._calls[key] >= self._limit:
                return False
            self._calls[key] += 1
            return True

    def _leave(self, key: bytes) -> None:
        with self._lock:
            self._calls[key] -= 1
            if not self._calls[key]:
                del self._calls[key]
