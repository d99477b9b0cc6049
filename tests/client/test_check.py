"""`privet check`: what the operator sees before anything connects."""

import csv
import json
from pathlib import Path

import pytest

from privet.client.check import check_site
from privet.client.enrolment import SiteAnswers, create_site
from privet.common.base import base_digest
from privet.common.config import load_invite
from privet.common.errors import ConfigError, DataError, ModelError
from privet.server.enrolment import create_federation
from tests.tiny_models import tiny_base

SECRET = "zebrafish"


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
    assert document["fingerprint"].startswith("SHA256:")


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
