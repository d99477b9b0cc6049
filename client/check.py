"""`privet check`: data, files and the plan's price, before anything connects. For this machine's screen only."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from privet.client import report, twins
from privet.client.data import load_records
from privet.client.describe import describe
from privet.client.head import is_there
from privet.client.ledger import Ledger, ledger_path
from privet.client.ledger_evidence import MEND
from privet.client.policy import Admission, Committed, admit, recheck
from privet.client.update_size import update_bytes
from privet.common.base import checked_base
from privet.common.config import Plan, Site, load_federation, load_invite, load_site
from privet.common.errors import ConfigError, RefusedError
from privet.common.keys import fingerprint, load_site_key


@dataclass(frozen=True)
class Judged:
    """A plan as this site's ledger and file judge it now."""

    admission: Admission
    committed: Committed
    reserved: bool  # approved, and in the sums already
    known: Plan | None  # an earlier plan of its federation


_TEXTS_AT_ONCE = 1_000
_MAX_CHARACTERS = 1 << 17  # of a text, where its tokens are counted: more than any plan reads


def check_site(
    file: Path, plan_file: Path | None, assignments: Sequence[str], *, page: Path | None = None
) -> tuple[dict[str, Any], list[str]]:
    """A JSON document and the same in lines.

    plan_file: a federation.toml or an invite.toml.
    page: where to write dpia.html, the page to be signed before training; needs `plan_file`.

    Raises: ConfigError, DataError, ModelError, LedgerError: the first thing that would stop the client.
    """
    if page is not None:
        _refuse_page(page, plan_file)
    site = load_site(file, assignments)
    plan = None if plan_file is None else _plan(plan_file)
    document: dict[str, Any] = {"site": site.name}
    lines = [f"{file}: understood."]
    document["federations"] = _federations(site, lines)

    path = ledger_path(site.data.id)
    document["ledger"] = str(path)
    lines.append(f"Ledger: {path}" + ("." if is_there(path) else " (made by the first `privet client`)."))
    lines += _behind(path)

    if plan is None:
        records = load_records(site, None)
        lines += twins.warnings(path, site.data.source, records.texts)
        lines += report.lines(records.report, site)
        document["data"] = report.to_json(records.report)
        lines.append(
            "With --plan FILE (the invite.toml or federation.toml) the labels, lengths and the price are shown."
        )
        return document, lines

    records = load_records(site, plan.task.labels)
    lines += twins.warnings(path, site.data.source, records.texts)
    own = site.federation.get(plan.name)
    folder = checked_base((own.base if own else None) or plan.model.base, plan.model.sha256)
    lines.append(f"Base model: {folder}, digest as in the plan.")
    lengths = _token_lengths(folder, records.texts)
    lines += report.lines(records.report, site, token_lengths=lengths, buckets=plan.task.buckets)
    document["data"] = report.to_json(records.report, token_lengths=lengths, buckets=plan.task.buckets)
    judged, size = judge(plan, site, path), update_bytes(plan, folder)
    lines += describe(plan, judged.admission, site, update_bytes=size, known=judged.known)
    document["plan"] = _to_json(plan, judged.admission) | {"update_bytes": size}
    if page is not None:
        _write_page(page, plan, site, judged, size)
        document["report"] = str(page)
        lines.append(f"Wrote {page}: to be read and signed before the plan is approved. It holds no count of the data.")
    return document, lines


def judge(plan: Plan, site: Site, path: Path) -> Judged:
    """What an agent with the ledger at `path` (or with none yet) would answer to the plan; neither is stored.

    Raises: LedgerError.
    """
    if not is_there(path):
        nothing = Committed(epsilon=0.0, delta=0.0, federation_epsilon=0.0, federation_delta=0.0, unit=None)
        return Judged(admit(plan, site, nothing), nothing, False, None)
    with Ledger.open(path) as ledger:
        committed, row, known = ledger.committed(plan.name), ledger.plan(plan.digest), ledger.latest(plan)
    if row is None or row.admission.decision != "approved":
        return Judged(admit(plan, site, committed), committed, False, known)
    admission = row.admission
    try:
        recheck(plan, admission, site, committed)
    except RefusedError as refusal:  # the file was tightened since: nothing runs, and what was reserved stays reserved
        admission = replace(
            admission, decision="refused", code=refusal.code, reason=str(refusal), event=None, evaluation=None
        )
    return Judged(admission, committed, True, known)


