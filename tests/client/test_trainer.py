"""The trainer against brute force and the traps that break differential privacy in silence."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from privet.client.trainer import clipped_sum, train
from privet.client.training import RoundTrainer
from privet.client.unit_gradients import Members, Rows
from privet.common.examples import TokenExamples
from privet.common.grouping import Units, Windows
from privet.common.privacy.noise import SecureNoise, SeededNoise
from tests.client.trainer_cases import (
    LABELS,
    TEXTS,
    UNITS,
    Everyone,
    engine_of,
    event_of,
    examples_of,
    plan_of,
    spec_of,
)


def brute_force(trainer: RoundTrainer, data: TokenExamples, unit: int) -> NDArray[np.float64]:
    """g_u by one backward a unit, at batch size one, without Opacus' gradients."""
    parameters = [trainer.classifier.parameter(name) for name in trainer.method.trainable(trainer.spec, 1).names]
    engine = engine_of(trainer)
    engine._module.disable_hooks()
    records = data.units.records(unit)
    loss: Any = 0.0
    for record in records:
        batch = next(data.batches(np.array([record])))
        (row,) = batch.rows.tolist()
        logits = trainer.classifier(*(tensor[row : row + 1] for tensor in batch.inputs))
        loss = loss + nn.functional.cross_entropy(logits, batch.labels[row : row + 1]) / len(records)
    gradients = torch.autograd.grad(loss, parameters)
    engine._module.enable_hooks()
    return torch.cat([gradient.reshape(-1) for gradient in gradients]).double().numpy()


def test_equals_brute_force_one_backward_a_unit(trainer: RoundTrainer) -> None:
    engine, data, event = engine_of(trainer), examples_of(trainer), event_of()
    expected = np.zeros(engine.spec.size)
    norms = []
    for unit in range(5):
        gradient = brute_force(trainer, data, unit)
        norms.append(float(np.linalg.norm(gradient)))
        expected += gradient * min(1.0, event.max_grad_norm / (1.001 * norms[-1]))
    assert min(norms) < event.max_grad_norm < max(norms) or max(norms) > event.max_grad_norm
    total = clipped_sum(engine_of(trainer), data, np.arange(5), event, Everyone(0))
    np.testing.assert_allclose(total, expected, atol=1e-5)


def test_one_unit_moves_the_sum_by_at_most_the_clip_norm(trainer: RoundTrainer) -> None:
    """The sensitivity itself: neighbours differ in one unit of three records, clipped jointly over all arrays."""
    event = event_of(max_grad_norm=0.05)
    with_it = clipped_sum(engine_of(trainer), examples_of(trainer), np.arange(5), event, Everyone(0))
    without = clipped_sum(engine_of(trainer), examples_of(trainer, drop_unit=0), np.arange(5), event, Everyone(0))
    moved = float(np.linalg.norm(with_it - without))
    assert 0.9 * event.max_grad_norm < moved <= event.max_grad_norm * (1 + 1e-6)


def test_denominator_is_the_expected_batch(trainer: RoundTrainer) -> None:
    data, engine = examples_of(trainer), engine_of(trainer)
    total = clipped_sum(engine, data, np.arange(5), event_of(), Everyone(0))
    for batch in (3, 12):
        update, _ = train(engine, data, spec_of(event_of(expected_batch=batch)), Everyone(0))
        np.testing.assert_allclose(update, -total / batch, atol=1e-6)


def test_a_units_part_is_the_mean_of_at_most_k_of_its_records(trainer: RoundTrainer) -> None:
    data, event = examples_of(trainer), event_of(max_grad_norm=1e3, max_records=1)
    single = [
        clipped_sum(engine_of(trainer), subset(data, int(record)), np.array([0]), event, Everyone(0))
        for record in data.units.records(0)
    ]
    seen = set()
    for seed in range(20):
        one = clipped_sum(engine_of(trainer), data, np.array([0]), event, Everyone(seed))
        match = [i for i, candidate in enumerate(single) if np.allclose(one, candidate, atol=1e-6)]
        assert len(match) == 1
        seen.update(match)
    assert seen == {0, 1, 2}  # a fresh choice each step
    mean = clipped_sum(engine_of(trainer), data, np.array([0]), event_of(max_grad_norm=1e3, max_records=3), Everyone(0))
    np.testing.assert_allclose(mean, np.mean(single, axis=0), atol=1e-6)


