"""Everything that leaves a site for one admitted plan: each field, its bytes, how often."""

from dataclasses import dataclass

from privet.client.admission import Admission
from privet.common.compression import BLOCK, Compression
from privet.common.config import Plan, Site
from privet.common.errors import Code
from privet.common.tasks.base import task_of
from privet.common.tasks.words import TASK_WORDS

STATEMENT_BYTES = 8_192  # at most; a page of JSON
ENVELOPE_BYTES = 4_096  # at most, apart from the fields below: Flower's message around a body


@dataclass(frozen=True)
class Flow:
    """One field that leaves. `size` is of one time, in bytes or in words where this machine cannot know it."""

    name: str
    content: str
    size: str
    often: str


def flows(plan: Plan, admission: Admission, site: Site, *, update_bytes: int | None) -> list[Flow]:
    """The fields in the order of what they tell; none for a refused plan.

    update_bytes: of one update's arrays, None where the base is not on this machine.
    """
    event, evaluation = admission.event, admission.evaluation
    if event is None:
        return []
    membership = site.federation.get(plan.name)
    weight = None if membership is None else membership.declared_weight
    found = [
        Flow(
            "the update",
            f"float32 arrays; each {event.unit}'s part clipped to norm {event.max_grad_norm:g}, summed, and Gaussian "
            f"noise of deviation {event.noise_multiplier * event.max_grad_norm:g} on each number, at every step"
            + _COMPRESSED[plan.training.compression],
            "the size of the plan's adapter" if update_bytes is None else f"{update_bytes:,} bytes",
            f"once a round, at most {admission.horizon} times",
        )
    ]
    if admission.evaluate_only:  # no update leaves
        found.clear()
    if evaluation is not None:
        cells, words = task_of(plan.task).num_cells(evaluation.release), release_words(plan, evaluation.release)
        most = "at most 1 in all"
        if plan.task.kind == "multilabel":
            most = "a vector of length at most 1"
        if plan.task.kind == "tokens":
            most = f"the mean of its records' counts, over {plan.task.entity_bound:g} and clipped to length 1"
        found.append(
            Flow(
                "the evaluation counts",
                f"{cells:,} float32 cells ({words}); each validation {event.unit} adds {most}, and "
                f"Gaussian noise of deviation {evaluation.noise_multiplier:g} is on each cell",
                f"{4 * cells:,} bytes",
                f"once an evaluation, at most {admission.num_evaluations} times",
            )
        )
    return [
        *found,
        Flow(
            "the privacy statement",
            "epsilon, delta, noise, sampling rate and batch of this plan (from which declared_units follows); no count "
            "and no metric of the data",
            f"under {STATEMENT_BYTES:,} bytes",
            "at each offer of the approved plan",
        ),
        Flow(
            "the declared weight",
            "none is declared" if weight is None else f"{weight:g}, as federation.{plan.name}.declared_weight says",
            "inside the statement",
            "with the statement",
        ),
        Flow(
            "a status code",
            f"one of a fixed list of {len(Code)}; none depends on a record",
            f"at most {max(map(len, Code))} bytes",
            "in every reply",
        ),
        Flow(
            "the sealed ledger head",
            "what this site's ledger has reserved, encrypted and signed by the site for itself: unreadable to the "
            "server, which gives it back so that a ledger put back to an older copy is noticed",
            f"{_head_bytes(site):,} bytes, always",
            "in every reply",
        ),
        Flow(
            "the message envelope",
            "the plan's digest, the round, names and shapes of the arrays (all known from the plan); message ids, the "
            "site's public key, a signature and a time stamp",
            f"under {ENVELOPE_BYTES:,} bytes",
            "with every message; heartbeats have the envelope alone",
        ),
    ]


def release_words(plan: Plan, release: str) -> str:
    """What the cells of a release say under the plan's task."""
    return TASK_WORDS[plan.task.kind].counted[release]


_COMPRESSED: dict[Compression, str] = {
    "none": "",
    "fp16": f"; sent as 16-bit numbers, every {BLOCK} with a scale of their own, which come from the noised numbers "
    "only",
    "int8": f"; sent as 8-bit numbers that are rounded at random, every {BLOCK} with a scale of their own, which come "
    "from the noised numbers only",
}

NEVER = (
    "texts, labels of records, ids of units, and anything computed from them without noise: losses, metrics, counts, "
    "gradients, hashes of content",
    "the site file, the ledger, the private key, log lines and the words of an error",
)
"""What leaves in no case."""


def _head_bytes(site: Site) -> int:
    from privet.client.ledger.head import Head, seal

    return len(seal(Head(seq=0, hash="0" * 64, epsilon=0.0, delta=0.0), site.data.id))  # the same for every head
