"""The two files: what is refused and how it is told, and the digest that names a plan."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from pydantic import ValidationError

from privet.common.config import Federation, Plan, Site, load_federation, load_site, parse_plan
from privet.common.config.files import describe
from privet.common.errors import ConfigError

Raw = dict[str, Any]
FEDERATION: Raw = {
    "format": 1,
    "name": "hospitals",
    "task": {"labels": ["calm", "urgent"]},
    "model": {"base": "package:somewhere", "sha256": "ab" * 32},
    "training": {"rounds": 10, "expected_batch": 64, "learning_rate": 0.5},
}
SITE: Raw = {
    "format": 1,
    "name": "north",
    "data": {"id": "0f" * 16, "source": "notes.csv", "text": "note", "label": "class", "unit": "patient"},
    "budget": {"epsilon": 8.0, "delta": 1e-5, "declared_units": 1000},
    "federation": {
        "hospitals": {"address": "server.example:9092", "ca": "ca.crt", "key": "north.key", "epsilon": 3, "delta": 1e-5}
    },
}
RECORDS: Raw = SITE["data"] | {"unit": "record", "person": "owner", "max_per_person": 3}
# Every key of a plan with another legal value. The digest must move with each of them.
OTHER: dict[str, Any] = {
    "name": "hospitals2",
    "task.labels": ["urgent", "calm"],
    "task.max_length": 256,
    "task.windows": 3,
    "task.stride": 16,
    "task.buckets": [64, 128],
    "model.base": "package:elsewhere",
    "model.sha256": "cd" * 32,
    "model.pooling": "cls",
    "model.feature_scale": 5.0,
    "method.kind": "ffa",
    "method.seed": 1,
    "method.server_learning_rate": 0.5,
    "method.server_momentum": 0.9,
    "lora.rank": 4,
    "lora.alpha": 8.0,
    "lora.targets": ["value", "query"],
    "training.rounds": 11,
    "training.spare_rounds": 1,
    "training.local_steps": 6,
    "training.expected_batch": "site",
    "training.optimizer": "sgd",
    "training.learning_rate": 0.25,
    "training.weight_decay": 0.01,
    "training.max_grad_norm": 0.5,
    "training.train_fraction": 0.8,
    "evaluation.release": "accuracy",
    "evaluation.every": 2,
    "evaluation.metric": "sites",
    "evaluation.keep": "best",
    "evaluation.patience": 3,
    "cohort.min_sites": 3,
    "cohort.fraction": 0.5,
    "cohort.timeout": 60.0,
    "cohort.weight": "uniform",
}
GOLDEN = "d9221ff927f24a9494ce8fada7d81fe9c26dd967a7f1bbbbb96ff3ad4ee6343d"  # of FEDERATION
FIXED = {"task.kind": "classification", "format": 1}  # one legal value


def edited(raw: Raw, key: str, value: Any) -> Raw:
    """A copy with `a.b` set; `value` DROP removes it."""
    result = copy.deepcopy(raw)
    *tables, last = key.split(".")
    table = result
    for part in tables:
        table = table.setdefault(part, {})
    if value is DROP:
        del table[last]
    else:
        table[last] = value
    return result


DROP = object()


def _write(folder: Path, raw: Raw, name: str = "file.toml") -> Path:
    path = folder / name
    path.write_text(tomli_w.dumps(raw), encoding="utf-8")
    return path


def _plan(folder: Path, raw: Raw) -> Plan:
    return load_federation(_write(folder, raw)).plan


def _refused(call: Callable[[], object]) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        call()
    assert caught.value.what
    assert caught.value.mend
    return caught.value


# Errors


@pytest.mark.parametrize(
    ("key", "value", "where", "what"),
    [
        ("rounds", 10, "rounds", "Extra inputs"),
        ("training.roundz", 10, "training.roundz", "Extra inputs"),
        ("training.epsilon", 8.0, "training.epsilon", "Extra inputs"),  # a plan has none
        ("training.rounds", DROP, "training.rounds", "Field required"),
        ("model.sha256", DROP, "model.sha256", "Field required"),
        ("task", DROP, "task", "Field required"),
        ("format", DROP, "format", "Field required"),
        ("format", 2, "format", "1"),
        ("training.rounds", "ten", "training.rounds", "'ten'"),
        ("training.rounds", 10.0, "training.rounds", "10.0"),
        ("training.rounds", True, "training.rounds", "True"),
        ("training.rounds", 0, "training.rounds", "0"),
        ("training.rounds", 10_001, "training.rounds", "10001"),
        ("training.learning_rate", "fast", "training.learning_rate", "'fast'"),
        ("training.learning_rate", float("nan"), "training.learning_rate", "nan"),
        ("training.learning_rate", float("inf"), "training.learning_rate", "inf"),
        ("training.max_grad_norm", float("inf"), "training.max_grad_norm", "inf"),
        ("training.max_grad_norm", 1e-4, "training.max_grad_norm", "0.001"),
        ("training.expected_batch", "client", "training.expected_batch", "'client'"),
        ("training.expected_batch", 0, "training.expected_batch", "0"),
        ("training.optimizer", "lamb", "training.optimizer", "'lamb'"),
        ("method.server_learning_rate", float("nan"), "method.server_learning_rate", "nan"),
        ("cohort.fraction", float("nan"), "cohort.fraction", "nan"),
        ("cohort.timeout", float("inf"), "cohort.timeout", "inf"),
        ("model.sha256", "AB" * 32, "model.sha256", "pattern"),
        ("model.sha256", "ab" * 32 + "\n", "model.sha256", "pattern"),
        ("name", "Hospitals", "name", "pattern"),
        ("name", "../up", "name", "pattern"),
        ("task", 3, "task", "3"),
        ("task.labels", ["calm"], "task", "at least two labels"),
        ("task.labels", [], "task", "at least two labels"),
        ("task.labels", ["calm", "calm"], "task", "distinct labels"),
        ("task.labels", ["calm", " calm "], "task", "distinct labels"),
        ("task.labels", ["caf\u00e9", "cafe\u0301"], "task", "distinct labels"),
        ("task.labels", ["calm", ""], "task.labels.1", "at least 1 character"),
        ("task.labels", "calm", "task.labels", "'calm'"),
        ("task.max_length", 513, "task.max_length", "512"),
        ("task.buckets", [64, 32, 128], "task", "ascending"),
        ("task.buckets", [32, 32, 128], "task", "ascending"),
        ("task.buckets", [32, 64], "task", "the last 128"),
        ("task.buckets", [4, 128], "task", "at least 8"),
        ("task.buckets", [256], "task", "the last 128"),
        ("lora.targets", [], "lora.targets", "at least 1"),
        ("lora.targets", ["query", "query"], "lora", "distinct targets"),
        ("lora.targets", ["dense"], "lora.targets.0", "'dense'"),
        ("lora.first_layer", -1, "lora.first_layer", "-1"),
        ("lora.first_layer", 1024, "lora.first_layer", "1024"),
        ("method.kind", "Head", "method.kind", "'Head'"),  # which methods there are, the machine's packages say
        ("method.kind", "h\u0435ad", "method.kind", "pattern"),  # a Cyrillic letter
        ("method.options", {"Mu": 0.1}, "method.options.Mu.[key]", "pattern"),
        ("method.options", {"mu": float("nan")}, "method.options.mu", "finite number"),
        ("method.options", {"mu": float("inf")}, "method.options.mu", "finite number"),
        ("method.options", {"mu": 2**53 + 1}, "method.options.mu", "2^53"),
        ("method.options", {"mu": [0.1]}, "method.options.mu", "finite number"),
        ("method.options", {"mu": {"a": 1}}, "method.options.mu", "finite number"),
        ("method.options", {"mu": "x" * 201}, "method.options.mu", "200 characters"),
        ("method.options", {f"o{i}": i for i in range(33)}, "method.options", "at most 32"),
        ("task.windows", 17, "task.windows", "17"),
        ("task.windows", 0, "task.windows", "0"),
        ("task.stride", 64, "task", "stride below 64"),
        ("training.train_fraction", 0.05, "training.train_fraction", "0.1"),
        ("training.train_fraction", 1.1, "training.train_fraction", "1.1"),
        ("training.train_fraction", float("nan"), "training.train_fraction", "nan"),
        ("evaluation.release", "loss", "evaluation.release", "'loss'"),
        ("evaluation.release", "accuracy", "", "train_fraction < 1"),
        ("evaluation.metric", "sites", "", 'release other than "none"'),
        ("evaluation.every", 0, "evaluation.every", "0"),
        ("evaluation.epsilon", 1.0, "evaluation.epsilon", "Extra inputs"),
        ("server.adress", "x", "server.adress", "Extra inputs"),
        ("server.wait", 0.0, "server.wait", "0"),
        ("server.wait", float("inf"), "server.wait", "inf"),  # every wait is bounded
        ("server.public", {"text": "t"}, "server.public.source", "Field required"),
        ("simulation.split", 3, "simulation.split", "3"),
        ("simulation.delta", 0.5, "simulation.delta", "0.5"),
        ("simulation.engine", "fast", "simulation.engine", "'fast'"),
        ("simulation.precision", "float16", "simulation.precision", "'float16'"),
        ("simulation.device", "tpu", "simulation.device", "'tpu'"),
    ],
)
def test_a_fault_in_a_federation_is_told_with_file_key_and_mend(
    tmp_path: Path, key: str, value: Any, where: str, what: str
) -> None:
    path = _write(tmp_path, edited(FEDERATION, key, value))
    error = _refused(lambda: load_federation(path))
    assert error.where == (f"{path}: {where}" if where else str(path))
    assert what in error.what


@pytest.mark.parametrize(
    ("key", "value", "where", "what"),
    [
        ("data.units", "patient", "data.units", "Extra inputs"),
        ("data.unit", DROP, "data.unit", "Field required"),  # never guessed
        ("data.id", "0f" * 15, "data.id", "pattern"),
        ("data.max_records", 0, "data.max_records", "0"),
        ("data.source", 3, "data.source", "3"),
        ("budget", DROP, "budget", "Field required"),
        ("budget.declared_units", DROP, "budget.declared_units", "Field required"),
        ("budget.epsilon", float("inf"), "budget.epsilon", "inf"),
        ("budget.epsilon", float("nan"), "budget.epsilon", "nan"),
        ("budget.epsilon", 0.0, "budget.epsilon", "0"),
        ("budget.delta", float("nan"), "budget.delta", "nan"),
        ("budget.delta", 1.01e-4, "budget", "delta <= 0.1 / declared_units = 0.0001"),
        ("budget.declared_units", 10_001, "budget", "declared_units"),
        ("budget.epsilon", 2.99, "", "exceed the budget"),
        ("budget.delta", 9.9e-6, "", "exceed the budget"),
        ("federation.banks", SITE["federation"]["hospitals"], "", "exceed the budget"),
        ("data.person", "patient", "data", "both person and max_per_person"),
        ("data.max_per_person", 3, "data", "both person and max_per_person"),
        ("data", SITE["data"] | {"person": "owner", "max_per_person": 3}, "data", 'unit = "record"'),
        ("data", RECORDS | {"max_per_person": 0}, "data.max_per_person", "0"),
        ("data", RECORDS | {"max_per_person": 1001}, "data.max_per_person", "1001"),
        ("data", RECORDS | {"person": ""}, "data.person", "at least 1 character"),
        ("federation", DROP, "federation", "Field required"),
        ("federation", {}, "federation", "at least 1"),
        ("federation.hospitals.address", "no-port", "federation.hospitals.address", "pattern"),
        ("federation.hospitals.epsilon", float("inf"), "federation.hospitals.epsilon", "inf"),
        ("federation.hospitals.release", ["loss"], "federation.hospitals.release.0", "'loss'"),
        ("policy.approve", "always", "policy.approve", "'always'"),
        ("policy.min_noise_multiplier", 0.0, "policy.min_noise_multiplier", "0"),
        ("policy.max_sample_rate", 1.5, "policy.max_sample_rate", "1.5"),
        ("resources.device", "tpu", "resources.device", "'tpu'"),
        ("resources.engine", "auto", "resources.engine", "'auto'"),  # a site's engine is the operator's choice
        ("resources.precision", "float16", "resources.precision", "'float16'"),
        ("stay", "yes", "stay", "'yes'"),
    ],
)
def test_a_fault_in_a_site_is_told_with_file_key_and_mend(
    tmp_path: Path, key: str, value: Any, where: str, what: str
) -> None:
    path = _write(tmp_path, edited(SITE, key, value))
    error = _refused(lambda: load_site(path))
    assert error.where == (f"{path}: {where}" if where else str(path))
    assert what in error.what


def test_further_faults_are_counted(tmp_path: Path) -> None:
    raw = edited(edited(FEDERATION, "training.rounds", 0), "model.sha256", "x")
    assert "1 more after this one" in _refused(lambda: load_federation(_write(tmp_path, raw))).what


@pytest.mark.parametrize("load", [load_federation, load_site])
@pytest.mark.parametrize("fault", ["missing", "folder", "malformed", "not UTF-8", "empty"])
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, load: Callable[[Path], object], fault: str) -> None:
    path = tmp_path / "file.toml"
    if fault == "folder":
        path.mkdir()
    elif fault != "missing":
        content = {"malformed": b"format = 1\nname = \n", "not UTF-8": b'name = "\xff"', "empty": b""}[fault]
        path.write_bytes(content)
    error = _refused(lambda: load(path))
    assert str(path) in error.where
    if fault == "malformed":
        assert "line 2" in error.what


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"format": 1}', "[" * 5000, '"\\ud800"'])
def test_a_plans_text_is_data_that_may_be_hostile(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_plan(text)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_no_number_of_a_plans_text_is_infinite(tmp_path: Path, value: str) -> None:
    text = _plan(tmp_path, FEDERATION).canonical()
    assert text.count('"learning_rate":0.5') == 1
    error = _refused(lambda: parse_plan(text.replace('"learning_rate":0.5', f'"learning_rate":{value}'), "offer"))
    assert error.where == "offer: training.learning_rate"


BOMBS: dict[str, tuple[Callable[[Raw], None], str]] = {
    "labels": (lambda raw: raw["task"].update(labels=[1] * 200_000), "2,000 entries"),
    "a long text": (lambda raw: raw["task"].update(labels=["x"] * 1_000_000), "1,048,576 bytes"),
    "labels in a table": (lambda raw: raw["task"].update(labels={str(n): n for n in range(1000)}), "64 entries"),
    "buckets": (lambda raw: raw["task"].update(buckets=list(range(65))), "64 entries"),
    "another list": (lambda raw: raw["lora"].update(targets=["query"] * 65), "64 entries"),
    "keys": (lambda raw: raw.update({f"key{n}": 0 for n in range(100)}), "64 entries"),
    "a string": (lambda raw: raw["model"].update(base="x" * 10_001), "10,000 characters"),
    "a key": (lambda raw: raw["model"].update({"x" * 10_001: 1}), "10,000 characters"),
    "depth": (lambda raw: raw["model"].update(base=[[[[[[[[[1]]]]]]]]]), "8 levels"),
    "half a pair": (lambda raw: raw["model"].update(base="\ud800"), "surrogate"),
    "half a pair in a key": (lambda raw: raw["model"].update({"\ud800": 1}), "surrogate"),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_plans_text_is_bounded_before_it_is_validated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bomb: str
) -> None:
    raw, (change, words) = json.loads(_plan(tmp_path, FEDERATION).canonical()), BOMBS[bomb]
    change(raw)
    text = json.dumps(raw)
    for name in ("model_validate", "model_validate_json"):
        monkeypatch.setattr(Plan, name, lambda *_: pytest.fail("validated"))
    error = _refused(lambda: parse_plan(text, "offer"))
    assert words in error.what
    assert len(str(error)) < 300


@pytest.mark.parametrize("text", ['{"a":' * 100_000, "[" * 100_000, '{"rounds": ' + "1" * 100_000 + "}", "\ud800"])
def test_a_plans_text_without_end_is_refused(text: str) -> None:
    error = _refused(lambda: parse_plan(text))
    assert "JSON" in error.what or "without end" in error.what


@pytest.mark.parametrize("key", ['"learning_rate":0.5', '"rounds":10'])
def test_a_number_beyond_all_floats_is_refused(tmp_path: Path, key: str) -> None:
    text = _plan(tmp_path, FEDERATION).canonical()
    assert text.count(key) == 1
    _refused(lambda: parse_plan(text.replace(key, f"{key.partition(':')[0]}:{'9' * 4000}")))


@pytest.mark.parametrize(("key", "value"), [("task.labels", [1] * 2000), ("task.buckets", ["x"] * 64)])
def test_a_list_of_faults_is_one_fault(key: str, value: Any) -> None:
    """Or the report on a plan would cost more than the plan."""
    with pytest.raises(ValidationError) as caught:
        Plan.model_validate(edited(FEDERATION, key, value))
    assert caught.value.error_count() == 1


def test_very_many_faults_are_counted_and_not_listed() -> None:
    with pytest.raises(ValidationError) as caught:
        Plan.model_validate(FEDERATION | {f"key{n}": 0 for n in range(2000)})
    assert describe(caught.value, "here").what == "2,000 faults."


@pytest.mark.parametrize(
    ("labels", "sound"),
    [
        ([f"{n:04d}" for n in range(2000)], True),
        ([f"{n:04d}" for n in range(2001)], False),
        ([f"{n:0200d}" for n in range(400)], True),
        ([f"{n:0200d}" for n in range(401)], False),
    ],
    ids=["2000", "2001", "80000 characters", "80200 characters"],
)
def test_labels_are_bounded_together(labels: list[str], sound: bool) -> None:
    raw = edited(FEDERATION, "task.labels", labels)
    if sound:
        assert Plan.model_validate(raw).task.labels == tuple(labels)
    else:
        with pytest.raises(ValidationError, match="at most 2,000 labels of at most 80,000 characters together"):
            Plan.model_validate(raw)


def test_buckets_are_bounded() -> None:
    for longest, sound in ((71, True), (72, False)):
        task = {"labels": ["a", "b"], "max_length": longest, "buckets": list(range(8, longest + 1))}
        if sound:
            assert len(Plan.model_validate(FEDERATION | {"task": task}).task.buckets) == 64
        else:
            with pytest.raises(ValidationError, match="at most 64 buckets"):
                Plan.model_validate(FEDERATION | {"task": task})


@pytest.mark.parametrize("letter", ["x", "'", "\x7f", "\x01", "ü", "漢", "\U0001f600"])
def test_a_plan_with_the_longest_labels_fits_however_it_is_escaped(letter: str) -> None:
    labels = [f"{n:04d}".ljust(40, letter) for n in range(2000)]
    plan = Plan.model_validate(edited(edited(FEDERATION, "task.labels", labels), "model.base", letter * 500))
    indented = json.dumps(json.loads(plan.canonical()), indent=2, sort_keys=True)
    indented = indented.replace("'", "\\u0027").replace("\x7f", "\\u007f")  # as in an invitation
    assert parse_plan(plan.canonical()) == parse_plan(indented) == plan


@pytest.mark.parametrize("evil", ["\x1b[2J", "\u202e", "\x9b", "\n", "\r", "\x07"])
@pytest.mark.parametrize(
    "change",
    [
        lambda evil: {f"{evil}approved": 1},
        lambda evil: {"model": FEDERATION["model"] | {f"{evil}approved": 1}},
        lambda evil: {"name": f"{evil}approved"},
        lambda evil: {"training": FEDERATION["training"] | {"optimizer": f"{evil}approved"}},
        lambda evil: {"format": f"{evil}approved"},
        lambda evil: {"task": f"{evil}approved"},
        lambda evil: {"task": {"labels": [{f"{evil}approved": evil}]}},
        lambda evil: {f"{evil}approved" * 100: 1},
    ],
)
def test_a_hostile_plan_cannot_steer_the_terminal_by_its_faults(evil: str, change: Callable[[str], Raw]) -> None:
    error = _refused(lambda: parse_plan(json.dumps(FEDERATION | change(evil)), "offer"))
    assert str(error).isprintable()
    assert "approved" in str(error)
    assert len(str(error)) < 700


# --set


def test_overrides_take_the_place_of_keys(tmp_path: Path) -> None:
    path = _write(tmp_path, FEDERATION)
    assignments = [
        "training.rounds=7",
        "training.expected_batch=site",  # a bare word
        "name=plain",
        "task.labels=['a', 'b', 'c']",
        "server.address=127.0.0.1:0",
        "simulation.split=fold",
        "cohort.weight=uniform",
    ]
    federation = load_federation(path, assignments)
    assert (federation.training.rounds, federation.training.expected_batch) == (7, "site")
    assert federation.name == "plain"
    assert federation.task.labels == ("a", "b", "c")
    assert (federation.server.address, federation.simulation.split) == ("127.0.0.1:0", "fold")
    assert federation.cohort.weight == "uniform"
    assert load_site(_write(tmp_path, SITE, "site.toml"), ["data.unit=record"]).data.unit == "record"


@pytest.mark.parametrize("assignment", ["training.rounds", "", "=3", ".rounds=3", "training.=3", "training..rounds=3"])
def test_an_override_without_key_or_value_is_refused(tmp_path: Path, assignment: str) -> None:
    error = _refused(lambda: load_federation(_write(tmp_path, FEDERATION), [assignment]))
    assert error.where == "--set"
    assert "table.key=value" in error.mend


@pytest.mark.parametrize("assignment", ["name.first=x", "task.labels.first=x", "training.rounds.max=3"])
def test_an_override_inside_what_is_no_table_is_refused(tmp_path: Path, assignment: str) -> None:
    error = _refused(lambda: load_federation(_write(tmp_path, FEDERATION), [assignment]))
    assert error.where == "--set"
    assert assignment.partition("=")[0] in error.what


@pytest.mark.parametrize(
    ("assignment", "key"),
    [
        ("training.rounds=many", "training.rounds"),
        ("training.roundz=3", "training.roundz"),
        ("training.learning_rate=nan", "training.learning_rate"),
        ("training.learning_rate=2020-01-01", "training.learning_rate"),
        ("training=3", "training"),
        ("server=3", "server"),
        ("server.public=3", "server.public"),
        ("server.runs=3", "server.runs"),
        ("simulation=3", "simulation"),
    ],
)
def test_an_overridden_value_is_judged_like_a_written_one(tmp_path: Path, assignment: str, key: str) -> None:
    path = _write(tmp_path, FEDERATION)
    assert _refused(lambda: load_federation(path, [assignment])).where == f"{path}: {key}"


@pytest.mark.parametrize("assignment", ["data=3", "federation=3", "federation.hospitals=3", "data.source=3"])
def test_an_overridden_table_of_a_site_is_judged_too(tmp_path: Path, assignment: str) -> None:
    path = _write(tmp_path, SITE)
    assert _refused(lambda: load_site(path, [assignment])).where == f"{path}: {assignment.partition('=')[0]}"


# Paths


def test_relative_paths_are_taken_from_the_files_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    raw = edited(edited(FEDERATION, "server.public.source", "public.csv"), "simulation.data", "/all.csv")
    federation = load_federation(_write(tmp_path, raw))
    assert federation.server.public is not None
    assert federation.server.public.source == tmp_path / "public.csv"
    assert (federation.server.runs, federation.server.ca) == (tmp_path / "runs", tmp_path / "keys" / "ca.crt")
    assert federation.simulation.data == Path("/all.csv")
    site = load_site(_write(tmp_path, edited(SITE, "data.exclude", "no.txt"), "site.toml"))
    assert (site.data.source, site.data.exclude) == (tmp_path / "notes.csv", tmp_path / "no.txt")
    member = site.federation["hospitals"]
    assert (member.ca, member.key) == (tmp_path / "ca.crt", tmp_path / "north.key")
    proxied = SITE["federation"]["hospitals"] | {"proxy": "http://proxy.example:3128", "proxy_auth": "proxy.txt"}
    site = load_site(_write(tmp_path, edited(SITE, "federation.hospitals", proxied), "site.toml"))
    assert site.federation["hospitals"].proxy_auth == tmp_path / "proxy.txt"


# The digest


def _leaves(kind: Any, raw: Raw, prefix: str = "") -> set[str]:
    keys = set()
    for name, value in raw.items():
        inner = getattr(kind.model_fields[name].annotation, "model_fields", None)
        keys |= _leaves(kind.model_fields[name].annotation, value, f"{prefix}{name}.") if inner else {prefix + name}
    return keys


def test_the_list_of_keys_below_is_whole(tmp_path: Path) -> None:
    assert _leaves(Plan, _plan(tmp_path, FEDERATION).model_dump()) == {*OTHER, *FIXED}


@pytest.mark.parametrize("key", OTHER)
def test_the_digest_changes_with_every_key_of_the_plan(tmp_path: Path, key: str) -> None:
    plan = _plan(tmp_path, FEDERATION)
    raw = FEDERATION
    if key.startswith("evaluation."):  # which needs units to judge on
        raw = edited(edited(raw, "training.train_fraction", 0.5), "evaluation.release", "confusion")
        plan = _plan(tmp_path, raw)
    other = _plan(tmp_path, edited(raw, key, OTHER[key]))
    assert other.digest != plan.digest
    assert parse_plan(other.canonical()) == other


def test_the_digest_is_that_of_what_is_meant_not_of_how_it_is_written(tmp_path: Path) -> None:
    plan = _plan(tmp_path, FEDERATION)
    reordered = {name: FEDERATION[name] for name in reversed(FEDERATION)}
    reordered["training"] = {name: FEDERATION["training"][name] for name in reversed(FEDERATION["training"])}
    assert _plan(tmp_path, reordered).digest == plan.digest
    written_out = plan.model_dump(mode="json")
    assert _plan(tmp_path, written_out).digest == plan.digest
    whole_number = edited(edited(FEDERATION, "lora.alpha", 16), "cohort.timeout", 600)  # 16 for 16.0
    assert _plan(tmp_path, whole_number).digest == plan.digest
    assert _plan(tmp_path, edited(FEDERATION, "task.buckets", [16, 32, 64, 128])).digest == plan.digest


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("server.address", "0.0.0.0:1"),
        ("server.runs", "elsewhere"),
        ("server.wait", 5.0),
        ("server.public", {"source": "public.csv", "limit": 3}),
        ("simulation.seed", 7),
        ("simulation.engine", "opacus"),
        ("simulation.precision", "float32"),
        ("simulation.device", "auto"),
        ("simulation.data", "all.csv"),
        ("simulation.label_map", {"a": "calm"}),
    ],
)
def test_the_servers_own_keys_are_no_part_of_the_plan(tmp_path: Path, key: str, value: Any) -> None:
    plain, other = (load_federation(_write(tmp_path, raw)) for raw in (FEDERATION, edited(FEDERATION, key, value)))
    assert other.plan.digest == plain.plan.digest
    assert other.plan.canonical() == plain.plan.canonical()


def test_a_federation_goes_by_its_plans_digest(tmp_path: Path) -> None:
    """A Federation may stand where a Plan is asked for: it must not go by another name there."""
    federation = load_federation(_write(tmp_path, FEDERATION))
    assert federation.canonical() == federation.plan.canonical()
    assert federation.digest == federation.plan.digest


def test_canonical_json_is_canonical(tmp_path: Path) -> None:
    plan = _plan(tmp_path, edited(FEDERATION, "task.labels", ["ruhig", "dringend – ü"]))
    text = plan.canonical()
    raw = json.loads(text)
    assert parse_plan(text) == plan
    assert text == json.dumps(raw, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert "dringend – ü" in text
    assert not {"server", "simulation"} & raw.keys()
    assert not {"epsilon", "delta"} & _leaves(Plan, raw)


def test_options_of_a_method_are_in_the_digest_as_they_are_meant(tmp_path: Path) -> None:
    plain = _plan(tmp_path, FEDERATION)
    assert "options" not in plain.canonical()
    assert _plan(tmp_path, edited(FEDERATION, "method.options", {})).digest == plain.digest
    values: list[Any] = [1, 1.0, True, "1", 1e300, -0.0, 5e-324, 2**53]
    plans = [_plan(tmp_path, edited(FEDERATION, "method.options", {"mu": value})) for value in values]
    assert len({plan.digest for plan in [plain, *plans]}) == len(values) + 1
    for plan, value in zip(plans, values, strict=True):
        read = parse_plan(plan.canonical())
        assert read.canonical() == plan.canonical()
        assert repr(read.method.options["mu"]) == repr(value)
        assert hash(read) == hash(plan)


def test_golden_digest(tmp_path: Path) -> None:
    """The name of a plan must be the same in every version that reads format 1."""
    assert _plan(tmp_path, FEDERATION).digest == GOLDEN


def test_first_layer_is_no_part_of_a_plan_that_has_lora_everywhere(tmp_path: Path) -> None:
    """Such a plan keeps the digest that it had before the key was."""
    raw = edited(FEDERATION, "lora.first_layer", 0)
    assert _plan(tmp_path, raw).digest == GOLDEN
    assert "first_layer" not in _plan(tmp_path, raw).canonical()
    other = _plan(tmp_path, edited(FEDERATION, "lora.first_layer", 4))
    assert other.digest != GOLDEN
    assert '"first_layer":4' in other.canonical()
    assert parse_plan(other.canonical()) == other
    assert load_federation(_write(tmp_path, edited(FEDERATION, "lora.first_layer", 4))).plan == other


def test_how_gradients_are_computed_is_by_default_the_reference_at_a_site(tmp_path: Path) -> None:
    site = load_site(_write(tmp_path, SITE))
    assert (site.resources.engine, site.resources.precision) == ("opacus", "float32")
    raw = edited(edited(SITE, "resources.engine", "fused"), "resources.precision", "auto")
    site = load_site(_write(tmp_path, raw))
    assert (site.resources.engine, site.resources.precision) == ("fused", "auto")
    simulation = load_federation(_write(tmp_path, FEDERATION)).simulation
    assert (simulation.engine, simulation.precision, simulation.device) == ("auto", "auto", "auto")


def test_a_plan_cannot_be_changed_and_derives_its_buckets(tmp_path: Path) -> None:
    plan = _plan(tmp_path, FEDERATION)
    with pytest.raises(ValueError, match="frozen"):
        plan.training.rounds = 11
    assert plan.task.buckets == (16, 32, 64, 128)
    assert _plan(tmp_path, edited(FEDERATION, "task.max_length", 200)).task.buckets == (16, 32, 64, 128, 200)
    assert _plan(tmp_path, edited(FEDERATION, "task.max_length", 8)).task.buckets == (8,)
    assert type(load_federation(_write(tmp_path, FEDERATION)).plan) is Plan
    assert Plan.model_validate(FEDERATION | {"training": FEDERATION["training"] | {"spare_rounds": 3}}).training.horizon


def test_shares_may_use_up_the_whole_budget(tmp_path: Path) -> None:
    site = load_site(_write(tmp_path, edited(SITE, "federation.hospitals.epsilon", 8)))
    assert isinstance(site, Site)
    assert site.federation["hospitals"].epsilon == site.budget.epsilon
    assert isinstance(load_federation(_write(tmp_path, FEDERATION)), Federation)


def test_several_federations_stand_in_one_file(tmp_path: Path) -> None:
    second = SITE["federation"]["hospitals"] | {"epsilon": 5, "delta": 1e-6, "ca": "banks/ca.crt"}
    raw = edited(edited(SITE, "federation.banks", second), "federation.hospitals.delta", 9e-6)
    site = load_site(_write(tmp_path, raw))
    assert list(site.federation) == ["banks", "hospitals"] or list(site.federation) == ["hospitals", "banks"]
    assert site.federation["banks"].ca == tmp_path / "banks" / "ca.crt"
    assert sum(member.epsilon for member in site.federation.values()) == site.budget.epsilon
    for name in ("epsilon", "delta"):
        over = edited(raw, f"federation.banks.{name}", second[name] * 1.000001)
        assert "exceed the budget" in _refused(lambda over=over: load_site(_write(tmp_path, over))).what  # type: ignore[misc]


def test_records_may_be_limited_by_person(tmp_path: Path) -> None:
    data = load_site(_write(tmp_path, edited(SITE, "data", RECORDS))).data
    assert (data.unit, data.person, data.max_per_person) == ("record", "owner", 3)
    plain = load_site(_write(tmp_path, SITE)).data
    assert (plain.person, plain.max_per_person) == (None, None)


@pytest.mark.parametrize(("rounds", "every", "number"), [(10, 5, 2), (11, 5, 3), (4, 5, 1), (10, 1, 10), (1, 1, 1)])
def test_evaluations_are_numbered_by_the_plan(rounds: int, every: int, number: int) -> None:
    training = FEDERATION["training"] | {"rounds": rounds, "spare_rounds": 7, "train_fraction": 0.9}
    raw = FEDERATION | {"training": training, "evaluation": {"release": "accuracy", "every": every}}
    assert Plan.model_validate(raw).num_evaluations == number
    assert Plan.model_validate(raw | {"evaluation": {"every": every}}).num_evaluations == 0


def test_a_confusion_matrix_is_bounded() -> None:
    for number, sound in ((200, True), (201, False)):
        raw = FEDERATION | {
            "task": {"labels": [str(n) for n in range(number)]},
            "training": FEDERATION["training"] | {"train_fraction": 0.9},
            "evaluation": {"release": "confusion"},
        }
        if sound:
            assert Plan.model_validate(raw).num_evaluations == 2
        else:
            with pytest.raises(ValidationError, match="at most 200 labels"):
                Plan.model_validate(raw)
