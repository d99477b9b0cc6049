"""What noised counts tell: bounded by one unit, and with the standard errors that chance itself shows."""

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from privet.common.privacy.events import Release
from privet.common.tasks.classification import (
    exact_accuracy,
    noised_metrics,
    num_cells,
    predicted_standard_error,
    unit_cells,
)

RELEASES: tuple[Release, ...] = ("accuracy", "per_class", "confusion")
LABELS = ("calm", "urgent", "other")
L = len(LABELS)


def _cells(release: Release, rows: list[Any], labels: list[int], units: list[int]) -> NDArray[np.float64]:
    logits = np.array(rows, np.float32).reshape(-1, L)
    known, members = np.array(labels, np.int64), np.array(units, np.int64)
    return unit_cells(release, logits, known, members, int(members.max(initial=-1)) + 1)


SURE = {0: (9.0, 0.0, 0.0), 1: (0.0, 9.0, 0.0), 2: (0.0, 0.0, 9.0)}  # logits that say this label


# Cells


def test_cells_are_laid_out_row_by_row() -> None:
    rows, labels = [SURE[0], SURE[2], SURE[2], SURE[1]], [0, 0, 2, 2]
    assert _cells("accuracy", rows, labels, [0, 1, 2, 3]).tolist() == [2, 2]
    assert _cells("per_class", rows, labels, [0, 1, 2, 3]).tolist() == [1, 1, 0, 0, 1, 1]
    assert _cells("confusion", rows, labels, [0, 1, 2, 3]).tolist() == [1, 0, 1, 0, 0, 0, 0, 1, 1]
    for release in RELEASES:
        assert _cells(release, rows, labels, [0, 1, 2, 3]).shape == (num_cells(release, L),)


def test_a_unit_adds_the_mean_over_its_records() -> None:
    rows, labels = [SURE[0], SURE[0], SURE[1], SURE[0], SURE[1]], [0, 0, 0, 0, 1]
    assert _cells("accuracy", rows, labels, [0, 0, 0, 0, 1]).tolist() == [1.75, 0.25]


def test_what_cannot_be_judged_adds_nothing_and_counts_in_the_mean() -> None:
    rows = [SURE[0], SURE[0], (math.nan, 9.0, 0.0), (0.0, math.inf, 0.0)]
    assert _cells("accuracy", rows, [0, -1, 1, 1], [0, 0, 0, 0]).tolist() == [0.25, 0]
    assert _cells("confusion", rows, [0, -1, 1, 1], [0, 0, 0, 0]).tolist() == [0.25] + [0] * 8
    assert _cells("accuracy", [SURE[0]] * 2, [-1, 7], [0, 1]).tolist() == [0, 0]  # a label outside of the plan, too


def test_of_equal_logits_the_first_label_wins() -> None:
    assert _cells("confusion", [(1.0, 1.0, 1.0), (0.0, 2.0, 2.0)], [2, 2], [0, 1]).tolist() == [0] * 6 + [1, 1, 0]


def test_no_unit_is_no_cell() -> None:
    for release in RELEASES:
        assert _cells(release, [], [], []).tolist() == [0] * num_cells(release, L)


_RECORD = st.tuples(
    st.tuples(*[st.sampled_from([0.0, 1.0, -3.5, math.nan, math.inf])] * L), st.sampled_from([-1, 0, 1, 2])
)
_UNIT = st.lists(_RECORD, min_size=1, max_size=60)


def _sum(release: Release, units: list[list[Any]]) -> NDArray[np.float64]:
    rows = [logits for unit in units for logits, _ in unit]
    labels = [label for unit in units for _, label in unit]
    return _cells(release, rows, labels, [number for number, unit in enumerate(units) for _ in unit])


