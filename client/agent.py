"""The heart of a site: one request in, one reply out, every rule in between.

An agent serves one federation of its site file and hears of no other one's plans. Codes are functions of plan, request,
ledger and site file. The records were read before anything connected; nothing that happens while they are computed on
changes a code.
"""

import logging
from collections.abc import Callable
from dataclasses import replace

from privet.client.audit import SiteAudit
from privet.client.data import Records
from privet.client.describe import describe
from privet.client.evaluation import counts
from privet.client.ledger import Kind, Ledger, LedgerError, PlanRow, Stored
from privet.client.ledger.evidence import MEND
from privet.client.ledger.head import seal, unseal
from privet.client.ledger.rows import allow_kept
from privet.client.policy import Admission, Committed, admit, recheck, statement_for
from privet.client.preparation import Prepared, prepare
from privet.client.resources import fits
from privet.client.rules import allow_release
from privet.client.update_size import local_base, update_bytes
from privet.common.config import Plan, Site, parse_plan
from privet.common.errors import Code, ConfigError, PrivetError, RefusedError, WireError
from privet.common.logs import unforeseen
from privet.common.messages import (
    COUNTS,
    EvaluateBody,
    FinishBody,
    OfferBody,
    Reply,
    ReplyBody,
    Request,
    RequestBody,
    TrainBody,
    pack,
    unpack,
    update_reply,
)
from privet.common.privacy.noise import NoiseSource, SecureNoise
from privet.common.privacy.statement import Statement

LOG = logging.getLogger("privet.client")

Tell = Callable[[str, str], None]  # (kind, words for the operator)


