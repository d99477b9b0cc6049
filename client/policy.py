"""What a site admits: a function of plan, site file and ledger sums only, judged before a record is read.

A plan is admitted with its whole horizon at once. Its share of the budget is what the federation's own share and the
data set's budget still leave; one noise multiplier is computed for that share and never again. Nothing that a server
sends can raise a limit: a second plan of a federation gets what the first one left.
"""

from collections.abc import Callable
from decimal import ROUND_CEILING, Decimal
from functools import lru_cache
from typing import TYPE_CHECKING

from privet.client.admission import Admission, Committed, Decision, Unit
from privet.client.rules import (
    allow_part,
    allow_person,
    allow_person_column,
    allow_plan,
    allow_rate,
    allow_unit,
    no_table,
)
from privet.common.config import Plan, Site
from privet.common.errors import Code, InputError, RefusedError
from privet.common.privacy.events import EvaluateEvent, TrainEvent

if TYPE_CHECKING:
    from privet.common.privacy.statement import Statement

__all__ = [
    "Admission",
    "Committed",
    "Decision",
    "Unit",
    "admit",
    "allow_budget",
    "recheck",
    "statement_for",
    "unit_kind",
]

MIN_EPSILON = 0.01  # a smaller share buys nothing but noise
_MARGIN = 1e-12  # of a limit: keeps sums of shares under it whatever the rounding
_FLOAT32_NORMAL = (2.0**-126, (2 - 2.0**-23) * 2.0**127)


def unit_kind(site: Site) -> Unit:
    """Who counts as one: `record`, or `unit` where the site file names a column."""
    return "record" if site.data.unit == "record" else "unit"


def admit(plan: Plan, site: Site, committed: Committed) -> Admission:
    """Judge `plan`: approved (by first use, and the invited one), pending (the operator decides) or refused."""
    horizon, person, limit = plan.training.horizon, site.data.person, site.data.max_per_person
    try:
        event, evaluation, epsilon, delta = _judge(plan, site, committed)
    except RefusedError as refusal:
        return Admission(
            decision="refused",
            code=refusal.code,
            reason=str(refusal),
            horizon=horizon,
            person=person,
            max_per_person=limit,
        )
    decision, code, reason = _who_decides(plan, site)
    return Admission(
        decision=decision,
        code=code,
        reason=reason,
        horizon=horizon,
        event=event,
        evaluation=evaluation,
        num_evaluations=0 if evaluation is None else plan.num_evaluations,
        epsilon=epsilon,
        delta=delta,
        person=person,
        max_per_person=limit,
        evaluate_only=site.federation[plan.name].evaluate_only,
    )


def recheck(plan: Plan, admission: Admission, site: Site, committed: Committed) -> None:
    """Hold an approved plan against the site file as it is now: the operator may have tightened it since.

    The approved noise multiplier, sampling rate and batch stay as they were approved; nothing is recomputed.

    Raises: RefusedError.
    """
    event, floor = admission.event, site.policy.min_noise_multiplier
    if admission.decision != "approved" or event is None:
        raise RefusedError(Code.UNKNOWN_PLAN, "the plan is not approved.", where=f"plan {plan.digest[:16]}")
    allow_plan(plan, site)
    allow_part(site, plan.name, admission.evaluate_only)
    allow_unit(event.unit, committed.unit)
    allow_unit(unit_kind(site), event.unit)
    allow_person(site, admission.person, admission.max_per_person)
    allow_person_column(admission.person, committed.person)
    if not admission.evaluate_only:
        allow_rate(event.sample_rate, site)
    if event.noise_multiplier < floor:
        what = f"Expected noise_multiplier >= policy.min_noise_multiplier = {floor:g}, got {event.noise_multiplier:g}."
        raise RefusedError(Code.REFUSED_POLICY, what, mend="lower the minimum, or let the plan be refused.")
    allow_budget(plan.name, site, committed)


