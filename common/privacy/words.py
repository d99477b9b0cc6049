"""A privacy statement in plain sentences and as a table; every figure rounded so that it never understates."""

import math
from decimal import ROUND_CEILING, Context, Decimal
from typing import TYPE_CHECKING

from privet.common.tasks.words import TASK_WORDS, TaskWords

if TYPE_CHECKING:
    from privet.common.privacy.statement import Statement

FALSE_POSITIVE_RATE = 0.01  # at which true_positive_bound is stated
_MAX_ODDS = 1e6  # to one; beyond, a sentence says that there is next to no limit
WEAK = 0.9  # from such a bound on, a sentence says how little it rules out
_MOST_DIGITS = 6


def statement_words(statement: "Statement", kind: str) -> list[str]:
    """A few plain sentences, for someone whose records may be among those used. kind: of the plan's task."""
    task = TASK_WORDS[kind]
    lines = []
    if not statement.guarantee:
        lines.append(f"This is no privacy guarantee: {statement.reason.rstrip('.')}.")
    if statement.epsilon is None or statement.epsilon_replace is None:
        lines.append("No bound can be stated on what the released adapter tells about a person's records.")
    else:
        lines += _protection(statement, statement.epsilon, statement.epsilon_replace)
    lines += _means(statement, task)
    lines.append(_left(statement, task))
    if statement.guarantee:
        lines.append(
            "Not covered: a compromised computer at the site, the times at which the site was online, and choices"
            " made from private results outside this accounting."
        )
    return lines


def statement_table(statement: "Statement", kind: str) -> list[tuple[str, str]]:
    """Every figure as (label, value). kind: of the plan's task."""
    task = TASK_WORDS[kind]
    s, noun = statement, statement.unit
    rows = [
        ("guarantee", "yes" if s.guarantee else f"none: {s.reason}"),
        ("protected", "a single record" if noun == "record" else "a unit with all its records"),
        (f"epsilon, {_one(statement)} (add or remove)", _loss(s.epsilon)),
        (
            "epsilon, a record exchanged for another (replace)"
            if noun == "record"
            else "epsilon, any change within a unit (replace)",
            _loss(s.epsilon_replace),
        ),
    ]
    if noun == "record":
        rows.append(
            ("epsilon, a person", "no claim")
            if s.max_per_person is None
            else (f"epsilon, a person with at most {s.max_per_person:,} records", _loss(s.epsilon_person))
        )
    rows += [
        ("delta", _up_short(s.delta)),
        ("membership advantage", f"at most {percent_up(s.advantage)}"),
        *(
            (
                f"true positives at {100 * rate:g} % false positives",
                f"at most {percent_up(bound)}",
            )
            for rate, bound in _points(s)
        ),
        ("mu (approximate, down to delta)", "not stated" if s.mu is None else _up(s.mu, 3)),
        *(_training_rows(s) if s.rounds else [("training", "none: this site only evaluates")]),
    ]
    if s.evaluation is None:
        rows.append(("metrics", "none"))
    else:
        rows += [
            ("metrics", f"{task.short[s.evaluation.release]}, {s.evaluation.evaluations:,} times"),
            ("noise multiplier, metrics", f"{s.evaluation.noise_multiplier:g}"),
        ]
    rows += [
        ("left the site", ", ".join(s.released) or "nothing"),
        ("declared weight", "none" if s.declared_weight is None else f"{s.declared_weight:g}"),
        ("accountant", s.accountant),
    ]
    return rows


def _training_rows(s: "Statement") -> list[tuple[str, str]]:
    return [
        ("training mechanism", f"{s.mechanism}, {s.sampling} sampling"),
        ("noise multiplier, training", f"{s.noise_multiplier:g}"),
        ("largest gradient norm", f"{s.max_grad_norm:g}"),
        ("sampling rate", f"{s.sample_rate:.6g}"),
        ("expected batch", f"{s.expected_batch:,} {s.unit}s"),
        ("rounds, local steps each", f"{s.rounds:,} x {s.local_steps:,}"),
        ("most records of a unit in a step", f"{s.max_records:,}"),
        (f"share of the {s.unit}s that train", f"{100 * s.train_fraction:g} %"),
    ]


def _one(statement: "Statement") -> str:
    if statement.unit != "record":
        return "whole unit"
    return "one record" if statement.max_per_person is None else "one record of those kept"


def _protection(statement: "Statement", epsilon: float, within: float) -> list[str]:
    record, noun, delta = statement.unit == "record", statement.unit, _up_short(statement.delta)
    whole = _one(statement) if record else "one unit (for example one person) with all its records"
    lines = [
        f"{'Whether' if statement.guarantee else 'As if computed for a real site: whether'} {whole} was used or "
        f"not changes the chance of any outcome by at most a factor of e^epsilon, with epsilon = {_up(epsilon)}, but"
        f" for a chance of delta = {delta}. The smaller epsilon is, the less anyone can learn about the {noun}.",
        _odds(epsilon, noun),
        f"Put as a test: someone who tries to tell which {noun}s were used, and is wrong on 1 in 100 of those"
        f" that were not, finds at most {_hundredths(statement.true_positive_bound)} in 100 of those that were."
        + _other_tests(statement)
        + _weak(statement),
        f"Exchanging {'one record for another' if record else 'or rewriting records within one unit'} is "
        f"protected less than leaving the {noun} out: epsilon = {_up(within)} at the same delta.",
    ]
    if record:
        lines.append(_person(statement))
    lines.append(
        "The figures are for this plan at this site alone. Every other training on the same data, of this"
        " federation or another, adds to them; and for a person whose records lie at several sites the losses"
        " of all those sites add up."
    )
    return lines


