"""`privet check`: the pre-flight as a whole, its document and its exit code."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from privet.client import check
from privet.client.ledger import Ledger, ledger_path
from privet.client.preflight.results import Status, Step, failed, verdict
from privet.client.preflight.step import Trial
from privet.common.cli import app
from privet.common.config import load_site
from tests.client.preflight.peers import closed_port
from tests.client.test_check import SECRET, _second, site

__all__ = ["site"]  # the fixture


def statuses(document: dict[str, Any], federation: str | None) -> dict[str, str]:
    return {one["step"]: one["status"] for one in document["steps"] if one["federation"] == federation}


def test_offline_nothing_of_the_network_is_tried(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "federation_steps", None)
    document, lines = check.check_site(site, None, (), offline=True)
    assert statuses(document, "tiny") == {"network": "skipped"}
    assert document["verdict"] == "passed"
    assert lines[-1].startswith("PASSED")
    site.chmod(0o600)
    assert check.check_site(site, None, (), offline=True)[1][-1].startswith("PASSED: ")


def test_every_federation_has_its_steps_in_the_files_order(site: Path, tmp_path: Path) -> None:
    _second(site, tmp_path)
    ports = [f'federation.{name}.address="127.0.0.1:{closed_port()}"' for name in ("tiny", "other")]
    document, lines = check.check_site(site, None, ports)
    told = [one["federation"] for one in document["steps"]]
    assert [name for name in dict.fromkeys(told) if name] == ["tiny", "other"]
    for name in ("tiny", "other"):
        assert statuses(document, name) == {
            "name": "passed",
            "connect": "failed",
            **dict.fromkeys(("TLS", "ALPN", "key", "clock"), "skipped"),
        }
    assert sum(line.startswith("FAILED   ") for line in lines) == 2
    assert lines[-1].startswith("FAILED: 2 failed") or ", 2 failed" in lines[-1]
    assert SECRET not in "\n".join(lines) + json.dumps(document)


def test_exit_codes(site: Path) -> None:
    address = f'federation.tiny.address="127.0.0.1:{closed_port()}"'
    reached = CliRunner().invoke(app, ["check", str(site), "--set", address, "--json"])
    assert reached.exit_code == 2
    document = json.loads(reached.stdout)
    assert document["verdict"] == "failed"
    assert all(set(one) == {"federation", "step", "status", "what", "mend", "numbers"} for one in document["steps"])
    assert CliRunner().invoke(app, ["check", str(site), "--set", address, "--offline"]).exit_code == 0


def test_a_ledger_that_is_no_ledger_fails_and_nothing_is_judged_by_it(site: Path, tmp_path: Path) -> None:
    path = ledger_path(load_site(site).data.id)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"not a ledger at all" * 100)
    document, _ = check.check_site(site, tmp_path / "server" / "invite.toml", (), offline=True, trial=False)
    assert statuses(document, None)["ledger"] == "failed"
    assert document["verdict"] == "failed"
    assert "plan" not in document
    assert document["data"]["records"] == 201


def test_the_trial_is_of_the_plan_and_leaves_the_ledger_alone(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = ledger_path(load_site(site).data.id)
    with Ledger.open(path) as ledger:
        before = ledger.head()
    tasks = []

    def tried(task: Any) -> tuple[Step, Trial]:
        tasks.append(task)
        return Step("one step", Status.PASSED, "quick."), Trial(1, 5, 1 << 60, 1, 4, 4)

    monkeypatch.setattr(check, "step_step", tried)
    plan = tmp_path / "server" / "invite.toml"
    document, _ = check.check_site(site, plan, (), offline=True)
    assert [task.expected_batch for task in tasks] == [64]
    assert statuses(document, None)["base"] == "passed"
    assert statuses(document, None)["memory"] == "failed"  # an exbibyte
    check.check_site(site, plan, ["policy.max_rounds=1"], offline=True)
    assert len(tasks) == 1  # a refused plan is not tried
    with Ledger.open(path) as ledger:
        assert ledger.head() == before
        assert not ledger.plans()


def test_likely_identifiers_are_in_the_report(site: Path, tmp_path: Path) -> None:
    notes = tmp_path / "notes.csv"
    notes.write_text(notes.read_text() + f"{SECRET}@example.org called,calm,p1\n")
    document, lines = check.check_site(site, None, (), offline=True)
    assert document["data"]["content"]["identifiers"] == {"e-mail addresses": 1}
    assert any("likely hold identifiers" in line for line in lines)
    assert SECRET not in "\n".join(lines) + json.dumps(document)


def test_the_verdict_counts_what_happened() -> None:
    def step(status: Status) -> Step:
        return Step("a", status, "b")

    assert verdict([step(Status.PASSED)] * 2) == "PASSED: 2 passed."
    assert verdict([step(Status.PASSED), step(Status.WARNING)]).startswith("PASSED with warnings: 1 passed, 1 warning")
    assert verdict([step(Status.SKIPPED), step(Status.FAILED)]).startswith("FAILED: 1 failed, 1 skipped.")
    assert failed([step(Status.FAILED)])
    assert not failed([step(Status.WARNING), step(Status.SKIPPED)])
