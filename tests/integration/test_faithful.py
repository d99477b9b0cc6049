"""A simulation and a deployment with the same draws come to the same adapter: processes over gRPC and TLS on one side,
the engine that simulations take by default on the other.

How far apart they may be: both add the very same noise, and round the noised sum to the same grid of G = 2^-10 σC or
finer. Their clipped sums differ by what float32 does in another order, about a thousandth of G: so a noised sum ends on
the same step of the grid, and about once in a thousand times on a neighbouring one. One such step moves a weight by
η G / B at its own site, and by a third of that in the mean over three. That a weight meets twelve of them in the 36
steps of a run is out of the question: the tolerance is 4 η G / B. Another seed moves the same weights by the noise
itself, a thousand times as far.
"""

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privet.common.adapter import Arrays
from privet.common.config import SimulationSpec, load_federation, load_site
from privet.server.checkpoint import load_checkpoint
from privet.simulations import Simulation, SimulationData, simulate
from privet.simulations.corpus import public_sample
from tests.integration import seeded_client
from tests.integration.deployment import Deployment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SITES = ("north", "south", "east")  # the corpus' own names: a virtual site's draws go by its name
SEED, ROUNDS, STEPS, BATCH, RATE = 11, 4, 3, 12, 0.5
SETTINGS = {
    "rounds = 40": f"rounds = {ROUNDS}",
    "local_steps = 5": f"local_steps = {STEPS}",
    "expected_batch = 64": f"expected_batch = {BATCH}",
    'optimizer = "adamw"': 'optimizer = "sgd"',
    "\nlearning_rate = 0.01": f"\nlearning_rate = {RATE}",
    'kind = "head"': 'kind = "fedavg"',
    "max_length = 128": "max_length = 64\nbuckets = [16, 24, 32, 64]",
    "train_fraction = 1.0": "train_fraction = 0.75",
    'release = "none"': 'release = "accuracy"',
    "every = 5": "every = 2",
    "min_sites = 2": "min_sites = 3",
    "timeout = 600.0": "timeout = 300.0",
    "wait = 3600.0": "wait = 600.0",
}


@dataclass(frozen=True)
class Ended:
    """What a run over processes left."""

    arrays: Arrays
    rounds: list[dict[str, Any]]
    statements: dict[str, Any]


def _deployed(folder: Path, engine: str, seeds: dict[str, int]) -> tuple[Deployment, Ended]:
    """A whole run: a server, and a site for each seed."""
    deployment = Deployment(folder, SITES, SETTINGS)
    try:
        for name in SITES:
            deployment.edit(name, 'engine = "opacus"', f'engine = "{engine}"')
            deployment.edit(name, "max_records = 4", "max_records = 2")
            deployment.edit(name, 'release = ["update"]', 'release = ["update", "accuracy"]')
        server = deployment.server()
        clients = []
        for name in SITES:
            program = (sys.executable, str(Path(seeded_client.__file__)), str(seeds[name]), name)
            clients.append(deployment.client(name, program=program))
        run = Path(str(server.until(lambda event: event["event"] == "finished", 600.0)["run"]))
        assert server.wait() == 0, server.words
        assert [client.wait() for client in clients] == [0, 0, 0], [client.words for client in clients]
        for client in clients:
            (told,) = [event["text"] for event in client.events if event["event"] == "gradients"]
            assert ("Opacus" in told, "float32" in told) == (engine == "opacus", True)
        checkpoint = load_checkpoint(max((run / "checkpoints").glob("round-*.safetensors")))
        rounds = [event for event in server.events if event["event"] == "round"]
        assert not deployment.guard.exists()
        return deployment, Ended(checkpoint.state.arrays, rounds, dict(checkpoint.statements))
    finally:
        deployment.close()


@pytest.fixture(scope="module", params=["fused", "opacus"])
def deployed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Deployment, Ended]:
    return _deployed(tmp_path_factory.mktemp(request.param), request.param, dict.fromkeys(SITES, SEED))


def _simulated(deployment: Deployment, seed: int = SEED) -> Simulation:
    """The same plan over the same records, as simulations compute by default: one worker takes all sites at once."""
    file = deployment.home / "federation.toml"
    site = load_site(deployment.folder / SITES[0] / "site.toml")
    share, corpus = site.federation["tiny"], deployment.corpus
    public = public_sample("hospital", num_records=60)
    data = SimulationData(corpus.text, corpus.label, corpus.unit, {"site": corpus.site}, public.text, public.label)
    assert share.delta is not None
    spec = SimulationSpec(seed=seed, delta=share.delta, max_records=site.data.max_records, precision="float32")
    told: list[Any] = []
    ran = simulate(
        load_federation(file).plan,
        data,
        sites=3,
        partition="column:site",
        epsilon=share.epsilon,
        spec=spec,
        workers=1,
        on_event=told.append,
    )
    (engine,) = [event for event in told if event["event"] == "engine"]
    assert engine["gradients"] == "fused, sites side by side; float32"
    return ran


def _flat(arrays: Arrays) -> Any:
    return np.concatenate([arrays[name].reshape(-1).astype(np.float64) for name in sorted(arrays)])


def test_the_same_draws_give_the_same_adapter(deployed: tuple[Deployment, Ended]) -> None:
    deployment, ended = deployed
    ran = _simulated(deployment)
    assert [row["answered"] for row in ended.rounds] == [sorted(SITES)] * ROUNDS
    assert [row["answered"] for row in ran.rounds] == [sorted(SITES)] * ROUNDS

    # What is claimed: the same noise at the same rate, of the same units.
    assert set(ran.statements) == set(ended.statements) == set(SITES)
    for name in SITES:
        real, virtual = ended.statements[name].to_json(), ran.statements[name].to_json()
        assert {key for key in real if real[key] != virtual[key]} <= {"guarantee", "reason"}
    sigma = ended.statements[SITES[0]].noise_multiplier

    # What comes of it.
    assert sorted(ran.arrays) == sorted(ended.arrays)
    real_weights, virtual_weights = _flat(ended.arrays), _flat(ran.arrays)
    grid = 2.0 ** (math.floor(math.log2(sigma)) - 10)  # C is 1
    tolerance = 4 * RATE * grid / BATCH
    apart = np.abs(real_weights - virtual_weights)
    other = np.abs(real_weights - _flat(_simulated(deployment, SEED + 1).arrays))
    trained = other > 0
    print(
        f"{trained.sum()} weights: at most {apart.max():.2e} apart, {np.sqrt((apart[trained] ** 2).mean()):.2e} rms; "
        f"tolerance {tolerance:.2e}; under another seed {np.sqrt((other[trained] ** 2).mean()):.2e} rms"
    )
    assert trained.mean() > 0.5
    assert np.sqrt((other[trained] ** 2).mean()) > 500 * tolerance
    assert apart.max() <= tolerance

    # What is told of the rounds: public metrics of nearly equal weights, and noised counts of the same units.
    for real_row, virtual_row in zip(ended.rounds, ran.rounds, strict=True):
        assert real_row["public"]["loss"] == pytest.approx(virtual_row["public"]["loss"], rel=1e-2)  # type: ignore[index]
        assert real_row["public"]["accuracy"] == pytest.approx(virtual_row["public"]["accuracy"], abs=0.05)  # type: ignore[index]
        measured, expected = real_row["sites"], virtual_row["sites"]
        assert (measured is None) == (expected is None)
        if measured is not None:
            assert measured["accuracy"] == pytest.approx(expected["accuracy"], abs=0.05)  # type: ignore[index]
