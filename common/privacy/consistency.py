"""Whether a site's statement fits the plan that it agreed to, and claims no more than its own mechanism gives."""

import math
from collections.abc import Iterable, Iterator

from privet.common.config.plan import Plan
from privet.common.privacy.events import TrainEvent
from privet.common.privacy.horizon import Figures, figures, horizon_profile, person_epsilon
from privet.common.privacy.statement import Statement

_TOLERANCE = 1e-6  # relative: another machine's rounding, not another's opinion
_COARSE = 0.01  # relative, where not every division of a person's records is looked at: the grids differ
_MAX_DELTA = 0.1  # times the number of units
_MAX_WORK = 5e5  # points times jumps of a person's mixtures, over all divisions: about a second


def consistent(statement: Statement, plan: Plan) -> str | None:
    """Why `statement` cannot be one of a site that agreed to `plan`; None where it can.

    Every figure is recomputed from the noise, rates and numbers that the statement itself gives, and must not be lower.
    A second or two of work at most for figures never seen, whatever is stated; then a look-up.

    Where an exact figure for a person would take longer, it is held against what the site's training alone and its
    evaluations alone cost a person whose records all take part in them, less one per cent: the true cost is no lower.
    """
    return _fits(statement, plan) or _honest(statement)


def _fits(statement: Statement, plan: Plan) -> str | None:
    training, judges = plan.training, statement.rounds == 0  # a site that only evaluates
    expected: dict[str, object] = {
        "local_steps": training.local_steps,
        "rounds": 0 if judges else training.horizon,
        "max_grad_norm": training.max_grad_norm,
        "train_fraction": 0.0 if judges else training.train_fraction,
    }
    if training.expected_batch != "site" and not judges:
        expected["expected_batch"] = training.expected_batch
    for name, value in expected.items():
        if getattr(statement, name) != value:
            return f"{name} is {getattr(statement, name)}, the plan says {value}"
    units = statement.expected_batch / (statement.sample_rate * (statement.train_fraction or 1.0))
    if statement.guarantee and statement.delta * units > _MAX_DELTA * (1 + _TOLERANCE):
        return f"delta is {statement.delta:g}, more than {_MAX_DELTA:g} over the {units:.0f} units that it implies"
    return _fits_evaluation(statement, plan)


def _fits_evaluation(statement: Statement, plan: Plan) -> str | None:
    asked, part = plan.evaluation.release, statement.evaluation
    if part is not None and part.release != asked:
        return f"evaluation.release is {part.release}, the plan says {asked}"
    if part is not None and part.evaluations != plan.num_evaluations:
        return f"evaluation.evaluations is {part.evaluations}, the plan says {plan.num_evaluations}"
    allowed = {*(() if statement.rounds == 0 else ("update",)), *(() if part is None else (part.release,))}
    surplus = sorted(set(statement.released) - allowed)
    if surplus:
        return f"released names {surplus[0]}, which no stated mechanism gives"
    if part is not None and part.release not in statement.released:
        return f"released does not name {part.release}, which is measured"
    return None


def _honest(statement: Statement) -> str | None:
    try:
        fault = _first_fault(_floors(statement))  # before anything is composed
        if fault is None:
            fault = _first_fault(_claims(statement, figures(statement.horizon, statement.delta)))
        return _first_fault(_person(statement)) if fault is None else fault
    except (ValueError, ArithmeticError):
        return "its figures are those of no mechanism"


_Claim = tuple[str, float | None, float]  # name, what is stated, the least that may be; None is no claim


def _first_fault(claims: Iterable[_Claim]) -> str | None:
    for name, stated, least in claims:
        if stated is not None and not stated >= least * (1 - _TOLERANCE):
            return f"{name} is {stated:g}, its own noise and numbers give {least:g}"
    return None


def _floors(statement: Statement) -> Iterator[_Claim]:
    """In closed form, below the true cost: a statement far from its mechanism is found at once."""
    horizon, most = statement.horizon, statement.max_per_person or 1
    parts = [(statement.noise_multiplier, horizon.rounds * statement.local_steps, statement.sample_rate)]
    if statement.evaluation is not None:
        parts.append((statement.evaluation.noise_multiplier, horizon.num_evaluations, 1.0))
    for sigma, steps, rate in parts:
        yield "epsilon", statement.epsilon, _floor(sigma, steps, rate, 1, statement.delta)
        yield "epsilon_person", statement.epsilon_person, _floor(sigma, steps, rate, most, statement.delta)


def _floor(sigma: float, steps: int, rate: float, records: int, delta: float) -> float:
    """At most the true epsilon of `steps` sampled Gaussians for `records` at once: the cost of releasing their sum.

    With the records, the sum moves by a binomial number, which is at least x = T m q - sqrt(T m log(4) / 2) with
    probability 3/4 (Hoeffding 1963); then it is at least x with probability p = 3/8. Without them that has
    probability at most exp(-x^2 / (2 T sigma^2)) / 2. Epsilon is at least the logarithm of (p - delta) over that.
    """
    if sigma == 0:
        return math.inf
    shift = steps * records * rate - math.sqrt(steps * records * math.log(4) / 2)
    if shift <= 0 or delta >= 0.375:
        return 0.0
    return max(0.0, (shift / sigma) ** 2 / (2 * steps) + math.log(2 * (0.375 - delta)))


def _claims(statement: Statement, found: Figures) -> list[_Claim]:
    """What is claimed for one unit; a least of infinity allows no claim."""
    profile = horizon_profile([statement.horizon])
    points = {point.false_positive_rate: point.true_positive_bound for point in statement.trade_off}
    return [
        ("epsilon", statement.epsilon, found.epsilon),
        ("epsilon_replace", statement.epsilon_replace, found.epsilon_replace),
        ("advantage", statement.advantage, found.advantage),
        ("true_positive_bound", statement.true_positive_bound, found.true_positives[1]),
        *(("trade_off", bound, profile.true_positive_bound(rate)) for rate, bound in points.items()),
        ("mu", statement.mu, math.inf if found.mu is None else found.mu),
    ]


def _person(statement: Statement) -> Iterator[_Claim]:
    """What is claimed for a person, in record mode; nothing is computed where nothing is claimed."""
    most, stated = statement.max_per_person, statement.epsilon_person
    if most is None or stated is None:
        return
    horizon, delta = statement.horizon, statement.delta
    train = [horizon.train] * horizon.rounds
    evaluate = [] if horizon.evaluation is None else [horizon.evaluation] * horizon.num_evaluations
    if not evaluate or _work(horizon.train, most) <= _MAX_WORK:
        yield "epsilon_person", stated, person_epsilon(train, evaluate, delta, most)
        return
    yield "epsilon_person", stated, person_epsilon([], evaluate, delta, most) * (1 - _COARSE)
    yield "epsilon_person", stated, person_epsilon(train, [], delta, most) * (1 - _COARSE)


def _work(train: TrainEvent, most: int) -> float:
    """About how many terms the grids of a step's mixture take, summed over the divisions of a person's records."""
    if train.sample_rate == 1:  # no mixture
        return 0.0
    numbers = range(1, most + 1, math.ceil(most / 8))
    sigma = train.noise_multiplier
    points = (min(5e4, (10 * n / sigma + (n / sigma) ** 2 / 2) / 4e-3) for n in numbers)
    return math.fsum(many * min(n, 50) for many, n in zip(points, numbers, strict=True))
