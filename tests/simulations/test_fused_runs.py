"""Whole simulations by the engine that they take by default: many sites in one pass, in passes of several lengths.

Who drops out, comes late, is not drawn or has no data is the same as under the agent's own trainer, and leaves no mark
on the others; a run that was stopped within a cohort goes on to the same bits.
"""

import json
import math
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privet.common.adapter import AdapterSpec, Arrays, digest
from privet.common.config import Plan, SimulationSpec
from privet.common.initial import initial_adapter
from privet.common.layout import adapter_spec
from privet.common.privacy.noise import SeededNoise, privatise
from privet.server.export import plan_toml
from privet.simulations import Simulation, SimulationData, shards, simulate
from privet.simulations.absence import Absence
from privet.simulations.corpus.hospital import LABELS as HOSPITAL
from privet.simulations.engines.engine import InProcess
from privet.simulations.simulator import Simulator
from tests.simulations.processes import descendants, gone
from tests.simulations.small_runs import LABELS, PLACES, plan_of, texts_of
from tests.simulations.test_simulation_resume import Stopped, _rows, _same, _start, _stops
from tests.tiny_models import tiny_base, tiny_plan

ROUNDS, STEPS, RATE = 3, 2, 0.5
SPEC = SimulationSpec(seed=8, precision="float32", dropout=0.25, straggler=0.25)
FUSED = "fused, sites side by side; float32"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def data() -> SimulationData:
    """Places of unequal sizes; texts of 8 to 15 tokens."""
    texts, labels, units = texts_of(70, 0)
    place = [PLACES[0 if int(unit[1:]) % 7 < 4 else 1 if int(unit[1:]) % 7 < 6 else 2] for unit in units]
    return SimulationData(texts, labels, units, {"site": place}, texts[:30], labels[:30])


def _lora(base: Path, **tables: Any) -> Plan:
    training = {"rounds": ROUNDS, "local_steps": STEPS, "expected_batch": "site", "optimizer": "sgd"}
    given: dict[str, Any] = {
        "task": {"max_length": 16, "buckets": [8, 10, 12, 16]},
        "training": training | {"learning_rate": RATE} | tables.pop("training", {}),
        "cohort": {"min_sites": 1} | tables.pop("cohort", {}),
    }
    return plan_of(base, "fedavg", **given, **tables)


def _run(plan: Plan, data: SimulationData, spec: SimulationSpec = SPEC, **more: Any) -> Simulation:
    told: list[Any] = []
    given: dict[str, Any] = {"sites": 6, "partition": "iid", "epsilon": math.inf, "workers": 0} | more
    ran = simulate(plan, data, spec=spec, on_event=told.append, **given)
    (engine,) = [event["gradients"] for event in told if event["event"] == "engine"]
    assert engine == FUSED or (spec.engine == "opacus" and engine.startswith("opacus, one site after the other"))
    return ran


def _spec_of(plan: Plan, base: Path) -> AdapterSpec:
    spec = adapter_spec(plan, base)
    assert spec is not None
    return spec


def _flat(arrays: Arrays) -> Any:
    return np.concatenate([arrays[name].reshape(-1).astype(np.float64) for name in sorted(arrays)])


def test_sites_that_are_away_late_not_drawn_or_empty_are_the_same_as_one_after_the_other(
    base: Path, data: SimulationData
) -> None:
    """The same cohorts, absences and spending as by the agent's own trainer, and nearly the same weights."""
    plan = _lora(base, cohort={"fraction": 0.75}, evaluation={"release": "accuracy"}, training={"train_fraction": 0.8})
    more: dict[str, Any] = {"sites": 5, "partition": "column:site", "epsilon": math.inf}  # two of them have no text
    fused = _run(plan, data, **more)
    single = _run(plan, data, SPEC.model_copy(update={"engine": "opacus"}), **more)
    away = [sum(len(row[key]) for row in fused.rounds) for key in ("answered", "missing")]  # type: ignore[arg-type, misc]
    assert min(away) > 2
    assert all(set(row["cohort"]) < set(fused.statements) for row in fused.rounds)  # type: ignore[call-overload]
    assert any({"site-3", "site-4"} & set(row["answered"]) for row in fused.rounds)  # type: ignore[call-overload]
    told = ("cohort", "answered", "missing", "failed", "aggregated")
    assert [[row[key] for key in told] for row in fused.rounds] == [[row[key] for key in told] for row in single.rounds]
    assert fused.spent is not None
    assert single.spent is not None
    assert fused.spent.trained.tolist() == single.spent.trained.tolist()
    assert (fused.statements, fused.truth) == (single.statements, single.truth)
    apart = np.abs(_flat(fused.arrays) - _flat(single.arrays)).max()
    start = initial_adapter(_spec_of(plan, base), plan.method.seed)
    assert apart < 1e-5
    assert np.abs(_flat(fused.arrays) - _flat(start)).max() > 0.05


