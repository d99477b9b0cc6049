"""The single rules of a site's policy, each a function of plan and site file: it lets pass, or refuses."""

from privet.common.config import Plan, Site
from privet.common.errors import Code, PrivetError, RefusedError
from privet.common.methods import is_foreign, method_for
from privet.common.methods.installed import words
from privet.common.privacy.events import EvaluateEvent

MAX_STEPS = 1_000_000  # of a plan's whole horizon; fixed, so that no site file can ask for endless work


def allow_plan(plan: Plan, site: Site) -> None:
    """The rules that look at the plan alone.

    Raises: RefusedError, as every rule here.
    """
    policy, name = site.policy, plan.name
    horizon, local_steps = plan.training.horizon, plan.training.local_steps
    if name not in site.federation:
        raise no_table(name)
    only_judges, asked = site.federation[name].evaluate_only, plan.evaluation.release
    if only_judges and asked not in site.federation[name].release:
        what = (
            f"This site only evaluates (federation.{name}.evaluate_only), and the plan asks for no metric of its list."
        )
        mend = f"ask for a plan whose evaluation.release is in federation.{name}.release; this one's is {asked!r}."
    elif not only_judges and "update" not in site.federation[name].release:
        what, mend = f'federation.{name}.release does not hold "update".', "add it, if an update may leave."
    elif plan.method.kind not in policy.methods:
        allowed = ", ".join(policy.methods) or "none"
        what = f"Method {words(plan.method.kind)} is not among policy.methods ({allowed})."
        mend = "add it there, once you trust the package that provides it." if is_foreign(plan) else "add it there."
    elif horizon > policy.max_rounds:
        what = f"Expected rounds + spare_rounds <= policy.max_rounds = {policy.max_rounds}, got {horizon}."
        mend = "ask for a shorter plan, or raise policy.max_rounds."
    elif local_steps > policy.max_local_steps:
        what = f"Expected local_steps <= policy.max_local_steps = {policy.max_local_steps}, got {local_steps}."
        mend = "ask for fewer local steps, or raise policy.max_local_steps."
    elif horizon * local_steps > MAX_STEPS:
        what = (
            f"Expected at most {MAX_STEPS:,} steps in the whole horizon, a fixed limit, got {horizon * local_steps:,}."
        )
        mend = "ask for fewer rounds or fewer local steps."
    else:
        _allow_method(plan)
        return
    raise RefusedError(Code.REFUSED_POLICY, what, mend=mend)


def _allow_method(plan: Plan) -> None:
    """That this machine has the method and can make it. It may import the code of another package, so that every other
    rule comes first: above all policy.methods, by which the operator says that this code may run."""
    try:
        method_for(plan)
    except PrivetError as error:
        raise RefusedError(Code.REFUSED_POLICY, error.what, where=error.where, mend=error.mend) from None


def no_table(name: str) -> RefusedError:
    """The refusal of a federation that the site file does not name."""
    what, mend = f"The site file has no [federation.{name}] table.", "add one, if this site means to take part."
    return RefusedError(Code.REFUSED_POLICY, what, mend=mend)


def allow_unit(kind: str, fixed: str | None) -> None:
    """One kind of unit for a data set's whole life: `fixed`, once there was an event."""
    if fixed is not None and kind != fixed:
        raise RefusedError(
            Code.REFUSED_POLICY,
            f"The site file counts by {kind}, this data set's training by {fixed}; the guarantees do not add.",
            mend=f"set data.unit back to {'the column of unit ids' if fixed == 'unit' else 'record'}.",
        )


def allow_part(site: Site, federation: str, evaluate_only: bool) -> None:
    """A plan goes on with the part that it was approved for: its cost was stated for units that train and others that
    judge, or for units that all judge. A change would let a unit meet both."""
    membership = site.federation.get(federation)
    if membership is None:
        raise no_table(federation)
    if membership.evaluate_only != evaluate_only:
        raise RefusedError(
            Code.REFUSED_POLICY,
            f"The plan was approved for {'evaluating only' if evaluate_only else 'training'}, the site file now says "
            f"{'evaluating only' if membership.evaluate_only else 'training'}.",
            where=f"federation.{federation}.evaluate_only",
            mend=f"set it back to {str(evaluate_only).lower()}, or ask for a new plan.",
        )


def allow_person(site: Site, person: str | None, max_per_person: int | None) -> None:
    """A plan goes on under the very limit of a person's records that it was approved with, or under none.

    A larger limit lets in more of a person than the plan's statement says; a smaller one leaves the rounds so far as
    they were, and is another data set too. So any difference is refused.
    """
    now, then = (site.data.person, site.data.max_per_person), (person, max_per_person)
    if now == then:
        return
    what = (
        f"The site file says {_limit(*now)}, the plan was approved with {_limit(*then)}: what it costs a person was "
        "stated for that."
    )
    back = f"set data.person to {person!r} and data.max_per_person to {max_per_person} again"
    if person is None:
        back = "take data.person and data.max_per_person out again"
    raise RefusedError(Code.REFUSED_POLICY, what, where="data.person", mend=f"{back}, or ask for a new plan.")