def _odds(epsilon: float, noun: str) -> str:
    if epsilon > math.log(_MAX_ODDS):
        return "Put as odds: so large an epsilon sets next to no limit on what can be concluded."
    return (
        f"Put as odds: who holds it for as likely as not that the {noun} was used, and then sees everything that left"
        f" the site, has reason for odds of at most {_up(math.exp(epsilon))} to 1, but for a chance of delta."
    )


def _other_tests(statement: "Statement") -> str:
    others = [(rate, bound) for rate, bound in _points(statement) if rate != FALSE_POSITIVE_RATE]
    if not others:
        return ""
    parts = [f"wrong on 1 in {round(1 / rate):,}, at most {_hundredths(bound)} in 100" for rate, bound in others]
    return f" With other care: {'; '.join(parts)}."


def _weak(statement: "Statement") -> str:
    """What a bound near certainty means: it is no finding that an attack succeeds."""
    if statement.true_positive_bound < WEAK:
        return ""
    return (
        " This is a limit, not what an attack was found to reach: it holds even against someone who knows every other"
        " record and sees every step of the training. So high a limit rules out little by itself; the command privet"
        " audit attacks a plan's own training and measures."
    )


def _person(statement: "Statement") -> str:
    most = statement.max_per_person
    if most is None:
        return (
            "Each record counted on its own. There is no claim for a person: the more records someone has here,"
            " the weaker their protection."
        )
    whole = f"A person with all their records, of which the site holds {_records(most)} at most,"
    if statement.epsilon_person is None:
        return f"{whole} is protected by no finite epsilon at this delta."
    return (
        f"{whole} is protected by epsilon = {_up(statement.epsilon_person)} at the same delta. Of a person with more, a"
        " further record can put another of theirs out of use: that counts as exchanging a record."
    )


def _means(statement: "Statement", task: TaskWords) -> list[str]:
    record, noun, fraction = statement.unit == "record", statement.unit, statement.train_fraction
    which = f"every {noun}" if fraction == 1 else f"every {noun} that trains"
    lines = []
    if not statement.rounds:
        lines.append(f"This site only evaluates: none of its {noun}s was ever trained on, and no update left it.")
    elif fraction < 1:
        measured = "measured" if statement.evaluation is not None else "left out"
        lines.append(
            f"A secret key of the site decides once, from its {'content' if record else 'name'} alone, whether a {noun}"
            f" trains: about {100 * fraction:g} in 100 do, the others are only {measured}."
        )
    if statement.rounds:
        lines.append(_how(statement, which))
    part = statement.evaluation
    if part is not None:
        whose = f"{noun}s that do not train" if statement.rounds else f"{noun}s"
        lines.append(
            f"Up to {part.evaluations:,} times the {whose} were counted: {task.counted[part.release]}"
            f". What a {noun} adds to all counts together has length at most 1, and "
            + (
                f"noise of deviation {part.noise_multiplier:g} was added to every count."
                if part.noise_multiplier > 0
                else "no noise was added."
            )
            + (f" A {noun} {task.limit}." if task.limit else "")
        )
    return lines


def _how(statement: "Statement", which: str) -> str:
    record = statement.unit == "record"
    return (
        f"How: up to {statement.rounds:,} rounds of {statement.local_steps:,} steps. In each step {which} took part"
        f" with chance {statement.sample_rate:.3g}, "
        + ("" if record else f"with at most {statement.max_records:,} of its records, ")
        + f"its contribution was limited to length {statement.max_grad_norm:g}, and "
        + (
            f"noise {statement.noise_multiplier:g} times that length was added to the sum."
            if statement.noise_multiplier > 0
            else "no noise was added."
        )
    )


def _left(statement: "Statement", task: TaskWords) -> str:
    named = ", ".join(
        f"noised counts ({task.short[name]})" if name in task.short and statement.evaluation is not None else name
        for name in statement.released
    )
    extra = "" if statement.declared_weight is None else " the weight that the site declared,"
    return f"What left the site: {named or 'nothing'},{extra} and this page."


def _points(statement: "Statement") -> list[tuple[float, float]]:
    stated = [(point.false_positive_rate, point.true_positive_bound) for point in statement.trade_off]
    return stated or [(FALSE_POSITIVE_RATE, statement.true_positive_bound)]


def _records(number: int) -> str:
    return "1 record" if number == 1 else f"{number:,} records"


def _loss(value: float | None) -> str:
    return "none that is finite" if value is None else _up(value)


def percent_up(share: float) -> str:
    """A bound on a share, in per cent: rounded up, and yet below 100 where it is.

    >>> percent_up(0.2004), percent_up(0.99966), percent_up(0.9999931), percent_up(1.0)
    ('20.1 %', '99.97 %', '99.9994 %', '100 %')
    """
    return f"{_hundredths(share)} %"


def _hundredths(share: float) -> str:
    """In hundredths, with as many digits as it takes to stay below 100."""
    for digits in range(1, _MOST_DIGITS + 1):
        text = _up(100 * share, digits)
        if float(text) < 100:
            return text
    return "100"


def _up(value: float, digits: int = 2) -> str:
    """A decimal that never understates: rounded up."""
    return str(Decimal(repr(value)).quantize(Decimal(1).scaleb(-digits), ROUND_CEILING))


def _up_short(value: float) -> str:
    """Three significant digits that never understate: rounded up."""
    return f"{float(Context(prec=3, rounding=ROUND_CEILING).create_decimal(repr(value))):.3g}"
