"""The page to be signed before training: complete, self-contained, and without one number of the data."""

import hashlib
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from privet.client.dpia import RISKS, page, refuse_existing, write_page
from privet.client.flows import flows
from privet.client.policy import Admission, Committed, admit
from privet.client.software import ROOMS, Package, Software, installed, sources_digest
from privet.common.config import Plan, Site
from privet.common.errors import ConfigError
from privet.common.privacy import calibration
from tests.client.approval_cases import edit, evaluating_plan, several
from tests.client.ledger_cases import NOTHING, make_plan, make_site

SOFTWARE = Software(
    "CPython 3.11.0", "Linux x86_64", (Package("torch", "9.8.7", "c0" * 32), Package("odd", "1", "")), "d0" * 32
)
ALL = {"release": ["update", "accuracy", "per_class", "confusion"]}


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    """One noise multiplier for every plan: the page is not about how it is found."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration, "noise_multiplier", lambda **_: 1.5)
        yield


def _page(plan: Plan, site: Site, admission: Admission | None = None, **changes: Any) -> str:
    values: dict[str, Any] = {
        "committed": NOTHING, "reserved": False, "known": None, "update_bytes": 12_345, "base_found": True,
        "software": SOFTWARE, "made_at": datetime(2026, 1, 2, 3, 4, tzinfo=UTC),
    }  # fmt: skip
    return page(plan, admission or admit(plan, site, NOTHING), site, **values | changes)


class _Text(HTMLParser):
    """What a reader sees, and what a browser would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action", "data")]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def _seen(text: str) -> str:
    return " ".join(" ".join(_Text(text).words).split())


@pytest.fixture(scope="module")
def evaluated() -> tuple[Plan, Site, Admission]:
    plan, site = evaluating_plan("confusion"), make_site(member=ALL | {"declared_weight": 7.5})
    return plan, site, admit(plan, site, NOTHING)


def test_the_page_holds_what_is_signed(evaluated: tuple[Plan, Site, Admission]) -> None:
    plan, site, admission = evaluated
    seen = _seen(_page(plan, site, admission))
    assert admission.event is not None
    assert admission.evaluation is not None
    for words in (
        "north", "wards", "localhost:9092", plan.digest, plan.model.sha256, "2026-01-02 03:04", "12,345 bytes",
        "16 bytes", "waits for approval", "by the closed form of the last layer, all in float32",
        f"{admission.event.noise_multiplier:g}", "epsilon = ", "ε, replace",
        "advantage", "hits at 1 % false alarms", "torch 9.8.7", "c0" * 32, "d0" * 32, "has none", SOFTWARE.environment,
        "CPython 3.11.0", "signature", "Data-protection officer", "predicted standard errors", "7.5",
        f"{admission.evaluation.noise_multiplier:g}", "This site's ledger knows no earlier plan",
        *(title for title, _ in RISKS),
    ):  # fmt: skip
        assert words in seen, words
    for flow in flows(plan, admission, site, update_bytes=12_345):
        for words in (flow.name, flow.content, flow.size, flow.often):
            assert words in seen, words


def test_the_page_loads_nothing_and_runs_nothing(evaluated: tuple[Plan, Site, Admission]) -> None:
    text = _page(*evaluated)
    parsed = _Text(text)
    assert not {"script", "img", "iframe", "object", "embed", "form", "base"} & set(parsed.tags)
    assert parsed.links == ["data:,"]
    assert not re.search(r"url\(|@import|https?://|javascript:", text)
    assert "default-src 'none'" in text


def test_the_statement_is_word_for_word(evaluated: tuple[Plan, Site, Admission]) -> None:
    from privet.client.policy import statement_for

    plan, site, admission = evaluated
    seen = _seen(_page(plan, site, admission))
    statement = statement_for(admission, site, plan)
    for sentence in statement.in_words():
        assert " ".join(sentence.split()) in seen
    assert statement.epsilon is not None
    assert statement.epsilon_replace is not None
    assert statement.epsilon_replace > statement.epsilon
    for value in (statement.epsilon, statement.epsilon_replace):
        assert any(
            float(shown) - value >= 0 for shown in re.findall(r"\d+\.\d{3}", seen) if abs(float(shown) - value) < 1e-3
        )


@pytest.mark.parametrize("kind", ["multilabel", "tokens"])
def test_counts_of_codes_and_entities_are_stated_as_such(kind: str) -> None:
    plain = evaluating_plan("per_class")
    plan = edit(plain, task={"kind": kind}, model={"pooling": "none" if kind == "tokens" else plain.model.pooling})
    site = make_site(member=ALL)
    seen = _seen(_page(plan, site, admit(plan, site, NOTHING)))
    assert "rightly and how many wrongly" not in seen
    counted = {"multilabel": "for each label, how often it was rightly said", "tokens": "for each type, how many"}
    assert seen.count(counted[kind]) == 3  # what is asked, what leaves, what is stated


def test_the_budget_before_and_after() -> None:
    site = several({"wards": (3.0, 4e-6), "labs": (5.0, 6e-6)})
    held = Committed(epsilon=3.5, delta=3e-6, federation_epsilon=1.0, federation_delta=1e-6, unit="unit")
    plan = make_plan()
    seen = _seen(_page(plan, site, admit(plan, site, held), committed=held))
    assert "this data set, over its life ε 3.5 δ 3e-06 ε 5.5 δ 6e-06 ε 8 δ 1e-05" in seen
    assert "of it, federation wards ε 1 δ 1e-06 ε 3 δ 4e-06 ε 3 δ 4e-06" in seen
    approved = replace(admit(plan, site, NOTHING), decision="approved")
    after = Committed(epsilon=5.5, delta=6e-6, federation_epsilon=3.0, federation_delta=4e-6, unit="unit")
    again = _seen(_page(plan, site, approved, committed=after, reserved=True))
    assert "this data set, over its life ε 2.5 δ 2e-06 ε 5.5 δ 6e-06 ε 8 δ 1e-05" in again
    assert "One key in two federations" in again