@settings(max_examples=300, deadline=None)
@given(
    release=st.sampled_from(RELEASES),
    others=st.lists(st.lists(_RECORD, min_size=1, max_size=4), max_size=5),
    one=_UNIT,
    two=_UNIT,
    place=st.integers(0, 5),
)
def test_a_unit_moves_the_sum_by_no_more_than_the_event_says(
    release: Release, others: list[Any], one: list[Any], two: list[Any], place: int
) -> None:
    """Exactly: the sums are of multiples of 2^-24, without a rounding that others could shift."""
    without = _sum(release, others)
    place = min(place, len(others))
    first = _sum(release, [*others[:place], one, *others[place:]])
    second = _sum(release, [*others[:place], two, *others[place:]])
    assert np.square(first - without).sum() <= 1.0
    assert np.square(first - second).sum() <= 2.0
    assert (first - without).tolist() == _sum(release, [one]).tolist()


def test_both_bounds_are_reached() -> None:
    """Else the noise would be more than what is claimed needs."""
    none: list[list[Any]] = []
    right, wrong = [[(SURE[0], 0)] * 49], [[(SURE[1], 0)] * 49]
    for release in RELEASES:
        assert np.square(_sum(release, right) - _sum(release, none)).sum() == 1.0
        assert np.square(_sum(release, right) - _sum(release, wrong)).sum() == 2.0


# Standard errors


def _truth(release: Release, accuracy: float, units: int) -> NDArray[np.float64]:
    """Un-noised cells of three equally frequent labels, each as accurate."""
    each = units / L
    table = np.full((L, L), each * (1 - accuracy) / (L - 1))
    np.fill_diagonal(table, each * accuracy)
    if release == "confusion":
        return table.ravel()
    pairs = np.stack([table.diagonal(), table.sum(1) - table.diagonal()], axis=1)
    return pairs.ravel() if release == "per_class" else pairs.sum(0)


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("accuracy", [0.0, 0.3, 0.5, 0.8, 1.0])
def test_the_noise_error_is_that_of_a_thousand_draws(release: Release, accuracy: float) -> None:
    random, sigma, units = np.random.default_rng(7), 6.0, 900
    truth = _truth(release, accuracy, units)
    draws, recalls = [], []
    for _ in range(2000):
        cells = truth + random.normal(0, sigma, truth.shape)
        table = cells.reshape(L, L) if release == "confusion" else cells.reshape(-1, 2)
        right = table.trace() if release == "confusion" else table[:, 0].sum()
        draws.append(right / table.sum())
        if release != "accuracy":
            recalls.append(table[0, 0] / table[0].sum())
    told = noised_metrics(release, truth, sigma**2, LABELS)
    assert told.accuracy is not None
    assert np.std(draws) == pytest.approx(told.accuracy.noise_error, rel=0.06)
    assert np.std(draws) <= 1.06 * predicted_standard_error(release, L, sigma, units)
    assert told.accuracy.value == pytest.approx(accuracy)
    assert told.num_units == pytest.approx(units)
    if release != "accuracy":
        calm = told.recall["calm"]
        assert calm is not None
        assert np.std(recalls) == pytest.approx(calm.noise_error, rel=0.08)


@pytest.mark.parametrize("release", RELEASES)
def test_the_predicted_error_is_the_worst_over_the_accuracy(release: Release) -> None:
    errors = []
    for accuracy in np.linspace(0, 1, 21):
        told = noised_metrics(release, _truth(release, float(accuracy), 600), 9.0, LABELS).accuracy
        assert told is not None
        errors.append(told.noise_error)
    assert max(errors) == pytest.approx(predicted_standard_error(release, L, 3.0, 600))


@pytest.mark.parametrize("accuracy", [0.5, 0.9])
def test_the_sampling_error_is_that_of_units_drawn_anew(accuracy: float) -> None:
    random, units = np.random.default_rng(3), 400
    draws = random.binomial(units, accuracy, 4000) / units
    told = noised_metrics("accuracy", _truth("accuracy", accuracy, units), 0.0, LABELS).accuracy
    assert told is not None
    assert np.std(draws) == pytest.approx(told.sampling_error, rel=0.06)
    assert (told.noise_error, told.noise_share) == (0.0, 0.0)


