"""The fused engine under attack: no unit adds more than C, whatever its windows give, and none shows in another."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from privet.client.fused.encoder import Encoder
from privet.client.fused.factors import Layout
from privet.client.fused.sums import Passed, by_own_windows
from privet.client.trainer import Local, clipped_sums, train_together
from privet.client.training import RoundTrainer
from privet.client.unit_gradients import Members
from privet.common.adapter import AdapterSpec, Entry, Role
from privet.common.errors import PrivetError
from privet.common.examples import TokenExamples
from privet.common.grouping import Units
from privet.common.passes import Pass
from privet.common.privacy.noise import SeededNoise
from tests.client.test_fused import fused, plan_for, sites_of, spec_for
from tests.client.trainer_cases import event_of, examples_of, hostile, plan_of

C = 0.5
VALUES = [0.0, 1e-45, -1e-39, 1e-20, 0.3, -1.0, 7e4, -1e19, 1e30, 3.4e38, float("inf"), float("-inf"), float("nan")]
few = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def spec_of(*, head: bool = True, bias: bool = True) -> AdapterSpec:
    at = "encoder.layer.0.attention.self.query.lora_"
    entries = [Entry(f"{at}A.weight", (2, 3), Role.LORA_A), Entry(f"{at}B.weight", (3, 2), Role.LORA_B)]
    entries += [Entry("head.bias", (2,), Role.HEAD)] if bias else []
    entries += [Entry("head.weight", (2, 3), Role.HEAD)] if head else []
    return AdapterSpec(tuple(entries))


@few
@given(data=st.data(), head=st.booleans(), bias=st.booleans(), per_token=st.booleans())
def test_no_unit_adds_more_than_the_clip_norm_whatever_its_windows_give(
    data: Any, head: bool, bias: bool, per_token: bool
) -> None:
    """Overflow, NaN and denormals in LoRA's rows, δ and x, units of one window and of several: each unit's clipped part
    is finite, of norm at most C, and the same to the last bit without any other unit."""
    layout = Layout(spec_of(), spec_of(head=head, bias=bias), 1, per_token=per_token)
    counts = np.array(data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=5)))
    slots = np.repeat(np.arange(len(counts)), counts)
    widths = (layout.width, 0, 0) if per_token else (12, 2, 3)
    assert layout.width == 12 + (6 * head + 2 * bias if per_token else 0)
    values = st.lists(st.sampled_from(VALUES), min_size=sum(widths), max_size=sum(widths))
    rows = torch.tensor(data.draw(st.lists(values, min_size=len(slots), max_size=len(slots)))).reshape(-1, sum(widths))
    lora, delta, inputs = (part.contiguous() for part in rows.split(widths, 1))
    passed = Passed(lora, delta, inputs, np.arange(len(slots)))
    members = Members(np.arange(len(slots)), slots, 1.0 / np.maximum(1, counts)[slots], len(counts))

    def clipped(chosen: NDArray[np.bool_]) -> dict[int, list[float]]:
        gradients = by_own_windows(passed.only(chosen[slots]), members.only(chosen), layout)
        norms = gradients.norms()
        assert bool(torch.isfinite(norms).all())
        factors = torch.diag(torch.clamp(C / (1.001 * norms + 1e-30), max=1.0))
        units = np.flatnonzero(chosen).tolist()
        return {unit: gradients.weighted_sum(row).tolist() for unit, row in zip(units, factors, strict=True)}

    everyone = clipped(np.ones(len(counts), bool))
    for unit, part in everyone.items():
        assert np.isfinite(part).all()
        assert np.linalg.norm(part) <= C
        assert clipped(np.arange(len(counts)) == unit)[unit] == part


@pytest.fixture(scope="module")
def trainer(base: Path) -> RoundTrainer:
    return RoundTrainer(plan_for(base, "fedavg", "mean", ("query", "value")), base)


def one_unit(site: Local, texts: TokenExamples, records: NDArray[np.int64]) -> Local:
    return replace(site, data=texts.at_site(Units.view(records, np.array([0, len(records)]))))


def test_a_unit_of_more_windows_than_are_held_counts_at_its_own_site_alone(
    trainer: RoundTrainer, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts, engine = examples_of(trainer), fused(trainer, base, 3)
    first, second, third = sites_of(trainer, texts, [0, 0, 2])
    sites = [first, one_unit(second, texts, np.arange(6)), third]
    drawn = [np.arange(0), np.arange(1), np.arange(2)]
    held = clipped_sums(engine, sites, drawn)
    monkeypatch.setattr(engine, "max_windows", 3)
    found = clipped_sums(engine, sites, drawn)
    assert not found[0].any()
    assert found[2].tolist() == held[2].tolist()
    np.testing.assert_allclose(found, held, atol=1e-6)
    assert np.linalg.norm(found[1]) > 0.1


def test_each_sites_own_clip_norm_bounds_its_units(trainer: RoundTrainer, base: Path) -> None:
    """Units of one window and of several; each is far over all the bounds, so that its part has that norm."""
    texts, engine = examples_of(trainer), fused(trainer, base, 3)
    bounds = [0.2, 0.01, 0.05]
    sites = [
        replace(one_unit(site, texts, np.arange(count)), event=replace(site.event, max_grad_norm=bound))
        for site, count, bound in zip(sites_of(trainer, texts, [1, 1, 1]), (1, 3, 1), bounds, strict=True)
    ]
    found = clipped_sums(engine, sites, [np.arange(1)] * 3)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), np.array(bounds) / 1.001, rtol=1e-6)


def test_a_window_that_no_bucket_holds_counts_as_zero(trainer: RoundTrainer, base: Path) -> None:
    """Not as its mate once more; also where it is alone."""
    like, engine = examples_of(trainer), fused(trainer, base)
    ids = [np.full(length, 5, np.int32) for length in (5, 60)]
    data = TokenExamples(ids, np.array([0, 1]), Units(np.arange(2), 2), like.buckets, like.pad)
    both = engine.unit_gradients(data, Members(np.arange(2), np.arange(2), np.ones(2), 2)).norms()
    assert float(both[0]) > 0
    assert float(both[1]) == 0
    alone = engine.unit_gradients(data, Members(np.array([1]), np.zeros(1, np.int64), np.ones(1), 1))
    assert alone.norms().tolist() == [0.0]


def test_units_without_windows_and_empty_draws_give_a_noised_step(trainer: RoundTrainer, base: Path) -> None:
    texts = examples_of(trainer)
    [site] = sites_of(trainer, texts, [0])
    nothing = texts.at_site(Units.view(np.zeros(0, np.int64), np.zeros(4, np.int64)))  # three units without a record
    spec = spec_for([site], "sgd")
    updates = [
        train_together(fused(trainer, base), [Local(data, site.event, SeededNoise(7))], spec)
        for data in (nothing, site.data)
    ]
    assert np.count_nonzero(updates[0]) > 0.99 * updates[0].size
    assert updates[0].tolist() == updates[1].tolist()


def test_what_raises_is_zero_and_its_mates_are_as_ever(
    trainer: RoundTrainer, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the memory of a table held something else before."""
    data, engine = examples_of(trainer), fused(trainer, base)
    windows = np.arange(8)
    members = Members(windows, windows, np.ones(8), 8)
    sound, genuine = engine.unit_gradients(data, members).norms(), engine._pass
    bad = data.batches(np.array([2])).__next__().inputs[0].max(dim=0).values  # that window's ids

    def failing(given: Pass, weights: Any, tables: list[torch.Tensor]) -> None:
        genuine(given, weights, tables)
        for segment in given.segments:
            for row in given.ids[segment.tokens].view(-1, segment.length):
                if len(row) == len(bad) and bool((row == bad).all()):
                    raise MemoryError

    monkeypatch.setattr(engine, "_pass", failing)
    found = engine.unit_gradients(data, members).norms()
    assert float(found[2]) == 0
    others = windows != 2
    assert found[others].tolist() == sound[others].tolist()
    assert float(sound[2]) > 0


