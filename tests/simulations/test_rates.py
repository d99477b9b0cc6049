"""The rate of a round is the same one at a site and in every engine of a simulation."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privet.client.training import RoundTrainer
from privet.common.privacy.noise import SeededNoise
from privet.common.schedule import learning_rate
from privet.simulations import SimulationData
from privet.simulations.engines.fused import FusedWork
from privet.simulations.engines.sequential import SequentialWork
from privet.simulations.engines.work import Recipe, Run
from privet.simulations.filling import fill
from tests.simulations.small_runs import plan_of, texts_of
from tests.simulations.test_work import EVENT
from tests.tiny_models import tiny_base


@pytest.mark.parametrize("kind", ["head", "ffa"])
def test_a_round_steps_by_its_own_rate_at_a_site_and_in_both_engines(tmp_path: Path, kind: str) -> None:
    """One SGD step under one seed: updates are in the rates' proportion."""
    base = tiny_base(tmp_path / "base")
    texts, labels, units = texts_of(30, 0)
    data = SimulationData(texts, labels, units, {}, texts[:3], labels[:3])
    training = {"rounds": 5, "local_steps": 4, "optimizer": "sgd", "warmup_rounds": 1, "schedule": "cosine"}
    plan = plan_of(base, kind, training=training)
    records = data.sites("iid", plan.task, num_sites=1, seed=0)
    trainer = RoundTrainer(plan, base)
    own = trainer.prepare(records["site-0"].split(1.0)[0])
    rates = [learning_rate(plan.training, number) for number in range(1, 6)]
    assert len({round(rate, 9) for rate in rates}) == 5
    recipe, store = Recipe(plan, base, precision="float32"), fill(plan, base, records, data)
    works: list[Any] = [SequentialWork(recipe, store, trainer), FusedWork(recipe, store, base)]
    if kind == "head":
        store.features = works[0].features(range(store.num_windows))
    for work in works:
        work.begin(Run(3, "unit", 2, np.full(1, 0.4), np.full(1, 0.7), np.full(1, 10)))
    trainable = trainer.method.trainable(trainer.spec, 1)
    start = np.zeros(trainable.size, np.float32)
    for number in (1, 3, 5):
        noise = SeededNoise(3, "site-0", number)
        site = trainable.flatten(trainer.update(trainable.unflatten(start), own, number, EVENT, noise))
        assert np.linalg.norm(site) > 0
        for work in works:
            np.testing.assert_allclose(work.train(number, [0], start)[0], site, rtol=2e-4, atol=2e-6)
    one_step = EVENT.__class__(**(EVENT.to_json() | {"steps": 1}))
    made = [
        trainable.flatten(trainer.update(trainable.unflatten(start), own, number, one_step, SeededNoise(1)))
        for number in range(1, 6)
    ]
    for update, rate in zip(made, rates, strict=True):
        np.testing.assert_allclose(update, made[1] * (rate / rates[1]), rtol=1e-4, atol=1e-7)
    assert math.isclose(rates[1], plan.training.learning_rate)