def subset(data: TokenExamples, record: int) -> Any:
    class Only:
        units, windows = Units(np.zeros(1, np.int64), 1), Windows(np.ones(1, np.int64))

        def batches(self, windows: NDArray[np.int64]) -> Iterator[Any]:
            return data.batches(np.array([record]))

    return Only()


def test_draws_follow_the_sampling_rate_and_the_steps_are_all_taken(trainer: RoundTrainer) -> None:
    rates = []

    class Counting(SeededNoise):
        def mask(self, n: int, rate: float) -> NDArray[np.bool_]:
            rates.append((n, rate))
            return super().mask(n, rate)

    train(engine_of(trainer), examples_of(trainer), spec_of(event_of(steps=7, sample_rate=0.3)), Counting(1))
    assert rates == [(5, 0.3)] * 7


def test_the_model_is_left_as_it_came(trainer: RoundTrainer) -> None:
    engine = engine_of(trainer)
    before = {name: array.copy() for name, array in trainer.classifier.read().items()}
    update, _ = train(engine, examples_of(trainer), spec_of(event_of(noise_multiplier=1.0)), SecureNoise())
    after = trainer.classifier.read()
    assert np.abs(update).max() > 0
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_only_the_methods_arrays_are_in_an_update(base: Path) -> None:
    trainer = RoundTrainer(plan_of(base, method="ffa"), base)
    update = trainer.update({}, examples_of(trainer), 1, event_of(noise_multiplier=1.0), SeededNoise(0))
    assert set(update) == {entry.name for entry in trainer.spec.entries if entry.role in ("lora_B", "head")}


def test_head_features_once_equal_training_the_last_layer_of_the_whole_model(base: Path) -> None:
    head = RoundTrainer(plan_of(base, method="head"), base)
    whole = RoundTrainer(plan_of(base, method="ffa"), base)

    class Texts:
        texts, labels, units, num_units = list(TEXTS), LABELS, UNITS, 5

    prepared = head.prepare(Texts())
    event = event_of(max_grad_norm=1e3)
    cached = clipped_sum(head.engine(1), prepared, np.arange(5), event, Everyone(0))
    engine = whole.engine(1)
    full = engine.spec.unflatten(
        clipped_sum(engine, examples_of(whole), np.arange(5), event, Everyone(0)).astype(np.float32)
    )
    expected = np.concatenate([full["head.bias"].ravel(), full["head.weight"].ravel()])
    np.testing.assert_allclose(cached, expected, atol=1e-4)


def test_the_self_test_notices_wrong_gradients(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from privet.client.gradients import OpacusEngine
    from privet.client.linear import LinearEngine
    from privet.common.errors import PrivetError

    for engine, seam, method in ((OpacusEngine, "per_row", "ffa"), (LinearEngine, "_delta", "head")):
        genuine: Any = getattr(engine, seam)
        with monkeypatch.context() as patch:
            patch.setattr(engine, seam, lambda self, *given, genuine=genuine: genuine(self, *given) * 1.01)
            with pytest.raises(PrivetError, match="brute force"):
                RoundTrainer(plan_of(base, method=method), base)


def test_norms_of_many_values_are_exact() -> None:
    """A float32 norm adds small squares to a large sum and loses them; the bound must hold all the same."""

    gradient = torch.full((1, 3_500_000), 2e-4)
    gradient[:, ::64] = 1.0
    exact = float(np.linalg.norm(gradient.double().numpy()))
    held = Rows(gradient, Members(np.array([0]), np.array([0]), np.ones(1), 1))
    assert abs(float(held.norms()[0]) / exact - 1) < 1e-9
    clipped = held.weighted_sum(1.0 / (1.001 * held.norms()))
    assert 0.998 < float(clipped.norm()) <= 1.0
