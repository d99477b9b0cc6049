"""The Fleet service that sites call: Flower's, with take-over, long polls, bound requests and bounded uploads.

A site has one session at a time, told by a random token in each request's metadata; the newest process of a site wins.
Sites get messages and objects addressed to them and nothing else: no runs, no app bundles, no self-registration.
"""

import math
import threading
import time
from typing import Any

import grpc

from privet.common.handshake import SESSION_HEADER, Refusal
from privet.server.fleet.flower import (
    HEARTBEAT_DEFAULT_INTERVAL,
    ActivateNodeRequest,
    ActivateNodeResponse,
    ConfirmMessageReceivedRequest,
    ConfirmMessageReceivedResponse,
    DeactivateNodeRequest,
    DeactivateNodeResponse,
    FleetServicer,
    LinkStateFactory,
    NoObjectInStoreError,
    ObjectStoreFactory,
    PullMessagesRequest,
    PullMessagesResponse,
    PullObjectRequest,
    PullObjectResponse,
    PushMessagesRequest,
    PushMessagesResponse,
    PushObjectRequest,
    PushObjectResponse,
    SendNodeHeartbeatRequest,
    SendNodeHeartbeatResponse,
    get_metadata_str,
    get_object_id,
    iterate_object_tree,
    validate_object_content,
)
from privet.server.fleet.store import MemoryStore
from privet.server.fleet.traffic import Traffic, Upload

LONG_POLL_SECONDS = 20.0
COLLECTION_SECONDS = 2.0
"""How long a site's goodbye waits for its last reply to be collected."""
MAX_OBJECTS = 10_000
"""Most objects of one reply: about three an array, one more for each 5 MB."""
MAX_ENVELOPE_BYTES = 16 << 10
"""Most bytes of a reply's metadata; its content comes as objects."""

MALFORMED_REPLY = "malformed reply"
REPLY_TOO_LARGE = "reply too large"