def test_who_is_away_leaves_no_mark_on_those_who_answer(base: Path, data: SimulationData) -> None:
    """One round without them is, to the last bit, that of a federation that they are not in; late ones spend."""
    plan, engine = _lora(base, training={"rounds": 1}), InProcess()
    simulator = Simulator(plan, data, engine, spec=SPEC)
    sites = simulator.prepare(data.sites("iid", LABELS, num_sites=6, seed=0))
    given: dict[str, Any] = {"epsilon": math.inf}
    ran = simulator.run(sites, spec=SPEC, **given)
    assert engine.built().words == FUSED
    does = {name: Absence(SPEC.seed, SPEC.dropout, SPEC.straggler).of(name, 1) for name in sites.names}
    assert set(does.values()) == {"answers", "late", "absent"}
    (row,) = ran.rounds
    here = [name for name, what in does.items() if what == "answers"]
    assert row["answered"] == here
    assert ran.spent is not None
    assert ran.spent.trained.tolist() == [what != "absent" for what in does.values()]
    everyone = SPEC.model_copy(update={"dropout": 0.0, "straggler": 0.0})
    alone = simulator.run(sites.only(*here), spec=everyone, **given)
    assert digest(alone.arrays) == digest(ran.arrays)
    assert digest(simulator.run(sites, spec=everyone, **given).arrays) != digest(ran.arrays)


def test_an_empty_site_sends_its_noise_and_nothing_else(base: Path, data: SimulationData) -> None:
    plan, engine = _lora(base, training={"rounds": 1}), InProcess()
    simulator = Simulator(plan, data, engine, spec=SPEC)
    sites = simulator.prepare(data.sites("column:site", LABELS, num_sites=4, seed=0))
    present = SPEC.model_copy(update={"dropout": 0.0, "straggler": 0.0})
    ran = simulator.run(sites.only("site-3"), spec=present, epsilon=8.0)
    spec, stated = engine.built().spec, ran.statements["site-3"]
    trainable, noise = simulator.trainer.method.trainable(spec, 1), SeededNoise(SPEC.seed, "site-3", 1)
    start = initial_adapter(spec, plan.method.seed)
    expected = trainable.flatten(start)
    for _ in range(STEPS):
        nothing = np.zeros(trainable.size)
        expected -= RATE * privatise(
            nothing,
            noise_multiplier=stated.noise_multiplier,
            max_grad_norm=stated.max_grad_norm,
            expected_batch=stated.expected_batch,
            noise=noise,
        )
    np.testing.assert_allclose(trainable.flatten(ran.arrays), expected, atol=1e-5)
    assert np.abs(expected - trainable.flatten(start)).max() > 0.1


def test_a_round_in_which_nobody_answers_changes_nothing(base: Path, data: SimulationData) -> None:
    spec = SPEC.model_copy(update={"dropout": 0.9})
    ran = _run(_lora(base), data, spec, sites=2)
    silent = [row for row in ran.rounds if not row["answered"]]
    assert silent
    assert not any(row["aggregated"] for row in silent)
    again = _run(_lora(base), data, spec, sites=2)
    assert digest(again.arrays) == digest(ran.arrays)


# Stopped


@pytest.fixture(scope="module")
def plan(base: Path) -> Plan:
    """Momentum, drawn cohorts, evaluations at sites; frozen and trained layers."""
    training = {"rounds": 4, "train_fraction": 0.7, "optimizer": "adamw", "learning_rate": 0.03}
    evaluation = {"release": "accuracy", "every": 2, "metric": "sites", "keep": "best"}
    method = {"kind": "fedavg", "server_momentum": 0.9, "seed": 1}
    return _lora(base, training=training, evaluation=evaluation, cohort={"fraction": 0.7}, method=method)


GIVEN: dict[str, Any] = {"sites": 8, "epsilon": [8.0, math.inf], "workers": 0, "spec": SPEC}


