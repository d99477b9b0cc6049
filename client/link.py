"""The site's end of the wire: connects outbound, waits for requests, answers them, and never listens.

What arrives is parsed into records and given to a function of this site; no code is ever taken from the server.
"""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import NoReturn

import grpc
from cryptography.hazmat.primitives.asymmetric import ec

from privet.client.calls import Calls, DroppedError, LinkEvent, UnregisteredError
from privet.client.door import Door
from privet.client.flower import (
    HEARTBEAT_DEFAULT_INTERVAL,
    ActivateNodeRequest,
    ConfirmMessageReceivedRequest,
    DeactivateNodeRequest,
    Error,
    ErrorCode,
    Message,
    Node,
    ObjectTree,
    PullMessagesRequest,
    PullObjectRequest,
    PushMessagesRequest,
    PushObjectRequest,
    RecordDict,
    get_all_nested_objects,
    get_object_tree,
    inflate_object_from_contents,
    iterate_object_tree,
    message_from_proto,
    message_to_proto,
    no_object_id_recompute,
    public_key_to_bytes,
    remove_content_from_message,
    seal,
)
from privet.client.proxy import Proxy, route
from privet.client.wire import CALL_SECONDS, OBJECT_SECONDS, StoppedError, Wire
from privet.common.errors import Code, TransportError, WireError
from privet.common.inflation import inflate_message
from privet.common.terminal import printable

__all__ = ["LinkEvent", "hard_exit", "serve"]

MAX_MESSAGE_BYTES = 64 << 20
MAX_OBJECTS = 10_000
_PARALLEL_OBJECTS = 4
_QUICK_SECONDS = 1.0  # a server that answers "nothing" faster than this does not hold polls; ask it less often


def serve(
    *,
    address: str,
    ca: bytes,
    key: ec.EllipticCurvePrivateKey,
    answer: Callable[[RecordDict], RecordDict],
    stop: threading.Event,
    on_event: Callable[[LinkEvent, str], None],
    max_request_bytes: Callable[[], int] = lambda: 512 << 20,
    proxy: Proxy | None = None,
    reopen: Callable[[], Door] | None = None,
) -> None:
    """Serve one server until `stop` is set. Blocks; tries for ever to reach a server that is not there.

    When `stop` is set while `answer` runs, its reply is still delivered if the server can be reached within 5 s. No
    signal handler is installed or changed.

    Args:
        address: the server's "host:port".
        ca: PEM of the CA that signed its certificate, or of several.
        key: this site's EC P-384 key.
        answer: gives the reply to a request. What it raises is told to `on_event` and to nobody else: the server gets
            the fixed word "unavailable".
        stop: set by another thread or a signal handler.
        on_event: called from this thread and its workers, one call at a time, with a line for the operator.
        max_request_bytes: gives the most bytes of one request, inflated; asked anew for each.
        proxy: the way to the server; the environment's is never followed.
        reopen: reads CA, key and proxy anew, so that replaced files count without a restart: the CA and the proxy when
            the server cannot be reached, the key when the server refuses the one in use. Raises ConfigError.

    Raises:
        TransportError: the server or this site's key cannot be used: wrong CA, name or dates of the certificate, a key
            that is not enrolled or was withdrawn, another instance of this site, a clock that is off.
    """
    wire = Wire(address, Door(ca, key, proxy), stop, MAX_MESSAGE_BYTES, reopen)
    link = _Link(wire, address + route(proxy), address, answer, stop, on_event, max_request_bytes)
    try:
        link.run()
    finally:
        wire.close()


