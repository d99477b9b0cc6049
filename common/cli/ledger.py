"""`privet ledger` and `privet approve`: what a data set has spent, and the operator's yes to a plan."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from privet.common.cli.output import emit

if TYPE_CHECKING:
    from privet.client.ledger import EventRow, Ledger, PlanRow, Summary
    from privet.common.config import Site

SiteFile = Annotated[Path, typer.Argument(metavar="SITE.toml", help="The site's file.")]
Digest = Annotated[str, typer.Argument(metavar="DIGEST", help="The plan's digest, or at least its first 8 digits.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="A.B=VALUE", help="Override a key of the file.")]


def ledger(site_file: SiteFile, as_json: AsJson = False, overrides: Overrides = None) -> None:
    """Show what the data set has spent, what approved plans reserve, and what is left."""
    from privet.client.ledger import ledger_path
    from privet.common.config import load_site

    site = load_site(site_file, overrides or ())
    path = ledger_path(site.data.id)
    if not path.exists():
        budget = {"epsilon": site.budget.epsilon, "delta": site.budget.delta}
        nothing = {"epsilon": 0.0, "delta": 0.0}
        document: dict[str, Any] = {
            "path": str(path), "budget": budget, "spent": {"epsilon": 0.0, "delta": site.budget.delta, "events": 0},
            "reserved": nothing, "left": budget, "plans": [], "events": [],
        }  # fmt: skip
        emit(document, [f"No ledger at {path}: this host has spent and reserved nothing."], as_json)
        return
    with _open(site) as book:
        summary, plans, events = book.summary(site), book.plans(), book.events()
    emit(_document(path, summary, plans, events), _lines(path, summary, plans, events), as_json)


def approve(site_file: SiteFile, digest: Digest, as_json: AsJson = False, overrides: Overrides = None) -> None:
    """Approve a plan: its whole horizon is reserved from the data set's budget, for good."""
    from privet.client.ledger import ledger_path
    from privet.client.policy import admit, describe
    from privet.common.config import load_site
    from privet.common.errors import InputError, RefusedError

    site = load_site(site_file, overrides or ())
    path = ledger_path(site.data.id)
    if not path.exists():
        raise InputError("no ledger yet, so no plan waits.", where=str(path), mend="run `privet client` first.")
    with _open(site) as book:
        row = book.find(digest)
        if row.admission.decision != "approved":
            # Judged anew: the site file or the ledger may have changed since the plan arrived.
            admission = admit(row.plan, site, book.committed(row.plan.name))
            if admission.decision == "refused":
                book.record_plan(row.plan, admission, site)
                raise RefusedError(admission.code, admission.reason, where=f"plan {row.digest[:16]}")
            row = book.approve(row.digest, admission, site)
    emit(_plan(row), describe(row.plan, row.admission, site, None), as_json)


def _open(site: "Site") -> "Ledger":
    from privet.client.ledger import Ledger, ledger_path

    return Ledger.open(ledger_path(site.data.id))


def _document(path: Path, summary: "Summary", plans: list["PlanRow"], events: list["EventRow"]) -> dict[str, Any]:
    spent = summary.spent_epsilon
    return {
        "path": str(path),
        "budget": {"epsilon": summary.epsilon, "delta": summary.delta},
        "spent": {
            "epsilon": spent if spent < float("inf") else None,
            "delta": summary.delta,
            "events": summary.num_events,
        },
        "reserved": {"epsilon": summary.reserved_epsilon, "delta": summary.reserved_delta},
        "left": {"epsilon": summary.left_epsilon, "delta": summary.left_delta},
        "plans": [_plan(row) for row in plans],
        "events": [
            {
                "plan": event.plan,
                "round": event.round,
                "kind": event.kind,
                "state": event.state,
                "request_sha256": event.request_sha256,
                "reserved_at": event.reserved_at,
                "stored_at": event.stored_at,
            }
            for event in events
        ],
    }


def _plan(row: "PlanRow") -> dict[str, Any]:
    admission = row.admission
    return {
        "digest": row.digest,
        "federation": row.federation,
        "state": admission.decision,
        "code": admission.code.value,
        "reason": admission.reason,
        "horizon": admission.horizon,
        "epsilon": admission.epsilon,
        "delta": admission.delta,
        "event": None if admission.event is None else admission.event.to_json(),
        "seen_at": row.seen_at,
        "approved_at": row.approved_at,
    }


def _lines(path: Path, summary: "Summary", plans: list["PlanRow"], events: list["EventRow"]) -> list[str]:
    lines = [
        f"Ledger {path}",
        f"budget    epsilon {summary.epsilon:.6g}, delta {summary.delta:.3g}, over the data set's life",
        f"reserved  epsilon {summary.reserved_epsilon:.6g}, delta {summary.reserved_delta:.3g}, by approved plans",
        f"left      epsilon {summary.left_epsilon:.6g}, delta {summary.left_delta:.3g}",
        f"spent     epsilon {summary.spent_epsilon:.6g} at delta {summary.delta:.3g} by {summary.num_events} events, "
        "had they been fixed in advance (dp-accounting, PLD); admission goes by what is reserved",
    ]
    for row in plans:
        admission = row.admission
        done = sum(event.plan == row.digest for event in events)
        lines.append(
            f"plan {row.digest[:16]} {row.federation} {admission.decision}: {done} of {admission.horizon} rounds"
            + (f", epsilon {admission.epsilon:.6g}, delta {admission.delta:.3g}" if admission.event else "")
            + (f", noise multiplier {admission.event.noise_multiplier:g}" if admission.event else "")
            + (f". {admission.reason}" if admission.decision != "approved" else "")
        )
    for event in events:
        lines.append(
            f"event {event.id} plan {event.plan[:16]} {event.kind} round {event.round} {event.reserved_at} "
            f"{event.state} request {event.request_sha256[:16]}"
        )
    return lines
