"""A site's metrics: always noised, by the event's noise, and no record's part depends on another record."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from privet.client.evaluation import counts, exact_cells, noised
from privet.client.training import RoundTrainer
from privet.common.errors import PrivetError
from privet.common.examples import UNKNOWN, Examples
from privet.common.privacy.events import EvaluateEvent, Release
from privet.common.privacy.noise import SecureNoise, SeededNoise
from privet.common.tasks.counts import num_cells
from tests.tiny_models import WORDS, tiny_plan

RELEASES: tuple[Release, ...] = ("accuracy", "per_class", "confusion")


class Texts:
    """Records of generated words; the units from `first` on, numbered anew."""

    def __init__(self, num_units: int = 12, first: int = 0) -> None:
        random = np.random.default_rng(2)
        texts, labels, units = [], [], []
        for unit in range(num_units):
            for _ in range(int(random.integers(1, 5))):
                texts.append(" ".join(random.choice(WORDS, int(random.integers(1, 25)))))
                labels.append(int(random.integers(3)))
                units.append(unit)
        kept = [index for index, unit in enumerate(units) if unit >= first]
        self.texts = [texts[index] for index in kept]
        self.labels = np.array([labels[index] for index in kept], np.int64)
        self.units = np.array([units[index] - first for index in kept], np.int64)
        self.num_units = num_units - first


@pytest.fixture(scope="module", params=["head", "ffa"])
def trainer(request: pytest.FixtureRequest, base: Path) -> RoundTrainer:
    return RoundTrainer(tiny_plan(base, method={"kind": request.param}, task={"buckets": [8, 16, 32]}), base)


def _arrays(trainer: RoundTrainer, seed: int = 2, scale: float = 0.5) -> dict[str, NDArray[np.float32]]:
    random = np.random.default_rng(seed)
    spec = trainer.method.trainable(trainer.spec, 1)
    return {entry.name: random.normal(0, scale, entry.shape).astype(np.float32) for entry in spec.entries}


def _event(sigma: float = 3.0, release: Release = "accuracy") -> EvaluateEvent:
    return EvaluateEvent(noise_multiplier=sigma, release=release, unit="unit")


@pytest.mark.parametrize("release", RELEASES)
def test_the_cells_are_those_of_the_records_one_by_one(trainer: RoundTrainer, release: Release) -> None:
    texts, arrays = Texts(), _arrays(trainer)
    examples = trainer.prepare(texts)
    predicted = trainer.logits(arrays, examples).argmax(1)
    expected = np.zeros(num_cells(release, 3))
    for unit in range(texts.num_units):
        members = np.flatnonzero(texts.units == unit)
        for record in members:
            right = predicted[record] == texts.labels[record]
            row = texts.labels[record]
            cell = {
                "accuracy": int(not right),
                "per_class": 2 * row + int(not right),
                "confusion": 3 * row + predicted[record],
            }[release]
            expected[cell] += 1 / len(members)
    assert len(set(predicted.tolist())) > 1
    assert exact_cells(trainer, arrays, examples, release) == pytest.approx(expected, abs=1e-6)


def test_what_leaves_is_the_noised_sum(trainer: RoundTrainer) -> None:
    """The gradients' own function and source: noise of the event on every cell, rounded to the public grid."""
    examples, arrays = trainer.prepare(Texts()), _arrays(trainer)
    for release in RELEASES:
        released = counts(trainer, arrays, examples, _event(3.0, release), SeededNoise(1))
        exact = exact_cells(trainer, arrays, examples, release)
        assert released.dtype == np.float32
        assert released.shape == (num_cells(release, 3),)
        assert np.abs(released - exact - 3 * SeededNoise(1).normal(len(exact))).max() < 2.0**-9
        assert (np.abs(released - exact) > 1e-3).all()
        assert (np.rint(released.astype(np.float64) * 2**9) == released.astype(np.float64) * 2**9).all()


def test_two_evaluations_of_one_adapter_differ(trainer: RoundTrainer) -> None:
    examples, arrays, source = trainer.prepare(Texts()), _arrays(trainer), SecureNoise()
    seen = [counts(trainer, arrays, examples, _event(), source).tolist() for _ in range(3)]
    assert len({tuple(cells) for cells in seen}) == 3