class FleetService(FleetServicer):  # type: ignore[misc]
    """Flower's Fleet servicer for sites of privet. Every RPC checks the caller's session first."""

    def __init__(
        self,
        factory: LinkStateFactory,
        objects: ObjectStoreFactory,
        store: MemoryStore,
        traffic: Traffic,
        max_reply_bytes: int,
    ) -> None:
        super().__init__(factory, objects, True)
        self._state, self._store, self._traffic = factory.state(), store, traffic
        self._max_reply_bytes = max_reply_bytes
        self._entrance = threading.Lock()

    def _admit(self, node_id: int, context: Any) -> None:
        """Abort unless the caller is the newest process of an allowed site."""
        self._check(node_id, _token(context), context)
        self._traffic.hear(node_id)

    def _check(self, node_id: int, token: str, context: Any) -> None:
        if node_id not in self._traffic.allowed:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, Refusal.NOT_ENROLLED)
        if not self._traffic.speaks_for(node_id, token):
            context.abort(grpc.StatusCode.ABORTED, Refusal.TAKEN_OVER)

    # Presence

    def ActivateNode(self, request: ActivateNodeRequest, context: Any) -> ActivateNodeResponse:
        """Register a process of a site; an older one of the same key is cut off at once."""
        node_id = self._state.get_node_id_by_public_key(request.public_key)
        if node_id not in self._traffic.allowed:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, Refusal.NOT_ENROLLED)
        request.heartbeat_interval = HEARTBEAT_DEFAULT_INTERVAL  # how long it counts as present is ours to say
        with self._entrance:
            self._state.deactivate_node(node_id)
            response: ActivateNodeResponse = super().ActivateNode(request, context)
            self._traffic.enter(node_id, _token(context))
        return response

    def DeactivateNode(self, request: DeactivateNodeRequest, context: Any) -> DeactivateNodeResponse:
        """Let a site go, once its last reply is collected: Flower drops the replies of a site that is gone."""
        self._admit(request.node_id, context)
        self._traffic.wait_until(lambda: self._traffic.collected(request.node_id), COLLECTION_SECONDS)
        response: DeactivateNodeResponse = super().DeactivateNode(request, context)
        self._traffic.leave(request.node_id)
        return response

    def SendNodeHeartbeat(self, request: SendNodeHeartbeatRequest, context: Any) -> SendNodeHeartbeatResponse:
        """Keep a site that computes for long on the list of those present."""
        self._admit(request.node.node_id, context)
        request.heartbeat_interval = HEARTBEAT_DEFAULT_INTERVAL
        response: SendNodeHeartbeatResponse = super().SendNodeHeartbeat(request, context)
        return response

    # Messages to a site

    def PullMessages(self, request: PullMessagesRequest, context: Any) -> PullMessagesResponse:
        """The next message for the site; waits for one up to LONG_POLL_SECONDS."""
        node_id, token = request.node.node_id, _token(context)
        self._admit(node_id, context)
        self._state.acknowledge_node_heartbeat(node_id, HEARTBEAT_DEFAULT_INTERVAL)
        end, number = time.monotonic() + LONG_POLL_SECONDS, self._traffic.begin_pull(node_id)
        while True:
            self._check(node_id, token, context)
            if not context.is_active() or not self._traffic.is_newest_pull(node_id, number):
                return PullMessagesResponse()  # nobody would get what is claimed now
            self._traffic.take_mail(node_id)
            response: PullMessagesResponse = super().PullMessages(request, context)
            if response.messages_list:
                self._traffic.hand_out(node_id, response.messages_list[0].metadata.message_id)
                return response
            left = end - time.monotonic()
            if self._traffic.closing or left <= 0:
                return response
            self._traffic.wait_until(lambda: self._called(node_id, token, number), left)

    def _called(self, node_id: int, token: str, number: int) -> bool:
        """Whether a waiting pull is to be answered: the site has mail, or the pull is no longer the one that counts."""
        traffic = self._traffic
        return (
            traffic.has_mail(node_id)
            or node_id not in traffic.allowed
            or not traffic.is_newest_pull(node_id, number)
            or not traffic.speaks_for(node_id, token)
        )

    def PullObject(self, request: PullObjectRequest, context: Any) -> PullObjectResponse:
        """An object of the message that the site has in hand."""
        node_id = request.node.node_id
        self._admit(node_id, context)
        if not self._store.holds(self._traffic.in_hand(node_id), request.object_id):
            return PullObjectResponse(object_found=False, object_available=False)
        content = self._store.get(request.object_id)  # past Flower's database: it writes a row for each object
        return PullObjectResponse(
            object_found=content is not None, object_available=bool(content), object_content=content or b""
        )

    def ConfirmMessageReceived(
        self, request: ConfirmMessageReceivedRequest, context: Any
    ) -> ConfirmMessageReceivedResponse:
        """The site has all objects of the message in hand; the server need not keep them."""
        node_id = request.node.node_id
        self._admit(node_id, context)
        if self._traffic.in_hand(node_id) == request.message_object_id:
            self._store.delete(request.message_object_id)
        return ConfirmMessageReceivedResponse()

    # Replies from a site

    def PushMessages(self, request: PushMessagesRequest, context: Any) -> PushMessagesResponse:
        """Announce a reply; its objects follow by PushObject."""
        node_id, message, tree = request.node.node_id, request.messages_list[0], request.message_object_trees[0]
        self._admit(node_id, context)
        message_id, reply_to = message.metadata.message_id, message.metadata.reply_to_message_id
        ids = _object_ids(tree)
        known = self._traffic.upload(message_id)
        if not _sound(message) or not ids or (known is None and self._store.registered(message_id)):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, Refusal.MALFORMED)
        if known is not None and (known.node_id != node_id or known.complete):
            return PushMessagesResponse()  # repeated after its answer was lost: all of it is here
        upload = Upload(node_id, message_id, reply_to, ids, outstanding=set(ids))
        self._traffic.begin(upload)
        try:
            response: PushMessagesResponse = super().PushMessages(request, context)
        except BaseException:
            self._traffic.end(message_id)
            raise
        if self._store.registered(message_id):
            self._traffic.expect(upload, response.session_id, response.objects_to_push)
        else:  # too late, or no reply to anything
            self._traffic.end(message_id)
        return response

    def PushObject(self, request: PushObjectRequest, context: Any) -> PushObjectResponse:
        """One object of an announced reply."""
        node_id = request.node.node_id
        self._admit(node_id, context)
        upload = self._traffic.upload_in(request.session_id)
        if upload is None or upload.node_id != node_id or upload.fault or request.object_id not in upload.object_ids:
            return PushObjectResponse(stored=False)
        if request.object_id not in upload.outstanding:
            return PushObjectResponse(stored=True)  # repeated after its answer was lost
        if not _genuine(request.object_id, request.object_content):
            self._traffic.fail(upload, MALFORMED_REPLY)
            return PushObjectResponse(stored=False)
        if not self._traffic.reserve(upload, len(request.object_content), self._max_reply_bytes):
            self._traffic.fail(upload, REPLY_TOO_LARGE)
            return PushObjectResponse(stored=False)
        try:
            self._store.put(request.object_id, request.object_content)
        except NoObjectInStoreError:  # collected or withdrawn meanwhile
            return PushObjectResponse(stored=False)
        self._traffic.arrived(upload, request.object_id)
        return PushObjectResponse(stored=True)

    # What Flower's service offers beyond

    def RegisterNode(self, request: Any, context: Any) -> None:
        """Not offered: sites are enrolled by the server's operator."""
        _not_offered(context)

    def UnregisterNode(self, request: Any, context: Any) -> None:
        """Not offered."""
        _not_offered(context)

    def GetRun(self, request: Any, context: Any) -> None:
        """Not offered."""
        _not_offered(context)

    def GetFab(self, request: Any, context: Any) -> None:
        """Not offered: no code leaves the server."""
        _not_offered(context)


def _token(context: Any) -> str:
    return get_metadata_str(context.invocation_metadata(), SESSION_HEADER) or ""


def _not_offered(context: Any) -> None:
    context.abort(grpc.StatusCode.UNIMPLEMENTED, Refusal.NOT_OFFERED)


def _object_ids(tree: Any) -> frozenset[str]:
    """The ids in a tree; none if they are too many."""
    ids: set[str] = set()
    for count, node in enumerate(iterate_object_tree(tree), start=1):
        if count > MAX_OBJECTS:
            return frozenset()
        ids.add(node.object_id)
    return frozenset(ids)


def _sound(message: Any) -> bool:
    """A small envelope with finite times and no content of its own: Flower would write it to the database."""
    times = (message.metadata.created_at, message.metadata.ttl)
    return (
        message.ByteSize() <= MAX_ENVELOPE_BYTES
        and not message.content.ByteSize()
        and all(math.isfinite(time) for time in times)
    )


def _genuine(object_id: str, content: bytes) -> bool:
    """Whether an object is well formed and its id is the hash of its content."""
    if get_object_id(content) != object_id:
        return False
    try:
        validate_object_content(content)
    except Exception:  # Flower raises more than it documents on bytes that are no text
        return False
    return True
