"""The adapter's model card and privacy.json: what was trained, how good it is, and each site's privacy statement."""

import html
import math
import re
import textwrap
from collections.abc import Mapping
from decimal import ROUND_CEILING, Decimal
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from privet.common.config import Plan
from privet.common.privacy.statement import FALSE_POSITIVE_RATE, Statement
from privet.common.privacy.words import percent_up
from privet.common.tasks.words import TASK_WORDS
from privet.server.card_head import card_head, judged
from privet.server.exporting.snippets import adapter_snippet

NOT_COVERED = (
    "A site whose computer is compromised.",
    "A site that lies in order to spoil the model.",
    "When a site was online, how long it took, and when it dropped out.",
    "A site's host that was restored from an older copy together with the ledger's head file, where the server hides "
    "what it saw: a ledger that was restored alone, or that the server has seen further on, is refused.",
    "Settings chosen from private results outside the ledger.",
    "Attacks on the rounding of floating-point noise: it is rounded to a public grid, which is a mitigation, not an "
    "exact discrete mechanism.",
    "A person whose text is at several sites: each site's guarantee holds for itself, and they compose.",
)

_ADJACENCY = {
    "epsilon": "add or remove one unit, all its records at all times; in record mode one record of those kept",
    "epsilon_replace": "replace one unit: any change within it; in record mode one record exchanged for another",
    "epsilon_person": "in record mode, add or remove a person with at most max_per_person records; null is no claim",
}
_MAX_LABELS = 100  # listed in the card; plan.toml has all


def privacy_json(
    plan: Plan,
    statements: Mapping[str, Statement],
    *,
    guarantee: bool,
    reason: str,
    earlier: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The document privacy.json: every site's statement under its name, never averaged.

    earlier: the run whose adapter this one started from. Where that guaranteed nothing, or nobody knows, nor does this.

    `guarantee` is false too where a site's statement has none, or no site stated anything; `reason` then says why.
    """
    lacking = [f"{name}: {s.reason}" for name, s in sorted(statements.items()) if not s.guarantee]
    if earlier is not None and not _guaranteed(earlier):
        lacking.append("the run that it started from states no guarantee")
    held = guarantee and bool(statements) and not lacking
    return {
        "format": 1,
        "name": plan.name,
        "plan": plan.digest,
        "guarantee": held,
        "reason": "" if held else reason or (lacking[0] if lacking else "no site stated a guarantee"),
        "adjacency": _ADJACENCY,
        "sites": {name: statement.to_json() for name, statement in sorted(statements.items())},
        "not_covered": list(NOT_COVERED),
    } | ({} if earlier is None else {"init": dict(earlier)})


def _guaranteed(earlier: Mapping[str, Any]) -> bool:
    return bool((earlier["privacy"] or {}).get("guarantee"))


def model_card(
    plan: Plan,
    *,
    statements: Mapping[str, Statement],
    results: Mapping[str, Any] | None,
    rounds_done: int,
    simulated: bool,
    at_sites: Mapping[str, Any] | None = None,
    earlier: Mapping[str, Any] | None = None,
    licence: str | None = None,
) -> str:
    """README.md of the adapter's folder, with the head of metadata that model hubs read.

    results: public metrics of these very weights, where the server had a public file.
    rounds_done: rounds whose updates went into the weights.
    at_sites: metrics of these very weights out of the sites' noised counts, with their standard errors, where measured.
    licence: as model hubs write it, where the server's operator gave one.
    """
    if not judged(at_sites):
        at_sites = None
    unguaranteed = [name for name, statement in sorted(statements.items()) if not statement.guarantee]
    private = statements and not (simulated or unguaranteed) and (earlier is None or _guaranteed(earlier))
    return (
        _environment()
        .get_template("card.md.j2")
        .render(
            plan=plan,
            head=card_head(plan, results=results, at_sites=at_sites, private=bool(private), licence=licence),
            base=plan.model.base,
            shown_labels=plan.task.labels[:_MAX_LABELS],
            statements=dict(sorted(statements.items())),
            unguaranteed=unguaranteed,
            groups=_grouped(statements, plan.task.kind),
            words=TASK_WORDS[plan.task.kind],
            at_sites=at_sites,
            earlier=earlier,
            results=results,
            judged=judged(results),
            judged_at_sites=judged(at_sites)[:1],
            recall=list((results or {}).get("recall", {}).items())[:_MAX_LABELS],
            rounds_done=rounds_done,
            simulated=simulated,
            snippet=adapter_snippet(plan),
            not_covered=NOT_COVERED,
            max_labels=_MAX_LABELS,
            false_positives=f"{100 * FALSE_POSITIVE_RATE:g} %",
        )
    )


def _grouped(
    statements: Mapping[str, Statement], kind: str
) -> list[tuple[list[str], list[str], list[tuple[str, str]]]]:
    """Names, words and table of the sites that state the same, figure by figure."""
    groups: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for name, statement in sorted(statements.items()):
        groups.setdefault(tuple(statement.table(kind)), []).append(name)
    return [(names, statements[names[0]].in_words(kind), list(rows)) for rows, names in groups.items()]


def loss_text(value: float | None, digits: int = 2) -> str:
    """A privacy loss or a bound, rounded up so that it never understates; ∞ for None.

    >>> loss_text(3.1401), loss_text(2.0), loss_text(None)
    ('3.15', '2.00', '∞')
    """
    if value is None or math.isinf(value):
        return "∞"
    return str(Decimal(repr(value)).quantize(Decimal(1).scaleb(-digits), ROUND_CEILING))


def number_text(value: float, digits: int = 3) -> str:
    """A short number.

    >>> number_text(1e-05), number_text(12.3456), number_text(8.0)
    ('1e-5', '12.3', '8')
    """
    return re.sub(r"e([+-])0*", lambda found: "e" + found[1].strip("+"), f"{value:.{digits}g}")


def markdown(text: object) -> str:
    """Any text as one line of Markdown that shows just it.

    >>> markdown("a|b\\n<i> [x](y) card_arrival http://z")
    'a&#124;b &lt;i&gt; &#91;x&#93;(y) card_arrival http&#58;//z'
    """
    return _SIGNS.sub(lambda found: f"&#{ord(found[0])};", html.escape(" ".join(str(text).split()), quote=False))


# What means something inside a line: emphasis, code, links, cells, mathematics, mentions. Not the & of an entity.
_SIGNS = re.compile(r"[|`*\[\]\\~$@]|(?<!\w)_|_(?!\w)|:(?=//)")


def _flow(text: str) -> str:
    """A paragraph, its lines filled anew."""
    return textwrap.fill(" ".join(text.split()), 120, break_long_words=False, break_on_hyphens=False)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("privet.server"),
        autoescape=False,  # Markdown: what is not ours goes through the filter `md`
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "md": markdown,
        "loss": loss_text,
        "num": number_text,
        "flow": _flow,
        "percent_up": percent_up,
    }
    return environment