def test_without_noise_nothing_leaves_a_site(trainer: RoundTrainer) -> None:
    examples, arrays = trainer.prepare(Texts()), _arrays(trainer)
    with pytest.raises(PrivetError, match="nothing un-noised leaves"):
        counts(trainer, arrays, examples, _event(0.0), SecureNoise())
    exact = exact_cells(trainer, arrays, examples, "accuracy")
    assert counts(trainer, arrays, examples, _event(0.0), SeededNoise(0)) == pytest.approx(exact)  # a simulation may


@pytest.mark.parametrize("sigma", [0.7, 12.0])
def test_no_validation_unit_is_noise_of_the_event(trainer: RoundTrainer, sigma: float) -> None:
    """Accepted is the event's own sigma; two thirds and three halves of it are not."""
    nobody, arrays = trainer.prepare(Texts(0)), _arrays(trainer)
    source = SecureNoise()
    first = counts(trainer, arrays, nobody, _event(sigma, "confusion"), source)
    assert first.all()
    cells = exact_cells(trainer, arrays, nobody, "confusion")
    assert not cells.any()
    draws = np.concatenate([first, *(noised(cells, _event(sigma, "confusion"), source) for _ in range(300))])
    assert stats.kstest(draws, "norm", args=(0, sigma)).pvalue > 1e-4
    for wrong in (2 / 3, 3 / 2):
        assert stats.kstest(draws, "norm", args=(0, wrong * sigma)).pvalue < 1e-12


# No coupling


@pytest.mark.parametrize("scale", [0.5, 1e4])
def test_a_records_logits_are_the_same_without_the_others(trainer: RoundTrainer, scale: float) -> None:
    """To the last bit: weights of a hostile server could make rounding decide many predictions at once."""
    arrays = _arrays(trainer, scale=scale)
    whole = trainer.logits(arrays, trainer.prepare(Texts()))
    for first in (1, 4, 11):
        fewer = trainer.logits(arrays, trainer.prepare(Texts(first=first)))
        assert fewer.tobytes() == whole[-len(fewer) :].tobytes()
    assert np.ptp(whole) > 0


@pytest.mark.parametrize("release", RELEASES)
def test_removing_a_unit_takes_its_own_part_away_and_nothing_else(trainer: RoundTrainer, release: Release) -> None:
    arrays = _arrays(trainer)
    whole = exact_cells(trainer, arrays, trainer.prepare(Texts()), release)
    fewer = exact_cells(trainer, arrays, trainer.prepare(Texts(first=1)), release)
    assert 0 < np.square(whole - fewer).sum() <= 1.0
    alone = exact_cells(trainer, arrays, trainer.prepare(Texts(1)), release)
    assert (whole - fewer).tolist() == alone.tolist()


def test_hostile_weights_raise_nothing(trainer: RoundTrainer) -> None:
    arrays = {name: np.full_like(array, 1e4) for name, array in _arrays(trainer).items()}
    released = counts(trainer, arrays, trainer.prepare(Texts()), _event(), SeededNoise(0))
    assert np.isfinite(released).all()


def test_logits_that_are_not_finite_add_nothing(trainer: RoundTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays, examples = _arrays(trainer), trainer.prepare(Texts())
    logits = trainer.logits(arrays, examples)
    logits[examples.units.records(0)] = np.nan

    def broken(arrays: Any, examples: Examples) -> NDArray[np.float32]:
        return logits

    monkeypatch.setattr(trainer, "logits", broken)
    found = exact_cells(trainer, arrays, examples, "accuracy")
    assert found.sum() == pytest.approx(Texts().num_units - 1, abs=1e-5)
    assert np.isfinite(counts(trainer, arrays, examples, _event(), SeededNoise(0))).all()


def test_unknown_labels_count_in_their_units_mean(trainer: RoundTrainer) -> None:
    texts = Texts()
    members = np.flatnonzero(texts.units == np.argmax(np.bincount(texts.units)))
    assert len(members) > 1
    texts.labels[members[0]] = UNKNOWN
    found = exact_cells(trainer, _arrays(trainer), trainer.prepare(texts), "accuracy")
    assert found.sum() == pytest.approx(texts.num_units - 1 / len(members), abs=1e-5)
