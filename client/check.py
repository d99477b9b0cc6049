"""`privet check`: what an operator runs before anything connects. For this machine's screen only.

Data, files and the plan's price; then the pre-flight, step by step: the way to each federation's server, this machine,
one synthetic step of the plan. Nothing is trained, reserved or spent.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from privet.client import report, twins
from privet.client.data import load_records
from privet.client.describe import describe
from privet.client.ledger import Ledger, ledger_path
from privet.client.ledger.evidence import MEND
from privet.client.ledger.head import is_there
from privet.client.ledger.rows import allow_kept
from privet.client.policy import Admission, Committed, admit, recheck
from privet.client.preflight import machine
from privet.client.preflight.content import look
from privet.client.preflight.federation import federation_steps, offline_steps
from privet.client.preflight.results import Status, Step, failed, verdict
from privet.client.preflight.step import Task, step_step, task_of
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
    file: Path,
    plan_file: Path | None,
    assignments: Sequence[str],
    *,
    page: Path | None = None,
    offline: bool = False,
    trial: bool = True,
) -> tuple[dict[str, Any], list[str]]:
    """A JSON document and the same in lines. document["verdict"] is "failed" where a step failed, else "passed".

    plan_file: a federation.toml or an invite.toml.
    page: where to write dpia.html, the page to be signed before training; needs `plan_file`.
    offline: whether to leave the network alone. trial: whether to run the plan's synthetic step.

    Raises: ConfigError, DataError, ModelError: what stops the client before it could connect.
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
    ledger = machine.ledger_step(path)
    sound = ledger.status is not Status.FAILED
    lines += _behind(path) if sound else []

    records = load_records(site, None if plan is None else plan.task)
    lines += twins.warnings(path, site.data.origin, records.texts) if sound else []
    content = look(records.texts, records.units, records.local_labels)
    base, size, task = None, None, None
    if plan is None:
        lines += report.lines(records.report, site, content=content)
        document["data"] = report.to_json(records.report, content=content)
        lines.append(
            "With --plan FILE (the invite.toml or federation.toml) the labels, lengths and the price are shown."
        )
    else:
        own = site.federation.get(plan.name)
        base = checked_base((own.base if own else None) or plan.model.base, plan.model.sha256)
        lines.append(f"Base model: {base}, digest as in the plan.")
        lengths, buckets = _token_lengths(base, records.texts), plan.task.buckets
        lines += report.lines(records.report, site, token_lengths=lengths, buckets=buckets, content=content)
        document["data"] = report.to_json(records.report, token_lengths=lengths, buckets=buckets, content=content)
        size = update_bytes(plan, base)
    if plan is not None and base is not None and sound:
        judged = judge(plan, site, path)
        lines += describe(plan, judged.admission, site, update_bytes=size, known=judged.known)
        document["plan"] = _to_json(plan, judged.admission) | {"update_bytes": size}
        if judged.admission.decision != "refused":
            task = task_of(plan, site, base)
        if page is not None:
            _write_page(page, plan, site, judged, size)
            document["report"] = str(page)
            lines.append(
                f"Wrote {page}: to be read and signed before the plan is approved. It holds no count of the data."
            )
    steps = _network(site, offline=offline)
    steps += _machine(file, site, path, plan, base, size, task if trial else None, ledger)
    document["steps"] = [step.to_json() for step in steps]
    document["verdict"] = "failed" if failed(steps) else "passed"
    return document, [*lines, *map(str, steps), verdict(steps)]


def _network(site: Site, *, offline: bool) -> list[Step]:
    """The way to each federation's server, in the order of the site's file."""
    steps: list[Step] = []
    for name, membership in site.federation.items():
        if offline:
            steps += offline_steps(name)
        else:
            steps += federation_steps(name, membership, membership.ca.read_bytes(), load_site_key(membership.key))
    return steps


def _machine(
    file: Path,
    site: Site,
    path: Path,
    plan: Plan | None,
    base: Path | None,
    size: int | None,
    task: Task | None,
    ledger: Step,
) -> list[Step]:
    """This machine against what the plan needs; task: the trial to run, None where there is none."""
    steps = [machine.modes_step(file, site), ledger, machine.ledger_folder_step(path)]
    steps += [
        machine.disk_step(path, plan, size),
        machine.temporary_step(),
        machine.threads_step(site.resources.threads),
        machine.gradients_step(site, plan, base),
    ]
    if base is None:
        steps.append(Step("base", Status.SKIPPED, "which one, a plan says: give --plan FILE."))
    else:
        steps.append(Step("base", Status.PASSED, f"{base}, digest as in the plan."))
    if task is None:
        why = "it takes a plan: give --plan FILE." if plan is None else "the plan would not be trained here as it is."
        return [*steps, Step("one step", Status.SKIPPED, why), machine.memory_step(None)]
    step, trial = step_step(task)
    return [*steps, step, machine.memory_step(trial.peak_bytes if trial else None)]


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
        allow_kept(site.data, row)
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
        "horizon": admission.training_rounds,
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
