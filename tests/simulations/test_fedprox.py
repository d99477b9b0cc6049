"""The example method in a simulation: without a pull it is fedavg, with one the sites stay near where they began."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privet.common.adapter import digest
from privet.common.config import Plan
from privet.common.errors import ConfigError, RunError
from privet.common.model import build_classifier, initial_arrays
from privet.simulations import SimulationData, simulate
from privet.simulations.result import Simulation
from tests.plugins import install, install_fedprox
from tests.tiny_models import WORDS, tiny_plan

LABELS = ("calm", "urgent", "other")


@pytest.fixture(scope="module", autouse=True)
def _installed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(install_fedprox(tmp_path_factory.mktemp("packages")))
        yield


@pytest.fixture(scope="module")
def data() -> SimulationData:
    """Each label has words of its own, and each of two sites has mostly one label."""
    random = np.random.default_rng(0)
    texts, labels, sites = [], [], []
    for row in range(40):
        site = row % 2
        label = site if random.random() < 0.8 else 2
        texts.append(" ".join(str(word) for word in random.choice(WORDS[9 * label : 9 * label + 9], 6)))
        labels.append(LABELS[label])
        sites.append(f"site{site}")
    return SimulationData(texts, labels, [f"u{row}" for row in range(40)], {"site": sites}, texts[:12], labels[:12])


def _plan(base: Path, kind: str, rounds: int = 2, steps: int = 2, batch: int = 4, **options: Any) -> Plan:
    training = {
        "rounds": rounds,
        "local_steps": steps,
        "expected_batch": batch,
        "learning_rate": 0.3,
        "optimizer": "sgd",
    }
    return tiny_plan(base, method={"kind": kind, "options": options}, training=training)


def _run(plan: Plan, data: SimulationData, epsilon: float = 8.0) -> Simulation:
    return simulate(plan, data, sites=2, partition="column:site", epsilon=epsilon)


def test_without_a_pull_it_is_fedavg_to_the_last_bit(base: Path, data: SimulationData) -> None:
    plain, still = (_run(plan, data) for plan in (_plan(base, "fedavg"), _plan(base, "fedprox", mu=0)))
    assert digest(plain.arrays) == digest(still.arrays)
    assert [row["public"] for row in plain.rounds] == [row["public"] for row in still.rounds]


def test_a_pull_keeps_the_round_nearer_to_its_start(base: Path, data: SimulationData) -> None:
    moved = []
    for mu in (0.0, 1.5, 3.0):
        plan = _plan(base, "fedprox", rounds=1, steps=8, batch=16, mu=mu, trains="head")
        ran, start = _run(plan, data, math.inf), initial_arrays(build_classifier(plan, base))
        moved.append(math.sqrt(sum(float(((ran.arrays[n] - a) ** 2).sum()) for n, a in start.items())))
    assert moved[0] > 1.1 * moved[1] > 1.1 * moved[2] > 0


def test_a_method_that_is_not_installed_is_told_before_anything_runs(base: Path, data: SimulationData) -> None:
    with pytest.raises(ConfigError, match=r"no method fedprix .* fedprox of privet-fedprox") as caught:
        _run(_plan(base, "fedprix"), data)
    assert caught.value.exit_code == 2


def test_a_method_that_spoils_the_model_ends_the_run(
    base: Path, data: SimulationData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (
        "from privet.common.methods import ROLES, Averaging, State\n\n"
        "class Spoiling(Averaging):\n"
        "    def aggregate(self, spec, state, round, updates):\n"
        "        return State({name: array / 0 for name, array in state.arrays.items()})\n\n"
        "def create(plan):\n"
        "    return Spoiling('spoiling', ROLES['head'])\n"
    )
    module = "privet_spoiling_of_a_test"
    install(tmp_path, "privet-spoiling", "1", {module: text}, {"spoiling": f"{module}:create"})
    monkeypatch.syspath_prepend(tmp_path)
    with np.errstate(all="ignore"), pytest.raises(RunError, match=r"spoiling of privet-spoiling 1 .* not finite"):
        _run(_plan(base, "spoiling"), data)