class Agent:
    """One site's agent in one federation.

    `finished` turns true when a plan that it serves is over, `held` says why it waits.
    """

    def __init__(self, site: Site, federation: str, records: Records, ledger: Ledger, tell: Tell) -> None:
        self._site, self._federation, self._records = site, federation, records
        self._ledger, self._tell = ledger, tell
        self.audit = SiteAudit(ledger.path, site.name)
        self._prepared: Prepared | None = None
        self._offered: set[str] = set()  # approved plans that were offered to this process
        self._sizes: dict[str, int | None] = {}  # of an update, by the digest of the latest plan described
        self.finished = False
        self.held: Code | None = None  # PENDING or a refusal: the latest verdict on a plan that is not served

    @property
    def expected_values(self) -> int | None:
        """Most array values that a sound request holds, once a plan is served; None before."""
        return None if self._prepared is None else self._prepared.trainer.spec.size

    def answer(self, request: Request, noise: NoiseSource) -> Reply:
        """Never raises: what nobody foresaw is the one code `unavailable`, told to the operator here.

        Whatever is returned stands in the audit log, durably; what cannot be written there is not returned.
        """
        reply = self._answer(request, self.sound(noise))
        try:
            self.audit.answered(self._federation, request.body, reply, self._ledger)
        except PrivetError as error:
            self._tell("error", f"{error} So the reply is not sent.")
        except Exception as error:
            unforeseen(LOG, "unforeseen", error)
            self._tell("error", f"{type(error).__name__} while writing the audit log; see the log.")
        else:
            return reply
        return self._refusal(Code.UNAVAILABLE, request.body)

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
        try:
            if isinstance(body, OfferBody):
                return self._offer(body)
            if isinstance(body, TrainBody):
                return self._train(request, body, noise)
            if isinstance(body, EvaluateBody):
                return self._evaluate(request, body, noise)
            return self._finish(body)
        except RefusedError as error:
            self._tell("refused", str(error))
            return self._refusal(error.code, body)
        except WireError as error:
            self._tell("refused", f"a malformed request: {error}")
            return self._refusal(Code.BAD_REQUEST, body)
        except PrivetError as error:
            self._tell("error", str(error))
        except Exception as error:  # fails closed: a fixed code and nothing else leaves
            unforeseen(LOG, "unforeseen", error)
            self._tell("error", f"{type(error).__name__} while answering; see the log.")
        return self._refusal(Code.UNAVAILABLE, body)

    # Offers

    def _offer(self, body: OfferBody) -> Reply:
        try:
            plan = parse_plan(body.plan)
        except ConfigError as error:
            raise WireError(f"the plan is not of this version's form: {error}") from None
        if plan.digest != body.plan_digest or plan.canonical() != body.plan:
            raise WireError("the plan's digest is not that of its text")
        if plan.name != self._federation:
            raise RefusedError(
                Code.REFUSED_POLICY,
                f"the server of federation {self._federation} offers a plan of another federation.",
                mend="each server serves the federation whose table names its address.",
            )
        self._stand_by(body)
        admission = self._judge(plan)
        if admission.decision != "approved":
            if self._prepared is None:  # a site that serves an approved plan goes on serving it
                self.held = admission.code
            self._tell(admission.decision, "\n".join(self._words(plan, admission)))
            return self._reply(admission.code, plan.digest)
        prepared = self._prepare(plan, admission)
        if prepared.initial_digest != body.adapter_digest:
            raise RefusedError(
                Code.ADAPTER_MISMATCH,
                "the server's initial adapter differs from the one that the plan "
                + ("derives." if plan.method.init is None else "names in method.init."),
                mend="install the same version of privet on both sides."
                if plan.method.init is None
                else "the server must start from the adapter that the plan names.",
            )
        self._offered.add(plan.digest)
        self.held, self.finished = None, False
        self._tell("approved", f"plan {plan.digest[:16]} of federation {plan.name}: taking part.")
        return self._reply(Code.OK, plan.digest, statement=statement_for(admission, self._site, plan))

    def _stand_by(self, body: OfferBody) -> None:
        """Hold the ledger against the newest state of it that the server saw.

        Raises: RefusedError with LEDGER_BEHIND where it was put back to an older copy; WireError for a forged head.
        """
        try:
            if body.head is not None:
                self._ledger.meet(unseal(body.head, self._site.data.id))
            for evidence in self._ledger.behind():
                raise RefusedError(Code.LEDGER_BEHIND, str(evidence), where="the ledger", mend=MEND)
        except RefusedError as refusal:
            self.held = refusal.code
            raise

    def _words(self, plan: Plan, admission: Admission) -> list[str]:
        """For the operator. No folder that only the server names is looked at: how long it takes would tell of it."""
        if plan.digest not in self._sizes:
            own = self._site.federation[plan.name].base is not None or plan.model.base.startswith("package:")
            self._sizes = {plan.digest: update_bytes(plan, local_base(plan, self._site)) if own else None}
        size = self._sizes[plan.digest]
        return describe(plan, admission, self._site, update_bytes=size, known=self._ledger.latest(plan))

    def _judge(self, plan: Plan) -> Admission:
        row = self._ledger.plan(plan.digest)
        committed = self._ledger.committed(plan.name)
        if row is None or row.admission.decision != "approved":
            row = self._ledger.record_plan(plan, admit(plan, self._site, committed), self._site)
            if row.admission.decision == "approved":
                self.audit.approved(row, by="first-use")
            return row.admission
        self._recheck(row, plan, committed)
        return row.admission

    def _recheck(self, row: PlanRow, plan: Plan, committed: Committed) -> None:
        allow_kept(self._site.data, row)
        recheck(plan, row.admission, self._site, committed)

    def _prepare(self, plan: Plan, admission: Admission) -> Prepared:
        if self._prepared is None or self._prepared.digest != plan.digest:
            self._prepared = None  # one model in memory at a time
            fits(plan, admission, self._site)
            self._tell("preparing", f"reading the base model and {len(self._records.texts)} records for {plan.name}.")
            self._prepared = prepare(plan, admission, self._site, self._records)
        return self._prepared

    # Rounds and evaluations

    def _train(self, request: Request, body: TrainBody, noise: NoiseSource) -> Reply:
        row = self._approved(body.plan_digest)
        plan, event = row.plan, row.admission.event
        assert event is not None  # an approved plan has one
        if row.admission.evaluate_only:
            raise RefusedError(
                Code.OUTSIDE_HORIZON, "this site only evaluates, and is asked to train.", where=_where(row)
            )
        prepared = self._ready(row, request, body.round)

        def update(ok: ReplyBody) -> Reply:
            self._tell("training", f"round {body.round} of {plan.training.rounds}: {event.steps} steps.")
            arrays = prepared.trainer.update(request.arrays, prepared.train, body.round, event, noise)
            return update_reply(ok, arrays, plan.training.compression, noise)

        reply = self._once(request, body, "train", update)
        self._tell("trained", f"round {body.round} of {plan.training.rounds}: the noised update is on its way.")
        return reply

    def _evaluate(self, request: Request, body: EvaluateBody, noise: NoiseSource) -> Reply:
        row = self._approved(body.plan_digest)
        event = row.admission.evaluation
        if event is None:
            raise RefusedError(
                Code.REFUSED_POLICY, "metrics are asked for that this plan was not approved with.", where=_where(row)
            )
        allow_release(event, self._site, self._federation)
        prepared = self._ready(row, request, body.after)

        def measured(ok: ReplyBody) -> Reply:
            self._tell("evaluating", f"evaluation {body.round} of {row.admission.num_evaluations}: {event.release}.")
            return Reply(ok, {COUNTS: counts(prepared.trainer, request.arrays, prepared.validation, event, noise)})

        reply = self._once(request, body, "evaluate", measured)
        self._tell("evaluated", f"evaluation {body.round}: the noised counts are on their way.")
        return reply

    def _once(
        self, request: Request, body: TrainBody | EvaluateBody, kind: Kind, compute: Callable[[ReplyBody], Reply]
    ) -> Reply:
        """Reserve (durable), compute, store (durable); the same request again gets the stored reply."""
        reservation = self._ledger.reserve(body.plan_digest, body.round, kind, request.sha256)
        if isinstance(reservation, Stored):
            self._tell("replayed", f"{kind} {body.round}: the same request again; the stored reply is sent.")
            return self._headed(_stored(reservation))
        reply = compute(ReplyBody(code=Code.OK, plan_digest=body.plan_digest, round=body.round))
        self._ledger.store(reservation.event_id, pack(reply))  # durable before it is sent
        return self._headed(reply)

    def _ready(self, row: PlanRow, request: Request, round: int) -> Prepared:
        """What an approved plan's request needs, after every check that comes before a reservation."""
        if row.digest not in self._offered:  # with an offer comes what the server saw last of this ledger
            what = "a request from before this client started: the plan must be offered first."
            raise RefusedError(Code.UNKNOWN_PLAN, what, where=_where(row))
        plan = row.plan
        self._recheck(row, plan, self._ledger.committed(plan.name))
        prepared = self._prepare(plan, row.admission)
        prepared.received(round).check(request.arrays)
        return prepared

    def _approved(self, digest: str) -> PlanRow:
        row = self._ledger.plan(digest)
        if row is None or row.federation != self._federation:
            raise RefusedError(Code.UNKNOWN_PLAN, "a request for a plan that was never offered.")
        if row.admission.decision != "approved" or row.admission.event is None:
            code = Code.PENDING if row.admission.decision == "pending" else row.admission.code
            raise RefusedError(code, "a request for a plan that is not approved.", where=_where(row))
        return row

    def _finish(self, body: FinishBody) -> Reply:
        self._approved(body.plan_digest)
        self.finished = True
        self._tell("finished", f"plan {body.plan_digest[:16]} is over.")
        return self._reply(Code.OK, body.plan_digest)

    # Replies

    def _headed(self, reply: Reply) -> Reply:
        """With the ledger's head as it is now: the envelope of every reply, and not part of what is stored."""
        head = seal(self._ledger.head(), self._site.data.id)
        return replace(reply, body=reply.body.model_copy(update={"head": head}))

    def _reply(self, code: Code, plan_digest: str, round: int = 0, statement: Statement | None = None) -> Reply:
        return self._headed(Reply(ReplyBody(code=code, plan_digest=plan_digest, round=round, statement=statement)))

    def _refusal(self, code: Code, body: RequestBody) -> Reply:
        """A code and the ledger's head; without the head where the ledger cannot be read."""
        round = body.round if isinstance(body, TrainBody | EvaluateBody) else 0
        try:
            return self._reply(code, body.plan_digest, round)
        except Exception as error:
            unforeseen(LOG, "the ledger cannot be read", error)
            self._tell("error", f"{type(error).__name__} while reading the ledger; see the log.")
            return Reply(ReplyBody(code=Code.UNAVAILABLE, plan_digest=body.plan_digest, round=round))


def _where(row: PlanRow) -> str:
    return f"plan {row.digest[:16]}"


def _stored(reservation: Stored) -> Reply:
    """Raises: LedgerError where the ledger's own bytes cannot be read: no fault of the request."""
    try:
        return unpack(reservation.reply)
    except WireError as error:
        raise LedgerError(f"a stored reply cannot be read: {error}", mend="restore the newest sound copy.") from None
