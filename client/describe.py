"""A plan in words for the one who decides on it: what it asks, what is new in it, what would leave, what it costs."""

import json
import math
from collections.abc import Iterator
from typing import Any

from privet.client.admission import Admission
from privet.client.engines import asked_in_words
from privet.client.flows import NEVER, flows, release_words
from privet.common.config import Plan, Site
from privet.common.methods.installed import words
from privet.common.privacy.events import EvaluateEvent
from privet.common.privacy.words import WEAK, percent_up
from privet.common.schedule import in_words as schedule_in_words
from privet.common.tasks.base import task_of

_SHOWN_LABELS, _SHOWN_ENTRIES = 20, 10
_SHOWN_CHARACTERS = 120  # of a label
_BY_LABEL = ("task.class_weights", "task.thresholds")  # tables whose names are labels
_LEFT_OUT = {  # what a plan's canonical JSON leaves out, and what that means
    "lora.first_layer": 0,
    "task.label_smoothing": 0.0,
    "task.thresholds": 0.5,
    "task.entity_bound": 4.0,
    "training.schedule": "constant",
    "training.warmup_rounds": 0,
    "training.compression": "none",
}


def describe(
    plan: Plan, admission: Admission, site: Site, *, update_bytes: int | None, known: Plan | None
) -> list[str]:
    """The plan in plain lines, and how to approve it.

    update_bytes: of one update's arrays (`update_size.update_bytes`), None where the base is not on this machine.
    known: an earlier plan of this federation to tell the changes from, the newest approved, else the newest seen.

    Text that came from the server is quoted and escaped, so that it cannot steer a terminal.
    """
    lines = [
        f"Plan {plan.digest} of federation {plan.name}: {admission.decision}. {admission.reason}",
        "It asks:",
        *(f"  {line}" for line in asked(plan, admission, site)),
    ]
    lines.append(f"Gradients would be computed here {asked_in_words(site, plan)}.")
    if known is not None and known.digest != plan.digest:
        lines.append(f"Against plan {known.digest[:16]}, the last one known of this federation:")
        lines += [f"  {line}" for line in changes(known, plan)]
    if admission.event is None:
        return [*lines, "Nothing leaves but a status code and the sealed ledger head: the plan is refused."]
    lines.append("What would leave, and nothing else:")
    for flow in flows(plan, admission, site, update_bytes=update_bytes):
        lines.append(f"  {flow.name}: {flow.content}; {flow.size}, {flow.often}")
    return [
        *lines,
        f"What never leaves: {'; '.join(NEVER)}.",
        f"What it costs, for the whole horizon of {admission.num_terms}, from approval on and never given back:",
        *(f"  {line}" for line in costs(plan, admission, site)),
        *([] if admission.decision == "approved" else [f"To approve: privet approve SITE.toml {plan.digest}"]),
    ]


def asked(plan: Plan, admission: Admission, site: Site) -> list[str]:
    """What the plan asks of this site."""
    training, event = plan.training, admission.event
    labels = plan.task.labels
    lines = [
        f"task: {plan.task.kind} into {len(labels)} labels: {_listed(labels)}",
        *_loss(plan),
        f"base model: {plan.model.base!r}, sha256 {plan.model.sha256[:16]}",
        _length(plan),
        f"method: {_method(plan)}, {training.optimizer} at {schedule_in_words(training)}",
        *_lora(plan),
        f"{training.rounds} rounds and {training.spare_rounds} spare ones, {training.local_steps} local steps each",
    ]
    if plan.method.init is not None:
        lines.append(
            f"starts from an adapter with digest {plan.method.init}, trained before; what was spent for it stays spent"
        )
    if admission.evaluate_only:
        return [
            *lines,
            f"this site only evaluates (federation.{plan.name}.evaluate_only): all of its declared "
            f"{site.budget.declared_units:,} units judge, none is ever trained on",
            _evaluation_asked(plan, admission, site),
        ]
    if event is not None:
        at_most = f", at most {event.max_records} records of one unit" if event.unit == "unit" else ""
        lines.append(
            f"an expected batch of {event.expected_batch} {event.unit}s a step out of "
            f"{site.budget.declared_units * training.train_fraction:,.10g} to train on{at_most}"
        )
    lines.append(
        f"to train on {_percent(training.train_fraction)} of the declared {site.budget.declared_units:,} units"
        + ("" if training.train_fraction == 1 else ", and to keep the others for evaluation")
    )
    return [*lines, _evaluation_asked(plan, admission, site)]


