"""gRPC's health check, the one thing that is told without a key: that the server serves, or that it is closing."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
from grpc_health.v1.health_pb2 import DESCRIPTOR, HealthCheckRequest, HealthCheckResponse

_SERVICE = DESCRIPTOR.services_by_name["Health"].full_name
CHECK = f"/{_SERVICE}/Check"
"""The one method offered; `Watch` would let a stranger hold a thread."""
_READERS = 4
"""Most requests read at once: a stranger's may be as large as a site's, and as slow as he likes."""


def health_handler(closing: Callable[[], bool]) -> grpc.GenericRpcHandler:
    """Answers for the server as a whole, the service "", and knows no other.

    While _READERS requests are being read, further ones are answered unread, as if for the server as a whole.
    """
    readers = threading.Semaphore(_READERS)

    def check(requests: Iterator[Any], context: Any) -> Any:
        if readers.acquire(blocking=False):
            try:
                service = next((request.service for request in requests), "")
            finally:
                readers.release()
            if service:
                context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return HealthCheckResponse(status=HealthCheckResponse.NOT_SERVING if closing() else HealthCheckResponse.SERVING)

    handler = grpc.stream_unary_rpc_method_handler(
        check,
        request_deserializer=HealthCheckRequest.FromString,
        response_serializer=HealthCheckResponse.SerializeToString,
    )
    return grpc.method_handlers_generic_handler(_SERVICE, {"Check": handler})
