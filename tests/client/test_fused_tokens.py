"""The fused engine on tagged texts: held to Opacus', to each site and text alone, and to brute force at the start."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from privet.client.fused import FusedEngine, SiteEngine, covers, frozen_base, heads, shape_of
from privet.client.trainer import Local, clipped_sum, train, train_together
from privet.client.training import RoundTrainer
from privet.client.unit_gradients import Members, Rows
from privet.common.errors import PrivetError
from privet.common.grouping import Units
from privet.common.initial import uniform
from privet.common.passes import mixed
from privet.common.precision import Precision
from privet.common.privacy.noise import SeededNoise
from privet.common.tagged import TaggedExamples
from privet.common.tasks.targets import NO_TAG
from tests.client.test_fused import sites_of, spec_for
from tests.client.token_cases import TEXTS, Tagged, examples_of, tags_of, token_plan
from tests.client.trainer_cases import Everyone, event_of, hostile
from tests.tiny_models import tiny_base

SITES = 4
CASES = [("fedavg", 0, 1), ("ffa", 1, 1), ("head", 0, 1), ("fedavg", 0, 3)]  # method, first layer, windows
few = settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base"))


@cache
def built(base: Path, method: str = "fedavg", first_layer: int = 0, windows: int = 1, **settings: Any) -> RoundTrainer:
    """With several windows, short ones, so that texts of many words have some."""
    short = {"max_length": 8, "buckets": [8], "windows": windows, "stride": 2} if windows > 1 else {}
    lora = {"targets": ["query", "value"], "rank": 3, "first_layer": first_layer}
    training = {"optimizer": "adamw", "learning_rate": 1e-2}
    plan = token_plan(base, method=method, task=short, lora=lora, training=training)
    assert covers(plan, base) is None
    return RoundTrainer(plan, base, **settings)


def made(base: Path, *case: Any, **settings: Any) -> RoundTrainer:
    """With weights that no gradient vanishes for."""
    trainer = built(base, *case, **settings)
    trainer.classifier.write({entry.name: uniform(entry, 1) for entry in trainer.spec.entries})
    engine = trainer.engine(1)
    if isinstance(engine, SiteEngine):
        engine.take_over()
    return trainer


def fused(
    trainer: RoundTrainer, base: Path, num_sites: int = 1, precision: Precision | None = None, **settings: Any
) -> FusedEngine:
    """As a simulation's worker has it."""
    plan, trainable = trainer.plan, trainer.method.trainable(trainer.spec, 1)
    frozen = frozen_base(plan, base, precision or trainer.precision)
    loss = trainer.task.per_example_loss
    engine = FusedEngine(frozen, trainer.spec, trainable, shape_of(plan), loss, num_sites=num_sites, **settings)
    engine.adopt({entry.name: uniform(entry, 1) for entry in trainer.spec.entries})
    return engine


def each(data: TaggedExamples) -> Members:
    """Every window a unit of its own."""
    windows = np.arange(len(data.windows.record))
    return Members(windows, windows, np.ones(len(windows)), len(windows))


@pytest.mark.parametrize(("method", "first_layer", "windows"), CASES)
def test_units_gradients_are_those_of_opacus(base: Path, method: str, first_layer: int, windows: int) -> None:
    """To 1e-5 in float32: norms, and sums, in a site's batches and in passes of mixed lengths."""
    trainer, site = (made(base, method, first_layer, windows, engine=engine) for engine in ("opacus", "fused"))
    data, event, reference, own = examples_of(trainer), event_of(max_grad_norm=1e3), trainer.engine(1), site.engine(1)
    assert isinstance(own, SiteEngine)
    assert windows == 1 or data.windows.counts.max() > 1
    for found in (own, fused(trainer, base)):
        for drawn in (np.arange(5), np.array([0]), np.array([2, 3, 4])):
            expected = clipped_sum(reference, data, drawn, event, Everyone(0))
            total = clipped_sum(found, data, drawn, event, Everyone(0))
            assert np.linalg.norm(total - expected) <= 1e-5 * np.linalg.norm(expected)
        norms, others = (engine.unit_gradients(data, each(data)).norms() for engine in (found, reference))
        torch.testing.assert_close(norms, others, rtol=1e-5, atol=1e-12)
        assert float(norms.max()) > 0.1


