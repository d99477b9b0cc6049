"""The one-run bound: its caps, its coverage on mechanisms whose epsilon is known, and the theorem by brute force."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privet.common.privacy.events import TrainEvent
from privet.simulations.audit.black_box import Texts
from privet.simulations.audit.bound import Tally, cap, lower_bound, p_value
from privet.simulations.audit.guesses import Guesses, log_likelihood_ratio, settle
from privet.simulations.audit.membership import by_unit, roc

EVENT = TrainEvent(
    sample_rate=0.5, noise_multiplier=2.0, steps=4, max_grad_norm=1.0, expected_batch=50, unit="unit", max_records=2
)


@pytest.mark.parametrize(("num", "expected"), [(100, 3.5), (500, 5.1), (1000, 5.8), (5000, 7.4)])
def test_the_cap_is_the_bound_of_all_right(num: int, expected: float) -> None:
    assert round(cap(num, num, 0.0), 1) == expected
    assert round(cap(num, num, 1e-6), 1) == expected
    closed = 0.05 ** (1 / num)  # all right at the edge of 5 %
    assert cap(num, num, 0.0) == pytest.approx(math.log(closed / (1 - closed)), abs=2e-4)


@pytest.mark.parametrize("epsilon", [0.5, 1.0, 3.0])
def test_randomised_response_is_never_bounded_above_its_epsilon_more_often_than_allowed(epsilon: float) -> None:
    """It answers each coin rightly with probability e^ε / (1 + e^ε): the theorem's worst case."""
    random = np.random.default_rng(1)
    right = random.binomial(400, 1 / (1 + math.exp(-epsilon)), size=2000)
    bounds = np.array([lower_bound(Tally(400, 400, int(count)), 0.0) for count in right])
    above = float((bounds > epsilon).mean())
    assert 0.02 < above <= 0.06  # valid, and not by being blind
    many = lower_bound(Tally(200_000, 200_000, round(200_000 / (1 + math.exp(-epsilon)))), 0.0)
    assert 0.95 * epsilon < many < epsilon


@pytest.mark.parametrize("delta", [1e-4, 1e-3, 0.01])
def test_a_mechanism_that_rarely_tells_all_needs_the_correction(delta: float) -> None:
    """Telling every coin with probability δ and else nothing is (0, δ)-DP: all are right at least that often."""
    told = Tally(100, 100, 100)
    assert p_value(told, 0.0, 0.0) < delta <= p_value(told, 0.0, delta)
    assert lower_bound(told, delta) < lower_bound(told, 0.0)
    assert lower_bound(told, 1.0) == 0.0


@given(
    num=st.integers(1, 14),
    guesses=st.integers(0, 14),
    right=st.integers(0, 14),
    odds=st.integers(1, 9),
    delta=st.sampled_from([0.0, 1e-3, 0.01, 0.2]),
)
def test_the_p_value_is_the_theorems(num: int, guesses: int, right: int, odds: int, delta: float) -> None:
    guesses = min(guesses, num)
    right = min(right, guesses)
    chance = Fraction(odds, odds + 1)

    def tail(v: int) -> Fraction:
        return sum(
            (math.comb(guesses, w) * chance**w * (1 - chance) ** (guesses - w) for w in range(max(v, 0), guesses + 1)),
            Fraction(0),
        )

    steepest = max((tail(right - i) - tail(right)) / i for i in range(1, num + 1))
    expected = min(1.0, float(tail(right)) + 2 * num * delta * float(steepest))
    assert p_value(Tally(num, guesses, right), math.log(odds), delta) == pytest.approx(expected, rel=1e-9)


@given(guesses=st.integers(1, 300), wrong=st.integers(0, 300), delta=st.sampled_from([0.0, 1e-6, 1e-4]))
@settings(deadline=None)
def test_the_bound_rises_with_right_guesses_and_falls_with_delta(guesses: int, wrong: int, delta: float) -> None:
    tally = Tally(300, guesses, max(0, guesses - wrong))
    better = Tally(300, guesses, min(guesses, tally.num_right + 1))
    found = lower_bound(tally, delta)
    assert 0 <= found <= lower_bound(better, delta) <= cap(300, guesses, delta)
    assert lower_bound(tally, 2 * delta) <= found + 1e-4
    if found > 0:
        assert p_value(tally, found, delta) <= 0.05 <= p_value(tally, found + 3e-4, delta)


@pytest.mark.parametrize("tally", [(10, 11, 5), (10, 5, 6), (10, 5, -1)])
def test_impossible_tallies_are_refused(tally: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="Expected 0 <= right"):
        Tally(*tally)


def test_a_tally_counts_both_ends() -> None:
    scores = np.array([5.0, 4.0, 0.0, -1.0, -2.0])
    coins = np.array([True, False, True, True, False])
    assert Guesses(2, 1).tally(scores, coins) == Tally(5, 3, 2)
    assert Guesses(0, 2).tally(scores, coins) == Tally(5, 2, 1)
    assert Guesses(1, 0).tally(scores, coins) == Tally(5, 1, 1)


def test_the_score_is_the_log_of_the_ratio_of_densities() -> None:
    def density(x: float, mean: float) -> float:
        return math.exp(-((x - mean) ** 2) / (2 * 0.7**2))

    for x in (-1.0, 0.3, 2.0):
        expected = math.log(0.2 * density(x, 1) + 0.8 * density(x, 0)) - math.log(density(x, 0))
        assert log_likelihood_ratio(np.array([x]), 0.2, 0.7)[0] == pytest.approx(expected)
        assert log_likelihood_ratio(np.array([x]), 1.0, 0.7)[0] == pytest.approx((x - 0.5) / 0.49)


def test_guesses_are_settled_by_the_plan_alone_and_can_contradict_the_claim() -> None:
    first = settle(EVENT, 2, 400, 2.0, 1e-5, 2.0)
    assert first == settle(EVENT, 2, 400, 2.0, 1e-5, 2.0)
    assert 0 < first.total <= 400
    assert cap(400, first.total, 1e-5) >= 2.5
    assert settle(EVENT, 2, 400, 100.0, 1e-5, 2.0).total > 300  # as far as these canaries reach


def test_roc_figures() -> None:
    curve = roc(np.array([0.1, 0.2, 0.3, 2.0]), np.array([0.25, 1.0, 3.0, 4.0, 5.0]))
    assert curve.at(0.0) == 0.5
    assert curve.at(0.2) == 0.75
    assert curve.advantage == pytest.approx(0.6)
    assert curve.auc == pytest.approx((5 + 5 + 4 + 3) / 20)
    assert (curve.num_members, curve.num_others) == (4, 5)
    with pytest.raises(ValueError, match="at least one member"):
        roc(np.array([]), np.array([1.0]))


def test_a_units_loss_is_the_mean_of_its_records() -> None:
    records = Texts([""] * 4, np.zeros(4, np.int64), np.array([0, 1, 0, 2]), 3)
    found = by_unit(np.array([1.0, 5.0, 2.0, np.nan]), records)
    assert found[:2].tolist() == [1.5, 5.0]
    assert np.isnan(found[2])
