"""`privet ledger` and `privet approve`, as plain functions on a site file."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from privet.client.ledger import Ledger, LedgerError, New, ledger_path
from privet.client.policy import admit
from privet.common.cli.ledger import approve, ledger
from privet.common.config import Site, load_site
from privet.common.errors import Code, InputError, RefusedError
from privet.common.privacy import calibration
from tests.client.ledger_cases import make_plan, make_site

BODY = hashlib.sha256(b"request").hexdigest()


@pytest.fixture
def site_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A site file on disk, ledgers under tmp_path, and a calibration that answers at once."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(calibration, "noise_multiplier", lambda **_: 1.25)
    raw: dict[str, Any] = make_site().model_dump(mode="json", exclude_none=True, exclude={"policy", "resources"})
    path = tmp_path / "site.toml"
    path.write_text(tomli_w.dumps(raw))
    return path


def arrived(site_file: Path, *seeds: int) -> list[str]:
    """Plans that the agent has written down; their digests."""
    site: Site = load_site(site_file)
    with Ledger.open(ledger_path(site.data.id)) as book:
        for seed in seeds:
            plan = make_plan(seed)
            book.record_plan(plan, admit(plan, site, book.committed(plan.name)), site)
    return [make_plan(seed).digest for seed in seeds]


def shown(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    captured = capsys.readouterr()
    assert captured.err == ""
    document: dict[str, Any] = json.loads(captured.out)
    return document


def test_without_a_ledger_nothing_is_made(site_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ledger(site_file, as_json=True)
    document = shown(capsys)
    assert document["spent"] == {"epsilon": 0.0, "delta": 1e-5, "events": 0}
    assert document["left"] == document["budget"] == {"epsilon": 8.0, "delta": 1e-5}
    with pytest.raises(InputError, match="no plan waits"):
        approve(site_file, "0" * 64)
    assert not Path(document["path"]).exists()


def test_approve_then_look(site_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (digest,) = arrived(site_file, 0)
    approve(site_file, digest[:8], as_json=True)
    document = shown(capsys)
    assert (document["digest"], document["state"], document["epsilon"]) == (digest, "approved", 3.0)
    with Ledger.open(Path(ledger_path(load_site(site_file).data.id)), agent=True) as book:
        first = book.reserve(digest, 1, "train", BODY)
        assert isinstance(first, New)
        book.store(first.event_id, b"reply")
        book.reserve(digest, 2, "train", BODY)
        ledger(site_file, as_json=True)  # beside a running agent
    document = shown(capsys)
    assert document["reserved"] == {"epsilon": 3.0, "delta": 5e-6}
    assert document["left"] == {"epsilon": 5.0, "delta": 5e-6}
    assert document["spent"]["events"] == 2
    assert 0 < document["spent"]["epsilon"] < 3
    assert [(event["round"], event["state"]) for event in document["events"]] == [(1, "stored"), (2, "reserved")]
    assert document["plans"][0]["event"]["noise_multiplier"] == 1.25
    ledger(site_file)
    captured = capsys.readouterr()
    assert captured.out == ""
    for words in ("reserved  epsilon 3", "left      epsilon 5", "approved: 2 of 4 rounds", f"request {BODY[:16]}"):
        assert words in captured.err


def test_approving_twice_reserves_once(site_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (digest,) = arrived(site_file, 0)
    approve(site_file, digest)
    assert "approved" in capsys.readouterr().err
    approve(site_file, digest)
    capsys.readouterr()
    ledger(site_file, as_json=True)
    assert shown(capsys)["reserved"]["epsilon"] == 3.0


def test_a_refused_plan_passes_once_the_operator_mends_the_file(
    site_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = arrived(site_file, 0, 1)
    approve(site_file, first)
    with pytest.raises(RefusedError) as caught:
        approve(site_file, second)
    assert caught.value.code is Code.REFUSED_BUDGET
    assert caught.value.exit_code == 3
    capsys.readouterr()
    ledger(site_file, as_json=True)
    assert [plan["state"] for plan in shown(capsys)["plans"]].count("refused") == 1
    approve(site_file, second, overrides=["federation.wards.epsilon=8.0", "federation.wards.delta=1e-5"])
    capsys.readouterr()
    ledger(site_file, as_json=True)
    reserved = shown(capsys)["reserved"]
    assert reserved["epsilon"] == pytest.approx(8.0)
    assert reserved["epsilon"] <= 8.0


def test_unknown_and_short_digests(site_file: Path) -> None:
    (digest,) = arrived(site_file, 0)
    with pytest.raises(InputError, match="no plan starts with"):
        approve(site_file, "0" * 8)
    with pytest.raises(InputError, match="8 to 64 hex digits"):
        approve(site_file, digest[:7])


def _restored(site_file: Path) -> str:
    """A ledger that was put back alone to where its first round had run; the plan's digest."""
    (digest,) = arrived(site_file, 0)
    approve(site_file, digest)
    path = ledger_path(load_site(site_file).data.id)
    with Ledger.open(path, agent=True) as book:
        first = book.reserve(digest, 1, "train", BODY)
        assert isinstance(first, New)
        book.store(first.event_id, b"reply")
    older = path.read_bytes()
    with Ledger.open(path, agent=True) as book:
        book.reserve(digest, 2, "train", BODY)
    path.write_bytes(older)
    return digest


