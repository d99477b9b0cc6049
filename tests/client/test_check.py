"""`privet check`: what the operator sees before anything connects."""

import csv
import functools
import json
from datetime import datetime, tzinfo
from pathlib import Path

import pytest
import tomli_w

from privet.client import check, software
from privet.client.enrolment import SiteAnswers, create_site
from privet.client.ledger import Ledger, ledger_path
from privet.client.policy import Admission, admit
from privet.client.twins import note
from privet.common.base import base_digest
from privet.common.config import Plan, load_federation, load_invite, load_site
from privet.common.errors import ConfigError, DataError, ModelError
from privet.server.enrolment import create_federation
from tests.tiny_models import tiny_base

SECRET = "zebrafish"
check_site = functools.partial(check.check_site, offline=True, trial=False)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A site with an invitation, made by the product's own means."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    base = tiny_base(tmp_path / "base")
    create_federation(
        tmp_path / "server",
        name="tiny",
        hosts=["localhost"],
        port=9092,
        base=str(base),
        sha256=base_digest(base),
        labels=["calm", "urgent"],
    )
    with (tmp_path / "notes.csv").open("w", newline="", encoding="utf-8") as file:
        rows = [(f"{SECRET} fever {n}", "calm" if n % 2 else "urgent", f"p{n // 2}") for n in range(200)]
        csv.writer(file).writerows([("text", "label", "patient"), *rows, (f"{SECRET}", "unheard", "p1")])
    answers = SiteAnswers(data=tmp_path / "notes.csv", text="text", label="label", unit="patient", units=100)
    made = create_site(tmp_path / "site", "north", load_invite(tmp_path / "server" / "invite.toml"), answers)
    return made.site


def test_the_data_is_told_in_counts_and_never_by_content(site: Path) -> None:
    document, lines = check_site(site, None, ())
    told = "\n".join(lines) + json.dumps(document)
    assert SECRET not in told
    assert "unheard" not in told
    assert document["data"]["records"] == 201
    assert document["data"]["units"] == 100
    assert document["federations"]["tiny"]["fingerprint"].startswith("SHA256:")


def test_with_the_invitation_the_price_is_shown(site: Path, tmp_path: Path) -> None:
    document, lines = check_site(site, tmp_path / "server" / "invite.toml", ())
    told = "\n".join(lines)
    assert document["plan"]["decision"] == "pending"
    assert 0 < document["plan"]["epsilon"] <= 8
    assert document["data"]["label_counts"] == {"calm": 100, "urgent": 100}
    assert (
        document["data"]["unknown_label"] == {"count": 1, "first": [202]}
        or document["data"]["unknown_label"]["count"] == 1
    )
    assert "privet approve" in told
    assert "What would leave" in told
    assert document["plan"]["update_bytes"] == 4 * 2 * (32 + 1)
    assert "264 bytes, once a round" in told
    assert SECRET not in told
    assert not (tmp_path / "state" / "privet" / "ledgers").exists()  # nothing is spent by looking


def test_a_federation_file_serves_as_well(site: Path, tmp_path: Path) -> None:
    document, _ = check_site(site, tmp_path / "server" / "federation.toml", ())
    assert document["plan"]["decision"] == "pending"


@pytest.mark.parametrize(
    ("assignment", "error", "words"),
    [
        ('data.text="nowhere"', DataError, "nowhere"),
        ('data.source="gone.csv"', DataError, "gone.csv"),
        ('data.encoding="klingon"', DataError, "klingon"),
        ('federation.tiny.key="gone.key"', ConfigError, "gone.key"),
        ('federation.tiny.ca="gone.crt"', ConfigError, "gone.crt"),
        ('federation.tiny.base="/no/such/base"', ModelError, "base"),
        ("budget.delta=0.005", ConfigError, "declared_units"),
    ],
)
def test_each_fault_is_told_with_its_mend(
    site: Path, tmp_path: Path, assignment: str, error: type[ConfigError], words: str
) -> None:
    with pytest.raises(error) as caught:
        check_site(site, tmp_path / "server" / "invite.toml", [assignment])
    assert words in str(caught.value)
    assert caught.value.mend