def test_errors_add_up_as_independent_ones() -> None:
    told = noised_metrics("accuracy", np.array([80.0, 20.0]), 25.0, LABELS).accuracy
    assert told is not None
    assert told.error**2 == pytest.approx(told.noise_error**2 + told.sampling_error**2)
    assert told.noise_share == pytest.approx(told.noise_error**2 / told.error**2)
    assert told.noise_error == pytest.approx(5 * math.sqrt(0.2**2 + 0.8**2) / 100)


@pytest.mark.parametrize("units", [0, -3])
def test_a_prediction_needs_units_and_noise(units: int) -> None:
    with pytest.raises(ValueError, match="units >= 1"):
        predicted_standard_error("accuracy", 2, 1.0, units)
    with pytest.raises(ValueError, match="noise_multiplier >= 0"):
        predicted_standard_error("accuracy", 2, math.nan, 5)


# What is told


@pytest.mark.parametrize(("cells", "told"), [((50.0, -4.0), 1.0), ((-4.0, 50.0), 0.0)])
def test_an_accuracy_stays_within_its_bounds(cells: tuple[float, float], told: float) -> None:
    metrics = noised_metrics("accuracy", np.array(cells), 4.0, LABELS)
    assert metrics.accuracy is not None
    assert metrics.accuracy.value == told
    assert metrics.accuracy.sampling_error > 0  # no certainty either


@pytest.mark.parametrize("cells", [(2.0, 2.0), (0.0, 0.0), (-5.0, 1.0), (4.2, 0.0)])
def test_what_the_noise_drowns_is_not_told(cells: tuple[float, float]) -> None:
    metrics = noised_metrics("accuracy", np.array(cells), 1.0, LABELS)  # 3 standard deviations of the sum are 4.24
    assert metrics.accuracy is None
    assert metrics.to_json()["accuracy"] is None
    assert metrics.to_json()["num_units"] == sum(cells)
    assert noised_metrics("accuracy", np.array([4.3, 0.0]), 1.0, LABELS).accuracy is not None


def test_a_rare_label_has_no_recall() -> None:
    metrics = noised_metrics("confusion", np.array([90.0, 5, 5, 1, -2, 3, 0, 10, 90]), 1.0, LABELS)
    assert metrics.recall["urgent"] is None
    assert metrics.recall["calm"] is not None
    assert metrics.recall["calm"].value == 0.9
    assert metrics.confusion == [[90, 5, 5], [1, 0, 3], [0, 10, 90]]  # nothing below 0 is shown
    assert metrics.num_units == 202  # and nothing but the look is changed by that
    assert noised_metrics("accuracy", np.array([9.0, 9.0]), 1.0, LABELS).recall == {}


@pytest.mark.parametrize("release", RELEASES)
@given(data=st.data())
@settings(max_examples=50, deadline=None)
def test_whatever_sites_send_can_be_told(release: Release, data: st.DataObject) -> None:
    width = num_cells(release, L)
    cells = data.draw(st.lists(st.floats(-(2.0**31), 2.0**31), min_size=width, max_size=width))
    metrics = noised_metrics(release, np.array(cells), data.draw(st.floats(0, 1e12)), LABELS)
    told: Any = metrics.to_json()
    json.dumps(told, allow_nan=False)
    for part in [metrics.accuracy, *metrics.recall.values()]:
        assert part is None or 0 <= part.value <= 1
    assert set(told) >= {"accuracy", "error", "noise_error", "sampling_error", "noise_share", "num_units", "recall"}


@pytest.mark.parametrize("release", RELEASES)
def test_less_than_a_part_of_a_unit_tells_nothing(release: Release) -> None:
    cells = np.zeros(num_cells(release, L))
    cells[-1] = 5e-324
    told = noised_metrics(release, cells, 0.0, LABELS)
    assert told.accuracy is None
    json.dumps(told.to_json(), allow_nan=False)


def test_the_exact_accuracy_of_each_release_agrees() -> None:
    for release in RELEASES:
        assert exact_accuracy(release, _truth(release, 0.7, 300), L) == pytest.approx(0.7)
        assert math.isnan(exact_accuracy(release, np.zeros(num_cells(release, L)), L))