@pytest.fixture(scope="module")
def undisturbed(plan: Plan, data: SimulationData) -> Simulation:
    """All sites of a cohort in one pass."""
    return simulate(plan, data, **GIVEN)


@pytest.mark.parametrize(("kind", "round", "after"), [("train", 2, 1), ("train", 3, 2), ("evaluate", 2, 1)])
def test_stopped_within_a_cohort_it_comes_to_the_same_bits(
    plan: Plan,
    data: SimulationData,
    undisturbed: Simulation,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    round: int,
    after: int,
) -> None:
    """Some sites of it had answered, others were not computed."""
    for name in ("MOST_TOKENS", "LEAST_TOKENS"):  # several shards a cohort
        monkeypatch.setattr(shards, name, 60)
    now, heard, computed = 0, 0, list[int]()

    def listen(event: Any) -> None:
        nonlocal now, heard
        if event["event"] == "round_started":
            now, heard = event["round"], 0
        if event["event"] == "reply" and event["kind"] == kind and now == round:
            heard += 1
            if heard == after:
                raise Stopped

    genuine = InProcess.map

    def counted(self: InProcess, job: Any, parts: Any) -> Any:
        for found in genuine(self, job, parts):
            if job.kind == {"train": "train", "evaluate": "cells"}[kind]:
                computed.append(len(parts))
            yield found

    with monkeypatch.context() as patch, _stops():
        patch.setattr(InProcess, "map", counted)
        simulate(plan, data, runs=tmp_path / "runs", on_event=listen, **GIVEN)
    assert computed[-1] > 1, "the cohort was one shard: it was not stopped within it"
    (folder,) = (tmp_path / "runs").iterdir()
    told: list[Any] = []
    again = simulate(plan, data, resume=folder, on_event=told.append, **GIVEN)
    (engine,) = [event["gradients"] for event in told if event["event"] == "engine"]
    assert engine == FUSED
    _same(again, undisturbed)


@pytest.mark.slow
def test_ctrl_c_within_a_cohort_and_resume(base: Path, tmp_path: Path) -> None:
    """Real processes, as a person does it: two workers, LoRA, the default precision of this machine."""
    file = tmp_path / "federation.toml"
    made = tiny_plan(
        base,
        task={"labels": list(HOSPITAL), "max_length": 64},
        method={"kind": "fedavg"},
        training={"rounds": 12, "local_steps": 20, "expected_batch": 8, "learning_rate": 0.03},
        cohort={"fraction": 0.8},
    )
    tables = '\n[server]\nruns = "runs"\n\n[simulation]\ndropout = 0.1\nstraggler = 0.1\nseed = 5\nunit = "patient"\n'
    file.write_text(plan_toml(made) + tables, encoding="utf-8")
    flags = ("--sites", "24", "--epsilon", "8", "--workers", "2")
    whole = _start(file, *flags)
    out, errors = whole.communicate(timeout=600)
    assert whole.returncode == 0, errors
    assert any("fused, sites side by side" in line for line in out.splitlines() if '"engine"' in line)
    (first,) = (tmp_path / "runs").iterdir()

    with _start(file, *flags) as stopped:
        assert stopped.stdout is not None
        now = 0
        for line in stopped.stdout:
            event = json.loads(line)
            now = event["round"] if event["event"] == "round_started" else now
            if event["event"] == "reply" and now == 2:
                break
        workers = descendants(stopped.pid)
        stopped.send_signal(signal.SIGINT)
        rest, errors = stopped.communicate(timeout=120)
    assert stopped.returncode == 1
    assert '"round": 2' not in "".join(line for line in rest.splitlines() if '"event": "round",' in line)
    assert len(workers) >= 3
    assert gone(workers)
    (second,) = set((tmp_path / "runs").iterdir()) - {first}
    assert f"--resume {second}" in errors.strip().splitlines()[-1]

    again = _start(file, "--resume", str(second), "--workers", "2")
    _, errors = again.communicate(timeout=600)
    assert again.returncode == 0, errors
    adapters = [json.loads((run / "adapter" / "privacy.json").read_text())["adapter"] for run in (first, second)]
    assert adapters[0] == adapters[1]
    rows = [
        [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines() if '"event": "round",' in line]
        for run in (first, second)
    ]
    assert len(rows[0]) == 12
    assert [_untold(row) for row in rows[0]] == [_untold(row) for row in rows[1]]


def _untold(row: dict[str, Any]) -> Any:
    """Without what time does."""
    return _rows([{key: value for key, value in row.items() if key != "time"}])
