"""What a worker computes for a virtual site is what a real site's agent computes on the same records."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from privet.client.evaluation import exact_cells
from privet.client.training import RoundTrainer
from privet.common.config import Plan
from privet.common.privacy.events import TrainEvent
from privet.common.privacy.noise import SeededNoise
from privet.server.evaluation import PublicEvaluator
from privet.simulations import SimulationData
from privet.simulations.data import Records
from privet.simulations.engines.sequential import SequentialWork
from privet.simulations.engines.store import SharedFile, Store, mapped
from privet.simulations.engines.work import Recipe, Run
from privet.simulations.filling import fill
from tests.simulations.small_runs import LABELS, plan_of, texts_of

EVENT = TrainEvent(
    sample_rate=0.4, noise_multiplier=0.7, steps=4, max_grad_norm=1.0, expected_batch=10, unit="unit", max_records=2
)


@pytest.fixture(scope="module")
def data() -> SimulationData:
    texts, labels, units = texts_of(90, 0)
    test_texts, test_labels, _ = texts_of(20, 1)
    return SimulationData(texts, [*labels[:-5], *["unknown"] * 5], units, {}, test_texts, test_labels)


def _metrics_plan(base: Path, kind: str) -> Plan:
    training = {"train_fraction": 0.7, "expected_batch": 10}
    return plan_of(base, kind, training=training, evaluation={"release": "per_class"}, task={"windows": 2, "stride": 4})


def _built(plan: Plan, base: Path, records: Mapping[str, Records], data: SimulationData) -> SequentialWork:
    """On a store that went through the shared file, as a worker has it."""
    filled, file = fill(plan, base, records, data), SharedFile()
    store = Store.from_arrays(mapped(file.fd, file.append(filled.arrays())))
    work = SequentialWork(Recipe(plan, base, precision="float32"), store)
    if plan.method.kind == "head":  # in parts of odd sizes
        parts = [range(0, 7), range(7, store.num_windows)]
        features = np.concatenate([work.features(part) for part in parts])
        store.features = mapped(file.fd, file.append({"features": features}))["features"]
    file.close()
    size = len(records)
    work.begin(Run(3, "unit", 2, np.full(size, 0.4), np.full(size, 0.7), np.full(size, 10)))
    return work


@pytest.mark.parametrize("kind", ["head", "ffa"])
def test_a_virtual_site_computes_what_a_real_one_does(base: Path, data: SimulationData, kind: str) -> None:
    plan, trainer = _metrics_plan(base, kind), RoundTrainer(_metrics_plan(base, kind), base)
    records = data.sites("iid", LABELS, num_sites=3, seed=0)
    work = _built(plan, base, records, data)
    trainable = trainer.method.trainable(trainer.spec, 2)
    start = np.random.default_rng(0).normal(0, 0.1, trainable.size).astype(np.float32)
    whole = np.random.default_rng(1).normal(0, 0.1, trainer.spec.size).astype(np.float32)
    updates, cells = work.train(2, [2, 0], start), work.cells(1, [0, 2], whole)
    assert work.train(2, [0], start)[0].tobytes() == updates[1].tobytes()
    assert work.train(2, [0], np.stack([start]))[0].tobytes() == updates[1].tobytes()
    assert work.train(1, [0], start)[0].tobytes() != updates[1].tobytes()
    judge = PublicEvaluator(
        plan,
        trainer.classifier,
        trainer.tokenizer,
        list(data.test_texts),
        np.array([LABELS.index(label) for label in data.test_labels]),
        trainer.frozen_features,
    )
    parts = {name: [trainer.prepare(part) for part in records[name].split(0.7)] for name in ("site-0", "site-2")}
    for row, name in ((1, "site-0"), (0, "site-2")):
        expected = trainer.update(trainable.unflatten(start), parts[name][0], 2, EVENT, SeededNoise(3, name, 2))
        assert trainable.flatten(expected).tobytes() == updates[row].tobytes()
    for row, name in enumerate(parts):
        exact = exact_cells(trainer, trainer.spec.unflatten(whole), parts[name][1], "per_class")
        assert cells[row].tolist() == exact.tolist()
    logits = np.concatenate([work.logits(whole, range(0, 9)), work.logits(whole, range(9, len(data.test_texts)))])
    right = float((logits.argmax(1) == [LABELS.index(label) for label in data.test_labels]).mean())
    judged: Any = judge(trainer.spec.unflatten(whole))
    assert judged.accuracy == right


def test_noise_differs_between_sites_rounds_and_seeds(base: Path, data: SimulationData) -> None:
    """Else the mean over sites would not average it away, or the difference of two rounds would show the sum."""
    empty = data.sites("iid", LABELS, num_sites=3, seed=0)
    nothing = Records([], np.zeros(0, np.int64), np.zeros(0, np.int64), 0, np.zeros(0, np.uint64))
    work = _built(plan_of(base), base, {**dict.fromkeys(empty, nothing), "full": empty["site-0"]}, data)
    start = np.zeros(work.spec.only(["head.bias", "head.weight"]).size, np.float32)
    seen = [row.tobytes() for round in (1, 2) for row in work.train(round, [0, 1], start)]
    work.begin(Run(4, "unit", 2, np.full(4, 0.4), np.full(4, 0.7), np.full(4, 10)))
    seen += [row.tobytes() for row in work.train(1, [0, 1], start)]
    assert len(set(seen)) == 6
    assert all(np.frombuffer(row, np.float32).all() for row in seen)  # empty sites, all noise


def test_a_store_keeps_texts_once_and_no_text(base: Path, data: SimulationData) -> None:
    plan = plan_of(base)
    records = data.sites("iid", LABELS, num_sites=3, seed=0)
    store = fill(plan, base, records, data)
    held: NDArray[Any] = store.train.rows
    assert sorted(held.tolist()) == list(range(len(data.texts)))
    assert store.num_public == len(data.test_texts)
    assert store.public_start == len(data.texts)
    assert [store.name(site) for site in range(3)] == list(records)
    written = b"".join(np.ascontiguousarray(array).tobytes() for array in store.arrays().values())
    assert not any(text.encode() in written for text in data.texts)