def test_a_restored_ledger_is_told_and_charged(site_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digest = _restored(site_file)
    capsys.readouterr()
    ledger(site_file)
    assert "BEHIND    The head file holds entry 5" in capsys.readouterr().err
    with pytest.raises(LedgerError, match="charge-all") as failed:
        ledger(site_file, verify=True)
    assert failed.value.exit_code == 1
    arrived(site_file, 1)
    with pytest.raises(RefusedError) as caught:
        approve(
            site_file, make_plan(1).digest, overrides=["federation.wards.epsilon=8.0", "federation.wards.delta=1e-5"]
        )
    assert caught.value.code is Code.LEDGER_BEHIND
    capsys.readouterr()
    ledger(site_file, charge_all=True)
    said = capsys.readouterr().err
    assert "closed    3 rounds" in said
    assert "Warning" not in said
    ledger(site_file, as_json=True)
    document = shown(capsys)
    assert (document["behind"], document["lost"], document["spent"]["events"]) == ([], 3, 4)
    assert document["charged"] == {"epsilon": 0.0, "delta": 0.0}
    assert document["plans"][0]["lost"] + document["plans"][1]["lost"] == 3
    ledger(site_file)
    assert f"plan {digest[:16]} wards approved: 1 of 4 rounds, 3 lost" in capsys.readouterr().err
    ledger(site_file, verify=True)
    assert "verified" in capsys.readouterr().err
    ledger(site_file, charge_all=True, as_json=True)
    assert shown(capsys)["charged"] is None


def test_a_charge_without_a_head_file_warns(site_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (digest,) = arrived(site_file, 0)
    approve(site_file, digest)
    ledger_path(load_site(site_file).data.id).with_suffix(".head").unlink()
    capsys.readouterr()
    ledger(site_file, charge_all=True)
    assert "Warning: Without the head file" in capsys.readouterr().err


def test_a_ledger_that_is_gone_is_not_a_new_one(site_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (digest,) = arrived(site_file, 0)
    approve(site_file, digest)
    for file in ledger_path(load_site(site_file).data.id).parent.glob("*.sqlite*"):
        file.unlink()
    capsys.readouterr()
    ledger(site_file, as_json=True)
    document = shown(capsys)
    assert [evidence["source"] for evidence in document["behind"]] == ["file"]
    assert document["behind"][0]["charge"]["epsilon"] == pytest.approx(3.0)


def test_what_was_sent_is_exported(site_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digest = _restored(site_file)
    capsys.readouterr()
    ledger(site_file, export=tmp_path / "out", as_json=True)
    assert shown(capsys)["replies"] == 1
    assert (tmp_path / "out" / f"{digest[:16]}-train-1.safetensors").read_bytes() == b"reply"
    with pytest.raises(InputError, match="at most one"):
        ledger(site_file, verify=True, charge_all=True)