def costs(plan: Plan, admission: Admission, site: Site) -> list[str]:
    """What an admitted plan costs, and what that means; nothing for a refused one."""
    event, evaluation = admission.event, admission.evaluation
    if event is None:
        return []
    lines = [
        f"epsilon {admission.epsilon:g}, delta {admission.delta:g}, out of this data set's epsilon "
        f"{site.budget.epsilon:g}, delta {site.budget.delta:g}",
        odds(admission.epsilon, admission.delta, event.unit),
        "training: none"
        if admission.evaluate_only
        else f"training: noise multiplier {event.noise_multiplier:g}, sampling rate {event.sample_rate:g}",
    ]
    if evaluation is not None:
        once = (
            "" if admission.evaluate_only else "; its units are not trained on, so that both cost the same epsilon once"
        )
        lines.append(f"evaluation: noise multiplier {evaluation.noise_multiplier:g}{once}")
        part = 1.0 if admission.evaluate_only else 1 - plan.training.train_fraction
        lines.append(_error_in_words(plan, evaluation, site, part))
    return lines


def odds(epsilon: float, delta: float, unit: str) -> str:
    """What (epsilon, delta) means, as a bound on guessing (Kairouz, Oh, Viswanath 2015): at even odds a guess whether
    one unit took part is right with probability at most (e^epsilon + delta) / (e^epsilon + 1)."""
    right = guess_bound(epsilon, delta)
    who = "one person (one unit)" if unit == "unit" else "one record"
    return (
        f"that means: whoever sees all that leaves and guesses at even odds whether {who} took part is right at most "
        f"{percent_up(right)} of the time (50 % is a coin's)"
        + ("" if right < WEAK else "; this is a limit and no finding: so high, it rules out little")
    )


def guess_bound(epsilon: float, delta: float) -> float:
    """The largest chance of a right guess at even odds, in 0.5..1."""
    other = math.exp(-epsilon)
    return min(1.0, (1 + delta * other) / (1 + other))


def changes(known: Plan, plan: Plan) -> list[str]:
    """Each key of which the value changed, `table.key: old → new`; then that all else stayed."""
    before, after = dict(_leaves(known)), dict(_leaves(plan))
    lines = []
    for key in dict.fromkeys([*after, *before]):  # defaults are written out; a key without one may be in one of them
        old: Any = before.get(key, _LEFT_OUT.get(key))
        new: Any = after.get(key, _LEFT_OUT.get(key))
        if old == new:
            continue
        if key in _BY_LABEL:
            lines.append(f"{key}: {_table_changes(old, new)}")
            continue
        lines += _label_changes(old, new) if key == "task.labels" else [f"{key}: {_value(old)} → {_value(new)}"]
    return [*lines, "unchanged otherwise"]


def _label_changes(old: list[str], new: list[str]) -> list[str]:
    added = [label for label in new if label not in set(old)]
    removed = [label for label in old if label not in set(new)]
    lines = [f"task.labels, {len(added)} added: {_listed(added)}"] if added else []
    lines += [f"task.labels, {len(removed)} removed: {_listed(removed)}"] if removed else []
    kept = [[label for label in labels if label in set(old) & set(new)] for labels in (old, new)]
    if kept[0] != kept[1]:
        lines.append("task.labels: in another order")
    return lines


def _table_changes(old: Any, new: Any) -> str:
    """Of a table by label, whose names are the server's words: quoted, and no more of them than can be read."""
    if not isinstance(old, dict | None) or not isinstance(new, dict | None):  # one number for all labels
        return f"{_brief(old)} → {_brief(new)}"
    before, after = old or {}, new or {}
    changed = [name for name in dict.fromkeys([*after, *before]) if before.get(name) != after.get(name)]
    shown = [
        f"{_quoted(name)} {_value(before.get(name))} → {_value(after.get(name))}" for name in changed[:_SHOWN_ENTRIES]
    ]
    return ", ".join(shown) + _more(len(changed))


def _brief(value: Any) -> str:
    if not isinstance(value, dict):
        return _value(value)
    shown = ", ".join(f"{_quoted(name)} {_value(number)}" for name, number in list(value.items())[:_SHOWN_ENTRIES])
    return shown + _more(len(value))


def _more(count: int) -> str:
    return f" and {count - _SHOWN_ENTRIES} more" if count > _SHOWN_ENTRIES else ""