def test_a_site_trains_as_under_opacus(base: Path) -> None:
    """Five noised AdamW steps through the trainer: the same draws and noise, so the same update to 1e-5."""
    event = event_of(steps=5, noise_multiplier=1.0, max_grad_norm=0.1)
    updates = []
    for engine in ("opacus", "fused"):
        trainer = made(base, engine=engine)
        start = {entry.name: uniform(entry, 1) for entry in trainer.spec.entries}
        found = trainer.update(start, examples_of(trainer), 1, event, SeededNoise(4))
        updates.append(trainer.method.trainable(trainer.spec, 1).flatten(found))
    np.testing.assert_allclose(updates[0], updates[1], atol=1e-5)
    assert np.abs(updates[0]).max() > 1e-3


def test_bfloat16_changes_norms_by_little(base: Path) -> None:
    trainer = made(base)
    data = examples_of(trainer)
    exact = fused(trainer, base).unit_gradients(data, each(data)).norms()
    rounded = fused(trainer, base, precision="bfloat16").unit_gradients(data, each(data)).norms()
    assert not torch.equal(exact, rounded)
    torch.testing.assert_close(rounded, exact, rtol=2e-2, atol=0)


@pytest.mark.parametrize(("method", "first_layer", "windows"), CASES)
def test_sites_in_one_pass_are_sites_one_after_the_other(
    base: Path, method: str, first_layer: int, windows: int
) -> None:
    """Ragged Poisson draws, one site empty, each with its own noise: to 1e-5 after four AdamW steps by Opacus."""
    trainer = made(base, method, first_layer, windows)
    texts, counts = examples_of(trainer), [5, 0, 1, 9]
    sites = sites_of(trainer, texts, counts)
    together = train_together(fused(trainer, base, SITES), sites, spec_for(sites))
    for row, site in enumerate(sites_of(trainer, texts, counts)):
        alone, _ = train(trainer.engine(1), site.data, spec_for([site]), site.noise)
        np.testing.assert_allclose(together[row], alone, atol=1e-5)
        assert np.abs(alone).max() > 1e-3  # noise moves the empty site too


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def trainer(request: pytest.FixtureRequest, base: Path) -> RoundTrainer:
    return made(base, precision=request.param)


@few
@given(data=st.data())
def test_a_sites_update_does_not_depend_on_its_companions(trainer: RoundTrainer, base: Path, data: Any) -> None:
    """Equal to the last bit, whoever else is in the pass and whatever they hold: also alone."""
    texts = examples_of(trainer)
    counts = data.draw(st.lists(st.integers(0, 12), min_size=2, max_size=6))
    sites = sites_of(trainer, texts, counts)
    together = train_together(fused(trainer, base, len(sites), ragged=True), sites, spec_for(sites))
    chosen = data.draw(st.lists(st.integers(0, len(sites) - 1), min_size=1, unique=True).map(sorted))
    some = [sites_of(trainer, texts, counts)[index] for index in chosen]
    again = train_together(fused(trainer, base, len(some), ragged=True), some, spec_for(some))
    assert again.tolist() == together[chosen].tolist()


def test_one_sites_tags_change_no_other_by_anything(trainer: RoundTrainer, base: Path) -> None:
    """Isolation: the same texts with other tags, with fewer, and with none at site 0."""
    found = []
    for tags in (tags_of(TEXTS[0]), np.full(7, 2, np.int16), np.zeros(2, np.int16), None):
        held = Tagged()
        held.tags[0] = tags
        sites = sites_of(trainer, examples_of(trainer, held), [1, 5, 2])
        found.append(train_together(fused(trainer, base, 3), sites, spec_for(sites)))
    for other in found[1:]:
        assert other[1:].tolist() == found[0][1:].tolist()
        assert other[0].tolist() != found[0][0].tolist()


