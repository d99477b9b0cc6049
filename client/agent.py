"""The heart of a site: one request in, one reply out, every rule in between.

Codes are functions of plan, request, ledger and site file. The records were read before anything connected; nothing
that happens while they are computed on changes a code.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from privet.client.data import Records
from privet.client.ledger import Ledger, LedgerError, PlanRow, Stored
from privet.client.policy import Admission, admit, describe, recheck, statement_for
from privet.client.training import RoundTrainer
from privet.common import adapter
from privet.common.base import checked_base
from privet.common.config import Plan, Site, parse_plan
from privet.common.errors import Code, ConfigError, ModelError, PrivetError, RefusedError, WireError
from privet.common.examples import Examples
from privet.common.messages import FinishBody, OfferBody, Reply, ReplyBody, Request, TrainBody, pack, unpack
from privet.common.model import initial_arrays
from privet.common.privacy.noise import NoiseSource, SecureNoise

LOG = logging.getLogger("privet.client")

Tell = Callable[[str, str], None]  # (kind, words for the operator)


@dataclass(frozen=True)
class _Prepared:
    """A plan's model and this site's examples for it."""

    digest: str
    trainer: RoundTrainer
    examples: Examples
    initial_digest: str


class Agent:
    """One site's agent. `finished` turns true when a plan that it serves is over, `held` says why it waits."""

    def __init__(self, site: Site, records: Records, ledger: Ledger, tell: Tell) -> None:
        self._site, self._records, self._ledger, self._tell = site, records, ledger, tell
        self._prepared: _Prepared | None = None
        self.finished = False
        self.held: Code | None = None  # PENDING or a refusal: the latest verdict on a plan that is not served

    @property
    def expected_values(self) -> int | None:
        """Most array values that a sound request holds, once a plan is served; None before."""
        return None if self._prepared is None else self._prepared.trainer.spec.size

    def answer(self, request: Request, noise: NoiseSource) -> Reply:
        """Never raises: what nobody foresaw is the one code `unavailable`, told to the operator here."""
        return self._answer(request, self.sound(noise))

    @staticmethod
    def sound(noise: NoiseSource) -> NoiseSource:
        """The noise that this agent may use: none that could be drawn again.

        Raises: PrivetError.
        """
        if type(noise) is not SecureNoise:
            raise PrivetError("a site's agent draws from the operating system's randomness only.")
        return noise

    def _answer(self, request: Request, noise: NoiseSource) -> Reply:
        body = request.body
        round = body.round if isinstance(body, TrainBody) else 0
        try:
            if isinstance(body, OfferBody):
                return self._offer(body)
            if isinstance(body, TrainBody):
                return self._train(request, body, noise)
            return self._finish(body)
        except RefusedError as error:
            self._tell("refused", str(error))
            return _reply(error.code, body.plan_digest, round)
        except WireError as error:
            self._tell("refused", f"a malformed request: {error}")
            return _reply(Code.BAD_REQUEST, body.plan_digest, round)
        except PrivetError as error:
            self._tell("error", str(error))
        except Exception as error:  # fails closed: a fixed code and nothing else leaves
            LOG.exception("unforeseen")
            self._tell("error", f"{type(error).__name__} while answering; see the log.")
        return _reply(Code.UNAVAILABLE, body.plan_digest, round)

    # Offers

    def _offer(self, body: OfferBody) -> Reply:
        try:
            plan = parse_plan(body.plan)
        except ConfigError as error:
            raise WireError(f"the plan is not of this version's form: {error}") from None
        if plan.digest != body.plan_digest or plan.canonical() != body.plan:
            raise WireError("the plan's digest is not that of its text")
        admission = self._judge(plan)
        if admission.decision != "approved":
            if self._prepared is None:  # a site that serves an approved plan goes on serving it
                self.held = admission.code
            self._tell(admission.decision, "\n".join(describe(plan, admission, self._site, None)))
            return _reply(admission.code, plan.digest)
        prepared = self._prepare(plan)
        if prepared.initial_digest != body.adapter_digest:
            raise RefusedError(
                Code.ADAPTER_MISMATCH,
                "the server's initial adapter differs from the one that the plan derives.",
                mend="install the same version of privet on both sides.",
            )
        self.held, self.finished = None, False
        self._tell("approved", f"plan {plan.digest[:16]} of federation {plan.name}: taking part.")
        return Reply(ReplyBody(code=Code.OK, plan_digest=plan.digest, statement=statement_for(admission, self._site)))

    def _judge(self, plan: Plan) -> Admission:
        row = self._ledger.plan(plan.digest)
        committed = self._ledger.committed(plan.name)
        if row is None or row.admission.decision != "approved":
            return self._ledger.record_plan(plan, admit(plan, self._site, committed), self._site).admission
        recheck(plan, row.admission, self._site, committed)
        return row.admission

    def _prepare(self, plan: Plan) -> _Prepared:
        if self._prepared is None or self._prepared.digest != plan.digest:
            self._prepared = None  # one model in memory at a time
            self._tell("preparing", f"reading the base model and {len(self._records.texts)} records for {plan.name}.")
            base = self._site.federation[plan.name].base or plan.model.base
            try:
                folder = checked_base(base, plan.model.sha256)
                trainer = RoundTrainer(plan, folder)
            except ModelError as error:
                raise RefusedError(Code.BASE_MISMATCH, error.what, where=error.where, mend=error.mend) from None
            labelled = self._records.relabel(plan.task.labels, self._site.data.label_map)
            initial = adapter.digest(initial_arrays(trainer.classifier))
            self._prepared = _Prepared(plan.digest, trainer, trainer.prepare(labelled), initial)
        return self._prepared

    # Rounds

    def _train(self, request: Request, body: TrainBody, noise: NoiseSource) -> Reply:
        row = self._approved(body.plan_digest)
        plan, event = row.plan, row.admission.event
        assert event is not None  # an approved plan has one
        recheck(plan, row.admission, self._site, self._ledger.committed(plan.name))
        prepared = self._prepare(plan)
        prepared.trainer.spec.only(self._sent(prepared, body.round)).check(request.arrays)
        reservation = self._ledger.reserve(plan.digest, body.round, "train", request.sha256)
        if isinstance(reservation, Stored):
            self._tell("replayed", f"round {body.round}: the same request again; the stored reply is sent.")
            return _stored(reservation)
        self._tell("training", f"round {body.round} of {plan.training.rounds}: {event.steps} steps.")
        update = prepared.trainer.update(request.arrays, prepared.examples, body.round, event, noise)
        reply = Reply(ReplyBody(code=Code.OK, plan_digest=plan.digest, round=body.round), update)
        self._ledger.store(reservation.event_id, pack(reply))  # durable before it is sent
        self._tell("trained", f"round {body.round} of {plan.training.rounds}: done, the noised update is on its way.")
        return reply

    def _approved(self, digest: str) -> PlanRow:
        row = self._ledger.plan(digest)
        if row is None:
            raise RefusedError(Code.UNKNOWN_PLAN, "a request for a plan that was never offered.")
        if row.admission.decision != "approved" or row.admission.event is None:
            code = Code.PENDING if row.admission.decision == "pending" else row.admission.code
            raise RefusedError(code, "a request for a plan that is not approved.", where=f"plan {digest[:16]}")
        return row

    @staticmethod
    def _sent(prepared: _Prepared, round: int) -> tuple[str, ...]:
        method = prepared.trainer.method
        return tuple(method.broadcast(prepared.trainer.spec, method.init(prepared.trainer.classifier.read()), round))

    def _finish(self, body: FinishBody) -> Reply:
        row = self._ledger.plan(body.plan_digest)
        if row is None or row.admission.decision != "approved":
            raise RefusedError(Code.UNKNOWN_PLAN, "the end of a plan that this site does not serve.")
        self.finished = True
        self._tell("finished", f"plan {body.plan_digest[:16]} is over.")
        return _reply(Code.OK, body.plan_digest)


def _stored(reservation: Stored) -> Reply:
    """Raises: LedgerError where the ledger's own bytes cannot be read: no fault of the request."""
    try:
        return unpack(reservation.reply)
    except WireError as error:
        raise LedgerError(f"a stored reply cannot be read: {error}", mend="restore the newest sound copy.") from None


def _reply(code: Code, plan_digest: str, round: int = 0) -> Reply:
    return Reply(ReplyBody(code=code, plan_digest=plan_digest, round=round))
