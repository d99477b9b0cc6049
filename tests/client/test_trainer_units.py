"""Units of many records, records of many windows: one gradient each, in bounded memory."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import nn

from privet.client.linear import LinearEngine
from privet.client.trainer import _windows, clipped_sum, train
from privet.client.training import RoundTrainer
from privet.common.adapter import AdapterSpec, Entry, Role
from privet.common.batch import Batch
from privet.common.examples import FeatureExamples, Integers, TokenExamples
from privet.common.grouping import Units, Windows
from privet.common.privacy.noise import SeededNoise
from privet.common.tasks.loss import per_example_loss
from tests.client.trainer_cases import TEXTS, UNITS, Everyone, engine_of, event_of, spec_of
from tests.tiny_models import tiny_plan

LONG = [" ".join(TEXTS[i:] * (1 + i % 3)) for i in range(8)]


class Texts:
    texts, labels, units, num_units = LONG, np.arange(8) % 3, UNITS, 5


@pytest.fixture(scope="module", params=["head", "ffa"])
def trainer(request: pytest.FixtureRequest, base: Path) -> RoundTrainer:
    task = {"max_length": 16, "buckets": [8, 16], "windows": 5, "stride": 3}
    return RoundTrainer(tiny_plan(base, method={"kind": request.param}, task=task), base)


def _brute_force(trainer: RoundTrainer, data: Any, unit: int) -> NDArray[np.float64]:
    """One backward of the unit's loss: mean over its records of the mean over their windows. No engine takes part."""
    spec = trainer.method.trainable(trainer.spec, 1)
    whole = isinstance(data, TokenExamples)
    model: nn.Module = trainer.classifier if whole else trainer.classifier.last_layer()
    engine: Any = trainer.engine(1)
    if whole:
        engine._module.disable_hooks()
    parameters = [trainer.classifier.parameter(name).requires_grad_() for name in spec.names]
    records = data.units.records(unit)
    loss: Any = 0.0
    for record in records:
        start, end = data.windows.start[record : record + 2]
        for window in range(start, end):
            (batch,) = data.batches(np.array([window]))
            (row,) = batch.rows.tolist()
            logits = model(*(tensor[row : row + 1] for tensor in batch.inputs))
            label = torch.from_numpy(data.labels[[record]])
            loss = loss + nn.functional.cross_entropy(logits, label) / (len(records) * (end - start))
    gradients = torch.autograd.grad(loss, parameters)
    if whole:
        engine._module.enable_hooks()
    return torch.cat([gradient.reshape(-1) for gradient in gradients]).double().numpy()


def test_a_units_gradient_is_the_mean_over_records_of_the_mean_over_windows(trainer: RoundTrainer) -> None:
    data, event = trainer.prepare(Texts()), event_of(max_grad_norm=1e3)
    assert {1, 5} <= set(data.windows.counts.tolist())
    for unit in range(5):
        found = clipped_sum(engine_of(trainer), data, np.array([unit]), event, Everyone(0))
        np.testing.assert_allclose(found, _brute_force(trainer, data, unit), atol=2e-6)


def test_logits_are_the_mean_over_windows(trainer: RoundTrainer) -> None:
    engine_of(trainer)
    data = trainer.prepare(Texts())
    found = trainer.logits(trainer.classifier.read(), data)
    for record, text in enumerate(LONG):
        ids = trainer.tokenizer(text, truncation=True, max_length=16, stride=3, return_overflowing_tokens=True)[
            "input_ids"
        ][:5]
        with torch.no_grad():
            each = [trainer.classifier(torch.tensor([row]), torch.ones(1, len(row))).numpy()[0] for row in ids]
        np.testing.assert_allclose(found[record], np.mean(each, axis=0), atol=1e-5)
    assert np.isfinite(trainer.logits(trainer.classifier.read(), _nothing(trainer))).all()


def _nothing(trainer: RoundTrainer) -> Any:
    class Nobody:
        texts: list[str] = []  # noqa: RUF012
        labels, units, num_units = np.zeros(0, np.int64), np.zeros(0, np.int64), 0

    return trainer.prepare(Nobody())