def _tilted() -> Callable[..., torch.Tensor]:
    """A processor on which a row's place in a batch shows."""
    genuine = Encoder.features

    def tilted(encoder: Any, hidden: torch.Tensor, scale: float) -> torch.Tensor:
        [segment] = encoder._pass.segments
        places = torch.arange(len(hidden)) // (segment.length if len(hidden) == segment.tokens.stop else 1)
        return genuine(encoder, hidden * (1 + 2e-7 * (places % 4)).unsqueeze(1), scale)

    return tilted


def test_pinned_rows_are_the_same_in_every_draw_where_places_matter(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is rehearsed then has the shapes of pinned batches; without the pins the same machine couples units."""
    monkeypatch.setattr(Encoder, "features", _tilted())
    trainer = RoundTrainer(plan_of(base, method="fedavg", expected_batch=64), base, engine="fused")
    engine: Any = hostile(trainer)
    assert engine.pinned
    assert engine.num_rows == (32, 32, 32)
    assert engine.rows_of_batches == (4, 4, 4)
    data = examples_of(trainer)

    def norm_of(window: int, beside: list[int]) -> float:
        windows = np.array([*beside, window])
        slots = np.arange(len(windows))
        gradients = engine.unit_gradients(data, Members(windows, slots, np.ones(len(windows)), len(windows)))
        return float(gradients.norms()[-1])

    def all_norms() -> list[set[float]]:
        mates: list[list[int]] = [[], [0], [1], [0, 1], [3, 1, 0]]
        return [{norm_of(window, mate) for mate in mates} for window in (4, 5, 6, 7)]

    assert all(len(norms) == 1 for norms in all_norms())
    engine.pinned = False
    assert any(len(norms) > 1 for norms in all_norms())


def test_where_a_rows_mates_show_in_it_nothing_is_trained(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A place for each record does not help then: the plan cannot be computed here."""
    genuine = Encoder.features

    def scaled(encoder: Any, hidden: torch.Tensor, scale: float) -> torch.Tensor:
        return genuine(encoder, hidden * (1 + 1e-6 * hidden.abs().amax()), scale)

    monkeypatch.setattr(Encoder, "features", scaled)
    with pytest.raises(PrivetError, match="beside it"):
        RoundTrainer(plan_of(base, method="fedavg", pooling="cls"), base, engine="fused")


def test_an_update_starts_from_what_was_received_and_from_nothing_before(base: Path) -> None:
    """Neither from the round before nor from the self-test's weights; two federations' engines share nothing."""
    trainer = RoundTrainer(plan_of(base, method="ffa"), base, engine="fused")
    data, event = examples_of(trainer), event_of(steps=2)
    names = trainer.method.trainable(trainer.spec, 1).names
    rng = np.random.default_rng(0)
    first, second = (
        {entry.name: rng.normal(size=entry.shape).astype(np.float32) for entry in trainer.spec.entries}
        for _ in range(2)
    )

    def update(arrays: dict[str, Any]) -> dict[str, Any]:
        sent = {name: arrays[name] for name in names}
        return {n: a.tolist() for n, a in trainer.update(sent, data, 1, event, SeededNoise(1)).items()}

    found = update(first)
    assert update(second) != found
    assert update(first) == found
    reference = RoundTrainer(plan_of(base, method="ffa"), base)
    expected = reference.update({n: first[n] for n in names}, examples_of(reference), 1, event, SeededNoise(1))
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, atol=1e-5)