def _leaves(plan: Plan) -> Iterator[tuple[str, Any]]:
    for table, value in json.loads(plan.canonical()).items():
        if isinstance(value, dict):
            for key, inner in value.items():
                if isinstance(inner, dict) and f"{table}.{key}" not in _BY_LABEL:  # a method's options
                    yield from ((f"{table}.{key}.{name}", option) for name, option in inner.items())
                else:
                    yield f"{table}.{key}", inner
        else:
            yield table, value


def _value(value: Any) -> str:
    """A value of a plan: texts quoted and escaped, numbers short and exact."""
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    return "none" if value is None else repr(value)


def _listed(labels: list[str] | tuple[str, ...]) -> str:
    more = f" and {len(labels) - _SHOWN_LABELS} more" if len(labels) > _SHOWN_LABELS else ""
    return ", ".join(map(_quoted, labels[:_SHOWN_LABELS])) + more


def _quoted(label: str) -> str:
    """A label is the server's word: escaped, and cut before it hides what stands below it."""
    text = repr(label)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"


def _lora(plan: Plan) -> list[str]:
    if plan.method.kind == "head" or not plan.lora.first_layer:
        return []
    first = plan.lora.first_layer
    return [f"LoRA on the base's layers from number {first} on, counted from 0; those below stay as they are"]


def _method(plan: Plan) -> str:
    """By metadata alone: a method that only the server names is not imported in order to be described."""
    options = ", ".join(f"{name} = {_value(value)}" for name, value in sorted(plan.method.options.items()))
    return words(plan.method.kind) + (f" with {options}" if options else "")


def _length(plan: Plan) -> str:
    task = plan.task
    if task.windows == 1:
        return f"texts cut at {task.max_length} tokens"
    return (
        f"texts read in at most {task.windows} windows of {task.max_length} tokens, of which neighbours share "
        f"{task.stride}; the rest is cut off"
    )


def _evaluation_asked(plan: Plan, admission: Admission, site: Site) -> str:
    wanted = plan.evaluation.release
    if wanted == "none":
        return "no evaluation at this site"
    often = "round" if plan.evaluation.every == 1 else f"{plan.evaluation.every} rounds"
    text = (
        f"{_evaluations(plan.num_evaluations)}, after every {often}: counts of kind {wanted} "
        f"({release_words(plan, wanted)}) on "
        + ("all of its units" if admission.evaluate_only else "the units that are not trained on")
    )
    if admission.event is not None and admission.evaluation is None:
        text += (
            f'. This site releases none: federation.{plan.name}.release does not hold "{wanted}". It would take part '
            "without evaluations"
        )
    return text


def _loss(plan: Plan) -> list[str]:
    """What the plan changes of its task's plain loss."""
    task, found = plan.task, []
    if task.class_weights:
        shown = ", ".join(f"{_quoted(label)} {weight:g}" for label, weight in list(task.class_weights.items())[:10])
        more = len(task.class_weights) - 10
        found.append(f"weights of labels in the loss: {shown}" + (f" and {more} more" if more > 0 else ""))
    if task.label_smoothing:
        found.append(f"label smoothing {task.label_smoothing:g}")
    return found


def _error_in_words(plan: Plan, event: EvaluateEvent, site: Site, part: float) -> str:
    """How exact the metrics will be, said before anything is spent; of declared numbers only."""
    num_labels = len(plan.task.labels)
    units = max(1, round(site.budget.declared_units * part))
    task = task_of(plan.task)
    error = task.predicted_standard_error(event.release, event.noise_multiplier, units)
    text = (
        f"predicted standard errors of one evaluation over about {units:,} validation {event.unit}s, by its noise: "
        f"{task.score_name} {error:.2g}"
    )
    if plan.task.kind == "multilabel":
        text += f" with one label of {num_labels} a record on average, m times less with m"
    if plan.task.kind == "tokens":
        text += " with one entity a record on average, m times less with m"
    elif event.release != "accuracy":  # a label has 1/L of the units and of the cells
        text += f", recall of one of {num_labels} labels that are equally frequent {error * math.sqrt(num_labels):.2g}"
    return f"{text}; chance in who is a validation {event.unit} adds at most {0.5 / math.sqrt(units):.2g} to the first"


def _evaluations(number: int) -> str:
    return f"{number} evaluation{'' if number == 1 else 's'}"


def _percent(part: float) -> str:
    return f"{100 * part:.10g} %"