def test_a_plan_that_draws_more_than_there_are_is_refused_not_capped(site: Path, tmp_path: Path) -> None:
    document, _ = check_site(
        site, tmp_path / "server" / "invite.toml", ["budget.declared_units=50", "budget.delta=1e-5"]
    )
    assert document["plan"]["decision"] == "refused"
    assert document["plan"]["code"] == "refused_policy"


# Several federations


def _second(site: Path, tmp_path: Path, key: str | None = None) -> Path:
    """A second federation in the site's file, which leaves it half of the budget; returns its federation.toml."""
    create_federation(
        tmp_path / "other",
        name="other",
        hosts=["localhost"],
        port=9093,
        base=str(tmp_path / "base"),
        sha256=base_digest(tmp_path / "base"),
        labels=["calm", "urgent", "closed"],
    )
    answers = SiteAnswers(data=tmp_path / "notes.csv", text="text", label="label", unit="patient", units=100)
    made = create_site(tmp_path / "second", "north", load_invite(tmp_path / "other" / "invite.toml"), answers)
    text = site.read_text().replace("epsilon = 8.0", "epsilon = 4.0").replace("epsilon = 4.0", "epsilon = 8.0", 1)
    text = text.replace("delta = 1e-05", "delta = 5e-06").replace("delta = 5e-06", "delta = 1e-05", 1)
    member = {
        "address": "localhost:9093",
        "ca": str(made.ca),
        "key": key or str(made.key),
        "epsilon": 4.0,
        "delta": 5e-6,
    }
    site.write_text(text + tomli_w.dumps({"federation": {"other": member}}))
    return tmp_path / "other" / "federation.toml"


def test_every_federations_key_and_authority_are_looked_at(site: Path, tmp_path: Path) -> None:
    _second(site, tmp_path)
    document, lines = check_site(site, None, ())
    assert set(document["federations"]) == {"tiny", "other"}
    prints = {one["fingerprint"] for one in document["federations"].values()}
    assert len(prints) == 2
    assert not [line for line in lines if "one key" in line]
    for name in ("tiny", "other"):
        for file in ("ca", "key"):
            with pytest.raises(ConfigError, match="gone"):
                check_site(site, None, [f'federation.{name}.{file}="gone"'])


def test_one_key_for_two_federations_is_warned_of(site: Path, tmp_path: Path) -> None:
    _second(site, tmp_path, key=str(site.parent / "north.key"))
    _, lines = check_site(site, None, ())
    assert [line for line in lines if line.startswith("Warning: one key, SHA256:")]


def test_the_price_is_that_of_the_plans_own_federation(site: Path, tmp_path: Path) -> None:
    plan_file = _second(site, tmp_path)
    document, lines = check_site(site, plan_file, ["federation.other.epsilon=2.5"])
    assert document["plan"]["federation"] == "other"
    assert document["plan"]["epsilon"] == 2.5
    assert "'closed'" in "\n".join(lines)
    stranger = tmp_path / "stranger.toml"
    stranger.write_text(plan_file.read_text().replace('name = "other"', 'name = "stranger"'))
    refused, told = check_site(site, stranger, ())
    assert refused["plan"]["code"] == "refused_policy"
    assert any("no [federation.stranger] table" in line for line in told)


# What the ledger knows


def _approve(site_file: Path, plan: Plan) -> Admission:
    site = load_site(site_file)
    with Ledger.open(ledger_path(site.data.id)) as ledger:
        admission = admit(plan, site, ledger.committed(plan.name))
        ledger.record_plan(plan, admission, site)
        return ledger.approve(plan.digest, admission, site).admission


def test_an_approved_plan_is_told_as_it_was_approved(site: Path, tmp_path: Path) -> None:
    plan_file = tmp_path / "server" / "federation.toml"
    approved = _approve(site, load_federation(plan_file).plan)
    document, _ = check_site(site, plan_file, ())
    assert document["plan"]["decision"] == "approved"
    assert document["plan"]["epsilon"] == approved.epsilon == 8.0
    tightened, lines = check_site(site, plan_file, ["policy.max_rounds=1"])
    assert tightened["plan"]["decision"] == "refused"
    assert any("policy.max_rounds" in line for line in lines)


