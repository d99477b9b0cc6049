"""A site's part in a rehearsal: a plan's rounds on generated text, in a process apart.

Nothing here knows the records or the ledger; neither is handed in. What a rehearsal answers is a function of plan,
request, site file and of how much was rehearsed before. No plan is stored, nothing is reserved, nobody approves.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any, Protocol

from privet.client.apart import Apart
from privet.client.policy import Committed, admit
from privet.common.adapter import Arrays, Floats
from privet.common.compression import encode
from privet.common.config import Plan, Site, parse_plan
from privet.common.errors import Code, ConfigError, PrivetError, RefusedError, WireError
from privet.common.logs import unforeseen
from privet.common.privacy.noise import SecureNoise
from privet.common.rehearsal import (
    RehearsalBody,
    RehearsalEndBody,
    RehearsalOfferBody,
    RehearsalReply,
    RehearsalReplyBody,
    RehearsalReport,
    RehearsalRequest,
    RehearsalRoundBody,
)

LOG = logging.getLogger("privet.client")

MAX_REQUESTS = 40  # offers and rounds in any 24 hours
MAX_SECONDS = 3600.0  # of computing, in any 24 hours
_DAY = 86_400.0
_REQUEST_SECONDS = 600.0  # longest for one of them: the site's other federations wait for it

_NOTHING = Committed(epsilon=0.0, delta=0.0, federation_epsilon=0.0, federation_delta=0.0, unit=None)

Tell = Callable[[str, str], None]  # (kind, words for the operator)


class Room(Protocol):
    """Where a plan is tried out: `Apart`."""

    def ask(
        self, what: Mapping[str, Any], arrays: Arrays | None = None, *, seconds: float
    ) -> tuple[Mapping[str, Any], dict[str, Floats]]: ...

    def close(self) -> object: ...


class Rehearsals:
    """Answers the rehearsal requests of one federation, where the operator consents (`rehearsal = true`)."""

    def __init__(
        self,
        site: Site,
        federation: str,
        tell: Tell,
        stop: threading.Event,
        open_room: Callable[[], Room] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._site, self._federation, self._tell, self._clock = site, federation, tell, clock
        memory = site.resources.memory_bytes
        self._open = open_room or (
            lambda: Apart(threads=site.resources.threads, memory=None if memory is None else memory // 2, stop=stop)
        )
        self._room: Room | None = None
        self._plan: Plan | None = None  # that the room holds
        self._done: deque[tuple[float, float]] = deque()  # when, and how long it took
        self.expected_values: int | None = None  # of a round's arrays, once a rehearsal began

    def answer(self, request: RehearsalRequest) -> RehearsalReply:
        """Never raises."""
        body = request.body
        try:
            if isinstance(body, RehearsalOfferBody):
                return self._offer(body)
            if isinstance(body, RehearsalRoundBody):
                return self._round(body, request.arrays)
            return self._end(body)
        except RefusedError as error:
            self._tell("refused", f"rehearsal: {error}")
            return _reply(body, error.code)
        except WireError as error:
            self._tell("refused", f"rehearsal: a malformed request: {error}")
            return _reply(body, Code.BAD_REQUEST)
        except PrivetError as error:
            self._tell("error", f"rehearsal: {error}")
        except Exception as error:  # fails closed: a fixed code and nothing else leaves
            unforeseen(LOG, "unforeseen", error)
            self._tell("error", f"rehearsal: {type(error).__name__} while answering; see the log.")
        self.close()
        return _reply(body, Code.UNAVAILABLE)

    def close(self) -> None:
        """End what is under way, and give its memory back."""
        room, self._room, self._plan, self.expected_values = self._room, None, None, None
        if room is not None:
            room.close()

    def _offer(self, body: RehearsalOfferBody) -> RehearsalReply:
        self._consent()
        plan = self._parsed(body)
        admission = admit(plan, self._site, _NOTHING)  # pure: no ledger is asked, and the verdict is kept nowhere
        if admission.event is None:
            raise RefusedError(admission.code, admission.reason)
        base, local_only = self._base(plan)
        self.close()
        room = self._room = self._open()
        self._tell(
            "rehearsing", f"a rehearsal of {plan.name}: building the model. No record is read, nothing is spent."
        )
        asked = {"do": "prepare", "plan": plan.canonical(), "base": base, "local_only": local_only}
        asked |= {"engine": self._site.resources.engine, "precision": self._site.resources.precision}
        header, _ = self._ask(room, asked | {"event": asdict(admission.event)})
        if header["initial_digest"] != body.adapter_digest:
            self.close()
            raise RefusedError(
                Code.ADAPTER_MISMATCH,
                "the server's initial adapter differs from the one that the plan derives, or names.",
                mend="install the same version of privet on both sides.",
            )
        self._plan, self.expected_values = plan, int(header["size"])
        return _reply(body, Code.OK, RehearsalReport.model_validate(header["report"]))

    def _round(self, body: RehearsalRoundBody, arrays: Arrays) -> RehearsalReply:
        self._consent()
        room, plan = self._room, self._plan
        if room is None or plan is None or plan.digest != body.plan_digest:
            raise RefusedError(Code.UNKNOWN_PLAN, "a rehearsal's round that no rehearsal was offered for.")
        if body.round > plan.training.horizon:
            raise RefusedError(Code.OUTSIDE_HORIZON, "a rehearsal's round beyond the plan's horizon.")
        header, update = self._ask(room, {"do": "round", "round": body.round}, arrays, plan.cohort.timeout)
        report = RehearsalReport.model_validate(header["report"])
        self._tell("rehearsed", f"rehearsal round {body.round}: {report.seconds:.1f} s on generated text.")
        reply, compression = _reply(body, Code.OK, report, update), plan.training.compression
        if compression == "none":
            return reply
        return replace(reply, arrays={}, coded=encode(compression, update, SecureNoise()))

    def _end(self, body: RehearsalEndBody) -> RehearsalReply:
        self._consent()
        if self._room is not None:
            self._tell("rehearsed", "the rehearsal is over: nothing was spent. Waiting for the federation to begin.")
        self.close()
        return _reply(body, Code.OK)

    def _consent(self) -> None:
        if not self._site.federation[self._federation].rehearsal:
            raise RefusedError(
                Code.REFUSED_POLICY,
                "the server asks for one, and this site does not consent.",
                where=f"federation.{self._federation}.rehearsal",
                mend="set it to true: a rehearsal costs computing time only, reads no record and spends nothing.",
            )

    def _parsed(self, body: RehearsalOfferBody) -> Plan:
        try:
            plan = parse_plan(body.plan)
        except ConfigError as error:
            raise WireError(f"the plan is not of this version's form: {error}") from None
        if plan.digest != body.plan_digest or plan.canonical() != body.plan:
            raise WireError("the plan's digest is not that of its text")
        if plan.name != self._federation:
            raise RefusedError(Code.REFUSED_POLICY, "a plan of another federation.")
        return plan

    def _base(self, plan: Plan) -> tuple[str, bool]:
        """Where the base is, and whether the network is not to be asked for it.

        A folder that only the server names is not looked at, and nothing is fetched on its word alone: the operator
        named the base, or took the invitation to this very plan.
        """
        membership = self._site.federation[self._federation]
        if membership.base is not None:
            return membership.base, False
        base = plan.model.base
        if membership.plan == plan.digest or base.startswith("package:"):
            return base, False
        raise RefusedError(
            Code.REFUSED_POLICY,
            "this is not the plan of the invitation, and its base model is somewhere that only the server names.",
            mend=f"set federation.{plan.name}.plan to {plan.digest}, or federation.{plan.name}.base to the base here.",
        )

    def _ask(
        self, room: Room, what: Mapping[str, Any], arrays: Arrays | None = None, timeout: float = _REQUEST_SECONDS
    ) -> tuple[Mapping[str, Any], dict[str, Floats]]:
        now = self._clock()
        while self._done and now - self._done[0][0] >= _DAY:
            self._done.popleft()
        left = MAX_SECONDS - sum(seconds for _, seconds in self._done)
        if len(self._done) >= MAX_REQUESTS or left <= 0:
            raise RefusedError(
                Code.OUTSIDE_HORIZON,
                f"{MAX_REQUESTS} requests or {MAX_SECONDS:g} s of computing in 24 hours are the most.",
                mend="wait, or start the client again.",
            )
        try:
            return room.ask(what, arrays, seconds=min(left, timeout, _REQUEST_SECONDS))
        finally:
            self._done.append((now, self._clock() - now))


def _reply(
    body: RehearsalBody, code: Code, report: RehearsalReport | None = None, arrays: Arrays | None = None
) -> RehearsalReply:
    number = body.round if isinstance(body, RehearsalRoundBody) else 0
    answer = RehearsalReplyBody(code=code, plan_digest=body.plan_digest, round=number, report=report)
    return RehearsalReply(answer, arrays or {})
