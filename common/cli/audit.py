"""`privet audit`."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from privet.common.cli.options import AsJson, FederationFile, Set

if TYPE_CHECKING:
    from privet.simulations.audit.findings import Audit


class AttackName(StrEnum):
    """What attacks the training."""

    UNIT = "unit"
    TEXT = "text"
    MEMBERSHIP = "membership"
    ALL = "all"


def audit(
    federation_file: FederationFile,
    sites: Annotated[
        int, typer.Option("--sites", min=1, help="How many virtual sites the text is dealt out to; one is audited.")
    ] = 3,
    data: Annotated[Path | None, typer.Option("--data", help="A CSV, TSV, JSON lines or Parquet file.")] = None,
    epsilon: Annotated[
        str, typer.Option("--epsilon", help="What the site grants; several, by comma, each in a training of its own.")
    ] = "1,2,4",
    canaries: Annotated[int, typer.Option("--canaries", min=20, help="Units planted by the toss of a coin.")] = 1000,
    attack: Annotated[AttackName, typer.Option("--attack", help="Which attack.")] = AttackName.ALL,
    report: Annotated[Path | None, typer.Option("--report", metavar="FILE", help="Write a page of HTML.")] = None,
    as_json: AsJson = False,
    assignments: Set = None,
) -> None:
    """Attack a plan's own trainer. What is seen is held against what is claimed: finds faults, proves nothing."""
    import json
    import shlex
    import sys

    from privet.common.cli import leave
    from privet.common.cli.output import emit
    from privet.common.cli.run import stopped_by_signal
    from privet.common.config import load_federation
    from privet.common.errors import ConfigError, RunError

    given = list(assignments or ())
    if data is not None:
        given.append(f"simulation.data={json.dumps(str(data.resolve()), ensure_ascii=False)}")
    federation = load_federation(federation_file, given)
    try:
        budgets = [float(part) for part in epsilon.split(",")]
    except ValueError:
        raise ConfigError(f"got {epsilon!r}.", where="--epsilon", mend="give numbers such as 2 or 1,2,4.") from None
    if report is not None and not report.parent.is_dir():
        raise ConfigError(
            "its folder does not exist.", where=str(report), mend="make the folder, or give another file."
        )
    from privet.simulations.audit.findings import ATTACKS
    from privet.simulations.audit.report import audit_html
    from privet.simulations.audit.run import audit as run

    def tell(text: str) -> None:
        print(f"privet audit: {text}", file=sys.stderr, flush=True)

    with stopped_by_signal():
        found = run(
            federation,
            sites=sites,
            epsilon=budgets,
            canaries=canaries,
            attacks=[name for name in ATTACKS if attack in (AttackName.ALL, name)],
            tell=tell,
            command="privet " + shlex.join(sys.argv[1:]),
        )
        if report is not None:
            report.write_text(audit_html(found), encoding="utf-8")
    if as_json:
        emit(found.to_json(), (), True)
        leave(0 if found.verdict == "pass" else 1)
    _show(found, report)
    if found.verdict != "pass":
        raise RunError(
            found.words, mend="do not train on private records with this installation until it is explained."
        )
    leave(0)


def _show(found: "Audit", report: Path | None) -> None:
    from rich.console import Console

    from privet.simulations.audit.findings import NO_PROOF
    from privet.simulations.audit.report import tables

    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    for table in tables(found):
        console.print(table)
    console.print(f"{found.words} {NO_PROOF}", soft_wrap=True)
    if report is not None:
        console.print(f"Report: {report.resolve()}", soft_wrap=True)
