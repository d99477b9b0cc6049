"""Taking one unit away leaves every other unit's clipped part equal: not close, equal."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from privet.client.engines import EngineName
from privet.client.flat_engine import GradientEngine
from privet.client.trainer import _groups, clipped_sum
from privet.client.training import RoundTrainer
from privet.common.examples import Examples
from privet.common.privacy.events import TrainEvent
from tests.client.trainer_cases import TEXTS, Everyone, event_of, hostile
from tests.tiny_models import tiny_plan

NUM_UNITS = 11
UNITS = np.array([0, 0, 0, 0, 0, 1, 2, 2, 3, 4, 4, 4, 5, 6, 7, 7, 8, 8, 9, 10])  # 9 and 10 have one window each
WORDS = " ".join(TEXTS).split()
LONG = [" ".join(WORDS[i : i + 2 + 5 * (i % 9)]) for i in range(len(UNITS))]
few = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Texts:
    texts, labels, units, num_units = LONG, np.arange(len(UNITS)) % 3, UNITS, NUM_UNITS


@pytest.fixture(
    scope="module",
    params=["fedavg", "fedavg-bf16", "cls", "upper-bf16", "head", "fused", "fused-cls", "fused-upper-bf16"],
)
def trainer(request: pytest.FixtureRequest, base: Path) -> RoundTrainer:
    """With weights that a malicious server may send; the frozen base in bfloat16 where its name says so."""
    kind = request.param
    plan = tiny_plan(
        base,
        method={"kind": "head" if kind == "head" else "fedavg"},
        model={"pooling": "cls" if kind.endswith("cls") else "mean"},
        lora={"first_layer": 1 if "upper" in kind else 0},
        task={"max_length": 16, "buckets": [8, 16], "windows": 3, "stride": 2},
    )
    engine: EngineName = "fused" if kind.startswith("fused") else "opacus"
    made = RoundTrainer(plan, base, engine=engine, precision="bfloat16" if kind.endswith("bf16") else "float32")
    if engine == "fused":
        pinned = hostile(made).pinned  # then the places that are tried here would be no places
        assert not (pinned and "AVX512" in torch.backends.cpu.get_cpu_capability())  # with AVX2 alone places do matter
    hostile(made)
    return made


def _parts(
    engine: GradientEngine, data: Examples, drawn: NDArray[np.int64], event: TrainEvent
) -> dict[int, NDArray[np.float64]]:
    """Norm and gradient of each drawn unit, as they go into the sum."""
    found: dict[int, NDArray[np.float64]] = {}
    units = iter(drawn.tolist())
    for members in _groups(data, drawn, event.max_records, engine.max_windows, Everyone(0)):
        gradients = engine.unit_gradients(data, members)
        norms = gradients.norms()
        for slot, unit in zip(range(members.num_units), units, strict=False):
            factors = torch.zeros(members.num_units, dtype=torch.float64)
            factors[slot] = torch.clamp(event.max_grad_norm / (1.001 * norms[slot]), max=1.0)
            found[unit] = np.append(gradients.weighted_sum(factors).numpy(), float(norms[slot]))
    return found


@pytest.fixture(scope="module")
def everyone(trainer: RoundTrainer) -> tuple[Examples, dict[int, NDArray[np.float64]]]:
    data = trainer.prepare(Texts())
    return data, _parts(trainer.engine(1), data, np.arange(NUM_UNITS), event_of())


@few
@example([9])
@example([9, 10])
@given(st.lists(st.sampled_from(range(NUM_UNITS)), unique=True, min_size=1))
def test_each_units_part_is_equal_in_every_draw(
    trainer: RoundTrainer, everyone: tuple[Examples, dict[int, NDArray[np.float64]]], drawn: list[int]
) -> None:
    data, expected = everyone
    assert sorted(set(data.windows.counts.tolist())) == [1, 2, 3]
    parts = _parts(trainer.engine(1), data, np.array(drawn), event_of())
    for unit, part in parts.items():
        if trainer.frozen_features:  # one product over all units adds the parts up: in float64, beside zeros
            assert part[-1] == expected[unit][-1]
            np.testing.assert_allclose(part, expected[unit], rtol=1e-12, atol=1e-15)
        else:
            assert np.array_equal(part, expected[unit])
        assert part.any()


def test_each_units_part_is_equal_in_every_data_set(
    trainer: RoundTrainer, everyone: tuple[Examples, dict[int, NDArray[np.float64]]]
) -> None:
    """Not only not drawn, but never there."""
    _, expected = everyone
    for gone in (0, 4, 8):
        kept = np.flatnonzero(gone != UNITS)

        class Others:
            texts, labels, num_units = [LONG[i] for i in kept], Texts.labels[kept], NUM_UNITS - 1
            units = UNITS[kept] - (UNITS[kept] > gone)

        parts = _parts(trainer.engine(1), trainer.prepare(Others()), np.arange(NUM_UNITS - 1), event_of())
        for unit, part in parts.items():
            assert np.array_equal(part[-1], expected[unit + (unit >= gone)][-1])
            np.testing.assert_allclose(part, expected[unit + (unit >= gone)], rtol=1e-12, atol=1e-15)


def test_a_records_logits_are_equal_whoever_else_is_there(trainer: RoundTrainer) -> None:
    arrays = {e.name: trainer.classifier.read()[e.name] for e in trainer.spec.entries}
    rng = np.random.default_rng(0)
    arrays |= {
        e.name: rng.uniform(-1e4, 1e4, e.shape).astype(np.float32) for e in trainer.spec.entries if e.role == "head"
    }
    among = trainer.logits(arrays, trainer.prepare(Texts()))
    assert among.shape == (len(UNITS), 3)
    assert among.dtype == np.float32
    for kept in ([0], [3, 8], [16, 2, 9, 4], list(range(1, 17))):

        class Some:
            texts, labels, units, num_units = (
                [LONG[i] for i in kept],
                Texts.labels[kept],
                np.arange(len(kept)),
                len(kept),
            )

        assert np.array_equal(trainer.logits(arrays, trainer.prepare(Some())), among[kept])
    assert np.ptp(among) > 1e3


@pytest.mark.parametrize("weight", [1e4, -1e4])
def test_the_largest_weights_that_are_let_in_move_no_sum_beyond_the_clip_norm(
    trainer: RoundTrainer, weight: float
) -> None:
    """Overflow, NaN and all: finite, bounded, and the others' parts as they were."""
    kept = trainer.classifier.read()
    rng = np.random.default_rng(1)
    signs = {e.name: rng.choice([-1, 1], e.shape).astype(np.float32) * weight for e in trainer.spec.entries}
    try:
        trainer.classifier.write(signs)
        data, engine, event = trainer.prepare(Texts()), trainer.engine(1), event_of()
        total = clipped_sum(engine, data, np.arange(NUM_UNITS), event, Everyone(0))
        assert np.isfinite(total).all()
        for gone in (0, 4):
            drawn = np.array([unit for unit in range(NUM_UNITS) if unit != gone])
            others = clipped_sum(engine, data, drawn, event, Everyone(0))
            assert np.linalg.norm(total - others) <= event.max_grad_norm
    finally:
        trainer.classifier.write(kept)