def allow_budget(federation: str, site: Site, committed: Committed) -> None:
    """Let pass sums within the federation's share and the data set's budget; no tolerance.

    Raises: RefusedError.
    """
    membership, budget = site.federation.get(federation), site.budget
    if membership is None:
        raise no_table(federation)
    if committed.federation_epsilon > membership.epsilon or committed.federation_delta > membership.delta:
        raise RefusedError(
            Code.REFUSED_BUDGET,
            f"Plans of federation {federation} and charges would reserve "
            f"{_pair(committed.federation_epsilon, committed.federation_delta)}, its share is "
            f"{_pair(membership.epsilon, membership.delta)}.",
            mend=f"raise federation.{federation}.epsilon and federation.{federation}.delta within the budget.",
        )
    if committed.epsilon > budget.epsilon or committed.delta > budget.delta:
        raise RefusedError(
            Code.REFUSED_BUDGET,
            f"Plans and charges would reserve {_pair(committed.epsilon, committed.delta)}, the data set's budget is "
            f"{_pair(budget.epsilon, budget.delta)}.",
            mend="nothing can be given back; raise the budget only if the data set may spend more over its life.",
        )


def statement_for(admission: Admission, site: Site, plan: Plan) -> "Statement":
    """The site's privacy statement: the whole horizon of an admitted plan at the delta of its share.

    The limit of a person's records is the approved one: a site file that says otherwise is refused (`recheck`).

    Raises: RefusedError where the plan was refused.
    """
    from privet.common.privacy.statement import statement

    if admission.event is None:
        raise RefusedError(admission.code, admission.reason)
    evaluation = admission.evaluation
    metrics = () if evaluation is None else (evaluation.release,)
    return statement(
        admission.event,
        admission.training_rounds,
        admission.delta,
        released=metrics if admission.evaluate_only else ("update", *metrics),
        declared_weight=site.federation[plan.name].declared_weight,
        evaluation=evaluation,
        num_evaluations=admission.num_evaluations,
        train_fraction=0.0 if admission.evaluate_only else plan.training.train_fraction,
        max_per_person=admission.max_per_person,
    )


def _judge(plan: Plan, site: Site, committed: Committed) -> tuple[TrainEvent, EvaluateEvent | None, float, float]:
    """One round's event, one evaluation's, and the share (epsilon, delta) of either horizon."""
    from privet.common.privacy.calibration import noise_multiplier

    allow_plan(plan, site)
    allow_unit(unit_kind(site), committed.unit)
    allow_person_column(site.data.person, committed.person)
    if site.federation[plan.name].evaluate_only:
        return _judge_evaluations(plan, site, committed)
    training, batch = plan.training, _expected_batch(plan, site)
    sample_rate = batch / (site.budget.declared_units * training.train_fraction)
    allow_rate(sample_rate, site)
    epsilon, delta = _share(plan.name, site, committed)
    steps = training.horizon * training.local_steps
    sigma = _sigma(site, noise_multiplier, sample_rate, steps, epsilon, delta)
    deviation = sigma * training.max_grad_norm
    if not _FLOAT32_NORMAL[0] <= deviation <= _FLOAT32_NORMAL[1]:
        what = f"The noise's standard deviation {deviation:g} is not a normal 32-bit number."
        raise RefusedError(Code.REFUSED_POLICY, what)
    event = TrainEvent(
        sample_rate=sample_rate,
        noise_multiplier=sigma,
        steps=training.local_steps,
        max_grad_norm=training.max_grad_norm,
        expected_batch=batch,
        unit=unit_kind(site),
        max_records=site.data.max_records,
    )
    evaluation = None
    asked = plan.evaluation.release
    if asked != "none" and asked in site.federation[plan.name].release:
        sigma = _sigma(site, noise_multiplier, 1.0, plan.num_evaluations, epsilon, delta)
        evaluation = EvaluateEvent(noise_multiplier=sigma, release=asked, unit=unit_kind(site))
    return event, evaluation, epsilon, delta


