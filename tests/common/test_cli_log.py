"""`privet log`, and what the operator's commands write into a site's audit log."""

import json
from pathlib import Path

import pytest

from privet.client.audit import audit_path
from privet.client.ledger import Ledger, ledger_path
from privet.client.ledger.head import head_path
from privet.common.audit_log import AuditLogError, read
from privet.common.audit_log.entries import Approved, Charged, Refused
from privet.common.cli.ledger import approve, ledger
from privet.common.cli.log import log
from privet.common.config import load_site
from privet.common.errors import Code, InputError, RefusedError
from tests.common.test_audit_log import written
from tests.common.test_cli_ledger import arrived, site_file

__all__ = ["site_file"]


def own(site_file: Path) -> Path:
    return audit_path(ledger_path(load_site(site_file).data.id))


def test_an_approval_and_a_refusal_name_who_gave_the_command(site_file: Path) -> None:
    digests = arrived(site_file, 0, 1)
    approve(site_file, digests[0])
    approve(site_file, digests[0])  # changes nothing
    with pytest.raises(RefusedError):
        approve(site_file, digests[1], overrides=["policy.max_rounds=1"])
    entries = [line.entry() for line in read(own(site_file)).lines]
    assert [entry.kind for entry in entries] == ["begun", "approved", "refused"]
    first, refused = entries[1:]
    assert isinstance(first, Approved)
    assert (first.plan, first.by, bool(first.user)) == (digests[0], "operator", True)
    assert isinstance(refused, Refused)
    assert (refused.plan, refused.request, refused.code) == (digests[1], "approve", Code.REFUSED_POLICY)
    log(own(site_file), verify=True, ledger=site_file)


def test_a_charge_is_written(site_file: Path) -> None:
    approve(site_file, arrived(site_file, 0)[0])
    path = ledger_path(load_site(site_file).data.id)
    head_path(path).unlink()
    with Ledger.open(path):
        pass
    ledger(site_file, charge_all=True)
    ledger(site_file, charge_all=True)  # nothing is left to be charged
    charges = [entry for line in read(own(site_file)).lines if isinstance(entry := line.entry(), Charged)]
    assert len(charges) == 1
    assert charges[0].lost > 0


def test_lines_are_shown_and_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path)
    log(path)
    shown = capsys.readouterr().err.splitlines()
    assert len(shown) == 5
    assert "released" in shown[2]
    assert "round 2" in shown[2]
    log(path, kind="released", round=3, as_json=True)
    lines = json.loads(capsys.readouterr().out)["lines"]
    assert [line["seq"] for line in lines] == [4]
    with pytest.raises(InputError, match="--kind"):
        log(path, kind="sent")
    with pytest.raises(InputError, match="--verify"):
        log(path, head="0" * 64)


def test_verification_tells_the_head_and_fails_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path)
    log(path, verify=True, as_json=True)
    document = json.loads(capsys.readouterr().out)
    assert (document["lines"], document["head"], document["torn"]) == (5, read(path).head, [])
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]))  # cut short: only a head noted elsewhere tells
    log(path, verify=True)
    with pytest.raises(AuditLogError, match="cut off"):
        log(path, verify=True, head=document["head"])
    path.write_bytes(b"".join([*lines[:2], *lines[3:]]))
    with pytest.raises(AuditLogError, match="line 3 does not follow") as caught:
        log(path, verify=True)
    assert caught.value.exit_code == 1
    with path.open("wb") as file:
        file.write(b"".join(lines) + b'{"fields":{"ev')
    log(path, verify=True)
    assert "line 6: torn, 14 bytes" in capsys.readouterr().err
