"""`privet check`: data, files and the plan's price, before anything connects. For this machine's screen only."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from privet.client import report
from privet.client.data import load_records
from privet.client.ledger import Ledger, ledger_path
from privet.client.policy import Committed, admit, describe
from privet.common.base import checked_base
from privet.common.config import Plan, load_federation, load_invite, load_site
from privet.common.errors import ConfigError
from privet.common.keys import fingerprint, load_site_key


def check_site(file: Path, plan_file: Path | None, assignments: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """A JSON document and the same in lines. plan_file: a federation.toml or an invite.toml.

    Raises: ConfigError, DataError, ModelError: the first thing that would stop the client.
    """
    site = load_site(file, assignments)
    plan = None if plan_file is None else _plan(plan_file)
    document: dict[str, Any] = {"site": site.name}
    lines = [f"{file}: understood."]

    membership = site.membership
    key = load_site_key(membership.key)
    document["fingerprint"] = fingerprint(key)
    lines.append(f"{membership.key}: a good key, {document['fingerprint']}.")
    lines.append(f"{membership.ca}: {_authority(membership.ca)}.")

    path = ledger_path(site.data.id)
    document["ledger"] = str(path)
    lines.append(f"Ledger: {path}" + ("." if path.exists() else " (made by the first `privet client`)."))

    if plan is None:
        records = load_records(site, None)
        lines += report.lines(records.report, site)
        document["data"] = report.to_json(records.report)
        lines.append(
            "With --plan FILE (the invite.toml or federation.toml) the labels, lengths and the price are shown."
        )
        return document, lines

    records = load_records(site, plan.task.labels)
    own = site.federation.get(plan.name)
    folder = checked_base((own.base if own else None) or plan.model.base, plan.model.sha256)
    lines.append(f"Base model: {folder}, digest as in the plan.")
    lengths = _token_lengths(folder, records.texts)
    lines += report.lines(records.report, site, token_lengths=lengths, buckets=plan.task.buckets)
    document["data"] = report.to_json(records.report, token_lengths=lengths, buckets=plan.task.buckets)
    admission = admit(plan, site, _committed(path, plan.name))
    lines += describe(plan, admission, site, _update_bytes(plan, folder))
    document["plan"] = {
        "digest": plan.digest,
        "decision": admission.decision,
        "code": str(admission.code),
        "reason": admission.reason,
        "epsilon": admission.epsilon,
        "delta": admission.delta,
        "noise_multiplier": admission.event.noise_multiplier if admission.event else None,
        "sample_rate": admission.event.sample_rate if admission.event else None,
    }
    return document, lines


def _plan(path: Path) -> Plan:
    """From a federation.toml, or from the invitation that a site has."""
    try:
        return load_invite(path).plan
    except ConfigError as not_an_invitation:
        try:
            return load_federation(path).plan
        except ConfigError as error:
            raise (not_an_invitation if path.name.startswith("invite") else error) from None


def _authority(path: Path) -> str:
    """Words on the CA certificate.

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
    return f"a certificate, valid until {certificate.not_valid_after_utc:%Y-%m-%d}"


def _committed(path: Path, federation: str) -> Committed:
    if not path.exists():
        return Committed(epsilon=0.0, delta=0.0, federation_epsilon=0.0, federation_delta=0.0, unit=None)
    with Ledger.open(path) as ledger:
        return ledger.committed(federation)


def _token_lengths(folder: Path, texts: Sequence[str]) -> Any:
    import numpy as np

    from privet.common.model import load_tokenizer

    tokenizer = load_tokenizer(folder)
    encoded = tokenizer(list(texts), truncation=False, verbose=False)["input_ids"] if texts else []
    return np.array([len(row) for row in encoded], np.int64)


def _update_bytes(plan: Plan, folder: Path) -> int:
    """Bytes of one update's arrays."""
    from privet.common.methods import method_for
    from privet.common.model import build_classifier

    spec = build_classifier(plan, folder).spec
    return 4 * method_for(plan).trainable(spec, 1).size