def test_a_changed_plan_is_shown_against_the_one_before(site: Path, tmp_path: Path) -> None:
    plan_file = tmp_path / "server" / "federation.toml"
    old = load_federation(plan_file).plan
    _approve(site, old)
    plan_file.write_text(plan_file.read_text().replace("rounds = 40", "rounds = 41", 1))
    document, lines = check_site(site, plan_file, ())
    assert any(old.digest[:16] in line for line in lines)
    assert "  training.rounds: 40 → 41" in lines
    assert "  unchanged otherwise" in lines
    assert document["plan"]["code"] == "refused_budget"  # the first one took it all


def test_another_ledger_of_the_same_data_is_warned_of(site: Path, tmp_path: Path) -> None:
    with Ledger.open(ledger_path("ab" * 16)):
        pass
    note(ledger_path("ab" * 16), tmp_path / "notes.csv", ["nothing of it"])
    for plan_file in (None, tmp_path / "server" / "invite.toml"):
        _, lines = check_site(site, plan_file, ())
        (warning,) = [line for line in lines if "another ledger" in line]
        assert "same file" in warning
        assert str(ledger_path("ab" * 16)) in warning
    own = load_site(site)
    note(ledger_path(own.data.id), tmp_path / "notes.csv", ["nothing of it"])
    note(ledger_path("ab" * 16), tmp_path / "elsewhere.csv", ["nothing of it"])
    assert not [line for line in check_site(site, None, ())[1] if "another ledger" in line]


def test_a_ledger_put_back_is_warned_of(site: Path, tmp_path: Path) -> None:
    plan_file = tmp_path / "server" / "federation.toml"
    _approve(site, load_federation(plan_file).plan)
    assert not [line for line in check_site(site, None, ())[1] if "charge-all" in line]
    ledger_path(load_site(site).data.id).with_suffix(".head").unlink()
    assert [line for line in check_site(site, None, ())[1] if line.startswith("Warning: ") and "--charge-all" in line]


# The page


def test_the_page_is_the_same_whatever_the_data(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds no count of the data: two files of quite other sizes and labels give one page."""
    import privet.client.check as module

    class _Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> "_Clock":
            return cls(2026, 1, 2, tzinfo=tz)

    here = software.installed()  # once: a source file may be edited while this runs
    monkeypatch.setattr(software, "installed", lambda: here)
    monkeypatch.setattr(module, "datetime", _Clock)
    plan_file, pages = tmp_path / "server" / "invite.toml", []
    for number in range(2):
        path = tmp_path / f"dpia{number}.html"
        document, lines = check_site(site, plan_file, (), page=path)
        assert document["report"] == str(path)
        assert any("signed before" in line for line in lines)
        pages.append(path.read_text())
        with (tmp_path / "notes.csv").open("w", encoding="utf-8") as file:
            file.write("text,label,patient\nanother,calm,p\n")
    assert pages[0] == pages[1]
    assert SECRET not in pages[0]
    assert document["plan"]["digest"] in pages[0]


def test_a_page_is_refused_before_anything_is_read(site: Path, tmp_path: Path) -> None:
    (tmp_path / "old.html").write_text("signed")
    (tmp_path / "notes.csv").unlink()
    with pytest.raises(ConfigError, match="--plan"):
        check_site(site, None, (), page=tmp_path / "new.html")
    with pytest.raises(ConfigError, match="nothing is overwritten"):
        check_site(site, tmp_path / "server" / "invite.toml", (), page=tmp_path / "old.html")
    with pytest.raises(DataError):
        check_site(site, tmp_path / "server" / "invite.toml", (), page=tmp_path / "new.html")
    assert not (tmp_path / "new.html").exists()
    assert (tmp_path / "old.html").read_text() == "signed"
