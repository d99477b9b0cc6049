"""Whether a site's statement fits the plan that it agreed to, and claims no more than its own mechanism gives."""

import math

from privet.common.config.plan import Plan
from privet.common.privacy.horizon import Figures, figures, horizon_profile
from privet.common.privacy.statement import Statement

_TOLERANCE = 1e-6  # relative: another machine's rounding, not another's opinion
_MAX_DELTA = 0.1  # times the number of units


def consistent(statement: Statement, plan: Plan) -> str | None:
    """Why `statement` cannot be one of a site that agreed to `plan`; None where it can.

    Every figure is recomputed from the noise, rates and numbers that the statement itself gives, and must not be lower.
    Seconds of work for figures never seen; then a look-up.
    """
    return _fits(statement, plan) or _honest(statement)


def _fits(statement: Statement, plan: Plan) -> str | None:
    training = plan.training
    expected: dict[str, object] = {
        "local_steps": training.local_steps,
        "rounds": training.horizon,
        "max_grad_norm": training.max_grad_norm,
        "train_fraction": training.train_fraction,
    }
    if training.expected_batch != "site":
        expected["expected_batch"] = training.expected_batch
    for name, value in expected.items():
        if getattr(statement, name) != value:
            return f"{name} is {getattr(statement, name)}, the plan says {value}"
    units = statement.expected_batch / (statement.sample_rate * statement.train_fraction)
    if statement.guarantee and statement.delta * units > _MAX_DELTA * (1 + _TOLERANCE):
        return f"delta is {statement.delta:g}, more than {_MAX_DELTA:g} over the {units:.0f} units that it implies"
    return _fits_evaluation(statement, plan)


def _fits_evaluation(statement: Statement, plan: Plan) -> str | None:
    asked, part = plan.evaluation.release, statement.evaluation
    if part is not None and part.release != asked:
        return f"evaluation.release is {part.release}, the plan says {asked}"
    if part is not None and part.evaluations != plan.num_evaluations:
        return f"evaluation.evaluations is {part.evaluations}, the plan says {plan.num_evaluations}"
    allowed = {"update"} if part is None else {"update", part.release}
    surplus = sorted(set(statement.released) - allowed)
    if surplus:
        return f"released names {surplus[0]}, which no stated mechanism gives"
    if part is not None and part.release not in statement.released:
        return f"released does not name {part.release}, which is measured"
    return None


def _honest(statement: Statement) -> str | None:
    try:
        found = figures(statement.horizon, statement.delta, statement.max_per_person)
    except (ValueError, ArithmeticError):
        return "its figures are those of no mechanism"
    for name, stated, least in _claims(statement, found):
        if stated is not None and not stated >= least * (1 - _TOLERANCE):
            return f"{name} is {stated:g}, its own noise and numbers give {least:g}"
    return None


def _claims(statement: Statement, found: Figures) -> list[tuple[str, float | None, float]]:
    """(name, what is stated, the least that may be stated); None is no claim, a least of infinity allows no other."""
    profile = horizon_profile([statement.horizon])
    person = math.inf if found.epsilon_person is None else found.epsilon_person
    points = {point.false_positive_rate: point.true_positive_bound for point in statement.trade_off}
    return [
        ("epsilon", statement.epsilon, found.epsilon),
        ("epsilon_replace", statement.epsilon_replace, found.epsilon_replace),
        ("epsilon_person", statement.epsilon_person, person),
        ("advantage", statement.advantage, found.advantage),
        ("true_positive_bound", statement.true_positive_bound, found.true_positives[1]),
        *(("trade_off", bound, profile.true_positive_bound(rate)) for rate, bound in points.items()),
        ("mu", statement.mu, math.inf if found.mu is None else found.mu),
    ]
