"""The two files: values and paths as they are read, and the digest that names a plan."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from privet.common.config import Federation, Plan, Site, load_federation, load_site, parse_plan
from tests.common.config_cases import FEDERATION, RECORDS, SITE, Raw, edited, plan_in, refused, written

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


# --set


def test_overrides_take_the_place_of_keys(tmp_path: Path) -> None:
    path = written(tmp_path, FEDERATION)
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
    assert load_site(written(tmp_path, SITE, "site.toml"), ["data.unit=record"]).data.unit == "record"


@pytest.mark.parametrize("assignment", ["training.rounds", "", "=3", ".rounds=3", "training.=3", "training..rounds=3"])
def test_an_override_without_key_or_value_is_refused(tmp_path: Path, assignment: str) -> None:
    error = refused(lambda: load_federation(written(tmp_path, FEDERATION), [assignment]))
    assert error.where == "--set"
    assert "table.key=value" in error.mend


@pytest.mark.parametrize("assignment", ["name.first=x", "task.labels.first=x", "training.rounds.max=3"])
def test_an_override_inside_what_is_no_table_is_refused(tmp_path: Path, assignment: str) -> None:
    error = refused(lambda: load_federation(written(tmp_path, FEDERATION), [assignment]))
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
    path = written(tmp_path, FEDERATION)
    assert refused(lambda: load_federation(path, [assignment])).where == f"{path}: {key}"


@pytest.mark.parametrize("assignment", ["data=3", "federation=3", "federation.hospitals=3", "data.source=3"])
def test_an_overridden_table_of_a_site_is_judged_too(tmp_path: Path, assignment: str) -> None:
    path = written(tmp_path, SITE)
    assert refused(lambda: load_site(path, [assignment])).where == f"{path}: {assignment.partition('=')[0]}"


# Paths


def test_relative_paths_are_taken_from_the_files_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    raw = edited(edited(FEDERATION, "server.public.source", "public.csv"), "simulation.data", "/all.csv")
    federation = load_federation(written(tmp_path, raw))
    assert federation.server.public is not None
    assert federation.server.public.source == tmp_path / "public.csv"
    assert (federation.server.runs, federation.server.ca) == (tmp_path / "runs", tmp_path / "keys" / "ca.crt")
    assert federation.simulation.data == Path("/all.csv")
    site = load_site(written(tmp_path, edited(SITE, "data.exclude", "no.txt"), "site.toml"))
    assert (site.data.source, site.data.exclude) == (tmp_path / "notes.csv", tmp_path / "no.txt")
    member = site.federation["hospitals"]
    assert (member.ca, member.key) == (tmp_path / "ca.crt", tmp_path / "north.key")
    proxied = SITE["federation"]["hospitals"] | {"proxy": "http://proxy.example:3128", "proxy_auth": "proxy.txt"}
    site = load_site(written(tmp_path, edited(SITE, "federation.hospitals", proxied), "site.toml"))
    assert site.federation["hospitals"].proxy_auth == tmp_path / "proxy.txt"


# The digest


def _leaves(kind: Any, raw: Raw, prefix: str = "") -> set[str]:
    keys = set()
    for name, value in raw.items():
        inner = getattr(kind.model_fields[name].annotation, "model_fields", None)
        keys |= _leaves(kind.model_fields[name].annotation, value, f"{prefix}{name}.") if inner else {prefix + name}
    return keys


def test_the_list_of_keys_below_is_whole(tmp_path: Path) -> None:
    assert _leaves(Plan, plan_in(tmp_path, FEDERATION).model_dump()) == {*OTHER, *FIXED}


@pytest.mark.parametrize("key", OTHER)
def test_the_digest_changes_with_every_key_of_the_plan(tmp_path: Path, key: str) -> None:
    plan = plan_in(tmp_path, FEDERATION)
    raw = FEDERATION
    if key.startswith("evaluation."):  # which needs units to judge on
        raw = edited(edited(raw, "training.train_fraction", 0.5), "evaluation.release", "confusion")
        plan = plan_in(tmp_path, raw)
    other = plan_in(tmp_path, edited(raw, key, OTHER[key]))
    assert other.digest != plan.digest
    assert parse_plan(other.canonical()) == other


def test_the_digest_is_that_of_what_is_meant_not_of_how_it_is_written(tmp_path: Path) -> None:
    plan = plan_in(tmp_path, FEDERATION)
    reordered = {name: FEDERATION[name] for name in reversed(FEDERATION)}
    reordered["training"] = {name: FEDERATION["training"][name] for name in reversed(FEDERATION["training"])}
    assert plan_in(tmp_path, reordered).digest == plan.digest
    written_out = plan.model_dump(mode="json")
    assert plan_in(tmp_path, written_out).digest == plan.digest
    whole_number = edited(edited(FEDERATION, "lora.alpha", 16), "cohort.timeout", 600)  # 16 for 16.0
    assert plan_in(tmp_path, whole_number).digest == plan.digest
    assert plan_in(tmp_path, edited(FEDERATION, "task.buckets", [16, 32, 64, 128])).digest == plan.digest


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
    plain, other = (load_federation(written(tmp_path, raw)) for raw in (FEDERATION, edited(FEDERATION, key, value)))
    assert other.plan.digest == plain.plan.digest
    assert other.plan.canonical() == plain.plan.canonical()


def test_a_federation_goes_by_its_plans_digest(tmp_path: Path) -> None:
    """A Federation may stand where a Plan is asked for: it must not go by another name there."""
    federation = load_federation(written(tmp_path, FEDERATION))
    assert federation.canonical() == federation.plan.canonical()
    assert federation.digest == federation.plan.digest


def test_canonical_json_is_canonical(tmp_path: Path) -> None:
    plan = plan_in(tmp_path, edited(FEDERATION, "task.labels", ["ruhig", "dringend – ü"]))
    text = plan.canonical()
    raw = json.loads(text)
    assert parse_plan(text) == plan
    assert text == json.dumps(raw, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert "dringend – ü" in text
    assert not {"server", "simulation"} & raw.keys()
    assert not {"epsilon", "delta"} & _leaves(Plan, raw)


def test_options_of_a_method_are_in_the_digest_as_they_are_meant(tmp_path: Path) -> None:
    plain = plan_in(tmp_path, FEDERATION)
    assert "options" not in plain.canonical()
    assert plan_in(tmp_path, edited(FEDERATION, "method.options", {})).digest == plain.digest
    values: list[Any] = [1, 1.0, True, "1", 1e300, -0.0, 5e-324, 2**53]
    plans = [plan_in(tmp_path, edited(FEDERATION, "method.options", {"mu": value})) for value in values]
    assert len({plan.digest for plan in [plain, *plans]}) == len(values) + 1
    for plan, value in zip(plans, values, strict=True):
        read = parse_plan(plan.canonical())
        assert read.canonical() == plan.canonical()
        assert repr(read.method.options["mu"]) == repr(value)
        assert hash(read) == hash(plan)


def test_golden_digest(tmp_path: Path) -> None:
    """The name of a plan must be the same in every version that reads format 1."""
    assert plan_in(tmp_path, FEDERATION).digest == GOLDEN


def test_first_layer_is_no_part_of_a_plan_that_has_lora_everywhere(tmp_path: Path) -> None:
    """Such a plan keeps the digest that it had before the key was."""
    raw = edited(FEDERATION, "lora.first_layer", 0)
    assert plan_in(tmp_path, raw).digest == GOLDEN
    assert "first_layer" not in plan_in(tmp_path, raw).canonical()
    other = plan_in(tmp_path, edited(FEDERATION, "lora.first_layer", 4))
    assert other.digest != GOLDEN
    assert '"first_layer":4' in other.canonical()
    assert parse_plan(other.canonical()) == other
    assert load_federation(written(tmp_path, edited(FEDERATION, "lora.first_layer", 4))).plan == other


def test_how_gradients_are_computed_is_by_default_the_reference_at_a_site(tmp_path: Path) -> None:
    site = load_site(written(tmp_path, SITE))
    assert (site.resources.engine, site.resources.precision) == ("opacus", "float32")
    raw = edited(edited(SITE, "resources.engine", "fused"), "resources.precision", "auto")
    site = load_site(written(tmp_path, raw))
    assert (site.resources.engine, site.resources.precision) == ("fused", "auto")
    simulation = load_federation(written(tmp_path, FEDERATION)).simulation
    assert (simulation.engine, simulation.precision, simulation.device) == ("auto", "auto", "auto")


def test_a_plan_cannot_be_changed_and_derives_its_buckets(tmp_path: Path) -> None:
    plan = plan_in(tmp_path, FEDERATION)
    with pytest.raises(ValueError, match="frozen"):
        plan.training.rounds = 11
    assert plan.task.buckets == (16, 32, 64, 128)
    assert plan_in(tmp_path, edited(FEDERATION, "task.max_length", 200)).task.buckets == (16, 32, 64, 128, 200)
    assert plan_in(tmp_path, edited(FEDERATION, "task.max_length", 8)).task.buckets == (8,)
    assert type(load_federation(written(tmp_path, FEDERATION)).plan) is Plan
    assert Plan.model_validate(FEDERATION | {"training": FEDERATION["training"] | {"spare_rounds": 3}}).training.horizon


def test_shares_may_use_up_the_whole_budget(tmp_path: Path) -> None:
    site = load_site(written(tmp_path, edited(SITE, "federation.hospitals.epsilon", 8)))
    assert isinstance(site, Site)
    assert site.federation["hospitals"].epsilon == site.budget.epsilon
    assert isinstance(load_federation(written(tmp_path, FEDERATION)), Federation)


def test_several_federations_stand_in_one_file(tmp_path: Path) -> None:
    second = SITE["federation"]["hospitals"] | {"epsilon": 5, "delta": 1e-6, "ca": "banks/ca.crt"}
    raw = edited(edited(SITE, "federation.banks", second), "federation.hospitals.delta", 9e-6)
    site = load_site(written(tmp_path, raw))
    assert list(site.federation) == ["banks", "hospitals"] or list(site.federation) == ["hospitals", "banks"]
    assert site.federation["banks"].ca == tmp_path / "banks" / "ca.crt"
    assert sum(member.epsilon for member in site.federation.values()) == site.budget.epsilon
    for name in ("epsilon", "delta"):
        over = edited(raw, f"federation.banks.{name}", second[name] * 1.000001)
        assert "exceed the budget" in refused(lambda over=over: load_site(written(tmp_path, over))).what  # type: ignore[misc]


def test_records_may_be_limited_by_person(tmp_path: Path) -> None:
    data = load_site(written(tmp_path, edited(SITE, "data", RECORDS))).data
    assert (data.unit, data.person, data.max_per_person) == ("record", "owner", 3)
    plain = load_site(written(tmp_path, SITE)).data
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
