"""`privet ledger` and `privet approve`: what a data set has spent, and the operator's yes to a plan."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from privet.common.cli.output import emit

if TYPE_CHECKING:
    from privet.client.ledger import EventRow, Evidence, Ledger, PlanRow, Summary
    from privet.common.config import Site

SiteFile = Annotated[Path, typer.Argument(metavar="SITE.toml", help="The site's file.")]
Digest = Annotated[str, typer.Argument(metavar="DIGEST", help="The plan's digest, or at least its first 8 digits.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="A.B=VALUE", help="Override a key of the file.")]
Verify = Annotated[bool, typer.Option("--verify", help="Verify file, hash chain, head file and stored replies.")]
Export = Annotated[
    Path | None, typer.Option("--export", metavar="FOLDER", help="Write every reply that was sent to a new folder.")
]
ChargeAll = Annotated[
    bool, typer.Option("--charge-all", help="Count as spent all that a restored ledger may have forgotten.")
]


def ledger(
    site_file: SiteFile,
    verify: Verify = False,
    export: Export = None,
    charge_all: ChargeAll = False,
    as_json: AsJson = False,
    overrides: Overrides = None,
) -> None:
    """Show what a data set has spent, reserved and left. Reserved is what its approved plans hold."""
    from privet.client.ledger import ledger_path
    from privet.client.ledger.head import is_there
    from privet.common.config import load_site
    from privet.common.errors import InputError

    if verify + charge_all + (export is not None) > 1:
        what = "Expected at most one of --verify, --export and --charge-all."
        raise InputError(what, mend="run the command once for each.")
    site = load_site(site_file, overrides or ())
    path = ledger_path(site.data.id)
    if not is_there(path):
        emit(_nothing(path, site), [f"No ledger at {path}: this host has spent and reserved nothing."], as_json)
        return
    with _open(site) as book:
        if verify:
            words = book.verify()
            emit({"path": str(path), "verified": words}, [f"Ledger {path}: verified.", *words], as_json)
        elif export is not None:
            num_replies = book.export(export)
            words = [f"{export}: {num_replies} replies, manifest.json and chain.jsonl, read back and compared."]
            emit({"path": str(path), "export": str(export), "replies": num_replies}, words, as_json)
        elif charge_all:
            _charge(book, path, as_json, site.name)
        else:
            summary, plans, events, behind = book.summary(site), book.plans(), book.events(), book.behind()
            document = _document(path, summary, plans, events, behind)
            emit(document, _lines(path, summary, plans, events, behind), as_json)


def approve(site_file: SiteFile, digest: Digest, as_json: AsJson = False, overrides: Overrides = None) -> None:
    """Approve a plan. Its whole horizon is reserved from the data set's budget, for good."""
    from privet.client.audit import SiteAudit
    from privet.client.describe import describe
    from privet.client.ledger import ledger_path
    from privet.client.ledger.head import is_there
    from privet.client.policy import admit
    from privet.client.update_size import local_base, update_bytes
    from privet.common.config import load_site
    from privet.common.errors import InputError, RefusedError

    site = load_site(site_file, overrides or ())
    path = ledger_path(site.data.id)
    if not is_there(path):
        raise InputError("no ledger yet, so no plan waits.", where=str(path), mend="run `privet client` first.")
    with _open(site) as book:
        audit = SiteAudit(path, site.name)
        audit.hold_against(book)
        row = book.find(digest)
        plan = row.plan
        if row.admission.decision != "approved":
            # Judged anew: the site file or the ledger may have changed since the plan arrived.
            admission = admit(plan, site, book.committed(plan.name))
            if admission.decision == "refused":
                book.record_plan(plan, admission, site)
                audit.refused("approve", admission.code, federation=plan.name, plan=row.digest, by_operator=True)
                raise RefusedError(admission.code, admission.reason, where=f"plan {row.digest[:16]}")
            row = book.approve(row.digest, admission, site)
            audit.approved(row, by="operator")
        known = book.latest(plan)
    size = update_bytes(plan, local_base(plan, site))
    emit(_plan(row, []), describe(plan, row.admission, site, update_bytes=size, known=known), as_json)


def _open(site: "Site") -> "Ledger":
    from privet.client.ledger import Ledger, ledger_path

    return Ledger.open(ledger_path(site.data.id))


def _charge(book: "Ledger", path: Path, as_json: bool, name: str) -> None:
    from privet.client.audit import SiteAudit

    audit = SiteAudit(path, name)
    audit.hold_against(book)
    charge = book.charge_all()
    if charge is not None:
        audit.charged(charge.epsilon, charge.delta, charge.num_lost)
    if charge is None:
        document: dict[str, Any] = {"path": str(path), "charged": None}
        emit(document, [f"Ledger {path}: nothing shows that it fell behind, so nothing needs charging."], as_json)
        return
    lines = [
        f"Ledger {path}: charged, for good.",
        *(str(evidence) for evidence in charge.evidence),
        f"closed    {charge.num_lost} rounds and evaluations of approved plans: spent, never run again",
        f"charged   epsilon {charge.epsilon:.6g}, delta {charge.delta:.3g}, to the data set and every share",
    ]
    warning = None
    if any(evidence.source == "missing" for evidence in charge.evidence):
        warning = (
            "Without the head file nobody can tell whether plans were approved that this ledger does not hold: if the "
            "ledger is an older copy, lower budget.epsilon and budget.delta by what they may have been given."
        )
        lines.append(f"Warning: {warning}")
    charged = {
        "epsilon": charge.epsilon,
        "delta": charge.delta,
        "lost": charge.num_lost,
        "behind": [_evidence(evidence) for evidence in charge.evidence],
        "warning": warning,
    }
    emit({"path": str(path), "charged": charged}, lines, as_json)


