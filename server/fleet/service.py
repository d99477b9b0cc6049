"""The Fleet service that sites call: Flower's, with take-over, long polls, bound requests and bounded uploads.

A site has one session at a time, told by a random token in each request's metadata; the newest process of a site wins.
Sites get messages and objects addressed to them and nothing else: no runs, no app bundles, no self-registration.
"""

import secrets
import threading
import time
from collections.abc import Callable
from typing import Any

import grpc

from privet.common.handshake import SESSION_HEADER, Refusal
from privet.server.fleet.envelope import is_genuine, is_sound, object_ids
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
    Status,
    get_metadata_str,
    message_from_proto,
    message_to_proto,
)
from privet.server.fleet.store import MemoryStore
from privet.server.fleet.traffic import Traffic
from privet.server.fleet.upload import Upload, max_objects

LONG_POLL_SECONDS = 20.0
COLLECTION_SECONDS = 2.0
"""How long a site's goodbye waits for its last reply to be collected."""
_NOTE_SECONDS = 10.0
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
        max_reply_bytes: Callable[[], int],
    ) -> None:
        """`max_reply_bytes` gives the present limit of one site's replies in memory."""
        super().__init__(factory, objects, True)
        self._state, self._store, self._traffic = factory.state(), store, traffic
        self._max_reply_bytes = max_reply_bytes
        self._entrance = threading.Lock()
        self._acknowledged: dict[int, float] = {}  # node -> time.monotonic() of the last note of its presence

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
            self._acknowledged.pop(node_id, None)
            response: ActivateNodeResponse = super().ActivateNode(request, context)
            self._traffic.enter(node_id, _token(context))
        return response

    def DeactivateNode(self, request: DeactivateNodeRequest, context: Any) -> DeactivateNodeResponse:
        """Let a site go, once its last reply is collected: Flower drops the replies of a site that is gone."""
        self._admit(request.node_id, context)
        self._traffic.wait_until(lambda: self._traffic.collected(request.node_id), COLLECTION_SECONDS)
        self._acknowledged.pop(request.node_id, None)
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
        self._acknowledge(node_id)
        end, number = time.monotonic() + LONG_POLL_SECONDS, self._traffic.begin_pull(node_id)
        while True:
            self._check(node_id, token, context)
            if not context.is_active() or not self._traffic.is_newest_pull(node_id, number):
                return PullMessagesResponse()  # nobody would get what is claimed now
            response = self._next_message(node_id)
            if response.messages_list:
                self._traffic.hand_out(node_id, response.messages_list[0].metadata.message_id)
                return response
            left = end - time.monotonic()
            if self._traffic.closing or left <= 0:
                return response
            self._traffic.wait_for_call(node_id, lambda: self._called(node_id, token, number), left)

    def _acknowledge(self, node_id: int) -> None:
        """Note in the database that the site is present, if that was not done of late: each note is a transaction."""
        now = time.monotonic()
        if now - self._acknowledged.get(node_id, -_NOTE_SECONDS) >= _NOTE_SECONDS:
            self._acknowledged[node_id] = now
            with self._traffic.database:
                self._state.acknowledge_node_heartbeat(node_id, HEARTBEAT_DEFAULT_INTERVAL)

    def _next_message(self, node_id: int) -> PullMessagesResponse:
        """A message for the site that it was not given yet, or none; past Flower's handler, which writes thrice."""
        while self._traffic.take_mail(node_id):
            with self._traffic.database:
                rows = self._state.get_message_ins(node_id, limit=1)
            for row in rows:
                try:
                    tree = self._store.get_object_tree(row.metadata.message_id)
                except NoObjectInStoreError:  # withdrawn meanwhile
                    continue
                return PullMessagesResponse(messages_list=[message_to_proto(row)], message_object_trees=[tree])
        return PullMessagesResponse()

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
        metadata, limit = message.metadata, self._max_reply_bytes()
        message_id, ids = metadata.message_id, object_ids(tree, max_objects(limit))
        known = self._traffic.upload(message_id)
        if not is_sound(message) or not ids or (known is None and self._store.registered(message_id)):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, Refusal.MALFORMED)
        if known is not None and (known.node_id != node_id or known.complete):
            return PushMessagesResponse()  # repeated after its answer was lost: all of it is here
        upload = Upload(node_id, message_id, metadata.reply_to_message_id, ids, outstanding=set(ids))
        if not self._traffic.begin(upload, limit):
            self._check_run(metadata.run_id, context)
            context.abort(grpc.StatusCode.NOT_FOUND, Refusal.NOT_IN_HAND)
        session = secrets.token_hex(16)
        try:
            with self._traffic.database:  # past Flower's handler, which writes five times
                stored = self._state.store_message_res(message_from_proto(message)) is not None
        except BaseException:
            self._traffic.end(message_id)
            raise
        if not stored:  # too late
            self._traffic.end(message_id)
            self._check_run(metadata.run_id, context)
            return PushMessagesResponse()
        missing = self._store.preregister(metadata.run_id, tree)
        if not self._traffic.expect(upload, session, missing):
            context.abort(grpc.StatusCode.NOT_FOUND, Refusal.NOT_IN_HAND)
        return PushMessagesResponse(session_id=session, objects_to_push=missing)

    def _check_run(self, run_id: int, context: Any) -> None:
        """Abort if the run is not under way."""
        if not self._state.get_run_info(run_ids=[run_id], statuses=[Status.RUNNING]):
            context.abort(grpc.StatusCode.PERMISSION_DENIED, Refusal.RUN_OVER)

    def PushObject(self, request: PushObjectRequest, context: Any) -> PushObjectResponse:
        """One object of an announced reply."""
        node_id = request.node.node_id
        self._admit(node_id, context)
        upload = self._traffic.upload_in(request.session_id)
        if upload is None or upload.node_id != node_id or upload.fault or request.object_id not in upload.object_ids:
            return PushObjectResponse(stored=False)
        if request.object_id not in upload.outstanding:
            return PushObjectResponse(stored=True)  # repeated after its answer was lost
        if not is_genuine(request.object_id, request.object_content):
            self._traffic.fail(upload, MALFORMED_REPLY)
            return PushObjectResponse(stored=False)
        if not self._traffic.reserve(upload, len(request.object_content), self._max_reply_bytes()):
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
