"""`privet log`: an audit log for people, and whether it is as it was written."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from privet.common.cli.options import AsJson
from privet.common.cli.output import emit

if TYPE_CHECKING:
    from privet.common.audit_log import Line, Verified

LogFile = Annotated[
    Path, typer.Argument(metavar="FILE", help="ID.audit.jsonl beside a site's ledger, or a server's state/audit.jsonl.")
]
Verify = Annotated[bool, typer.Option("--verify", help="Only tell whether it is as it was written, and its head.")]
Head = Annotated[
    str | None, typer.Option("--head", metavar="HASH", help="With --verify: a head noted earlier, which it must hold.")
]
LedgerOf = Annotated[
    Path | None,
    typer.Option("--ledger", metavar="SITE.toml", help="With --verify: hold it against this site's ledger too."),
]
Round = Annotated[int | None, typer.Option("--round", metavar="N", min=0, help="Only lines about this round.")]
Kind = Annotated[str | None, typer.Option("--kind", metavar="KIND", help="Only lines of this kind.")]


def log(
    file: LogFile,
    verify: Verify = False,
    head: Head = None,
    ledger: LedgerOf = None,
    round: Round = None,
    kind: Kind = None,
    as_json: AsJson = False,
) -> None:
    """Show an audit log: what was released, refused, approved. And when; exit 1 where it is not as it was written."""
    from privet.common.audit_log import ENTRIES, read
    from privet.common.errors import InputError

    if (head is not None or ledger is not None) and not verify:
        raise InputError("--head and --ledger are for --verify.", mend="add --verify.")
    if kind is not None and kind not in ENTRIES:
        raise InputError(f"got {kind[:40]!r}.", where="--kind", mend=f"give one of {', '.join(ENTRIES)}.")
    found = read(file)
    if verify:
        words = _verified(file, found, head, ledger)
        torn = [{"line": one.at, "bytes": one.num_bytes, "repaired": one.repaired} for one in found.torn]
        emit({"path": str(file), "lines": found.count, "head": found.head, "torn": torn}, words, as_json)
        return
    chosen = [
        line
        for line in found.lines
        if (kind is None or line.kind == kind) and (round is None or line.fields.get("round") == round)
    ]
    emit({"path": str(file), "lines": [line.to_json() for line in chosen]}, list(map(_words, chosen)), as_json)


def _verified(file: Path, found: "Verified", head: str | None, ledger: Path | None) -> list[str]:
    """Raises: AuditLogError where it does not hold `head` or does not agree with the ledger."""
    from privet.common.audit_log import AuditLogError

    words = [f"{file}: {found.count:,} lines, each follows the one before and is of its schema."]
    for one in found.torn:
        how = "a later writer closed it off" if one.repaired else "nobody wrote since, or the end was cut off"
        words.append(f"line {one.at}: torn, {one.num_bytes:,} bytes: a writer was killed in it; {how}")
    if head is not None:
        at = next((line.seq for line in found.lines if line.hash == head.strip().lower()), None)
        if at is None:
            raise AuditLogError(
                "it does not hold the head that was noted: its end was cut off, or it is another log.",
                where=str(file),
                mend="keep this file for whoever looks into it.",
            )
        words.append(f"noted head: line {at:,}")
    if ledger is not None:
        words.append(_agrees(file, found, ledger))
    return [*words, f"head: {found.head}, after {found.count:,} lines. Note both elsewhere: they tell a log cut short."]


def _agrees(file: Path, found: "Verified", site_file: Path) -> str:
    """Raises: AuditLogError."""
    from privet.client.audit import audit_path, disagreements
    from privet.client.ledger import Ledger, ledger_path
    from privet.common.audit_log import AuditLogError
    from privet.common.config import load_site
    from privet.common.errors import InputError

    path = ledger_path(load_site(site_file).data.id)
    if not path.exists():
        raise InputError("this host has no ledger of that site.", where=str(path), mend="run this where it lies.")
    with Ledger.open(path) as book:
        faults = disagreements(found, book)
    if faults:
        more = f" ({len(faults) - 1} more after this one.)" if len(faults) > 1 else ""
        mend = f"see that {audit_path(path).name} and the ledger are the newest of this data set."
        raise AuditLogError(f"{faults[0]}.{more}", where=str(file), mend=mend)
    return f"ledger {path}: it and the log name the same replies and approved plans"


def _words(line: "Line") -> str:
    """One line for people: digests are shortened, what is empty is left out."""
    parts = [f"{name} {_value(value)}" for name, value in line.fields.items() if value not in (None, 0, "", [], {})]
    return f"{line.seq:>6} {line.time} {line.kind:<13} {', '.join(parts)}"


def _value(value: Any) -> str:
    if isinstance(value, str):
        return value[:16] if len(value) == 64 else value
    if isinstance(value, dict):
        return " ".join(f"{name}={_value(part)}" for name, part in value.items() if part not in (None, [], {}))
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
