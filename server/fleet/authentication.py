"""Who may speak: the allow-list first, then Flower's signed time stamp, then every key field bound to the signing key.

Flower alone does not bind the public key in `ActivateNode` to the key that signed the request, so a stranger who knows
a site's public key could lock the site out; nor does it look at the source that a reply claims.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import grpc

from privet.common.handshake import CLOCK_HEADER, Refusal
from privet.server.fleet.flower import (
    PUBLIC_KEY_HEADER,
    SIGNATURE_HEADER,
    TIMESTAMP_HEADER,
    ActivateNodeRequest,
    LinkStateFactory,
    NodeAuthServerInterceptor,
    PushMessagesRequest,
    get_metadata_bytes,
    get_metadata_str,
)
from privet.server.fleet.health import CHECK
from privet.server.fleet.refusals import Refusals

_UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED
_OFFERED = frozenset(
    f"/flwr.proto.Fleet/{method}"
    for method in (
        "ActivateNode",
        "DeactivateNode",
        "SendNodeHeartbeat",
        "PullMessages",
        "PullObject",
        "ConfirmMessageReceived",
        "PushMessages",
        "PushObject",
    )
)


def _tell_time(context: Any) -> None:
    """Let a site that is refused see by how much its clock is off."""
    context.set_trailing_metadata(((CLOCK_HEADER, str(int(time.time()))),))


def _refusing(code: Any, details: str) -> Any:
    """A handler that refuses before the request's body is read: it asks for a stream and never draws from it."""

    def refuse(_requests: Iterator[bytes], context: Any) -> None:
        _tell_time(context)
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

    def __init__(
        self, factory: LinkStateFactory, nodes: Callable[[], Mapping[bytes, int]], refusals: Refusals | None = None
    ) -> None:
        """`nodes` gives the current allow-list: public key (PEM) -> node id; `refusals` notes who is refused."""
        super().__init__(factory)
        self._nodes, self._refusals = nodes, refusals

    def intercept_service(self, continuation: Callable[[Any], Any], handler_call_details: Any) -> Any:
        """Answer the call with the service's handler or with a refusal."""
        if handler_call_details.method == CHECK:  # whether the server lives is no secret
            return continuation(handler_call_details)
        metadata = handler_call_details.invocation_metadata
        key = get_metadata_bytes(metadata, PUBLIC_KEY_HEADER)
        if key not in self._nodes():
            stamp, signature = (
                get_metadata_str(metadata, TIMESTAMP_HEADER),
                get_metadata_bytes(metadata, SIGNATURE_HEADER),
            )
            self._note(key, "not enrolled", ((stamp or "").encode(), signature or b""))
            return _refusing(_UNAUTHENTICATED, Refusal.NOT_ENROLLED)
        try:
            handler = super().intercept_service(continuation, handler_call_details)
        except Exception:  # a signed time stamp that is none
            self._note(key, "malformed signature")
            return _refusing(_UNAUTHENTICATED, Refusal.MALFORMED)
        if handler is not None and handler.request_deserializer is None:
            return self._flowers_refusal(handler, key)
        if handler is None or handler_call_details.method not in _OFFERED:
            return _refusing(grpc.StatusCode.UNIMPLEMENTED, Refusal.NOT_OFFERED)
        return handler

    def _flowers_refusal(self, handler: Any, key: bytes) -> Any:
        """Flower's own refusal of a signature or a clock, which would read the body first."""

        def refuse(_requests: Iterator[bytes], context: Any) -> None:
            _tell_time(context)
            try:
                handler.unary_unary(None, context)
            finally:
                self._note(key, _reason(context.details()))

        return grpc.stream_unary_rpc_method_handler(refuse)

    def _note(self, key: bytes | None, reason: str, signed: tuple[bytes, bytes] | None = None) -> None:
        if self._refusals is not None:
            self._refusals.note(key, reason, signed)

    def _wrap_method_handler(self, method_handler: Any, received_public_key: bytes) -> Any:
        """In place of Flower's, which asks the database for the node id of every request."""
        if method_handler is None:
            return None

        def bound(request: Any, context: Any) -> Any:
            try:
                if not self._is_own(request, received_public_key):
                    self._note(received_public_key, "a request in another site's name")
                    context.abort(_UNAUTHENTICATED, Refusal.WRONG_NODE)
                if not _matches(request, received_public_key):
                    self._note(received_public_key, "a request that contradicts itself")
                    context.abort(grpc.StatusCode.INVALID_ARGUMENT, Refusal.MALFORMED)
                return method_handler.unary_unary(request, context)
            except Exception:
                if _words(context.details()) == Refusal.NOT_ENROLLED:  # withdrawn in the middle of a call
                    self._note(received_public_key, "not enrolled")
                _tell_time(context)
                raise

        return grpc.unary_unary_rpc_method_handler(
            bound,
            request_deserializer=method_handler.request_deserializer,
            response_serializer=method_handler.response_serializer,
        )

    def _is_own(self, request: Any, key: bytes) -> bool:
        """Whether the node that the request names is the one of the key that signed it."""
        if isinstance(request, ActivateNodeRequest):
            return True  # names a key, see `_matches`
        node_id = request.node.node_id if hasattr(request, "node") else getattr(request, "node_id", 0)
        return bool(node_id == self._nodes().get(key))


def _words(details: object) -> str:
    """The details of a status, which gRPC keeps as bytes."""
    return details.decode(errors="replace") if isinstance(details, bytes) else str(details or "")


def _reason(details: object) -> str:
    """Flower's refusal for the operator."""
    return "wrong clock" if _words(details) == Refusal.WRONG_CLOCK else "invalid signature"