def test_part_of_a_layers_factors_is_no_layout() -> None:
    """A method that trains query's A and not value's: refused, where rows would be written over each other."""
    factors = [(f"encoder.layer.0.attention.self.{target}.lora_", target) for target in ("query", "value")]
    entries = [Entry(f"{name}A.weight", (2, 3), Role.LORA_A) for name, _ in factors]
    entries += [Entry(f"{name}B.weight", (3, 2), Role.LORA_B) for name, _ in factors]
    whole = AdapterSpec((*entries, *spec_of().entries[2:]))
    for some in (entries[:1], entries[3:], [*entries[:2], entries[2]]):
        with pytest.raises(ValueError, match="for all targets or for none"):
            Layout(whole, AdapterSpec(tuple(some)), 1)
    assert Layout(whole, AdapterSpec(tuple(entries[:2])), 1).width == 12


def test_what_a_method_adjusts_is_noised_already(trainer: RoundTrainer, base: Path) -> None:
    """Its three arguments without data and with, under one noise: each differs by what was clipped, never un-noised."""
    texts, seen = examples_of(trainer), []
    for count in (0, 4):
        [site] = sites_of(trainer, texts, [count])
        event = replace(site.event, sample_rate=1.0, steps=1, noise_multiplier=100.0)

        def adjust(gradient: Any, weights: Any, start: Any) -> Any:
            seen.append(SimpleNamespace(gradient=gradient.copy(), moved=np.abs(weights - start).max()))
            return gradient

        spec = replace(spec_for([site]), event=event, adjust=adjust)
        train_together(fused(trainer, base), [Local(site.data, event, SeededNoise(3))], spec)
    noise = seen[0].gradient
    deviation = 100 * event.max_grad_norm / event.expected_batch
    assert 0.9 * deviation < noise.std() < 1.1 * deviation
    difference = np.linalg.norm(seen[1].gradient - noise)
    assert 0 < difference <= 4 * event.max_grad_norm / event.expected_batch + 2e-3 * np.sqrt(noise.size) * deviation
    assert [each.moved for each in seen] == [0, 0]