def hard_exit(code: int) -> NoReturn:
    """End the process now with what was printed: gRPC's threads can delay the interpreter's own exit."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    os._exit(code)


class _Link:
    """The loop behind `serve`."""

    def __init__(
        self,
        wire: Wire,
        destination: str,
        address: str,
        answer: Callable[[RecordDict], RecordDict],
        stop: threading.Event,
        on_event: Callable[[LinkEvent, str], None],
        max_request_bytes: Callable[[], int],
    ) -> None:
        self._wire, self._destination, self._address, self._answer = wire, destination, address, answer
        self._calls, self._stop, self._max_request_bytes = Calls(wire, address, on_event), stop, max_request_bytes

    def run(self) -> None:
        """Register and attend to requests until `stop` is set."""
        self._calls.say(LinkEvent.CONNECTING, f"connecting to {self._destination}")
        while not self._stop.is_set():
            try:
                node = self._register()
            except StoppedError:
                break
            except UnregisteredError:  # with a new key
                continue
            goodbye = True
            try:
                with self._wire.heartbeats(node.node_id):
                    self._attend(node)
            except StoppedError:
                break
            except UnregisteredError:
                goodbye = False
                self._stop.wait(_QUICK_SECONDS)
            except TransportError:
                goodbye = False
                raise
            finally:
                if goodbye:
                    self._leave(node)
        self._calls.say(LinkEvent.STOPPED, f"disconnected from {self._address}")

    # Presence

    def _register(self) -> Node:
        public_key = public_key_to_bytes(self._wire.key.public_key())
        request = ActivateNodeRequest(public_key=public_key, heartbeat_interval=HEARTBEAT_DEFAULT_INTERVAL)
        response = self._calls.demand("ActivateNode", request)
        self._calls.say(LinkEvent.ONLINE, f"connected to {self._address}")
        return Node(node_id=response.node_id)

    def _leave(self, node: Node) -> None:
        """Say goodbye, once: a server that is not there will notice by itself."""
        try:
            self._wire.call("DeactivateNode", DeactivateNodeRequest(node_id=node.node_id), seconds=5.0, abandon=False)
        except (grpc.RpcError, StoppedError):
            return

    # Requests

    def _attend(self, node: Node) -> None:
        while True:
            began = time.monotonic()
            response = self._calls.demand("PullMessages", PullMessagesRequest(node=node))
            if not response.messages_list:
                if time.monotonic() - began < _QUICK_SECONDS:
                    self._stop.wait(_QUICK_SECONDS / 2)
                continue
            try:
                self._handle(node, message_from_proto(response.messages_list[0]), response.message_object_trees[0])
            except DroppedError as error:
                self._calls.say(LinkEvent.FAILED, printable(f"the server did not take the reply: {error}"))
            except (WireError, ValueError, IndexError):  # not even an envelope to reply to
                self._calls.say(LinkEvent.FAILED, "a malformed message arrived")

    def _handle(self, node: Node, message: Message, tree: ObjectTree) -> None:
        """Fetch a request, answer it, deliver the reply."""
        try:
            request = self._fetch(node, message, tree)
            if self._stop.is_set():
                raise StoppedError
            self._calls.say(LinkEvent.WORKING, "answering a request")
            reply = Message(self._answered(request), reply_to=message)
        except (DroppedError, UnregisteredError, StoppedError, TransportError):
            raise
        except Exception as error:  # whatever it is, it may hold private text: it stays here
            what = printable(f"the request could not be answered: {type(error).__name__}: {error}")
            self._calls.say(LinkEvent.FAILED, what)
            reply = Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, Code.UNAVAILABLE.value), reply_to=message)
        self._deliver(node, reply)
        self._calls.say(LinkEvent.IDLE, "the reply was sent")

    def _answered(self, request: RecordDict) -> RecordDict:
        """The answer, in an error of the answer's own if it is none of the link's."""
        try:
            reply = self._answer(request)
        except (DroppedError, UnregisteredError, StoppedError, TransportError) as error:
            raise RuntimeError(f"{type(error).__name__}: {error}") from error
        if not isinstance(reply, RecordDict):
            raise TypeError(f"the answer is a {type(reply).__name__}, not a RecordDict")
        return reply

    def _fetch(self, node: Node, message: Message, tree: ObjectTree) -> RecordDict:
        """The request's content.

        Raises:
            WireError: it is malformed or too large.
        """
        run_id = message.metadata.run_id
        ids = list(dict.fromkeys(part.object_id for part in iterate_object_tree(tree)))
        if message.metadata.message_id != tree.object_id or len(ids) > MAX_OBJECTS:
            raise WireError("the request's objects do not belong to it, or are too many")
        contents: dict[str, bytes] = {}
        most = self._max_request_bytes()

        def pull(object_id: str) -> None:
            request = PullObjectRequest(node=node, run_id=run_id, object_id=object_id)
            response = self._calls.attempt("PullObject", request, seconds=OBJECT_SECONDS, abandon=True)
            if not response.object_available:
                raise DroppedError("the request was withdrawn")
            contents[object_id] = response.object_content
            if sum(map(len, list(contents.values()))) > most:
                raise WireError("the request is too large")

        self._in_parallel(pull, ids)
        confirmation = ConfirmMessageReceivedRequest(node=node, run_id=run_id, message_object_id=tree.object_id)
        self._calls.attempt("ConfirmMessageReceived", confirmation, seconds=CALL_SECONDS, abandon=True)
        message = inflate_message(tree.object_id, contents, most, inflate_object_from_contents)
        if not message.has_content():
            raise WireError("the request is no message with content")
        return message.content

    def _deliver(self, node: Node, reply: Message) -> None:
        """Announce a reply, then send the objects that the server lacks. How long the answer took is not told."""
        run_id = reply.metadata.run_id
        with no_object_id_recompute():
            seal(reply)
            tree, parts = get_object_tree(reply), get_all_nested_objects(reply)
        announcement = PushMessagesRequest(
            node=node,
            messages_list=[message_to_proto(remove_content_from_message(reply))],
            message_object_trees=[tree],
        )
        response = self._calls.attempt("PushMessages", announcement, seconds=CALL_SECONDS, abandon=False)

        def push(object_id: str) -> None:
            request = PushObjectRequest(
                node=node,
                run_id=run_id,
                session_id=response.session_id,
                object_id=object_id,
                object_content=parts[object_id].deflate(),
            )
            if not self._calls.attempt("PushObject", request, seconds=OBJECT_SECONDS, abandon=False).stored:
                raise DroppedError("it came too late or is too large")

        missing = set(response.objects_to_push)
        self._in_parallel(push, [object_id for object_id in parts if object_id in missing])

    @staticmethod
    def _in_parallel(act: Callable[[str], None], object_ids: Iterable[str]) -> None:
        with ThreadPoolExecutor(_PARALLEL_OBJECTS, thread_name_prefix="objects") as executor:
            futures = [executor.submit(act, object_id) for object_id in object_ids]
            try:
                for future in futures:
                    future.result()
            finally:
                executor.shutdown(wait=False, cancel_futures=True)