def test_training_goes_on_after_logits(trainer: RoundTrainer) -> None:
    data, event = trainer.prepare(Texts()), event_of()
    first, _ = train(engine_of(trainer), data, spec_of(event), SeededNoise(1))
    engine = engine_of(trainer)
    trainer.logits(trainer.classifier.read(), data)
    assert np.array_equal(train(engine, data, spec_of(event), SeededNoise(1))[0], first)


@pytest.mark.parametrize("most", [1, 2, 3, 7, 1000])
def test_grouping_does_not_matter(trainer: RoundTrainer, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """Also where one unit is more than a group holds. The order of sums in float64 is all that differs."""
    data, event = trainer.prepare(Texts()), event_of(max_grad_norm=0.3, max_records=2)
    expected = clipped_sum(engine_of(trainer), data, np.arange(5), event, Everyone(4))
    engine = engine_of(trainer)
    monkeypatch.setattr(engine, "max_windows", most)
    found = clipped_sum(engine, data, np.arange(5), event, Everyone(4))
    assert np.linalg.norm(found - expected) <= 1e-12 * np.linalg.norm(expected)


def test_the_clip_is_joint_over_all_arrays(trainer: RoundTrainer) -> None:
    """Clipped array by array, a unit could move the sum by C times the root of their number."""
    data, event = trainer.prepare(Texts()), event_of(max_grad_norm=1e-3)
    engine = engine_of(trainer)
    for unit in range(5):
        found = clipped_sum(engine, data, np.array([unit]), event, Everyone(0))
        length = float(np.linalg.norm(found)) / event.max_grad_norm
        assert 0.9985 < length < 0.9995  # 1 / 1.001
        parts = [float(np.linalg.norm(part)) for part in engine.spec.unflatten(found.astype(np.float32)).values()]
        assert sum(part > 1e-9 for part in parts) > 1
        np.testing.assert_allclose(found / length, _direction(trainer, data, unit) * event.max_grad_norm, atol=1e-8)


def _direction(trainer: RoundTrainer, data: Any, unit: int) -> NDArray[np.float64]:
    gradient = _brute_force(trainer, data, unit)
    return np.asarray(gradient / np.linalg.norm(gradient))


def test_every_choice_of_k_records_is_equally_likely(trainer: RoundTrainer) -> None:
    """Records, not windows: one of five windows is chosen no more often than one of one."""
    data = trainer.prepare(Texts())
    noise, counts = SeededNoise("choices"), np.zeros(3)
    records = data.units.records(0)
    for _ in range(3000):
        windows, slots, shares = _windows(data, np.array([0]), 2, noise)
        assert not slots.any()
        chosen = np.unique(data.windows.record[windows])
        assert len(chosen) == 2
        assert shares.sum() == pytest.approx(1)
        for record in chosen:
            assert shares[data.windows.record[windows] == record].sum() == pytest.approx(1 / 2)
        counts[~np.isin(records, chosen)] += 1
    assert stats.chisquare(counts).pvalue > 1e-3


def test_choices_shift_neither_masks_nor_noise(trainer: RoundTrainer) -> None:
    """They depend on records, so what they draw comes from a stream of its own."""
    masks: list[list[bool]] = []

    class Watched(SeededNoise):
        def mask(self, n: int, rate: float) -> NDArray[np.bool_]:
            masks.append(super().mask(n, rate).tolist())
            return np.array(masks[-1])

    data = trainer.prepare(Texts())
    left = []
    for most in (1, 8):
        noise = Watched(7)
        train(engine_of(trainer), data, spec_of(event_of(steps=3, max_records=most, noise_multiplier=1.0)), noise)
        left.append(noise.normal(3).tolist())
    assert masks[:3] == masks[3:]
    assert left[0] == left[1]


def _head(num_labels: int, width: int) -> LinearEngine:
    layer = nn.Linear(width, num_labels)
    with torch.no_grad():
        layer.weight.copy_(torch.linspace(-1, 1, num_labels * width).reshape(num_labels, width))
    entries = (Entry("head.bias", (num_labels,), Role.HEAD), Entry("head.weight", (num_labels, width), Role.HEAD))
    named: Any = {"head.bias": layer.bias, "head.weight": layer.weight}
    return LinearEngine(layer, named, AdapterSpec(entries), per_example_loss)


def _huge_unit(num_records: int, width: int, num_labels: int) -> FeatureExamples:
    rng = np.random.default_rng(0)
    features = torch.from_numpy(rng.normal(0, 1, (num_records, width)).astype(np.float32))
    return FeatureExamples(
        features, rng.integers(0, num_labels, num_records), Units(np.zeros(num_records, np.int64), 1)
    )


def test_no_more_windows_are_held_than_a_group_has(trainer: RoundTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    data, engine = trainer.prepare(Texts()), engine_of(trainer)

    class Watched:
        units, windows, labels = data.units, data.windows, data.labels

        def batches(self, windows: Integers) -> Iterator[Batch]:
            asked.append(len(windows))
            return data.batches(windows)

        def for_inference(self) -> Iterator[Batch]:
            return data.for_inference()

    monkeypatch.setattr(engine, "max_windows", 4)
    clipped_sum(engine, Watched(), np.arange(5), event_of(), Everyone(0))
    assert max(asked) == 4
    assert sum(asked) == data.windows.counts.sum()


def test_a_unit_of_ten_thousand_records_is_one_gradient() -> None:
    """Under a head of 77 labels; the largest array that is made stays below 10 million values."""
    data, engine = _huge_unit(10_000, 384, 77), _head(77, 384)
    sizes: list[int] = []
    genuine = torch.zeros

    def watch(*shape: Any, **settings: Any) -> torch.Tensor:
        made = genuine(*shape, **settings)
        sizes.append(made.numel())
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "zeros", watch)
        event = event_of(max_grad_norm=1e3, max_records=10_000)
        found = clipped_sum(engine, data, np.array([0]), event, Everyone(0))
    assert max(sizes) <= 2_000_000
    layer: Any = engine._layer
    loss = nn.functional.cross_entropy(layer(data.features), torch.from_numpy(data.labels))
    by_bias, by_weight = torch.autograd.grad(loss, (layer.bias, layer.weight))
    expected = torch.cat([by_bias, by_weight.reshape(-1)]).double().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
def test_a_window_that_a_head_cannot_compute_contributes_exactly_zero(
    monkeypatch: pytest.MonkeyPatch, broken: float
) -> None:
    data, engine = _huge_unit(3, 8, 4), _head(4, 8)
    data.units = Units(np.arange(3), 3)
    others = clipped_sum(engine, data, np.array([0, 2]), event_of(), Everyone(0))
    genuine = engine._delta

    def poison(inputs: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        delta = genuine(inputs, labels, weights)
        delta[(inputs == data.features[1].double()).all(1)] = broken
        return delta

    monkeypatch.setattr(engine, "_delta", poison)
    assert not clipped_sum(engine, data, np.array([1]), event_of(), Everyone(0)).any()
    found = clipped_sum(engine, data, np.arange(3), event_of(), Everyone(0))
    np.testing.assert_allclose(found, others, rtol=1e-12, atol=1e-15)


def test_windows_of_another_shape_than_records() -> None:
    """Frozen features hold a row for each window; a record's label stands for all of its."""
    features = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    data = FeatureExamples(features, np.array([0, 1]), Units(np.arange(2), 2), Windows(np.array([2, 1])))
    engine = _head(3, 2)
    whole = clipped_sum(engine, data, np.array([0]), event_of(max_grad_norm=1e3), Everyone(0))
    apart = FeatureExamples(features, np.array([0, 0, 1]), Units(np.array([0, 0, 1]), 2))
    np.testing.assert_allclose(
        whole, clipped_sum(engine, apart, np.array([0]), event_of(max_grad_norm=1e3), Everyone(0)), atol=1e-15
    )


_MEASURED = """
import resource
import numpy as np
from tests.client.test_trainer_units import _head, _huge_unit
from tests.client.trainer_cases import Everyone, event_of
from privet.client.trainer import clipped_sum
data, engine = _huge_unit(10_000, 384, 77), _head(77, 384)
event = event_of(max_records=10_000)
small = _huge_unit(10, 384, 77)
clipped_sum(engine, small, np.array([0]), event, Everyone(0))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
clipped_sum(engine, data, np.array([0]), event, Everyone(0))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_a_unit_of_ten_thousand_records_needs_little_memory() -> None:
    run = subprocess.run([sys.executable, "-c", _MEASURED], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 300 * 1024  # KiB
