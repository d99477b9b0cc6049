"""The page that a data-protection officer signs before anything is trained: dpia.html.

It holds no number computed from the data, so that it can be shown to anyone. It loads nothing from anywhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_CEILING, Decimal
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined

from privet.client.describe import asked, changes, costs, guess_bound
from privet.client.engines import asked_in_words
from privet.client.flows import NEVER, flows
from privet.client.policy import Admission, Committed, statement_for
from privet.client.rules import in_words
from privet.client.software import Software
from privet.common.config import Plan, Site
from privet.common.errors import ConfigError
from privet.common.privacy.statement import FALSE_POSITIVE_RATE
from privet.common.privacy.words import percent_up
from privet.common.starter import new_file

if TYPE_CHECKING:
    from privet.common.privacy.statement import Statement

RISKS = (
    ("A compromised computer at the site.", "Whoever controls the machine beside the data has the data."),
    (
        "A site that lies.",
        "A site may spoil the common model with a bounded update. Nothing here detects it; no data is shown by it.",
    ),
    (
        "Times and drop-outs.",
        "That and when this site answers can be seen by the server, and sizes of encrypted messages by the network.",
    ),
    (
        "A computer put back to an older state.",
        "A ledger restored from a backup forgets what was spent since. The server gives back the newest sealed state "
        "that it saw, and the site then refuses; a server that keeps it back, or has lost it, leaves this unnoticed.",
    ),
    (
        "Choices outside the ledger.",
        "Choosing labels, a base model or a federation after looking at private results is not counted.",
    ),
    (
        "Exact discrete noise.",
        "Noise is drawn with floating-point numbers and rounded to a public grid. That hampers attacks on their last "
        "digits and does not rule them out.",
    ),
    ("A person at several sites.", "This page is about one site; losses of one person at several sites add up."),
    (
        "Relatives and groups.",
        "One unit is protected. Several people who share something in their texts are protected less together.",
    ),
)
"""What is not covered, as docs/threat-model.md says it at length: title and words."""

RECORD_RISK = (
    "Record mode.",
    "Single records are protected here. A person with several records is protected less, as told above.",
)
DATABASE_RISK = (
    "A database as the source.",
    "The texts come from a database of the site's own. Its logins and logs, and the network to it, are not covered.",
)
KEY_RISK = (
    "One key in two federations.",
    "A server could replay a site's signature within minutes at another server that knows the same key.",
)


@dataclass(frozen=True)
class Sums:
    """One line of the budget: what is reserved before this plan and with it, of what."""

    name: str
    before: tuple[float, float]  # (epsilon, delta)
    after: tuple[float, float]
    limit: tuple[float, float]


def write_page(path: Path, text: str) -> None:
    """Make `path` with `text`: whole or not at all, and never over an existing file.

    Raises: ConfigError.
    """
    new_file(path, text.encode())


def refuse_existing(path: Path) -> None:
    """Raises: ConfigError where a page could not be made at `path`: to be told before the work, not after it."""
    if path.exists() or path.is_symlink():
        mend = "move the old page away, or give another name."
        raise ConfigError("exists already, and nothing is overwritten.", where=str(path), mend=mend)
    if not path.parent.is_dir():
        raise ConfigError("its folder does not exist.", where=str(path), mend="make the folder first.")


def page(
    plan: Plan,
    admission: Admission,
    site: Site,
    *,
    committed: Committed,
    reserved: bool,
    known: Plan | None,
    update_bytes: int | None,
    base_found: bool,
    software: Software,
    made_at: datetime,
) -> str:
    """The page's text. A function of plan, site file, ledger sums, software and date only: no record is behind it.

    committed: what the ledger holds; `reserved`: whether this plan is in it, approved.
    base_found: whether the base model is on this machine with the plan's digest.
    """
    statement = None if admission.event is None else statement_for(admission, site, plan)
    return (
        _environment()
        .get_template("dpia.html.j2")
        .render(
            plan=plan,
            site=site,
            membership=site.federation.get(plan.name),
            admission=admission,
            statement=statement,
            words=[] if statement is None else statement.in_words(plan.task.kind),
            guess="" if statement is None else _guess(statement),
            numbers=[] if statement is None else _numbers(statement, admission),
            asked=asked(plan, admission, site),
            costs=costs(plan, admission, site),
            changes=None if known is None or known.digest == plan.digest else changes(known, plan),
            known=known,
            flows=flows(plan, admission, site, update_bytes=update_bytes),
            never=NEVER,
            sums=_sums(plan, admission, site, committed, reserved),
            rules=in_words(site, plan.name),
            risks=_risks(site),
            software=software,
            computed=asked_in_words(site, plan),
            base_found=base_found,
            made_at=made_at,
        )
    )


def _numbers(statement: "Statement", admission: Admission) -> list[tuple[str, str, str]]:
    """(name, value, meaning) of each figure of the guarantee; every one is rounded up."""
    noun = "record" if statement.unit == "record" else "unit with all its records"
    inside = "one record exchanged for another" if statement.unit == "record" else "any change within one unit"
    return [
        ("ε, reserved", _up(admission.epsilon, 3), f"what this plan takes from the budget, at δ {admission.delta:g}"),
        ("ε, add or remove", _loss(statement.epsilon), f"one {noun} was there or not"),
        ("ε, replace", _loss(statement.epsilon_replace), inside),
        ("δ", f"{statement.delta:g}", "the part of all outcomes for which ε need not hold"),
        ("guess at even odds", _guess(statement), f"whether one {statement.unit} took part: right at most so often"),
        (
            "the same by ε and δ",
            percent_up(guess_bound(admission.epsilon, admission.delta)),
            "what the two numbers alone promise; the mechanism keeps the line above",
        ),
        ("advantage", percent_up(statement.advantage), "hits minus false alarms of any test of membership, at most"),
        (
            f"hits at {100 * FALSE_POSITIVE_RATE:g} % false alarms",
            percent_up(statement.true_positive_bound),
            "of a test of membership, at most",
        ),
    ]


def _sums(plan: Plan, admission: Admission, site: Site, committed: Committed, reserved: bool) -> list[Sums]:
    """The budget of the data set and the federation's share of it."""
    membership, share = site.federation.get(plan.name), (admission.epsilon, admission.delta)
    without = tuple(-part for part in share) if reserved else (0.0, 0.0)
    rows = [
        ("this data set, over its life", (committed.epsilon, committed.delta), site.budget),
        (f"of it, federation {plan.name}", (committed.federation_epsilon, committed.federation_delta), membership),
    ]
    found = []
    for name, held, limit in rows:
        if limit is not None:
            before = max(0.0, held[0] + without[0]), max(0.0, held[1] + without[1])
            after = before[0] + share[0], before[1] + share[1]
            found.append(Sums(name, before, after, (limit.epsilon, limit.delta)))
    return found


def _risks(site: Site) -> Sequence[tuple[str, str]]:
    return (
        *RISKS,
        *((RECORD_RISK,) if site.data.unit == "record" else ()),
        *((DATABASE_RISK,) if isinstance(site.data.source, str) else ()),
        *((KEY_RISK,) if len(site.federation) > 1 else ()),
    )


def _guess(statement: "Statement") -> str:
    """At even odds a guess is right with (1 + advantage) / 2 at most."""
    return percent_up((1 + statement.advantage) / 2)


def _loss(value: float | None) -> str:
    return "none" if value is None else _up(value, 3)


def _up(value: float, digits: int) -> str:
    """A decimal that never understates: rounded up."""
    return str(Decimal(repr(float(value))).quantize(Decimal(1).scaleb(-digits), ROUND_CEILING))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("privet.client"), undefined=StrictUndefined, autoescape=True, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["printable"] = _printable
    return environment


def _printable(text: str) -> str:
    """Text of the server: what would turn the writing's direction or hide is shown as an escape."""
    return text if text.isprintable() else repr(text)[1:-1]
