"""States below LoRA, computed once for a text: nothing that is trained or judged differs by a bit for it."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from privet.client.fused import SiteEngine, frozen_base, read_states, shape_of
from privet.client.fused.encoder import Encoder
from privet.client.trainer import clipped_sum, train_together
from privet.client.training import RoundTrainer
from privet.common.examples import TokenExamples
from privet.common.grouping import Units
from privet.common.initial import uniform
from privet.common.passes import mixed
from privet.common.privacy.noise import SeededNoise
from privet.common.states import States
from tests.client.test_fused import SITES, fused, plan_for, sites_of, spec_for
from tests.client.test_trainer_mates import Texts
from tests.client.trainer_cases import Everyone, event_of, examples_of
from tests.tiny_models import tiny_base


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module", params=["mean", "cls", "mean-bf16"])
def trainer(request: pytest.FixtureRequest, base: Path) -> RoundTrainer:
    pooling, _, rounded = request.param.partition("-")
    plan = plan_for(base, "fedavg", pooling, ("query", "value"), first_layer=1)
    return RoundTrainer(plan, base, precision="bfloat16" if rounded else "float32")


def kept(
    trainer: RoundTrainer, base: Path, data: TokenExamples, changed: dict[int, np.float32] | None = None
) -> States:
    """In two parts, as workers compute them."""
    plan, half = trainer.plan, len(data.starts) // 2
    frozen, shape = frozen_base(plan, base, trainer.precision), shape_of(plan)
    parts = [np.arange(half), np.arange(half, len(data.starts) - 1)]
    values = np.concatenate([read_states(frozen, shape, data, part) for part in parts])
    for window, states in (changed or {}).items():
        values[data.starts[window] : data.starts[window + 1]] = states
    return States(1, values, data.starts)


def with_states(data: TokenExamples, states: States) -> TokenExamples:
    view = data.at_site(data.units)
    view.states = states
    return view


def test_gradients_are_the_same_to_the_last_bit(trainer: RoundTrainer, base: Path) -> None:
    data = examples_of(trainer)
    engine, states = fused(trainer, base), kept(trainer, base, data)
    assert np.isfinite(states.values).all()
    for windows in (np.arange(len(data.labels)), np.array([3]), np.array([5, 1, 2])):
        expected = engine.rows(data, windows)
        assert torch.equal(engine.rows(with_states(data, states), windows), expected)
        assert expected.any()
    assert torch.equal(engine.logits(with_states(data, states), windows), engine.logits(data, windows))


def test_they_are_what_is_read(trainer: RoundTrainer, base: Path) -> None:
    """Else the tests around this one would compare a path with itself."""
    data = examples_of(trainer)
    engine, other = fused(trainer, base), kept(trainer, base, data, {2: np.float32(0.25)})
    rows, expected = engine.rows(with_states(data, other), np.arange(4)), engine.rows(data, np.arange(4))
    assert not torch.equal(rows[2], expected[2])
    assert torch.equal(rows[[0, 1, 3]], expected[[0, 1, 3]])


def test_sites_side_by_side_train_the_same(trainer: RoundTrainer, base: Path) -> None:
    data, counts = examples_of(trainer), [5, 0, 1, 9]
    updates = []
    for texts in (data, with_states(data, kept(trainer, base, data))):
        sites = sites_of(trainer, texts, counts)
        updates.append(train_together(fused(trainer, base, SITES), sites, spec_for(sites)))
    assert updates[0].tolist() == updates[1].tolist()


def test_a_text_without_states_counts_as_zero_and_harms_no_other(trainer: RoundTrainer, base: Path) -> None:
    data, event = examples_of(trainer), event_of(unit="record", max_grad_norm=0.2)
    data = data.at_site(Units.view(np.arange(5), np.arange(6)))
    engine, states = fused(trainer, base), kept(trainer, base, data, {2: np.float32(np.nan)})
    drawn = np.arange(5)
    found = clipped_sum(engine, with_states(data, states), drawn, event, Everyone(0))
    expected = clipped_sum(engine, data, np.array([0, 1, 3, 4]), event, Everyone(0))
    np.testing.assert_allclose(found, expected, atol=1e-7)
    assert np.abs(expected).max() > 1e-3
    logits = engine.logits(with_states(data, states), drawn)
    assert torch.isnan(logits[2]).all()
    assert torch.equal(logits[[0, 1, 3, 4]], engine.logits(data, np.array([0, 1, 3, 4])))


def test_windows_of_a_pass_that_fails_are_computed_apart(
    trainer: RoundTrainer, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = examples_of(trainer)
    engine, states = fused(trainer, base), kept(trainer, base, data)
    expected, forward = engine.rows(data, np.arange(5)), Encoder.forward

    def failing(self: Encoder, first: int | None = None) -> torch.Tensor:
        if len(self._pass.places) > 1 or self._pass.places[0] == 3:
            raise MemoryError
        return forward(self, first)

    monkeypatch.setattr(Encoder, "forward", failing)
    found = engine.rows(with_states(data, states), np.arange(5))
    assert not found[3].any()
    assert torch.equal(found[[0, 1, 2, 4]], expected[[0, 1, 2, 4]])


def test_states_of_a_text_that_cannot_be_computed_are_nan(
    trainer: RoundTrainer, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, lower = examples_of(trainer), Encoder.lower
    expected = kept(trainer, base, data)

    def failing(self: Encoder, layer: int) -> torch.Tensor:
        if len(self._pass.places) > 1 or [one for one in self._pass.ids.tolist() if one != data.pad] == first:
            raise MemoryError
        return lower(self, layer)

    one = next(mixed(data, np.array([0]), 512))
    first = one.ids[: data.starts[1]].tolist()
    monkeypatch.setattr(Encoder, "lower", failing)
    found = kept(trainer, base, data)
    own = data.starts[1]
    assert np.isnan(found.values[:own]).all()
    assert np.isfinite(found.values[own:]).any()
    same = np.isfinite(found.values[:, 0])
    assert found.values[same].tolist() == expected.values[same].tolist()


def test_they_do_not_depend_on_what_else_is_there(trainer: RoundTrainer, base: Path) -> None:
    data = examples_of(trainer)
    frozen, shape, whole = frozen_base(trainer.plan, base, trainer.precision), shape_of(trainer.plan), []
    together = read_states(frozen, shape, data, np.arange(8))
    whole = [read_states(frozen, shape, data, np.array([window])) for window in range(8)]
    assert np.concatenate(whole).tolist() == together.tolist()


def test_nothing_of_them_is_pickled() -> None:
    with pytest.raises(TypeError, match="computed of text"):
        pickle.dumps(States(1, np.zeros((2, 4), np.float32), np.array([0, 2])))


@pytest.mark.parametrize("room", [2**30, 2**10])
def test_a_site_trains_the_same_whether_there_is_room_or_not(base: Path, room: int) -> None:
    plan = plan_for(base, "fedavg", "mean", ("query", "value"), first_layer=1)
    event, updates = event_of(steps=3, noise_multiplier=1.0, max_grad_norm=0.1), []
    for bytes_ in (0, room):
        trainer = RoundTrainer(plan, base, engine="fused", cache_bytes=bytes_)
        weights = {entry.name: uniform(entry, 1) for entry in trainer.spec.entries}
        data = examples_of(trainer)
        assert isinstance(data, TokenExamples)
        engine = trainer.engine(1)
        assert isinstance(engine, SiteEngine)
        data.states = None
        engine.keep_states(data, bytes_)
        assert (data.states is not None) == (bytes_ == 2**30)
        found = trainer.update(weights, data, 1, event, SeededNoise(4))
        updates.append(engine.spec.flatten(found).tolist())
    assert updates[0] == updates[1]


def test_a_site_keeps_them_when_it_prepares_its_texts(base: Path) -> None:
    plan = plan_for(base, "fedavg", "mean", ("query", "value"), first_layer=1)
    data = RoundTrainer(plan, base, engine="fused").prepare(Texts())
    assert isinstance(data, TokenExamples)
    assert data.states is not None
    assert data.states.values.shape == (data.starts[-1], 32)
    everywhere = plan_for(base, "fedavg", "mean", ("query", "value"))
    plain = RoundTrainer(everywhere, base, engine="fused").prepare(Texts())
    assert isinstance(plain, TokenExamples)
    assert plain.states is None


def test_the_whole_engine_reads_only_the_layers_above(
    trainer: RoundTrainer, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is kept is not computed again."""
    data, seen = examples_of(trainer), []
    engine, states = fused(trainer, base), kept(trainer, base, data)
    layer = Encoder._layer

    def watched(self: Encoder, index: int, x: torch.Tensor) -> object:
        seen.append(index)
        return layer(self, index, x)

    monkeypatch.setattr(Encoder, "_layer", watched)
    engine.rows(with_states(data, states), np.arange(3))
    assert 0 not in seen
    assert 1 in seen
