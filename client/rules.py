"""The single rules of a site's policy, each a function of plan and site file: it lets pass, or refuses."""

from privet.common.config import Plan, Site
from privet.common.errors import Code, RefusedError

MAX_STEPS = 1_000_000  # of a plan's whole horizon; fixed, so that no site file can ask for endless work


def allow_plan(plan: Plan, site: Site) -> None:
    """The rules that look at the plan alone.

    Raises: RefusedError, as every rule here.
    """
    policy, name = site.policy, plan.name
    horizon, local_steps = plan.training.horizon, plan.training.local_steps
    if name not in site.federation:
        raise no_table(name)
    if "update" not in site.federation[name].release:
        what, mend = f'federation.{name}.release does not hold "update".', "add it, if an update may leave."
    elif plan.method.kind not in policy.methods:
        allowed = ", ".join(policy.methods) or "none"
        what, mend = f"Method {plan.method.kind} is not among policy.methods ({allowed}).", "add it there."
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
        return
    raise RefusedError(Code.REFUSED_POLICY, what, mend=mend)


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


def allow_rate(sample_rate: float, site: Site) -> None:
    """No larger part of the units in a step than the policy says; never capped silently."""
    limit = site.policy.max_sample_rate
    if sample_rate > min(limit, 1.0):
        raise RefusedError(
            Code.REFUSED_POLICY,
            f"Expected sampling rate <= policy.max_sample_rate = {limit:g}, got {sample_rate:g} (expected batch / "
            f"{site.budget.declared_units} declared units).",
            mend='ask for a plan with a smaller batch, or with expected_batch = "site".',
        )
