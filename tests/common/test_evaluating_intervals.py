"""Intervals: against scipy, invariants, and that records of one unit are not taken for independent ones."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from privet.common.evaluating.intervals import (
    bootstrap_interval,
    difference,
    resamples,
    share_interval,
    wilson,
)
from privet.common.evaluating.shuffling import p_values, shuffles

CONFIDENCES = st.sampled_from([0.8, 0.95, 0.99])


@given(right=st.integers(0, 300), wrong=st.integers(0, 300), confidence=CONFIDENCES)
def test_wilson_is_scipys(right: int, wrong: int, confidence: float) -> None:
    if not right + wrong:
        return
    found = wilson(right, right + wrong, confidence)
    expected = stats.binomtest(right, right + wrong).proportion_ci(confidence, method="wilson")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-9)


@given(value=st.floats(-1, 1), drawn=st.lists(st.floats(-1, 1), min_size=1, max_size=40), confidence=CONFIDENCES)
def test_a_bootstrap_interval_holds_its_value_and_stays_within_what_was_seen(
    value: float, drawn: list[float], confidence: float
) -> None:
    found = bootstrap_interval(value, np.array(drawn), confidence)
    assert found.low <= found.value == value <= found.high
    assert min([value, *drawn]) - 1e-12 <= found.low
    assert found.high <= max([value, *drawn]) + 1e-12


@given(sizes=st.lists(st.integers(0, 5), min_size=1, max_size=40), seed=st.integers(0, 99), confidence=CONFIDENCES)
def test_a_share_s_interval_holds_it_and_is_never_of_no_width(sizes: list[int], seed: int, confidence: float) -> None:
    total = np.array(sizes, float)
    right = np.random.default_rng(seed).binomial(sizes, 0.9).astype(float)
    found = share_interval(right, total, confidence)
    if total.sum():
        assert 0 <= found.low <= found.value <= found.high <= 1
        assert found.value == pytest.approx(right.sum() / total.sum())
        assert found.high - found.low > 0.005
    else:
        assert (found.low, found.high) == (0, 1)


@settings(max_examples=25)
@given(num_units=st.integers(1, 200), seed=st.integers(0, 2**40))
def test_resamples_hang_on_the_seed_alone(num_units: int, seed: int) -> None:
    whole = np.concatenate([weights for _, weights in resamples(num_units, seed, num_resamples=20)])
    pieces = np.concatenate([weights for _, weights in resamples(num_units, seed, width=1_500_000, num_resamples=20)])
    assert whole.shape == (20, num_units)
    assert (whole == pieces).all()
    assert (whole.sum(1) == num_units).all()
    if num_units > 20:
        other = np.concatenate([weights for _, weights in resamples(num_units, seed + 1, num_resamples=20)])
        assert (whole != other).any()


def test_records_of_one_person_are_worth_less_than_as_many_persons() -> None:
    right = np.random.default_rng(0).random(60) < 0.7
    alone = share_interval(np.repeat(right, 10).astype(float), np.ones(600), 0.95)
    together = share_interval(np.where(right, 10.0, 0.0), np.full(60, 10.0), 0.95)  # ten equal records of each
    sixty = share_interval(right.astype(float), np.ones(60), 0.95)
    assert together.value == alone.value
    assert together.high - together.low == pytest.approx(sixty.high - sixty.low, rel=0.05)
    assert together.high - together.low > 2.5 * (alone.high - alone.low)


def test_nine_in_ten_intervals_of_a_share_hold_the_truth() -> None:
    random, held = np.random.default_rng(3), 0
    for _ in range(400):
        sizes = random.integers(1, 6, 80)
        shares = random.beta(8, 2, 80)  # each unit has its own: its records are alike
        found = share_interval(random.binomial(sizes, shares).astype(float), sizes.astype(float), 0.9)
        held += found.low <= 0.8 <= found.high
    assert 0.85 <= held / 400 <= 0.95


@given(st.integers(1, 50), st.integers(0, 50), st.integers(1, 50), st.integers(0, 50))
def test_a_difference_holds_its_value_and_turns_round(a: int, b: int, c: int, d: int) -> None:
    first, second = wilson(a, a + b, 0.95), wilson(c, c + d, 0.95)
    found, turned = difference(first, second), difference(second, first)
    assert -1 <= found.low <= found.value <= found.high <= 1
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low))


def test_newcombe_s_own_example() -> None:
    found = difference(wilson(56, 70, 0.95), wilson(48, 80, 0.95))  # Newcombe 1998, table II (a), method 10
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=1e-4)


@given(seed=st.integers(0, 1000), mixed=st.booleans())
@settings(max_examples=40)
def test_dealt_out_groups_stay_with_their_unit_and_within_their_stratum(seed: int, mixed: bool) -> None:
    random = np.random.default_rng(seed)
    units = np.sort(random.integers(0, 12, 40))
    groups = random.integers(0, 3, 40) if mixed else random.integers(0, 3, 12)[units]
    strata = random.integers(0, 2, 40)
    for dealt in shuffles(groups, units, strata, seed, 5):
        assert set(dealt.tolist()) <= set(groups.tolist())
        for unit in np.unique(units):
            inside = units == unit
            before, after = groups[inside], dealt[inside]
            if len(set(before.tolist())) == 1:
                assert len(set(after.tolist())) == 1
            else:
                for stratum in (0, 1):
                    of = strata[inside] == stratum
                    assert sorted(before[of]) == sorted(after[of])
        if not mixed:
            first = np.unique(units, return_index=True)[1]
            assert sorted(dealt[first]) == sorted(groups[first])


def test_single_records_exchange_groups_within_their_stratum_only() -> None:
    strata, groups = np.repeat([0, 1], 50), np.repeat([0, 1], 50)
    assert all((dealt == groups).all() for dealt in shuffles(groups, np.arange(100), strata, 0, 10))
    free = np.array(list(shuffles(groups, np.arange(100), np.zeros(100, np.int64), 0, 200)))
    assert abs(free[:, :50].mean() - 0.5) < 0.03


def test_a_p_value_is_never_nought() -> None:
    assert p_values(np.array([5.0, 1.0, 0.0]), np.array([0.5, 1.0, 2.0])).tolist() == [0.25, 0.75, 1.0]
