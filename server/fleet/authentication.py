"""Who may speak: the allow-list first, then Flower's signed time stamp, then every key field bound to the signing key.

Flower alone does not bind the public key in `ActivateNode` to the key that signed the request, so a stranger who knows
a site's public key could lock the site out; nor does it look at the source that a reply claims.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import grpc

from privet.common.handshake import Refusal
from privet.server.fleet.flower import (
    PUBLIC_KEY_HEADER,
    ActivateNodeRequest,
    LinkStateFactory,
    NodeAuthServerInterceptor,
    PushMessagesRequest,
    get_metadata_bytes,
)

_UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED


def _refusing(code: Any, details: str) -> Any:
    """A handler that refuses before the request's body is read: it asks for a stream and never draws from it."""

    def refuse(_requests: Iterator[bytes], context: Any) -> None:
        context.abort(code, details)

    return grpc.stream_unary_rpc_method_handler(refuse)


def _matches(request: Any, key: bytes) -> bool:
    """Whether a request's other fields name only the site that signed it."""
    if isinstance(request, ActivateNodeRequest):
        return bool(request.public_key == key)
    if isinstance(request, PushMessagesRequest):
        if len(request.messages_list) != 1 or len(request.message_object_trees) != 1:
            return False
        metadata = request.messages_list[0].metadata
        return bool(
            metadata.src_node_id == request.node.node_id
            and metadata.message_id == request.message_object_trees[0].object_id
        )
    return True


class Gatekeeper(NodeAuthServerInterceptor):  # type: ignore[misc]
    """Flower's node authentication between an allow-list and the binding of requests to their key."""

    def __init__(self, factory: LinkStateFactory, nodes: Callable[[], Mapping[bytes, int]]) -> None:
        """`nodes` gives the current allow-list: public key (PEM) -> node id."""
        super().__init__(factory)
        self._nodes = nodes

    def intercept_service(self, continuation: Callable[[Any], Any], handler_call_details: Any) -> Any:
        """Answer the call with the service's handler or with a refusal."""
        if get_metadata_bytes(handler_call_details.invocation_metadata, PUBLIC_KEY_HEADER) not in self._nodes():
            return _refusing(_UNAUTHENTICATED, Refusal.NOT_ENROLLED)
        try:
            handler = super().intercept_service(continuation, handler_call_details)
        except Exception:  # a signed time stamp that is none
            return _refusing(_UNAUTHENTICATED, Refusal.MALFORMED)
        if handler is None:
            return _refusing(grpc.StatusCode.UNIMPLEMENTED, Refusal.NOT_OFFERED)
        if handler.request_deserializer is None:  # Flower's own refusal, which would read the body first
            return grpc.stream_unary_rpc_method_handler(lambda _, context: handler.unary_unary(None, context))
        return handler

    def _wrap_method_handler(self, method_handler: Any, received_public_key: bytes) -> Any:
        """In place of Flower's, which asks the database for the node id of every request."""
        if method_handler is None:
            return None

        def bound(request: Any, context: Any) -> Any:
            if not isinstance(request, ActivateNodeRequest):
                node_id = request.node.node_id if hasattr(request, "node") else getattr(request, "node_id", 0)
                if node_id != self._nodes().get(received_public_key):
                    context.abort(_UNAUTHENTICATED, Refusal.WRONG_NODE)
            if not _matches(request, received_public_key):
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, Refusal.MALFORMED)
            return method_handler.unary_unary(request, context)

        return grpc.unary_unary_rpc_method_handler(
            bound,
            request_deserializer=method_handler.request_deserializer,
            response_serializer=method_handler.response_serializer,
        )
