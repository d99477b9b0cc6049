"""A simulation, and an audit, of a plan that starts from a trained adapter."""

import math
from pathlib import Path
from typing import Any

import pytest

from privet.common.adapter import digest
from privet.common.config import Federation
from privet.common.errors import ConfigError
from privet.server.export import plan_toml
from privet.simulations import SimulationData, simulate
from tests.simulations.small_runs import LABELS, plan_of, texts_of
from tests.tiny_models import tiny_base


def _data(labels: dict[str, str] | None = None) -> SimulationData:
    texts, found, units = texts_of(60, 0)
    test, truth, _ = texts_of(40, 1)
    named = labels or {}
    found, truth = ([named.get(label, label) for label in some] for some in (found, truth))
    return SimulationData(texts, found, units, {}, test, truth)


@pytest.mark.parametrize("kind", ["head", "ffa"])
def test_a_simulation_goes_on_from_another_with_its_labels_renamed(tmp_path: Path, kind: str) -> None:
    base = tiny_base(tmp_path / "base")
    training = {"rounds": 4, "expected_batch": 20}
    first = simulate(
        plan_of(base, kind, training=training), _data(), sites=2, epsilon=math.inf, runs=tmp_path, workers=0
    )
    assert first.folder is not None
    run, final = first.folder, digest(first.arrays)
    one: dict[str, Any] = {"rounds": 1, "learning_rate": 1e-6}
    same = plan_of(base, kind, training=one, method={"kind": kind, "init": final})
    events: list[dict[str, Any]] = []
    ran = simulate(same, _data(), sites=2, epsilon=math.inf, init=run, workers=0, on_event=events.append)
    (begun,) = [event["public"]["accuracy"] for event in events if event["event"] == "initial"]
    assert begun == pytest.approx(first.accuracy)  # it starts where the first ended, bit by bit
    assert ran.accuracy == pytest.approx(first.accuracy, abs=0.05)
    # Renamed, in another order: the same judgements.
    names = {LABELS[0]: "zero", LABELS[1]: "one", LABELS[2]: "two"}
    mapping = {"two": LABELS[2], "zero": LABELS[0], "one": LABELS[1]}
    bare = plan_of(base, kind, training=one, task={"labels": list(mapping)})
    named = plan_of(base, kind, training=one, task={"labels": list(mapping)}, method={"kind": kind, "init": final})
    with pytest.raises(ConfigError, match="has digest") as caught:
        simulate(named, _data(names), sites=2, epsilon=math.inf, init=run, init_labels=mapping, workers=0)
    wanted = caught.value.what.split("has digest ")[1][:64]
    raw = bare.model_dump(mode="json")
    raw["method"]["init"] = wanted
    raw["server"] = {"init": run, "init_labels": mapping}
    federation = Federation.model_validate(raw)  # as the command has it
    events.clear()
    again = simulate(
        federation, _data(names), sites=2, epsilon=math.inf, runs=tmp_path / "x", workers=0, on_event=events.append
    )
    (begun,) = [event["public"]["accuracy"] for event in events if event["event"] == "initial"]
    assert begun == pytest.approx(first.accuracy)
    assert again.folder is not None
    assert final in (again.folder / "adapter" / "README.md").read_text()


def test_without_a_folder_it_is_refused(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    plan = plan_of(base, method={"init": "ab" * 32})
    with pytest.raises(ConfigError, match="no folder is named"):
        simulate(plan, _data(), sites=2, workers=0)


def test_a_plan_that_starts_anew_has_no_key_of_a_start(tmp_path: Path) -> None:
    assert "init" not in plan_toml(plan_of(tiny_base(tmp_path / "base")))


@pytest.mark.slow
def test_an_audit_begins_there_too(tmp_path: Path) -> None:
    from privet.simulations.audit.run import audit

    base = tiny_base(tmp_path / "base")
    training = {"rounds": 2, "expected_batch": 10, "local_steps": 2}
    first = simulate(plan_of(base, training=training), _data(), sites=2, epsilon=math.inf, runs=tmp_path, workers=0)
    final = digest(first.arrays)
    plan = plan_of(base, training=training, method={"init": final})
    found = audit(plan, _data(), sites=2, epsilon=[4.0], canaries=40, attacks=["unit"], init=first.folder)
    assert found.coins
    with pytest.raises(ConfigError, match="no folder is named"):
        audit(plan, _data(), sites=2, epsilon=[4.0], canaries=40, attacks=["unit"])
