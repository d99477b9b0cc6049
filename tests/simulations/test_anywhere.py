"""A simulation gives the same adapter, bit by bit, in this process, in any number of workers, and on Ray."""

import math
from pathlib import Path
from typing import Any

import pytest

from privet.common.adapter import digest
from privet.common.config import SimulationSpec
from privet.simulations import SimulationData, simulate
from privet.simulations.result import Simulation
from tests.simulations.small_runs import PLACES, plan_of, texts_of, untimed


@pytest.fixture(scope="module")
def data() -> SimulationData:
    texts, labels, units = texts_of(90, 0)
    test_texts, test_labels, _ = texts_of(40, 1)
    return SimulationData(
        texts, labels, units, {"site": [PLACES[int(unit[1:]) % 3] for unit in units]}, test_texts, test_labels
    )


def _run(base: Path, data: SimulationData, kind: str, **engine: Any) -> Simulation:
    """Sites of unequal sizes, one of them empty, two budgets, metrics, and some that drop out."""
    training = {"train_fraction": 0.7, "expected_batch": "site", "rounds": 2}
    evaluation = {"release": "accuracy", "every": 1}
    plan = plan_of(base, kind, training=training, evaluation=evaluation, cohort={"min_sites": 1})
    spec = SimulationSpec(seed=3, partition="column:site", dropout=0.2)
    return simulate(plan, data, sites=4, epsilon=[4.0, math.inf], spec=spec, **engine)


def _same(one: Simulation, other: Simulation) -> None:
    assert digest(one.arrays) == digest(other.arrays)
    assert untimed(one.rounds) == untimed(other.rounds)
    assert (one.statements, one.truth) == (other.statements, other.truth)
    assert one.spent is not None
    assert other.spent is not None
    assert one.spent.epsilons() == other.spent.epsilons()


def test_two_workers_give_what_this_process_gives(base: Path, data: SimulationData) -> None:
    _same(_run(base, data, "head", workers=0), _run(base, data, "head", workers=2))


@pytest.mark.slow
def test_no_number_of_workers_changes_anything(base: Path, data: SimulationData) -> None:
    alone = _run(base, data, "fedavg", workers=1)
    for workers in (2, 3):
        _same(alone, _run(base, data, "fedavg", workers=workers))


@pytest.mark.slow
def test_ray_gives_what_workers_of_this_machine_give(base: Path, data: SimulationData) -> None:
    pytest.importorskip("ray")
    _same(_run(base, data, "fedavg", workers=2), _run(base, data, "fedavg", engine="ray", workers=2))
    _same(_run(base, data, "head", workers=0), _run(base, data, "head", engine="ray", workers=2))
