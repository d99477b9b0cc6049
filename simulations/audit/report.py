"""An audit for people: a table in the terminal, and audit.html, one page that loads nothing from anywhere."""

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from privet.server.card import loss_text, number_text
from privet.server.report import duration_text
from privet.simulations.audit.bound import CONFIDENCE
from privet.simulations.audit.findings import NO_PROOF, TITLES, Audit, CoinFinding
from privet.simulations.audit.membership import ALPHAS
from privet.simulations.audit.roc_plot import roc_svg

if TYPE_CHECKING:
    from rich.table import Table

_NOTES = {
    "unit": "An auditor who sees every step's noised gradient, and canaries that move the clipped sum as far as any "
    "unit can. This is the test of the trainer; the row without noise shows that the auditor is able to see.",
    "text": "An attacker who has the final adapter alone, and canaries of random words. Such a bound lies far below "
    "the claim even where the trainer is at fault: it says what such an attacker sees, not what there is to see.",
}


def verdict_text(finding: CoinFinding) -> str:
    """For people."""
    words = {
        "pass": "within the claim",
        "violation": "above the claim",
        "blind": "blind: sees too little",
        "seen": "seen without noise" if finding.attack == "unit" else "no claim",
    }[finding.verdict]
    return f"{words} (out of reach of these guesses)" if finding.out_of_reach else words


def tables(audit: Audit) -> "Iterator[Table]":
    """One table an attack, for a terminal."""
    from rich.table import Table

    for attack in ("unit", "text"):
        found = [finding for finding in audit.coins if finding.attack == attack]
        if not found:
            continue
        table = Table(title=TITLES[found[0].attack], title_justify="left", header_style="bold")
        for column in ("ε granted", "claimed", "bound", "cap", "guesses", "right", ""):
            table.add_column(column, justify="left" if not column else "right")
        for finding in found:
            table.add_row(
                "noise removed" if finding.arm.asked is None else f"{finding.arm.asked:g}",
                loss_text(finding.arm.claim),
                f"{finding.bound:.2f}",
                f"{finding.cap:.2f}",
                f"{finding.tally.num_guesses:,} of {finding.tally.num_canaries:,}",
                f"{finding.tally.num_right:,}",
                verdict_text(finding),
            )
        yield table
    if audit.membership:
        table = Table(title=TITLES["membership"], title_justify="left", header_style="bold")
        table.add_column("ε granted", justify="right")
        table.add_column("AUC", justify="right")
        for alpha in ALPHAS:
            table.add_column(f"TPR at {100 * alpha:g} % (bound)", justify="right")
        table.add_column("advantage (bound)", justify="right")
        for row in audit.membership:
            rates = [
                f"{row.roc.at(alpha):.3f} ({loss_text(bound, 3)})"
                for alpha, bound in zip(ALPHAS, row.bounds.true_positive, strict=True)
            ]
            asked = "noise removed" if row.arm.asked is None else f"{row.arm.asked:g}"
            best = f"{row.roc.advantage:.3f} ({loss_text(row.bounds.advantage, 3)})"
            table.add_row(asked, f"{row.roc.auc:.3f}", *rates, best)
        yield table


def audit_html(audit: Audit) -> str:
    """The page's text. Raises: ConfigError where there are curves to draw and matplotlib is missing."""
    coins = [
        (TITLES[attack], _NOTES[attack], [finding for finding in audit.coins if finding.attack == attack])
        for attack in ("unit", "text")
    ]
    drawn = [roc_svg(audit.membership, log=log) if audit.membership else "" for log in (False, True)]
    return (
        _environment()
        .get_template("audit.html.j2")
        .render(
            audit=audit,
            no_proof=NO_PROOF,
            coins=[row for row in coins if row[2]],
            titles=TITLES,
            alphas=ALPHAS,
            confidence=CONFIDENCE,
            plot_linear=Markup(drawn[0]),
            plot_log=Markup(drawn[1]),
        )
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("privet.simulations.audit"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "loss": loss_text,
        "num": number_text,
        "duration": duration_text,
        "verdict": verdict_text,
    }
    return environment
