"""The fused engine held to Opacus', many sites in one pass held to one after the other, and each site to itself."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from privet.client.fused import FusedEngine, covers, frozen_base, shape_of
from privet.client.fused.build import rows_for, same_everywhere
from privet.client.fused.encoder import Encoder
from privet.client.fused.sums import SingleWindows
from privet.client.trainer import Local, TrainSpec, clipped_sum, train, train_together
from privet.client.training import RoundTrainer
from privet.client.unit_gradients import Members, Rows
from privet.common.adapter import Floats
from privet.common.config import Plan
from privet.common.examples import TokenExamples
from privet.common.grouping import Units, Windows
from privet.common.initial import uniform
from privet.common.privacy.noise import SeededNoise
from privet.common.tasks.loss import per_example_loss
from tests.client.trainer_cases import Everyone, event_of, examples_of, plan_of
from tests.tiny_models import tiny_base, tiny_plan

SITES = 4
few = settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def plan_for(base: Path, method: str, pooling: str, targets: tuple[str, ...], first_layer: int = 0) -> Plan:
    return tiny_plan(
        base,
        method={"kind": method},
        model={"pooling": pooling},
        lora={"targets": list(targets), "first_layer": first_layer, "rank": 3},
        task={"max_length": 32, "buckets": [8, 16, 32]},
    )


CASES = [
    ("fedavg", "mean", ("query", "value"), 0),
    ("fedavg", "cls", ("query", "key", "value"), 0),
    ("ffa", "mean", ("query", "value"), 1),
    ("ffa", "cls", ("key",), 0),
]


def weights_of(trainer: RoundTrainer, seed: int = 1) -> dict[str, Floats]:
    return {entry.name: uniform(entry, seed) for entry in trainer.spec.entries}


def fused(trainer: RoundTrainer, base: Path, num_sites: int = 1, **settings: Any) -> FusedEngine:
    plan = trainer.plan
    trainable = trainer.method.trainable(trainer.spec, 1)
    frozen = frozen_base(plan, base, trainer.precision)
    made = FusedEngine(
        frozen, trainer.spec, trainable, shape_of(plan), per_example_loss, num_sites=num_sites, **settings
    )
    made.adopt(weights_of(trainer))
    return made


@pytest.mark.parametrize(("method", "pooling", "targets", "first_layer"), CASES)
def test_units_gradients_are_those_of_opacus(
    base: Path, method: str, pooling: str, targets: tuple[str, ...], first_layer: int
) -> None:
    """To 1e-5 in float32: norms, and the sum, of units of one record and of several."""
    plan = plan_for(base, method, pooling, targets, first_layer)
    assert covers(plan, base) is None
    trainer = RoundTrainer(plan, base)
    trainer.classifier.write(weights_of(trainer))
    data, event = examples_of(trainer), event_of(max_grad_norm=1e3)
    found, reference = fused(trainer, base), trainer.engine(1)
    for drawn in (np.arange(5), np.array([0]), np.array([2, 3, 4])):
        expected = clipped_sum(reference, data, drawn, event, Everyone(0))
        total = clipped_sum(found, data, drawn, event, Everyone(0))
        assert np.linalg.norm(total - expected) <= 1e-5 * np.linalg.norm(expected)
    windows = np.arange(len(data.labels))
    members = Members(windows, windows, np.ones(len(windows)), len(windows))
    norms, others = found.unit_gradients(data, members), reference.unit_gradients(data, members)
    assert isinstance(norms, SingleWindows)
    torch.testing.assert_close(norms.norms(), others.norms(), rtol=1e-5, atol=0)


def test_a_site_trains_as_under_opacus(base: Path) -> None:
    """Five noised AdamW steps through the trainer: the same draws and noise, so the same update to 1e-5."""
    plan = plan_of(base, method="fedavg", optimizer="adamw", learning_rate=1e-2)
    event = event_of(steps=5, noise_multiplier=1.0, max_grad_norm=0.1)
    updates = []
    for engine in ("opacus", "fused"):
        trainer = RoundTrainer(plan, base, engine=engine)
        found = trainer.update(weights_of(trainer), examples_of(trainer), 1, event, SeededNoise(4))
        updates.append(trainer.method.trainable(trainer.spec, 1).flatten(found))
    np.testing.assert_allclose(updates[0], updates[1], atol=1e-5)
    assert np.abs(updates[0]).max() > 1e-3


def test_bfloat16_changes_norms_by_little(base: Path) -> None:
    plan = plan_for(base, "fedavg", "mean", ("query", "value"))
    trainer = RoundTrainer(plan, base)
    data, windows = examples_of(trainer), np.arange(8)
    exact = fused(trainer, base).rows(data, windows)
    trainer.precision = "bfloat16"
    rounded = fused(trainer, base).rows(data, windows)
    assert not torch.equal(exact, rounded)
    torch.testing.assert_close(rounded.norm(dim=1), exact.norm(dim=1), rtol=2e-2, atol=0)


def sites_of(trainer: RoundTrainer, texts: TokenExamples, counts: list[int], seed: int = 0) -> list[Local]:
    """Sites that hold so many of the records each, one after the other; events of their own."""
    found, first = [], 0
    for site, count in enumerate(counts):
        records = np.arange(first, first + count) % len(texts.labels)
        first += count
        event = event_of(
            steps=4,
            sample_rate=0.6,
            noise_multiplier=0.5 + site,
            expected_batch=2 + site,
            max_grad_norm=0.2,
            unit="record",
        )
        data = texts.at_site(Units.view(records, np.arange(count + 1)))
        found.append(Local(data, event, SeededNoise(seed, f"site {site}", 1)))
    return found


def spec_for(sites: list[Local], optimizer: str = "adamw") -> TrainSpec:
    return TrainSpec(event=sites[0].event, optimizer=optimizer, learning_rate=1e-2, weight_decay=0.01)


@pytest.mark.parametrize(("method", "pooling", "targets", "first_layer"), CASES)
def test_sites_in_one_pass_are_sites_one_after_the_other(
    base: Path, method: str, pooling: str, targets: tuple[str, ...], first_layer: int
) -> None:
    """Ragged Poisson draws, one site empty, each with its own noise: to 3e-5 after four AdamW steps by Opacus."""
    trainer = RoundTrainer(plan_for(base, method, pooling, targets, first_layer), base)
    trainer.classifier.write(weights_of(trainer))
    texts, counts = examples_of(trainer), [5, 0, 1, 9]
    together = train_together(
        fused(trainer, base, SITES), sites_of(trainer, texts, counts), spec_for(sites_of(trainer, texts, counts))
    )
    reference = trainer.engine(1)
    for row, site in enumerate(sites_of(trainer, texts, counts)):
        spec = spec_for([site])
        alone, _ = train(reference, site.data, spec, site.noise)
        np.testing.assert_allclose(together[row], alone, atol=3e-5)
        assert np.abs(alone).max() > 1e-3  # noise moves the empty site too


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def trainer(request: pytest.FixtureRequest, base: Path) -> RoundTrainer:
    return RoundTrainer(plan_for(base, "fedavg", "mean", ("query", "value")), base, precision=request.param)


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


def test_one_sites_data_change_no_other_by_anything(trainer: RoundTrainer, base: Path) -> None:
    """Isolation: other texts, lengths, labels and numbers of records at site 0 leave the rest exactly as it was."""
    texts = examples_of(trainer)
    found = []
    for counts, first in (([6, 5, 4], 0), ([6, 5, 4], 3), ([40, 5, 4], 0), ([0, 5, 4], 0)):
        sites = sites_of(trainer, texts, counts)
        others = np.arange(9) % len(texts.labels)
        for place, (start, count) in enumerate([(0, 5), (5, 4)], 1):
            data = texts.at_site(Units.view(others[start : start + count], np.arange(count + 1)))
            sites[place] = Local(data, sites[place].event, sites[place].noise)
        changed = (np.arange(counts[0]) + first) % len(texts.labels)
        data = texts.at_site(Units.view(changed, np.arange(counts[0] + 1)))
        sites[0] = Local(data, sites[0].event, sites[0].noise)
        found.append(train_together(fused(trainer, base, 3), sites, spec_for(sites)))
    for other in found[1:]:
        assert other[1:].tolist() == found[0][1:].tolist()
        assert other[0].tolist() != found[0][0].tolist()


def test_groups_of_windows_do_not_change_a_sites_sum(
    trainer: RoundTrainer, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts, counts = examples_of(trainer), [7, 3, 11, 2]
    sites = sites_of(trainer, texts, counts)
    whole = train_together(fused(trainer, base, SITES), sites, spec_for(sites))
    engine = fused(trainer, base, SITES)
    monkeypatch.setattr(engine, "max_windows", 5)
    sites = sites_of(trainer, texts, counts)
    np.testing.assert_allclose(train_together(engine, sites, spec_for(sites)), whole, atol=1e-6)


def test_a_row_that_cannot_be_computed_counts_as_zero_and_harms_no_other(trainer: RoundTrainer, base: Path) -> None:
    texts = examples_of(trainer)
    engine, event = fused(trainer, base, 2), event_of(unit="record", max_grad_norm=0.2)
    sites = sites_of(trainer, texts, [4, 4])
    drawn = [np.arange(4), np.arange(4)]
    from privet.client.trainer import clipped_sums

    sound = clipped_sums(engine, sites, drawn)
    weights = engine.read()
    weights[0] = np.float32(3e38)  # one site's weights overflow
    engine.write(weights)
    found = clipped_sums(engine, sites, drawn)
    assert np.isfinite(found).all()
    assert found[1].tolist() == sound[1].tolist()
    assert event.max_grad_norm * 4 >= np.linalg.norm(found[0])


def test_single_windows_sum_as_whole_rows_do(trainer: RoundTrainer, base: Path) -> None:
    """The head's gradient as an outer product that is never made: norms and sums of the rows it stands for."""
    engine, data = fused(trainer, base, 3), examples_of(trainer)
    windows, owners = np.arange(8), np.array([0, 0, 0, 1, 1, 2, 2, 2])
    members = Members(windows, windows, np.ones(8), 8, owners, 3)
    quick, whole = engine.unit_gradients(data, members), Rows(engine.rows(data, windows, owners), members)
    assert isinstance(quick, SingleWindows)
    torch.testing.assert_close(quick.norms(), whole.norms(), rtol=1e-6, atol=0)
    factors = torch.linspace(0.1, 1, 8, dtype=torch.float64)
    torch.testing.assert_close(quick.weighted_sum(factors), whole.weighted_sum(factors), rtol=0, atol=1e-6)


