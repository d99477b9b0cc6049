"""The two files: what is refused, and how it is told."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from privet.common.config import Plan, load_federation, load_site, parse_plan
from privet.common.config.files import describe
from privet.common.errors import ConfigError
from tests.common.config_cases import DROP, FEDERATION, RECORDS, SITE, Raw, edited, plan_in, refused, written


@pytest.mark.parametrize(
    ("key", "value", "where", "what"),
    [
        ("rounds", 10, "rounds", "No such key"),
        ("training.roundz", 10, "training.roundz", "No such key"),
        ("training.epsilon", 8.0, "training.epsilon", "No such key"),  # a plan has none
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
        ("evaluation.epsilon", 1.0, "evaluation.epsilon", "No such key"),
        ("server.adress", "x", "server.adress", "No such key"),
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
    path = written(tmp_path, edited(FEDERATION, key, value))
    error = refused(lambda: load_federation(path))
    assert error.where == (f"{path}: {where}" if where else str(path))
    assert what in error.what


@pytest.mark.parametrize(
    ("key", "value", "where", "what"),
    [
        ("data.units", "patient", "data.units", "No such key"),
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
    path = written(tmp_path, edited(SITE, key, value))
    error = refused(lambda: load_site(path))
    assert error.where == (f"{path}: {where}" if where else str(path))
    assert what in error.what


def test_further_faults_are_counted(tmp_path: Path) -> None:
    raw = edited(edited(FEDERATION, "training.rounds", 0), "model.sha256", "x")
    assert "1 more after this one" in refused(lambda: load_federation(written(tmp_path, raw))).what


@pytest.mark.parametrize("load", [load_federation, load_site])
@pytest.mark.parametrize("fault", ["missing", "folder", "malformed", "not UTF-8", "empty"])
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, load: Callable[[Path], object], fault: str) -> None:
    path = tmp_path / "file.toml"
    if fault == "folder":
        path.mkdir()
    elif fault != "missing":
        content = {"malformed": b"format = 1\nname = \n", "not UTF-8": b'name = "\xff"', "empty": b""}[fault]
        path.write_bytes(content)
    error = refused(lambda: load(path))
    assert str(path) in error.where
    if fault == "malformed":
        assert "line 2" in error.what


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"format": 1}', "[" * 5000, '"\\ud800"'])
def test_a_plans_text_is_data_that_may_be_hostile(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_plan(text)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_no_number_of_a_plans_text_is_infinite(tmp_path: Path, value: str) -> None:
    text = plan_in(tmp_path, FEDERATION).canonical()
    assert text.count('"learning_rate":0.5') == 1
    error = refused(lambda: parse_plan(text.replace('"learning_rate":0.5', f'"learning_rate":{value}'), "offer"))
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
    raw, (change, words) = json.loads(plan_in(tmp_path, FEDERATION).canonical()), BOMBS[bomb]
    change(raw)
    text = json.dumps(raw)
    for name in ("model_validate", "model_validate_json"):
        monkeypatch.setattr(Plan, name, lambda *_: pytest.fail("validated"))
    error = refused(lambda: parse_plan(text, "offer"))
    assert words in error.what
    assert len(str(error)) < 300


@pytest.mark.parametrize("text", ['{"a":' * 100_000, "[" * 100_000, '{"rounds": ' + "1" * 100_000 + "}", "\ud800"])
def test_a_plans_text_without_end_is_refused(text: str) -> None:
    error = refused(lambda: parse_plan(text))
    assert "JSON" in error.what or "without end" in error.what


@pytest.mark.parametrize("key", ['"learning_rate":0.5', '"rounds":10'])
def test_a_number_beyond_all_floats_is_refused(tmp_path: Path, key: str) -> None:
    text = plan_in(tmp_path, FEDERATION).canonical()
    assert text.count(key) == 1
    refused(lambda: parse_plan(text.replace(key, f"{key.partition(':')[0]}:{'9' * 4000}")))


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
    error = refused(lambda: parse_plan(json.dumps(FEDERATION | change(evil)), "offer"))
    assert str(error).isprintable()
    assert "approved" in str(error)
    assert len(str(error)) < 700
