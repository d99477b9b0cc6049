"""Noise, draws and steps: only noised values survive one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import nn

from privet.client.trainer import clipped_sum, train
from privet.client.training import RoundTrainer
from privet.common.examples import TokenExamples
from privet.common.grouping import Units
from privet.common.model import build_classifier
from privet.common.privacy.noise import SecureNoise, SeededNoise, privatise
from privet.common.tokens import tokenise
from tests.client.trainer_cases import LABELS, TEXTS, Everyone, engine_of, event_of, examples_of, plan_of, spec_of


@pytest.mark.parametrize("unit", ["unit", "record"])
@pytest.mark.parametrize("empty", ["draw", "data"])
def test_an_empty_draw_is_noised_and_charged(trainer: RoundTrainer, empty: str, unit: str) -> None:
    """What is released, of one step of SGD at rate 1, is noise of deviation σC / B and of no other."""
    data = examples_of(trainer)
    if empty == "data":
        data = TokenExamples([], np.zeros(0, np.int64), Units(np.zeros(0, np.int64), 0), (8, 16, 32), 0)
    event = event_of(sample_rate=1e-12, noise_multiplier=2.0, max_grad_norm=0.5, expected_batch=4, unit=unit)
    update, charged = train(engine_of(trainer), data, spec_of(event), SecureNoise())
    assert charged == event
    deviation = 2.0 * 0.5 / 4
    assert stats.kstest(update / deviation, "norm").pvalue > 1e-4
    for wrong in (2 / 3, 3 / 2):
        assert stats.kstest(update / (wrong * deviation), "norm").pvalue < 1e-4


def test_noise_is_added_once_a_step_on_top_of_the_clipped_sum(trainer: RoundTrainer) -> None:
    data, event = examples_of(trainer), event_of(noise_multiplier=1.5, sample_rate=1.0)
    total = clipped_sum(engine_of(trainer), data, np.arange(5), event, Everyone(0))
    update, _ = train(engine_of(trainer), data, spec_of(event), SecureNoise())
    residue = (-update * event.expected_batch - total) / (1.5 * event.max_grad_norm)
    assert stats.kstest(residue, "norm").pvalue > 1e-4
    for wrong in (2 / 3, 3 / 2):
        assert stats.kstest(residue / wrong, "norm").pvalue < 1e-4


def test_two_rounds_under_one_global_seed_get_different_noise(trainer: RoundTrainer) -> None:
    event = event_of(noise_multiplier=1.0, sample_rate=1e-12)
    updates = []
    for _ in range(2):
        torch.manual_seed(42)
        np.random.seed(42)
        updates.append(train(engine_of(trainer), examples_of(trainer), spec_of(event), SecureNoise())[0])
    assert np.abs(updates[0] - updates[1]).max() > 0.01


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_weights_after_the_steps_follow_from_the_noised_gradients_alone(
    trainer: RoundTrainer, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    """The optimizer on copies of the weights, fed only what `privatise` returned, ends at the very same place."""
    seen: list[NDArray[np.float32]] = []
    genuine: Callable[..., NDArray[np.float32]] = privatise

    def watch(*args: Any, **kwargs: Any) -> NDArray[np.float32]:
        seen.append(genuine(*args, **kwargs).copy())
        return seen[-1].copy()

    monkeypatch.setattr("privet.client.trainer.privatise", watch)
    engine = engine_of(trainer)
    start = engine.read()
    copies = [nn.Parameter(parameter.detach().clone()) for parameter in engine.parameters()]
    event = event_of(noise_multiplier=0.8, steps=4)
    update, _ = train(engine, examples_of(trainer), spec_of(event, optimizer, 0.01), SecureNoise())
    kinds: dict[str, Any] = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}
    replay = kinds[optimizer](copies, lr=0.01, weight_decay=0.0)
    for gradient in seen:
        parts = torch.from_numpy(gradient).split([copy.numel() for copy in copies])
        for copy, part in zip(copies, parts, strict=True):
            copy.grad = part.reshape(copy.shape).clone()
        replay.step()
    end = torch.cat([copy.detach().reshape(-1) for copy in copies]).numpy()
    assert len(seen) == 4
    assert np.array_equal(update, end - start)
    assert update.any()


class TorchNoise(SeededNoise):
    """Normals in the order in which Opacus' optimizer draws them from a torch generator."""

    def __init__(self, seed: int, masks: list[NDArray[np.bool_]]) -> None:
        super().__init__(seed)
        self._generator = torch.Generator().manual_seed(seed)
        self._masks = iter(masks)
        self.shapes: list[torch.Size] = []

    def mask(self, n: int, rate: float) -> NDArray[np.bool_]:
        return next(self._masks)

    def normal(self, n: int) -> NDArray[np.float64]:
        parts = [torch.normal(0.0, 1.0, size, generator=self._generator).reshape(-1) for size in self.shapes]
        return torch.cat(parts).double().numpy()


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_record_mode_equals_opacus_own_engine(base: Path, optimizer: str) -> None:
    """Same draws, same normals: one step of PrivacyEngine's optimizer and one of ours."""
    from opacus import PrivacyEngine

    clip, sigma, batch, seed = 0.4, 0.9, 4, 11
    masks = [np.array([True, False, True, True, True, False, True, True])]
    plan = plan_of(base, method="fedavg")

    ours = RoundTrainer(plan, base)
    data = tokenise(TEXTS, LABELS, np.arange(8), 8, ours.tokenizer, (32,))
    engine = engine_of(ours)
    start = engine.read()
    noise = TorchNoise(seed, masks)
    noise.shapes = [parameter.shape for parameter in engine.parameters()]
    # Our clip bound has a margin for rounding, 1.001; with C' = 1.001 C and σ' = σ / 1.001 both mechanisms are one.
    event = event_of(
        max_grad_norm=1.001 * clip, noise_multiplier=sigma / 1.001, expected_batch=batch, unit="record", max_records=1
    )
    update, _ = train(engine, data, spec_of(event, optimizer, 0.05), noise)

    theirs = build_classifier(plan, base)
    names = ours.method.trainable(ours.spec, 1).names
    for parameter in theirs.parameters():
        parameter.requires_grad_(False)
    for name in names:
        theirs.parameter(name).requires_grad_(True)
    with torch.no_grad():
        for name, array in ours.method.trainable(ours.spec, 1).unflatten(start).items():
            theirs.parameter(name).copy_(torch.from_numpy(array))
    parameters = [theirs.parameter(name) for name in names]
    inner: Any = torch.optim.SGD if optimizer == "sgd" else torch.optim.AdamW
    loader: Any = torch.utils.data.DataLoader(list(range(8)), batch_size=batch)  # type: ignore[arg-type]
    module, private, _ = PrivacyEngine().make_private(
        module=theirs.train(),
        optimizer=inner(parameters, lr=0.05, weight_decay=0.0),
        data_loader=loader,
        noise_multiplier=sigma,
        max_grad_norm=clip,
        poisson_sampling=False,
        loss_reduction="mean",
        noise_generator=torch.Generator().manual_seed(seed),
    )
    private.expected_batch_size = batch
    drawn = np.flatnonzero(masks[0])
    batches = list(data.batches(drawn))
    inputs = tuple(torch.cat([b.inputs[i][torch.from_numpy(b.rows)] for b in batches]) for i in range(2))
    labels = torch.cat([b.labels[torch.from_numpy(b.rows)] for b in batches])
    nn.functional.cross_entropy(module(*inputs), labels, reduction="mean").backward()
    private.step()
    after = torch.cat([theirs.parameter(name).detach().reshape(-1) for name in names]).numpy()
    # float32 noise and a 1e-6 in Opacus' clip factor: far below AdamW's step of 0.05
    difference = np.abs((after - start) - update)
    assert np.quantile(difference, 0.999) < 1e-4
    if optimizer == "sgd":
        assert difference.max() < 1e-4