def test_batches_of_a_bucket_have_one_shape(trainer: RoundTrainer) -> None:
    """Whatever was drawn: the shape of a batch, and with it how a product is cut up, tells nothing."""
    data = examples_of(trainer)
    for drawn in (np.arange(8), np.array([3]), np.array([1, 5, 6])):
        for batch in data.packed(drawn, (3, 2, 1)):
            length = batch.inputs[0].shape[1]
            assert len(batch.labels) == {8: 3, 16: 2, 32: 1}[length]
            assert len(batch.places) <= len(batch.labels)


def test_rows_are_the_plans_and_the_bases_width_alone(base: Path) -> None:
    assert rows_for(plan_of(base), 512) == (4, 4, 4)
    assert rows_for(plan_of(base, expected_batch=64), 512) == (32, 32, 32)
    assert rows_for(plan_of(base, expected_batch=100_000), 512) == (128, 64, 32)


def test_where_places_matter_rows_are_pinned(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor on which a row's place shows is found out, and the site falls back to a place for each record."""
    plan = plan_of(base, method="fedavg")
    trainer = RoundTrainer(plan, base, engine="fused")
    engine: Any = trainer.engine(1)
    ids, mask = trainer._without_padding(8, 16)
    if "AVX512" in torch.backends.cpu.get_cpu_capability():  # with AVX2 alone places do matter
        assert not engine.pinned
        assert same_everywhere(engine, ids, mask)
    genuine = Encoder.features

    def tilted(encoder: Any, hidden: torch.Tensor, scale: float) -> torch.Tensor:
        [segment] = encoder._pass.segments
        places = torch.arange(len(hidden)) // segment.length
        return genuine(encoder, hidden * (1 + 2e-7 * (places % 4)).unsqueeze(1), scale)

    monkeypatch.setattr(Encoder, "features", tilted)
    assert not same_everywhere(engine, ids, mask)
    assert RoundTrainer(plan, base, engine="fused").engine(1).pinned  # type: ignore[union-attr]


def test_what_is_not_covered_says_why(base: Path, tmp_path: Path) -> None:
    other = tiny_base(tmp_path / "roberta", "roberta")
    assert "roberta" in str(covers(tiny_plan(other, method={"kind": "fedavg"}), other))
    bare = tiny_base(tmp_path / "bare", pooler=False)
    assert "pooler" in str(covers(tiny_plan(bare, method={"kind": "fedavg"}, model={"pooling": "cls"}), bare))
    assert covers(tiny_plan(bare, method={"kind": "fedavg"}, model={"pooling": "mean"}), bare) is None


def test_windows_of_one_record_share_its_gradient(base: Path) -> None:
    """Records of several windows: their mean, by the path that holds whole rows, as under Opacus."""
    trainer = RoundTrainer(plan_for(base, "fedavg", "mean", ("query", "value")), base)
    trainer.classifier.write(weights_of(trainer))
    data = examples_of(trainer)
    flat = [
        row[:length]
        for rows, lengths in zip(data._ids, data._lengths, strict=True)
        for row, length in zip(rows, lengths, strict=True)
    ]
    several = TokenExamples(
        flat, np.array([0, 1, 2]), Units(np.array([0, 0, 1]), 2), data.buckets, data.pad, Windows(np.array([3, 1, 4]))
    )
    event = event_of(max_grad_norm=1e3)
    expected = clipped_sum(trainer.engine(1), several, np.arange(2), event, Everyone(0))
    found = clipped_sum(fused(trainer, base), several, np.arange(2), event, Everyone(0))
    assert np.linalg.norm(found - expected) <= 1e-5 * np.linalg.norm(expected)