def _nothing(path: Path, site: "Site") -> dict[str, Any]:
    budget = {"epsilon": site.budget.epsilon, "delta": site.budget.delta}
    nothing = {"epsilon": 0.0, "delta": 0.0}
    return {
        "path": str(path), "budget": budget,
        "spent": {"epsilon": 0.0, "delta": site.budget.delta, "events": 0}, "evaluations": 0, "lost": 0,
        "reserved": nothing, "charged": nothing, "left": budget, "behind": [], "plans": [], "events": [],
    }  # fmt: skip


def _document(
    path: Path, summary: "Summary", plans: list["PlanRow"], events: list["EventRow"], behind: list["Evidence"]
) -> dict[str, Any]:
    spent = summary.spent_epsilon
    return {
        "path": str(path),
        "budget": {"epsilon": summary.epsilon, "delta": summary.delta},
        "spent": {
            "epsilon": spent if spent < float("inf") else None,
            "delta": summary.delta,
            "events": summary.num_events,
        },
        "evaluations": summary.num_evaluations,
        "lost": summary.num_lost,
        "reserved": {"epsilon": summary.reserved_epsilon, "delta": summary.reserved_delta},
        "charged": {"epsilon": summary.charged_epsilon, "delta": summary.charged_delta},
        "left": {"epsilon": summary.left_epsilon, "delta": summary.left_delta},
        "behind": [_evidence(evidence) for evidence in behind],
        "plans": [_plan(row, events) for row in plans],
        "events": [
            {
                "plan": event.plan,
                "round": event.round,
                "kind": event.kind,
                "state": event.state,
                "request_sha256": event.request_sha256 or None,
                "reply_sha256": event.reply_sha256,
                "reserved_at": event.reserved_at,
                "stored_at": event.stored_at,
            }
            for event in events
        ],
    }


def _evidence(evidence: "Evidence") -> dict[str, Any]:
    return {
        "source": evidence.source,
        "noted_at": evidence.noted_at,
        "charge": {"epsilon": evidence.charge_epsilon, "delta": evidence.charge_delta},
        "text": str(evidence),
    }


def _plan(row: "PlanRow", events: list["EventRow"]) -> dict[str, Any]:
    admission = row.admission
    return {
        "digest": row.digest,
        "federation": row.federation,
        "state": admission.decision,
        "code": admission.code.value,
        "reason": admission.reason,
        "horizon": admission.training_rounds,
        "num_evaluations": admission.num_evaluations,
        "epsilon": admission.epsilon,
        "delta": admission.delta,
        "event": None if admission.event is None else admission.event.to_json(),
        "evaluation": None if admission.evaluation is None else admission.evaluation.to_json(),
        "unit_column": row.unit_column,
        "lost": sum(event.plan == row.digest and event.state == "lost" for event in events),
        "seen_at": row.seen_at,
        "approved_at": row.approved_at,
    }


def _lines(
    path: Path, summary: "Summary", plans: list["PlanRow"], events: list["EventRow"], behind: list["Evidence"]
) -> list[str]:
    lines = [
        f"Ledger {path}",
        f"budget    epsilon {summary.epsilon:.6g}, delta {summary.delta:.3g}, over the data set's life",
        f"reserved  epsilon {summary.reserved_epsilon:.6g}, delta {summary.reserved_delta:.3g}, by approved plans"
        + (" and charges" if summary.charged_epsilon or summary.charged_delta else ""),
        f"left      epsilon {summary.left_epsilon:.6g}, delta {summary.left_delta:.3g}",
        f"spent     epsilon {summary.spent_epsilon:.6g} at delta {summary.delta:.3g} by {summary.num_events} events, "
        "had they been fixed in advance (dp-accounting, PLD); admission goes by what is reserved",
    ]
    if summary.charged_epsilon or summary.charged_delta or summary.num_lost:
        lines.append(
            f"charged   epsilon {summary.charged_epsilon:.6g}, delta {summary.charged_delta:.3g}, and "
            f"{summary.num_lost} events closed, for what a ledger that fell behind may have forgotten"
        )
    lines += [
        f"BEHIND    {evidence} Nothing is trained until: privet ledger SITE.toml --charge-all" for evidence in behind
    ]
    lines += [_plan_line(row, events) for row in plans]
    for event in events:
        if event.state != "lost":
            lines.append(
                f"event {event.id} plan {event.plan[:16]} {event.kind} round {event.round} {event.reserved_at} "
                f"{event.state} request {event.request_sha256[:16]}"
            )
    return lines


def _plan_line(row: "PlanRow", events: list["EventRow"]) -> str:
    admission = row.admission
    own = [event for event in events if event.plan == row.digest]
    done = {kind: sum(event.kind == kind and event.state != "lost" for event in own) for kind in ("train", "evaluate")}
    num_lost = sum(event.state == "lost" for event in own)
    return (
        f"plan {row.digest[:16]} {row.federation} {admission.decision}: "
        f"{done['train']} of {admission.training_rounds} rounds"
        + (f", {done['evaluate']} of {admission.num_evaluations} evaluations" if admission.evaluation else "")
        + (f", {num_lost} lost" if num_lost else "")
        + (f", epsilon {admission.epsilon:.6g}, delta {admission.delta:.3g}" if admission.event else "")
        + (f", noise multiplier {admission.event.noise_multiplier:g}" if admission.event else "")
        + (f". {admission.reason}" if admission.decision != "approved" else "")
    )
