"""What lies below LoRA is computed once for a text of a simulation, where there is room, and changes nothing."""

from pathlib import Path

import numpy as np
import pytest

from privet.common.config import SimulationSpec
from privet.common.live import Event
from privet.simulations import SimulationData, simulator
from privet.simulations.engines import open_engine
from privet.simulations.result import Simulation
from privet.simulations.simulator import Simulator
from tests.simulations.small_runs import LABELS, plan_of, texts_of
from tests.tiny_models import tiny_base


def run(base: Path, workers: int, *, first_layer: int = 1) -> tuple[Simulation, str]:
    texts, labels, units = texts_of(60, 0)
    data = SimulationData(texts, labels, units, {}, *texts_of(20, 1)[:2])
    plan = plan_of(
        base,
        "ffa",
        lora={"first_layer": first_layer},
        training={"rounds": 2, "local_steps": 2, "train_fraction": 0.7},
        evaluation={"release": "accuracy"},
    )
    events: list[Event] = []
    with open_engine("local", workers) as engine:
        made = Simulator(plan, data, engine)
        sites = made.prepare(data.sites("iid", LABELS, num_sites=3, seed=0))
        found = made.run(sites, epsilon=8.0, spec=SimulationSpec(), on_event=events.append)
    return found, next(str(event["gradients"]) for event in events if event["event"] == "engine")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_simulation_is_the_same_to_the_last_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    base = tiny_base(tmp_path / "base")
    kept, words = run(base, workers)
    assert words.startswith("fused")
    assert words.endswith("; layers below 1 once for a text")
    monkeypatch.setattr(simulator, "most_state_bytes", lambda: 0)
    again, plain = run(base, 0)
    assert "once" not in plain
    for name, array in kept.arrays.items():
        assert np.array_equal(array, again.arrays[name])
    assert [event["public"] for event in kept.rounds] == [event["public"] for event in again.rounds]
    assert kept.truth == again.truth


def test_lora_everywhere_keeps_nothing(tmp_path: Path) -> None:
    assert "once" not in run(tiny_base(tmp_path / "base"), 0, first_layer=0)[1]