def allow_person_column(column: str | None, fixed: str | None) -> None:
    """One column of persons for a data set's whole life: `fixed` by the first event under a plan that has one.

    A plan's cost for a person is a claim about that plan alone, by its own approved limit. For one kind of person such
    costs add up plan by plan, whatever the limits: which records are kept of a person depends on this person's records
    only, so each plan's claim holds on the whole data set, and basic composition needs no more. Hence another limit, or
    a first one, may come with a new plan. A plan without a limit claims nothing for a person, and needs no column.
    Costs of two kinds of person do not add up to anything, as guarantees of two kinds of unit do not: refused.
    """
    if column is not None and fixed is not None and column != fixed:
        raise RefusedError(
            Code.REFUSED_POLICY,
            f"This data set's persons are told by {fixed!r}, not by {column!r}: the costs of two kinds of person do "
            "not add.",
            where="data.person",
            mend=f"set data.person to {fixed!r} again, or ask for a new plan without a limit of a person's records.",
        )


def allow_rate(sample_rate: float, site: Site) -> None:
    """No larger part of the units in a step than the policy says; never capped silently."""
    limit = site.policy.max_sample_rate
    if sample_rate > min(limit, 1.0):
        raise RefusedError(
            Code.REFUSED_POLICY,
            f"Expected sampling rate <= policy.max_sample_rate = {limit:g}, got {sample_rate:g} (expected batch / "
            f"{site.budget.declared_units} declared units, of which a plan trains on train_fraction).",
            mend='ask for a plan with a smaller batch, or with expected_batch = "site".',
        )


def allow_release(event: EvaluateEvent, site: Site, federation: str) -> None:
    """The metrics of an approved plan, held against the site file as it is now.

    Raises: RefusedError where the operator withdrew this release, or asks for more noise than was approved.
    """
    membership, floor = site.federation.get(federation), site.policy.min_noise_multiplier
    if membership is None:
        raise no_table(federation)
    if event.release not in membership.release:
        what = f'federation.{federation}.release does not hold "{event.release}".'
        raise RefusedError(Code.REFUSED_POLICY, what, mend="add it, if these noised counts may leave.")
    if event.noise_multiplier < floor:
        what = (
            f"Expected an evaluation's noise_multiplier >= policy.min_noise_multiplier = {floor:g}, got "
            f"{event.noise_multiplier:g}."
        )
        raise RefusedError(Code.REFUSED_POLICY, what, mend="lower the minimum, or go on without evaluations.")


def in_words(site: Site, federation: str) -> list[str]:
    """Every rule by which this site refuses, with its limits, for a page that someone reads before signing."""
    policy, budget, membership = site.policy, site.budget, site.federation.get(federation)
    if membership is None:
        return [f"Every plan of federation {federation}: the site file has no [federation.{federation}] table."]
    released = ", ".join(membership.release) or "nothing"
    methods = ", ".join(map(words, policy.methods)) or "none"
    return [
        f"Any plan that would reserve more than epsilon {membership.epsilon:g}, delta {membership.delta:g} for "
        f"federation {federation} in all, or more than epsilon {budget.epsilon:g}, delta {budget.delta:g} for this "
        "data set over its whole life, in all federations together. What is approved is never given back.",
        f"Any plan that the operator has not approved{_approval(site)}; any change of an approved plan; any training "
        "round or evaluation beyond the approved ones; any round asked for again with other content.",
        f"Less noise than {policy.min_noise_multiplier:g} times what one {_noun(site)} can add, in training as in "
        "evaluation.",
        f"Drawing more than {100 * policy.max_sample_rate:.10g} % of the declared units into a step, on average.",
        f"More than {policy.max_rounds:,} rounds, more than {policy.max_local_steps:,} steps in a round, or more than "
        f"{MAX_STEPS:,} steps in all.",
        f"Methods other than: {methods}.",
        f"Releasing other things than: {released}. Metrics outside this list are not computed; the plan goes on "
        "without them.",
        "Counting by another kind of unit than this data set's first training did, telling persons by another column, "
        "and going on with a plan under another limit of a person's records than it was approved with, or with other "
        "keys of [data] by which records are told apart.",
    ]


def _limit(person: str | None, max_per_person: int | None) -> str:
    return "no limit of a person's records" if person is None else f"at most {max_per_person} records of a {person!r}"


def _approval(site: Site) -> str:
    return " (a first plan is approved by itself here)" if site.policy.approve == "first-use" else ""


def _noun(site: Site) -> str:
    return "record" if site.data.unit == "record" else "unit"
