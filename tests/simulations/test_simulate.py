"""`simulate`: it learns, it is deterministic, it never claims a guarantee, and it is the deployment's own trainer."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from privet.common.adapter import digest, load
from privet.common.config import Federation, Plan, SimulationSpec, load_federation
from privet.common.errors import ConfigError, DataError, RunError
from privet.common.examples import UNKNOWN
from privet.common.privacy.calibration import noise_multiplier
from privet.server.checkpoint import load_checkpoint
from privet.simulations import SimulationData
from privet.simulations.data import generated, load_data
from privet.simulations.result import Simulation
from privet.simulations.simulator import Simulator
from tests.simulations.small_runs import LABELS, PLACES, plan_of, simulate, texts_of, untimed


@pytest.fixture(scope="module")
def data() -> SimulationData:
    texts, labels, units = texts_of(120, 0)
    test_texts, test_labels, _ = texts_of(60, 1)
    place = [PLACES[int(unit[1:]) % 3] for unit in units]
    return SimulationData(texts, labels, units, {"site": place}, test_texts, test_labels)


@pytest.fixture(scope="module")
def simulator(base: Path, data: SimulationData) -> Simulator:
    return Simulator(plan_of(base), data)


def _run(simulator: Simulator, *, num_sites: int = 3, epsilon: Any = math.inf, **spec: Any) -> Simulation:
    settings = SimulationSpec(**spec)
    records = simulator.data.sites(settings.partition, LABELS, num_sites=num_sites, seed=settings.seed)
    return simulator.run(simulator.prepare(records), epsilon=epsilon, spec=settings)


# It learns


@pytest.mark.parametrize("kind", ["head", "ffa", "fedavg"])
def test_it_learns(base: Path, data: SimulationData, kind: str) -> None:
    plan = plan_of(base, kind, training={"rounds": 6 if kind == "head" else 2, "expected_batch": 20})
    events: list[dict[str, Any]] = []
    ran = simulate(plan, data, sites=3, epsilon=math.inf, on_event=events.append)
    (start,) = [event["public"]["accuracy"] for event in events if event["event"] == "initial"]
    assert ran.accuracy > 0.6
    assert ran.accuracy > start + 0.2
    assert ran.final is not None
    assert ran.accuracy == ran.final["accuracy"]
    assert [event["event"] for event in events if event["event"] == "round"] == ["round"] * plan.training.rounds


# It is deterministic


def test_the_same_seed_gives_the_same_run_and_another_does_not(simulator: Simulator) -> None:
    first, again = _run(simulator, epsilon=8.0, seed=4), _run(simulator, epsilon=8.0, seed=4)
    assert digest(first.arrays) == digest(again.arrays)
    assert untimed(first.rounds) == untimed(again.rounds)
    assert first.statements == again.statements
    assert digest(_run(simulator, epsilon=8.0, seed=5).arrays) != digest(first.arrays)


def test_a_fresh_simulator_gives_the_same_run(base: Path, data: SimulationData, simulator: Simulator) -> None:
    """Nothing is carried over from what a simulator ran before."""
    by_agents = SimulationSpec(engine="opacus", precision="float32")
    one = simulate(plan_of(base), data, sites=3, epsilon=8.0, spec=by_agents)
    _run(simulator, epsilon=2.0, seed=9)
    assert digest(_run(simulator, epsilon=8.0).arrays) == digest(one.arrays)


# What it states


@pytest.mark.parametrize("epsilon", [0.5, 2.0, 8.0])
def test_what_is_stated_is_close_below_what_was_asked(simulator: Simulator, epsilon: float) -> None:
    ran = _run(simulator, epsilon=epsilon)
    assert set(ran.statements) == {"site-0", "site-1", "site-2"}
    for stated in ran.statements.values():
        assert stated.epsilon is not None
        assert 0.9 * epsilon < stated.epsilon <= epsilon
        assert (stated.delta, stated.rounds, stated.local_steps) == (1e-5, 2, 4)
        assert stated.sample_rate == 10 / 40
        assert stated.expected_batch == 10
        assert stated.unit == "unit"
        assert not stated.guarantee
        assert "seeded" in stated.reason


def test_spare_rounds_are_paid_for(base: Path, data: SimulationData) -> None:
    """A real site reserves the whole horizon; so does its double."""
    plan = plan_of(base, training={"spare_rounds": 3})
    ran = simulate(plan, data, sites=3, epsilon=2.0)
    sigma = noise_multiplier(sample_rate=0.25, steps=5 * 4, epsilon=2.0, delta=1e-5)
    assert {s.noise_multiplier for s in ran.statements.values()} == {sigma}
    assert {s.rounds for s in ran.statements.values()} == {5}
    assert len(ran.rounds) == 2


def test_without_privacy_no_epsilon_is_stated(simulator: Simulator) -> None:
    for stated in _run(simulator, epsilon=math.inf).statements.values():
        assert (stated.epsilon, stated.noise_multiplier, stated.guarantee) == (None, 0.0, False)


def test_several_epsilons_are_given_out_in_turn(simulator: Simulator) -> None:
    ran = _run(simulator, num_sites=5, epsilon=[8.0, math.inf])
    found = [stated.epsilon for _, stated in sorted(ran.statements.items())]
    assert [value is None for value in found] == [False, True, False, True, False]
    assert all(7.2 < value <= 8.0 for value in found if value is not None)


@pytest.mark.parametrize("epsilon", [0.0, -1.0, math.nan, [], [8.0, 0.0], -math.inf])
def test_an_epsilon_that_is_none_is_refused(simulator: Simulator, epsilon: Any) -> None:
    with pytest.raises(ConfigError, match="got") as caught:
        _run(simulator, epsilon=epsilon)
    assert caught.value.where == "epsilon"


def test_expected_batch_site_is_a_share_of_each_sites_units(base: Path, data: SimulationData) -> None:
    plan = plan_of(base, training={"expected_batch": "site"})
    spec = SimulationSpec(sample_rate=0.2, partition="dirichlet:1")
    ran = simulate(plan, data, sites=3, epsilon=math.inf, spec=spec)
    records = data.sites("dirichlet:1", LABELS, num_sites=3, seed=0)
    for name, stated in ran.statements.items():
        assert stated.expected_batch == max(1, round(0.2 * records[name].num_units))
        assert stated.sample_rate == stated.expected_batch / records[name].num_units


def test_by_record_each_text_counts_alone(base: Path, data: SimulationData) -> None:
    plan = plan_of(base, training={"rounds": 1})
    ran = simulate(plan, replace(data, by_record=True), sites=3, epsilon=math.inf)
    assert {stated.unit for stated in ran.statements.values()} == {"record"}
    rates = sorted(stated.sample_rate for stated in ran.statements.values())
    assert sum(1 / rate for rate in rates) * 10 == pytest.approx(len(data.texts))


# Who takes part


def test_a_site_too_small_for_the_plan_refuses_and_is_named(base: Path, data: SimulationData) -> None:
    """Not capped: at a rate above 1 the noise that was computed would not be the noise that was needed."""
    few = [row for row, unit in enumerate(data.units) if int(unit[1:]) % 3 != 2 or int(unit[1:]) < 27]
    part = SimulationData(
        [data.texts[row] for row in few],
        [data.labels[row] for row in few],
        [data.units[row] for row in few],
        {"site": [data.columns["site"][row] for row in few]},
        data.test_texts,
        data.test_labels,
    )
    assert part.sites("column:site", LABELS, num_sites=0, seed=0)["east"].num_units == 9
    events: list[dict[str, Any]] = []
    ran = simulate(plan_of(base), part, sites=3, partition="column:site", epsilon=8.0, on_event=events.append)
    codes = {event["site"]: event["code"] for event in events if event["event"] == "offer"}
    assert codes == {"east": "refused_policy", "north-ward": "ok", "south": "ok"}
    assert set(ran.statements) == {"north-ward", "south"}
    assert all(row["cohort"] == ["north-ward", "south"] for row in ran.rounds)


def test_a_plan_that_too_few_sites_can_take_is_an_error_that_names_them(base: Path, data: SimulationData) -> None:
    plan = plan_of(base, training={"expected_batch": 41})
    with pytest.raises(RunError, match="site-0: refused_policy") as caught:
        simulate(plan, data, sites=3, epsilon=math.inf)
    assert "0 of at least 2" in caught.value.what


def test_a_rate_of_exactly_one_is_allowed(base: Path, data: SimulationData) -> None:
    ran = simulate(plan_of(base, training={"expected_batch": 40}), data, sites=3, epsilon=math.inf)
    assert {stated.sample_rate for stated in ran.statements.values()} == {1.0}


def test_a_hundred_sites(base: Path, data: SimulationData) -> None:
    plan = plan_of(base, training={"rounds": 1, "local_steps": 1, "expected_batch": 1})
    ran = simulate(plan, data, sites=100, epsilon=8.0)
    (row,) = ran.rounds
    assert row["answered"] == [f"site-{index:02d}" for index in range(100)]
    assert len(ran.statements) == 100


def test_a_cohort_is_drawn(base: Path, data: SimulationData) -> None:
    ran = simulate(plan_of(base, cohort={"fraction": 0.5}), data, sites=6, epsilon=math.inf)
    cohorts: list[Any] = [row["cohort"] for row in ran.rounds]
    assert all(len(cohort) == 3 for cohort in cohorts)
    assert set(ran.statements) == {f"site-{index}" for index in range(6)}


# The run folder


@pytest.fixture(scope="module")
def folder(base: Path, data: SimulationData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    ran = simulate(
        plan_of(base, training={"rounds": 3}), data, sites=3, epsilon=8.0, runs=runs, command="privet simulate x"
    )
    assert ran.folder is not None
    assert [ran.folder] == list(runs.iterdir())
    return ran.folder


def test_a_run_folder_is_complete(folder: Path, base: Path) -> None:
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert found >= {
        *("plan.toml", "metrics.jsonl", "report.html", "adapter/README.md", "adapter/privacy.json"),
        *("adapter/adapter_model.safetensors", "adapter/adapter_config.json", "adapter/tokenizer.json"),
        *("checkpoints/round-00002.safetensors", "checkpoints/round-00003.safetensors"),
    }
    assert not any("partial" in name for name in found)
    plan = plan_of(base, training={"rounds": 3})
    assert plan.digest in (folder / "plan.toml").read_text(encoding="utf-8").splitlines()[0]
    assert load_federation(folder / "plan.toml").plan == plan
    assert load_checkpoint(folder / "checkpoints" / "round-00003.safetensors").completed == 3
    assert load(folder / "adapter" / "adapter_model.safetensors")


def test_every_part_of_a_run_folder_says_that_nothing_is_guaranteed(folder: Path) -> None:
    privacy = json.loads((folder / "adapter" / "privacy.json").read_text(encoding="utf-8"))
    assert privacy["guarantee"] is False
    assert "simulation" in privacy["reason"].lower()
    assert {name: stated["guarantee"] for name, stated in privacy["sites"].items()} == {
        "site-0": False,
        "site-1": False,
        "site-2": False,
    }
    card = (folder / "adapter" / "README.md").read_text(encoding="utf-8")
    assert "Simulation: no guarantee" in card
    assert "differential-privacy" not in card.split("---")[1]  # its tags
    assert "Simulation: no guarantee" in (folder / "report.html").read_text(encoding="utf-8")
    events = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert all(event["simulated"] is True for event in events)
    kinds = [event["event"] for event in events]
    rounds = [*["offer"] * 3, *["round_started", "round"] * 3]
    assert kinds == ["engine", "started", "initial", *rounds, "environment", "finished"]


def test_nothing_is_written_where_no_folder_is_asked_for(
    simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert _run(simulator).folder is None
    assert list(tmp_path.iterdir()) == []


# Data


def test_a_columns_values_name_the_sites(data: SimulationData) -> None:
    records = data.sites("column:site", LABELS, num_sites=0, seed=0)
    assert set(records) == {"north-ward", "south", "east"}
    for name, place in (("north-ward", "North Ward"), ("south", "South")):
        rows = [row for row, value in enumerate(data.columns["site"]) if value == place]
        assert records[name].texts == [data.texts[row] for row in rows]
        assert records[name].num_units == len({data.units[row] for row in rows})


def _at(places: list[str], units: list[str] | None = None) -> SimulationData:
    texts = [f"text {index}" for index in range(len(places))]
    return SimulationData(texts, ["calm"] * len(places), units or texts, {"site": places})


@pytest.mark.parametrize(
    ("places", "num_sites"),
    [
        (["A b", "a-b", "A.B", "a b"], 0),  # all plain names alike
        (["site-1", "site-2"], 3),  # the third, empty, site must not take the second's name
        (["site-0", "site-1", "site-3"], 6),
        (["–", "…", "ü"], 0),  # nothing plain is left of them
        (["x" * 300, "x" * 301], 0),
        (["../../up", "a/b"], 0),
    ],
)
def test_no_site_takes_anothers_name(places: list[str], num_sites: int) -> None:
    records = _at(places).sites("column:site", LABELS, num_sites=num_sites, seed=0)
    assert len(records) == max(num_sites, len(places))
    assert sorted(text for part in records.values() for text in part.texts) == _at(places).texts
    assert all(name.replace("-", "").isalnum() and len(name) < 70 for name in records)


def test_units_are_compared_as_sites_compare_them() -> None:
    units = ["caf\u00e9", "cafe\u0301", " caf\u00e9 ", "tea"]
    (part,) = _at(["x"] * 4, units).sites("iid", LABELS, num_sites=1, seed=0).values()
    assert part.num_units == 2
    assert len({int(unit) for unit, text in zip(part.units, part.texts, strict=True) if text != "text 3"}) == 1


def test_units_and_labels_become_indices() -> None:
    data = SimulationData(["a", "b", "c", "d"], ["urgent", "unheard", "calm", "other"], ["u", "v", "u", "w"])
    parts = data.sites("iid", LABELS, num_sites=2, seed=0)
    assert sum(part.num_units for part in parts.values()) == 3
    for part in parts.values():
        assert sorted(set(part.units.tolist())) == list(range(part.num_units))
        for text, label in zip(part.texts, part.labels, strict=True):
            assert label == {"a": 1, "b": UNKNOWN, "c": 0, "d": 2}[text]


@pytest.mark.parametrize(
    "columns",
    [
        {"texts": ["a"], "labels": [], "units": ["u"]},
        {"texts": ["a"], "labels": ["x"], "units": []},
        {"texts": [], "labels": [], "units": [], "test_texts": ["a"]},
    ],
)
def test_columns_of_unequal_length_are_refused(columns: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="as many"):
        SimulationData(**columns)


def _file(folder: Path) -> Path:
    rows = ["note,class,who,where,fold"]
    for index in range(40):
        label = ("C", "U", "other", "unheard")[index % 4]
        rows.append(
            f"text {index},{label}, p{index // 2} ,{PLACES[index // 2 % 3]},{'test' if index >= 32 else 'train'}"
        )
    path = folder / "all.csv"
    path.write_text("\n".join([*rows, ",C,p1,South,train", "lost,C,,South,train", ""]), encoding="utf-8")
    return path


def _spec(folder: Path, **changes: Any) -> SimulationSpec:
    values: dict[str, Any] = {
        "data": _file(folder),
        "text": "note",
        "label": "class",
        "unit": "who",
        "label_map": {"C": "calm", "U": "urgent"},
    }
    return SimulationSpec(**(values | changes))


def test_a_column_says_which_rows_are_public(tmp_path: Path) -> None:
    data = load_data(_spec(tmp_path, split="fold", partition="column:where"), LABELS)
    assert data.texts == [f"text {index}" for index in range(32)]  # without text or without a unit: left out
    assert data.units[:3] == ["p0", "p0", "p1"]
    assert data.labels[:4] == ["calm", "urgent", "other", "unheard"]
    assert list(data.test_texts) == [f"text {i}" for i in range(32, 40) if i % 4 != 3]  # judged by the plan's labels
    assert set(data.test_labels) == set(LABELS)
    assert data.columns["where"][:4] == ["North Ward", "North Ward", "South", "South"]
    assert not data.by_record


def test_without_a_split_a_fifth_of_the_units_is_public_whole(tmp_path: Path) -> None:
    data = load_data(_spec(tmp_path), LABELS)
    train = {int(text.split()[1]) // 2 for text in data.texts}
    test = {int(text.split()[1]) // 2 for text in data.test_texts}
    assert len(train) == 16
    assert not train & test  # nobody is on both sides
    assert load_data(_spec(tmp_path), LABELS).texts == data.texts
    assert load_data(_spec(tmp_path, seed=1), LABELS).texts != data.texts


def test_in_record_mode_each_row_is_a_unit(tmp_path: Path) -> None:
    data = load_data(_spec(tmp_path, unit="record", split="fold"), LABELS)
    assert data.by_record
    assert len(set(data.units)) == len(data.texts) == 33  # the row without a unit counts here


def test_a_file_of_other_labels_or_without_text_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="one of the plan's labels") as caught:
        load_data(_spec(tmp_path, label_map={}), ["x", "y"])
    assert "simulation.label" in caught.value.mend
    empty = tmp_path / "empty.csv"
    empty.write_text("note,class,who\n,C,p1\n", encoding="utf-8")
    with pytest.raises(DataError, match="no row has text"):
        load_data(_spec(tmp_path, data=empty), LABELS)
    with pytest.raises(DataError, match="no such file"):
        load_data(_spec(tmp_path, data=tmp_path / "none.csv"), LABELS)


def test_generated_text_is_taken_where_the_labels_are_the_generators() -> None:
    from privet.simulations.corpus import bank, hospital

    for labels in (hospital.LABELS, bank.LABELS):
        data = generated(labels, num_units=20)
        assert set(data.labels) <= set(labels)
        assert set(data.test_labels) == set(labels)
        assert len(data.sites("column:site", labels, num_sites=0, seed=0)) == 3
    with pytest.raises(ConfigError, match="no generated text") as caught:
        generated(LABELS)
    assert hospital.LABELS[0] in caught.value.mend


def test_a_federations_own_table_is_the_default(base: Path, tmp_path: Path) -> None:
    raw = json.loads(plan_of(base, training={"rounds": 1, "expected_batch": 2}).canonical())
    table = {**_spec(tmp_path, split="fold", partition="column:where", seed=3).model_dump(), "delta": 1e-6}
    federation = Federation.model_validate(raw | {"simulation": table})
    ran = simulate(federation, sites=3, epsilon=4.0)
    assert set(ran.statements) == {"north-ward", "south", "east"}
    assert {stated.delta for stated in ran.statements.values()} == {1e-6}
    assert type(ran.plan) is Plan
    assert ran.plan.digest == federation.plan.digest
    dealt = simulate(federation, sites=2, partition="iid", epsilon=math.inf)
    assert set(dealt.statements) == {"site-0", "site-1"}


def test_without_public_text_nothing_is_judged(base: Path, data: SimulationData) -> None:
    plan = plan_of(base, training={"rounds": 1})
    ran = simulate(plan, replace(data, test_texts=(), test_labels=()), sites=3, epsilon=math.inf)
    assert ran.final is None
    assert math.isnan(ran.accuracy)
    assert [row["public"] for row in ran.rounds] == [None]


def test_an_empty_site_answers_with_noise(base: Path, data: SimulationData) -> None:
    plan = plan_of(base, training={"rounds": 1, "expected_batch": "site"})
    ran = _run(Simulator(plan, data), num_sites=4, epsilon=2.0, partition="column:site")
    (row,) = ran.rounds
    assert row["answered"] == ["east", "north-ward", "site-3", "south"]
    assert ran.spent is not None
    assert ran.spent.trained.tolist() == [1, 1, 1, 1]