def _judge_evaluations(
    plan: Plan, site: Site, committed: Committed
) -> tuple[TrainEvent, EvaluateEvent | None, float, float]:
    """Of a site that only evaluates: its share buys evaluations alone, of every unit. The event trains nothing: it says
    whose units they are, how many are declared (B / q), and what the model is built for."""
    from privet.common.privacy.calibration import noise_multiplier

    epsilon, delta = _share(plan.name, site, committed)
    sigma, asked = _sigma(site, noise_multiplier, 1.0, plan.num_evaluations, epsilon, delta), plan.evaluation.release
    assert asked != "none"  # allow_plan
    unit = unit_kind(site)
    event = TrainEvent(
        sample_rate=1.0 / site.budget.declared_units,
        noise_multiplier=sigma,
        steps=plan.training.local_steps,
        max_grad_norm=plan.training.max_grad_norm,
        expected_batch=1,
        unit=unit,
        max_records=site.data.max_records,
    )
    return event, EvaluateEvent(noise_multiplier=sigma, release=asked, unit=unit), epsilon, delta


def _sigma(
    site: Site, calibrate: Callable[..., float], sample_rate: float, steps: int, epsilon: float, delta: float
) -> float:
    """The noise multiplier for a horizon: within the share, and not under the policy's floor."""
    needed = _calibrate(calibrate, sample_rate, steps, epsilon, delta)
    if isinstance(needed, InputError):
        what = f"No noise keeps this horizon within {_pair(epsilon, delta)}: {needed.what}"
        raise RefusedError(Code.REFUSED_BUDGET, what, mend=needed.mend)
    return _round_up(max(needed, site.policy.min_noise_multiplier))


@lru_cache(maxsize=256)
def _calibrate(
    noise_multiplier: Callable[..., float], sample_rate: float, steps: int, epsilon: float, delta: float
) -> float | InputError:
    """The noise for these numbers, or why there is none; computed once, however often a server offers a plan."""
    try:
        return noise_multiplier(sample_rate=sample_rate, steps=steps, epsilon=epsilon, delta=delta)
    except InputError as error:
        return error.with_traceback(None)


def _who_decides(plan: Plan, site: Site) -> tuple[Decision, Code, str]:
    invited = site.federation[plan.name].plan
    if invited is not None and invited != plan.digest:
        reason = f"The invitation named plan {invited[:16]}, this is {plan.digest[:16]}: compare before approving it."
        return "pending", Code.PENDING, reason
    if site.policy.approve == "first-use":
        return "approved", Code.OK, 'Approved by first use: policy.approve = "first-use".'
    return "pending", Code.PENDING, "It waits for the operator's approval."


def _expected_batch(plan: Plan, site: Site) -> int:
    if plan.training.expected_batch != "site":
        return plan.training.expected_batch
    own = site.federation[plan.name].expected_batch
    if own is None:
        what = 'The plan says expected_batch = "site", and the site file states none.'
        mend = f"set federation.{plan.name}.expected_batch to a number of units."
        raise RefusedError(Code.REFUSED_POLICY, what, mend=mend)
    return own


def _share(name: str, site: Site, committed: Committed) -> tuple[float, float]:
    """All that the federation's share and the budget leave."""
    membership, budget = site.federation[name], site.budget
    epsilon = min(_left(membership.epsilon, committed.federation_epsilon), _left(budget.epsilon, committed.epsilon))
    delta = min(_left(membership.delta, committed.federation_delta), _left(budget.delta, committed.delta))
    if epsilon < MIN_EPSILON or delta <= 0:
        raise RefusedError(
            Code.REFUSED_BUDGET,
            "Too little is left for another plan. Approved plans and charges reserve "
            f"{_pair(committed.federation_epsilon, committed.federation_delta)} of federation {name}'s share of "
            f"{_pair(membership.epsilon, membership.delta)}, and {_pair(committed.epsilon, committed.delta)} of the "
            f"data set's budget of {_pair(budget.epsilon, budget.delta)}.",
            mend=f"raise federation.{name}.epsilon and federation.{name}.delta within budget.epsilon and budget.delta.",
        )
    return epsilon, delta


def _pair(epsilon: float, delta: float) -> str:
    return f"epsilon {epsilon:g}, delta {delta:g}"


def _left(limit: float, committed: float) -> float:
    return limit if committed == 0 else limit - committed - _MARGIN * limit


def _round_up(sigma: float) -> float:
    """Three decimals, never less than `sigma`."""
    return float(Decimal(repr(float(sigma))).quantize(Decimal("0.001"), rounding=ROUND_CEILING))