def _federations(site: Site, lines: list[str]) -> dict[str, dict[str, str]]:
    """Key and CA of each federation, told in `lines`.

    Raises: ConfigError.
    """
    found = {}
    for name, membership in site.federation.items():
        key, until = fingerprint(load_site_key(membership.key)), _valid_until(membership.ca)
        lines.append(f"Federation {name}: {membership.key}: a good key, {key}.")
        lines.append(f"Federation {name}: {membership.ca}: a certificate, valid until {until}.")
        found[name] = {"fingerprint": key, "ca_valid_until": until}
    shared = [key for key, number in Counter(one["fingerprint"] for one in found.values()).items() if number > 1]
    if shared:
        lines.append(
            f"Warning: one key, {shared[0]}, serves several federations. Use one for each: a server could replay what "
            "it signed at another."
        )
    return found


def _behind(path: Path) -> list[str]:
    """What to do where the ledger was put back to an older copy. Raises: LedgerError."""
    if not is_there(path):
        return []
    with Ledger.open(path) as ledger:
        return [
            f"Warning: {evidence} Nothing is approved or trained before it is charged: {MEND}"
            for evidence in ledger.behind()
        ]


def _refuse_page(page: Path, plan_file: Path | None) -> None:
    from privet.client.dpia import refuse_existing

    if plan_file is None:
        raise ConfigError(
            "a report is about one plan.", where="--report", mend="name it: --plan invite.toml or federation.toml."
        )
    refuse_existing(page)


def _write_page(path: Path, plan: Plan, site: Site, judged: Judged, size: int | None) -> None:
    from privet.client.dpia import page, write_page
    from privet.client.software import installed

    text = page(
        plan,
        judged.admission,
        site,
        committed=judged.committed,
        reserved=judged.reserved,
        known=judged.known,
        update_bytes=size,
        base_found=True,
        software=installed(),
        made_at=datetime.now(UTC),
    )
    write_page(path, text)


def _to_json(plan: Plan, admission: Admission) -> dict[str, Any]:
    event, evaluation = admission.event, admission.evaluation
    return {
        "digest": plan.digest,
        "federation": plan.name,
        "decision": admission.decision,
        "code": str(admission.code),
        "reason": admission.reason,
        "horizon": admission.horizon,
        "epsilon": admission.epsilon,
        "delta": admission.delta,
        "noise_multiplier": event.noise_multiplier if event else None,
        "sample_rate": event.sample_rate if event else None,
        "evaluation": {
            "release": evaluation.release,
            "number": admission.num_evaluations,
            "noise_multiplier": evaluation.noise_multiplier,
        }
        if evaluation
        else None,
    }


def _plan(path: Path) -> Plan:
    """From a federation.toml, or from the invitation that a site has."""
    try:
        return load_invite(path).plan
    except ConfigError as not_an_invitation:
        try:
            return load_federation(path).plan
        except ConfigError as error:
            raise (not_an_invitation if path.name.startswith("invite") else error) from None


def _valid_until(path: Path) -> str:
    """The day on which the CA certificate ends.

    Raises: ConfigError.
    """
    from cryptography import x509

    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError):
        raise ConfigError(
            "not a readable certificate.", where=str(path), mend="take the ca.crt that `privet init site` wrote."
        ) from None
    if certificate.not_valid_after_utc < datetime.now(UTC):
        raise ConfigError("the certificate has expired.", where=str(path), mend="ask for a new invitation.")
    return f"{certificate.not_valid_after_utc:%Y-%m-%d}"


def _token_lengths(folder: Path, texts: Sequence[str]) -> Any:
    import numpy as np

    from privet.common.model import load_tokenizer

    tokenizer = load_tokenizer(folder)
    lengths: list[int] = []
    for start in range(0, len(texts), _TEXTS_AT_ONCE):
        part = [text[:_MAX_CHARACTERS] for text in texts[start : start + _TEXTS_AT_ONCE]]
        lengths += [len(row) for row in tokenizer(part, truncation=False, verbose=False)["input_ids"]]
    return np.array(lengths, np.int64)
