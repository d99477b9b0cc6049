"""What is added is what was normed: no unit's size, and no failure of its, shows in what the others add."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from privet.client.linear import LinearEngine
from privet.client.trainer import clipped_sum
from privet.client.training import RoundTrainer
from privet.client.unit_gradients import Members, Outer
from privet.common.adapter import AdapterSpec, Entry, Role
from privet.common.batch import Batch
from privet.common.examples import UNKNOWN, FeatureExamples
from privet.common.grouping import Units
from privet.common.tasks.loss import per_example_loss
from tests.client.trainer_cases import TEXTS, UNITS, Everyone, event_of, hostile
from tests.tiny_models import tiny_plan

WIDTH, LABELS = 8, 3


class Texts:
    texts, labels, units, num_units = TEXTS, np.arange(8) % 3, UNITS, 5


def _engine(bias: list[float]) -> LinearEngine:
    layer = nn.Linear(WIDTH, LABELS)
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.copy_(torch.tensor(bias))
    entries = (Entry("head.bias", (LABELS,), Role.HEAD), Entry("head.weight", (LABELS, WIDTH), Role.HEAD))
    named: Any = {"head.bias": layer.bias, "head.weight": layer.weight}
    return LinearEngine(layer, named, AdapterSpec(entries), per_example_loss)


def _flat(weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return torch.cat([bias, weight.reshape(-1)])


@pytest.mark.parametrize("scale", [1.0, 1e15, 1e30])
@pytest.mark.parametrize("num_others", [1, 40])
def test_windows_that_cancel_leave_the_others_sums_alone(
    monkeypatch: pytest.MonkeyPatch, scale: float, num_others: int
) -> None:
    """A hostile base and head: two records of one unit, features huge, gradients exactly opposite. In one product with
    the others their terms swallowed everyone's sum, and taking that unit away moved it by as many times C."""
    monkeypatch.setattr("privet.common.examples._LARGEST", torch.inf, raising=False)
    features = torch.full((num_others + 2, WIDTH), scale)
    labels = np.array([0] * num_others + [0, 1])
    units = np.array([*range(num_others), num_others, num_others])
    data = FeatureExamples(features, labels, Units(units, num_others + 1))
    engine, event = _engine([0.0, 0.0, -200.0]), event_of(max_grad_norm=1.0)
    everyone = clipped_sum(engine, data, np.arange(num_others + 1), event, Everyone(0))
    others = clipped_sum(engine, data, np.arange(num_others), event, Everyone(0))
    assert np.linalg.norm(others) > 0.99 * num_others
    assert np.linalg.norm(everyone - others) <= 1.0


few = settings(max_examples=60, deadline=None)
magnitudes = st.sampled_from([0.0, 1e-30, 1.0, 1e3, 1e9, 1e18, 1e36])


@few
@given(st.lists(st.tuples(st.integers(0, 4), magnitudes, st.booleans()), min_size=1, max_size=14), st.integers(0, 99))
def test_what_one_unit_adds_is_bounded_whatever_the_sizes(windows: list[tuple[int, float, bool]], seed: int) -> None:
    """Units of one window and of several, opposite and equal, sizes 66 powers of ten apart."""
    windows = sorted(windows)
    rng = np.random.default_rng(seed)
    direction, inputs = rng.normal(0, 1, LABELS), rng.normal(0, 1, WIDTH)
    delta = torch.from_numpy(np.array([direction * (1 if sign else -1) for _, _, sign in windows]))
    rows = torch.from_numpy(np.array([inputs * size for _, size, _ in windows]))
    slots = np.array([slot for slot, _, _ in windows])

    def clipped(keep: NDArray[np.bool_]) -> NDArray[np.float64]:
        chosen = torch.from_numpy(keep)
        members = Members(np.flatnonzero(keep), slots[keep], np.ones(int(keep.sum())), 5)
        made = Outer(delta[chosen], rows[chosen], members, _flat)
        return made.weighted_sum(torch.clamp(1.0 / (1.001 * made.norms() + 1e-30), max=1.0)).numpy()

    everyone = clipped(np.ones(len(slots), bool))
    for gone in range(5):
        assert np.linalg.norm(everyone - clipped(slots != gone)) <= 1.0


def test_features_beyond_all_reason_have_no_label() -> None:
    rows = torch.tensor([[1.0, 1e6], [-1e6, 0.0], [1.0, 1.1e6], [-1e30, 0.0], [torch.nan, 0.0], [0.0, -torch.inf]])
    data = FeatureExamples(rows, np.zeros(6, np.int64), Units(np.arange(6), 6))
    assert data.labels.tolist() == [0, 0, *[UNKNOWN] * 4]
    assert data.features.tolist() == [*rows[:2].tolist(), *[[0, 0]] * 4]


@pytest.mark.parametrize("kind", ["fedavg", "cls", "head"])
def test_computed_alone_is_computed_the_same(base: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """To the last bit, with weights chosen to show it: else a record that fails would show in its batch-mates."""
    plan = tiny_plan(
        base,
        method={"kind": "head" if kind == "head" else "fedavg"},
        model={"pooling": "cls" if kind == "cls" else "mean"},
        task={"max_length": 16, "buckets": [8, 16], "windows": 3, "stride": 2},
    )
    trainer = RoundTrainer(plan, base)
    engine, event = hostile(trainer), event_of()
    arrays = trainer.classifier.read()

    def found() -> list[NDArray[Any]]:
        data = trainer.prepare(Texts())
        parts = [clipped_sum(engine, data, np.array([unit]), event, Everyone(0)) for unit in range(5)]
        total = clipped_sum(engine, data, np.arange(5), event, Everyone(0))
        features = data.features.numpy() if isinstance(data, FeatureExamples) else np.zeros(0)
        return [*parts, total, features, trainer.logits(arrays, data)]

    expected = found()
    failed: list[int] = []
    seam = "_delta" if kind == "head" else "per_row"
    genuine, forward = getattr(engine, seam), trainer.classifier.encoder.forward

    def full(mask: torch.Tensor) -> None:
        if int((mask.sum(1) > 1).sum()) > 1:
            failed.append(1)
            raise RuntimeError("more than one window")

    def gradients(*given: Any) -> Any:
        out = genuine(*given)
        weights = given[0].weights if isinstance(given[0], Batch) else given[2]
        if int(weights.sum()) > 1:
            failed.append(1)
            raise RuntimeError("more than one window")
        return out

    def outputs(*args: Any, attention_mask: torch.Tensor, **kwargs: Any) -> Any:
        out = forward(*args, attention_mask=attention_mask, **kwargs)
        full(attention_mask[:, 0, 0, :])
        return out

    monkeypatch.setattr(engine, seam, gradients)
    monkeypatch.setattr(trainer.classifier.encoder, "forward", outputs)
    for value, truth in zip(found(), expected, strict=True):
        assert np.array_equal(value, truth)
    assert len(failed) > 3
    assert all(part.any() for part in expected[:5])
    if kind != "head":  # nor does a failed pass leave texts' activations behind
        assert not any(module.__dict__.get("activations") for module in trainer.classifier.modules())