@pytest.mark.parametrize("engine", ["site", "worker"])
def test_a_texts_gradient_is_the_same_to_the_last_bit_beside_any_others(base: Path, engine: str) -> None:
    """Under weights that a malicious server may send; in batches of one shape, and in passes of mixed lengths."""
    trainer = made(base, engine="fused")
    own = hostile(trainer)
    if engine == "worker":
        own = fused(trainer, base)
        own.adopt(trainer.classifier.read())
    data = examples_of(trainer)
    whole = own.rows(data, np.arange(len(TEXTS)))
    assert bool(whole.any(dim=1).all())
    for chosen in ([3], [0, 1], [7, 3, 2, 5], [4, 4, 4, 4, 4, 1], [*range(8)] * 9):
        assert torch.equal(own.rows(data, np.array(chosen)), whole[chosen])


def test_texts_without_a_tag_add_exactly_zero(trainer: RoundTrainer, base: Path) -> None:
    """Whether their tags are unknown, or none reaches a word that is read; also in a row of its own."""
    held = Tagged()
    held.tags = [None if row % 2 else np.zeros(0, np.int16) for row in range(len(TEXTS))]
    data = examples_of(trainer, held)
    for engine in (fused(trainer, base), fused(trainer, base, ragged=True)):
        rows = engine.rows(data, np.arange(len(TEXTS)))
        assert rows.shape == (len(TEXTS), engine.spec.size)
        assert not rows.any()
        total = clipped_sum(engine, data, np.arange(5), event_of(), Everyone(0))
        assert not total.any()


def test_what_is_held_of_a_row_is_all_of_its_gradient(trainer: RoundTrainer, base: Path) -> None:
    """Norms and sums of single windows are those of the rows themselves: the head's part is among them."""
    engine, data = fused(trainer, base, 3), examples_of(trainer)
    windows, owners = np.arange(8), np.array([0, 0, 0, 1, 1, 2, 2, 2])
    members = Members(windows, windows, np.ones(8), 8, owners, 3)
    quick, whole = engine.unit_gradients(data, members), Rows(engine.rows(data, windows, owners), members)
    torch.testing.assert_close(quick.norms(), whole.norms(), rtol=1e-12, atol=0)
    factors = torch.linspace(0.1, 1, 8, dtype=torch.float64)
    torch.testing.assert_close(quick.weighted_sum(factors), whole.weighted_sum(factors), rtol=0, atol=1e-12)
    named = engine.spec.unflatten(whole.weighted_sum(factors)[1].numpy().astype(np.float32))
    assert all(np.abs(array).max() > 1e-6 for array in named.values())


FAULTS: dict[str, Any] = {
    "a head's weight of one token": lambda delta: torch.cat([delta[:, :1], torch.zeros_like(delta[:, 1:])], 1),
    "δ of the next row": lambda delta: delta.roll(1, 0),
    "a mean over the batch": lambda delta: delta / delta.abs().amax(),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_self_test_sees_a_head_that_is_wrong(base: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    genuine = heads.of_logits
    monkeypatch.setattr(heads, "of_logits", lambda *given: FAULTS[fault](genuine(*given)))
    with pytest.raises(PrivetError, match=r"brute force|beside it"):
        built.__wrapped__(base, engine="fused")


def test_mates_that_show_in_a_head_are_found(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By so little that brute force would not tell: nothing is trained here."""
    genuine = heads.of_logits

    def tilted(*given: Any) -> torch.Tensor:
        delta = genuine(*given)
        return delta * (1 + 1e-5 * delta.abs().sum())

    monkeypatch.setattr(heads, "of_logits", tilted)
    with pytest.raises(PrivetError, match="beside it"):
        built.__wrapped__(base, engine="fused")


def test_padding_and_rows_of_nobody_have_no_tag(trainer: RoundTrainer) -> None:
    """In every pass, whatever was drawn."""
    data = examples_of(trainer)
    for windows in (np.arange(8), np.array([3]), np.array([1, 5, 6])):
        for one in mixed(data, windows, 64):
            assert one.tags is not None
            assert bool((one.tags[one.mask == 0] == NO_TAG).all())
            words = sum(len(TEXTS[windows[place]].split()) for place in one.places)
            assert int((one.tags != NO_TAG).sum()) == words


def test_sites_are_views_of_one_store_of_tagged_texts(trainer: RoundTrainer) -> None:
    data = examples_of(trainer)
    view = data.at_site(Units.view(np.array([2, 3]), np.arange(3)))
    assert isinstance(view, TaggedExamples)
    assert view.words is data.words
    assert Local(view, event_of(), SeededNoise(0)).data.units.num_units == 2