def test_a_refused_plan_has_a_page_too() -> None:
    plan, site = make_plan(), make_site(policy={"max_rounds": 2})
    seen = _seen(_page(plan, site))
    assert "This site refuses the plan." in seen
    assert "policy.max_rounds = 2" in seen
    assert "Nothing of the data: the plan is refused." in seen
    assert "12,345" not in seen
    assert _page(plan, make_site(name="branches"))  # not even a table for it


def test_a_changed_plan_is_shown_as_a_diff() -> None:
    old = make_plan()
    new = edit(old, training={"rounds": 5})
    seen = _seen(_page(new, make_site(), known=old))
    assert "training.rounds: 3 → 5" in seen
    assert "unchanged otherwise" in seen
    assert old.digest[:16] in seen
    assert "Against plan" not in _seen(_page(old, make_site(), known=old))


def test_record_mode_is_told() -> None:
    plan, site = make_plan(), make_site(unit="record")
    raw = site.model_dump()
    raw["data"] |= {"person": "patient", "max_per_person": 3}
    for one, words in ((site, "single records"), (Site.model_validate(raw), "at most 3 records each")):
        seen = _seen(_page(plan, one))
        assert words in seen
        assert "Record mode." in seen
    assert "Record mode." not in _seen(_page(plan, make_site()))


def test_hostile_words_stay_words() -> None:
    evil = "<script>alert(1)</script>\u202e\x1b[2J\"'&"
    plan = edit(make_plan(), task={"labels": [evil, "calm"]}, model={"base": evil})
    text = _page(plan, make_site(), known=make_plan())
    assert "<script" not in text
    assert "\u202e" not in text
    assert "\x1b" not in text
    assert "script" not in _Text(text).tags


def test_a_page_takes_no_place_of_another(tmp_path: Path) -> None:
    path = tmp_path / "dpia.html"
    write_page(path, "one")
    assert path.read_text() == "one"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    with pytest.raises(ConfigError, match="nothing is overwritten"):
        write_page(path, "two")
    with pytest.raises(ConfigError, match="nothing is overwritten"):
        refuse_existing(path)
    assert path.read_text() == "one"
    assert [entry.name for entry in tmp_path.iterdir()] == ["dpia.html"]
    with pytest.raises(ConfigError, match="folder"):
        refuse_existing(tmp_path / "no" / "dpia.html")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="nothing is overwritten"):
        refuse_existing(tmp_path / "link")


def test_a_page_that_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from privet.common import starter

    def fail(_path: Path, _content: bytes) -> None:
        raise ConfigError("cannot be written (No space left on device).")

    monkeypatch.setattr(starter, "replace_file", fail)
    with pytest.raises(ConfigError, match="No space"):
        write_page(tmp_path / "dpia.html", "one")
    assert list(tmp_path.iterdir()) == []


# Software


def test_the_software_is_that_of_this_environment() -> None:
    from importlib.metadata import version

    found = installed()
    by_name = {package.name: package for package in found.packages}
    assert by_name["torch"].version == version("torch")
    assert re.fullmatch("[0-9a-f]{64}", by_name["torch"].sha256)
    assert [package.name for package in found.packages] == sorted(by_name)
    assert "dp-accounting" in by_name  # however its maker writes it
    other = replace(found, packages=(replace(found.packages[0], sha256="0" * 64), *found.packages[1:]))
    assert other.environment != found.environment
    assert re.fullmatch("[0-9a-f]{64}", found.sources)
    from importlib.metadata import distribution

    record = next(file for file in distribution("torch").files or () if file.name == "RECORD")
    assert by_name["torch"].sha256 == hashlib.sha256(Path(str(record.locate())).read_bytes()).hexdigest()


def test_a_package_with_a_method_of_its_own_is_told_as_such() -> None:
    package = Package("privet-fedprox", "0.1.0", "a1" * 32, ("fedprox",))
    text = _page(make_plan(), make_site(), software=replace(SOFTWARE, packages=(*SOFTWARE.packages, package)))
    assert "privet-fedprox (provides the method fedprox)" in text
    assert "torch (provides" not in text


def test_the_sources_digest_is_of_every_file(tmp_path: Path) -> None:
    room = tmp_path / "client"
    (room / "templates").mkdir(parents=True)
    (room / "a.py").write_text("one")
    (room / "templates" / "b.j2").write_text("two")
    first = sources_digest([("client", room)])
    listing = "".join(
        f"{hashlib.sha256(text).hexdigest()}  client/{name}\n"
        for name, text in (("a.py", b"one"), ("templates/b.j2", b"two"))
    )
    assert first == hashlib.sha256(listing.encode()).hexdigest()
    (room / "__pycache__").mkdir()
    (room / "__pycache__" / "a.pyc").write_bytes(b"x")
    assert sources_digest([("client", room)]) == first
    (room / "templates" / "b.j2").write_text("three")
    assert sources_digest([("client", room)]) != first
    assert set(ROOMS) >= {"client", "common", "server"}


def test_the_command_line_stays_light() -> None:
    code = "import privet.common.cli.run, sys; sys.exit('torch' in sys.modules or 'jinja2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
