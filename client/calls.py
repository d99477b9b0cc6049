"""Calls that are tried until the server answers or clearly refuses, and the line for the operator about it."""

import random
import threading
import time
from collections.abc import Callable
from enum import StrEnum
from typing import Any

import grpc

from privet.client.refusal import Verdict, code_of, details_of, judge, reason, why_dropped
from privet.client.wire import CALL_SECONDS, PULL_SECONDS, Wire
from privet.common.errors import PrivetError, TransportError
from privet.common.handshake import Refusal

_MAX_DELAY_SECONDS = 10.0
_MAX_FAULTS = 5  # tries of a call for one message that the server answers with an internal error
_FAULTS = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN}


class LinkEvent(StrEnum):
    """What the link is about, for the operator."""

    CONNECTING = "connecting"
    ONLINE = "online"
    RETRYING = "retrying"
    WORKING = "working"  # on the answer to a request
    IDLE = "idle"  # its reply was taken by the server
    FAILED = "failed"  # it could not be answered, or its reply not be delivered; the text never leaves this machine
    STOPPED = "stopped"


class DroppedError(Exception):
    """The message under way is over; go on with the next."""


class UnregisteredError(Exception):
    """The server knows this site under another node id."""


class Calls:
    """Calls over a wire; of use to several threads at once."""

    def __init__(self, wire: Wire, address: str, on_event: Callable[[LinkEvent, str], None]) -> None:
        self._wire, self._address, self._on_event = wire, address, on_event
        self._known = False  # whether the server answered a call of this process
        self._retrying, self._told_until = False, 0.0
        self._speaking = threading.Lock()

    def say(self, event: LinkEvent, text: str) -> None:
        """Tell the operator; one line at a time."""
        with self._speaking:
            self._on_event(event, text)

    def _say_retrying(self, error: grpc.RpcError, wait: float) -> None:
        """Tell of a failed call once, however many calls fail at the same time."""
        with self._speaking:
            told, self._retrying = self._retrying and time.monotonic() < self._told_until, True
            self._told_until = time.monotonic() + wait / 2
        if not told:
            text = f"{self._address} {reason(error)}; next try in {max(1, round(wait))} s"
            self.say(LinkEvent.RETRYING, text)

    def demand(self, method: str, request: Any) -> Any:
        """A call without which there is nothing to do: if the server will not have it, that ends the link.

        Raises: as `attempt`, with TransportError in place of DroppedError.
        """
        try:
            seconds = PULL_SECONDS if method == "PullMessages" else CALL_SECONDS
            return self.attempt(method, request, seconds=seconds, abandon=True)
        except DroppedError as error:
            raise TransportError(
                f"The server refused this site: {error}.",
                where=self._address,
                mend="Check that the server and this site run the same release of privet.",
            ) from None

    def _renewed(self, error: grpc.RpcError, generation: int) -> bool:
        """Whether a failure may be over because this site's files changed meanwhile: key, CA or proxy.

        Raises: UnregisteredError where there is a new key: the server knows it under another node id.
        """
        code = code_of(error)
        refused = code is grpc.StatusCode.UNAUTHENTICATED and details_of(error) == Refusal.NOT_ENROLLED
        if not refused and code is not grpc.StatusCode.UNAVAILABLE:
            return False
        try:
            renewed = self._wire.renew(generation, key=refused)
        except PrivetError as fault:  # half-written, say; what is in use stays
            self.say(LinkEvent.FAILED, str(fault))
            return False
        if renewed and refused:
            self._known = False
            self.say(LinkEvent.RETRYING, f"{self._address} refused the key in use; trying the one in its file now")
            raise UnregisteredError
        return renewed

    def attempt(self, method: str, request: Any, *, seconds: float, abandon: bool) -> Any:
        """Call until the server answers.

        Raises:
            TransportError: a clear refusal, for the operator.
            DroppedError: the message under way is over.
            UnregisteredError: the site must register anew.
            StoppedError: the site is to stop; see `Wire.call` for `seconds` and `abandon`.
        """
        delay, faults = 1.0, 0
        while True:
            generation = self._wire.generation
            try:
                response = self._wire.call(method, request, seconds=seconds, abandon=abandon)
            except grpc.RpcError as error:
                verdict = judge(error, self._address, known=self._known)
                faults += code_of(error) in _FAULTS
                if self._renewed(error, generation):
                    continue
                if isinstance(verdict, TransportError):
                    raise verdict from None
                if verdict is Verdict.REGISTER:
                    raise UnregisteredError from None
                if verdict is Verdict.DROP or (not method.startswith(("Activate", "PullM")) and faults >= _MAX_FAULTS):
                    raise DroppedError(why_dropped(error)) from None
                if code_of(error) is grpc.StatusCode.DEADLINE_EXCEEDED:
                    self._wire.reconnect(generation)
                wait = delay * random.uniform(0.8, 1.2)
                self._say_retrying(error, wait)
                self._wire.pause(wait)
                delay = min(2 * delay, _MAX_DELAY_SECONDS)
            else:
                self._wire.succeeded()
                self._known = True
                if self._retrying and method != "ActivateNode":
                    self.say(LinkEvent.ONLINE, f"connected to {self._address} again")
                self._retrying = False
                return response
