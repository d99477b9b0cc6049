"""One round's replies: which updates are sound, and what each weighs in the sum."""

from collections.abc import Iterable, Mapping

from flwr.app import Message

from privet.common.adapter import MAX_WEIGHT, AdapterSpec, Floats
from privet.common.config import Plan
from privet.common.errors import Code, WireError
from privet.common.methods import Stated, Update, aggregation_weights
from privet.common.privacy.statement import Statement
from privet.server.progress import Round
from privet.server.roster import Roster, sound_reply

_ASK_ANEW = (Code.UNKNOWN_PLAN, Code.PENDING, Code.REFUSED_BUDGET, Code.REFUSED_POLICY, Code.LEDGER_BEHIND)


def collect(
    now: Round, replies: Iterable[Message], expected: AdapterSpec, plan: Plan, roster: Roster
) -> tuple[dict[str, dict[str, Floats]], dict[str, str]]:
    """Sound updates and codes of failure, by site: each reply is checked on its own. None raises for what it holds.

    expected: the arrays of a sound update.
    """
    compression = plan.training.compression
    most = None if compression == "none" else expected.size  # before anything is decoded
    updates: dict[str, dict[str, Floats]] = {}
    failed = dict(now.failed)
    for message in replies:
        name = now.cohort.get(message.metadata.src_node_id)
        if name is None or name in updates or name in failed:
            continue
        reply = sound_reply(message, roster.digest, now.number, compression=compression, max_values=most)
        roster.heard(name, reply)
        code = Code.UNAVAILABLE if reply is None else reply.code
        if reply is not None and code is Code.OK:
            try:
                expected.check(reply.arrays, bound=2 * MAX_WEIGHT)
                updates[name] = dict(reply.arrays)
                now.took(reply)
                continue
            except WireError:
                code = Code.BAD_REQUEST
        failed[name] = str(code)
        if code in _ASK_ANEW:
            roster.withdraw(name, code)
    return updates, failed


def weighted(
    updates: Mapping[str, dict[str, Floats]], statements: Mapping[str, Statement], weight: str
) -> list[Update]:
    """Each update with its weight; weight: the plan's rule. In a fixed order: sums do not depend on who answered
    first."""
    names = sorted(updates)
    agreed = [statements[name] for name in names]
    stated = [Stated(s.noise_multiplier, s.max_grad_norm, s.expected_batch, s.declared_weight) for s in agreed]
    weights = aggregation_weights(weight, stated)
    return [Update(updates[name], weight) for name, weight in zip(names, weights, strict=True)]
