import math
import warnings
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privet.common.privacy import (
    Adjacency,
    EvaluateEvent,
    Event,
    TrainEvent,
    accountant,
    advantage,
    delta,
    distribution,
    epsilon,
    true_positive_bound,
)


def event(sample_rate: float, noise_multiplier: float, steps: int, **changes: Any) -> TrainEvent:
    scale: dict[str, Any] = {"max_grad_norm": 1.0, "expected_batch": 32, "unit": "unit", "max_records": 4}
    return TrainEvent(sample_rate=sample_rate, noise_multiplier=noise_multiplier, steps=steps, **scale | changes)


def measure(noise_multiplier: float) -> EvaluateEvent:
    return EvaluateEvent(noise_multiplier=noise_multiplier, release="accuracy", unit="unit")


def cdf(x: float) -> float:
    """Of the standard normal."""
    return math.erfc(-x / math.sqrt(2)) / 2


def gaussian_delta(mu: float, epsilon: float) -> float:
    """Balle and Wang 2018, theorem 8, with mu = sensitivity / standard deviation."""
    return cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * cdf(-mu / 2 - epsilon / mu)


def at_interval(events: Sequence[Event], interval: float, monkeypatch: pytest.MonkeyPatch, **kwargs: Any) -> float:
    """Epsilon on a grid given by hand."""
    caches = (accountant.epsilon_of, distribution.compose)
    with monkeypatch.context() as patch:
        patch.setattr(distribution, "grid", lambda groups: interval)
        for cache in caches:
            cache.cache_clear()
        try:
            return epsilon(events, 1e-5, **kwargs)
        finally:
            for cache in caches:
                cache.cache_clear()


@pytest.mark.parametrize(
    ("rate", "sigma", "steps", "adjacency", "expected"),
    [
        (0.1, 1.5, 100, Adjacency.ADD_OR_REMOVE, 3.54),
        (0.1, 1.5, 100, Adjacency.REPLACE, 6.15),
        (0.02, 1.0, 1000, Adjacency.ADD_OR_REMOVE, 3.90),
        (0.01, 0.6, 200, Adjacency.ADD_OR_REMOVE, 4.46),
    ],
)
def test_measured_figures(rate: float, sigma: float, steps: int, adjacency: Adjacency, expected: float) -> None:
    assert epsilon([event(rate, sigma, steps)], 1e-5, adjacency) == pytest.approx(expected, abs=0.005)


@pytest.mark.parametrize(("mu", "steps"), [(0.05, 1), (1.0, 1), (1.0, 400), (3.0, 7)])
@pytest.mark.parametrize("adjacency", list(Adjacency))
def test_without_sampling_it_is_the_closed_form_gaussian(mu: float, steps: int, adjacency: Adjacency) -> None:
    events = [event(1.0, math.sqrt(steps) / mu, steps)]
    effective = mu if adjacency is Adjacency.ADD_OR_REMOVE else 2 * mu
    for eps in (0.0, 0.1 * effective, effective):
        truth = gaussian_delta(effective, eps)
        assert truth * (1 - 1e-9) <= delta(events, eps, adjacency) <= truth * 1.002 + 1e-12
    found = epsilon(events, 1e-5, adjacency)
    assert gaussian_delta(effective, found) <= 1e-5 * (1 + 1e-9)
    assert gaussian_delta(effective, 0.995 * found) > 1e-5


@pytest.mark.parametrize(
    ("mu", "steps"),
    [
        (0.01, 100),
        (0.5, 10_000),
        pytest.param(0.5, 10_199, id="two-stages-and-a-rest"),
        pytest.param(0.25, 10**6, id="two-stages"),
        (2.0, 50),
    ],
)
@pytest.mark.parametrize("target", [1e-5, 1e-9])
def test_composition_is_an_upper_bound_close_to_the_closed_form(mu: float, steps: int, target: float) -> None:
    # A rate next to 1 goes through sampling and composition, and loses a hair less than the Gaussian at rate 1.
    rate = 1 - 1e-9
    found = epsilon([event(rate, math.sqrt(steps) / mu, steps)], target)
    low, high = 0.0, 100.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if gaussian_delta(mu, middle) > target else (low, middle)
    assert high * (1 - 1e-6) <= found <= high * 1.005


@pytest.mark.parametrize(
    ("rate", "sigma", "steps"), [(0.1, 1.5, 100), (0.001, 5.0, 100), (0.5, 300.0, 100), (0.01, 4.0, 5000)]
)
@pytest.mark.parametrize("adjacency", list(Adjacency))
def test_the_grid_is_pessimistic_and_fine_enough(
    rate: float, sigma: float, steps: int, adjacency: Adjacency, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = [event(rate, sigma, steps)]
    ours = epsilon(events, 1e-5, adjacency)
    finer = at_interval(
        events, distribution.grid(accountant._groups(events, adjacency)) / 4, monkeypatch, adjacency=adjacency
    )
    assert finer * (1 - 1e-9) <= ours <= finer * 1.005
    tenth_of_the_default = at_interval(events, distribution.INTERVAL / 10, monkeypatch, adjacency=adjacency)
    assert ours <= tenth_of_the_default * 1.005


def test_a_small_loss_needs_a_finer_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    events = [event(0.001, 5.0, 100)]
    assert epsilon(events, 1e-5) < 0.5 * at_interval(events, distribution.INTERVAL, monkeypatch)


def test_agrees_with_two_other_accountants() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from opacus.accountants import PRVAccountant, RDPAccountant

        for history in ([(1.5, 0.1, 100)], [(1.0, 0.02, 100), (2.0, 0.2, 60)]):
            prv, rdp = PRVAccountant(), RDPAccountant()
            prv.history, rdp.history = list(history), list(history)
            ours = epsilon([event(rate, sigma, steps) for sigma, rate, steps in history], 1e-5)
            assert ours == pytest.approx(prv.get_epsilon(1e-5), rel=0.015)
            assert ours <= rdp.get_epsilon(1e-5)


def test_rounds_compose_far_below_their_sum() -> None:
    one = event(0.02, 1.0, 50)
    assert epsilon([one] * 20, 1e-5) < 0.2 * 20 * epsilon([one], 1e-5)


def test_only_the_mechanism_counts_not_order_nor_packaging() -> None:
    a, b = event(0.1, 1.5, 10), event(0.2, 2.0, 7)
    other_scale = event(0.1, 1.5, 10, max_grad_norm=7.0, expected_batch=5, unit="record", max_records=1)
    once = epsilon([event(0.1, 1.5, 20), b], 1e-5)
    assert epsilon([a, b, a], 1e-5) == epsilon([b, a, other_scale], 1e-5) == once


@settings(max_examples=5, deadline=None)
@given(
    rate=st.floats(0.05, 1.0),
    sigma=st.floats(1.0, 20.0),
    steps=st.integers(1, 300),
    target=st.sampled_from([1e-4, 1e-6]),
)
def test_monotone_and_consistent(rate: float, sigma: float, steps: int, target: float) -> None:
    one = [event(rate, sigma, steps)]
    found = epsilon(one, target)
    assert delta(one, found) <= target * (1 + 1e-6)
    assert epsilon([event(rate, sigma, 2 * steps)], target) >= found
    assert epsilon([event(rate, 1.1 * sigma, steps)], target) <= found
    assert epsilon(one, target / 10) >= found
    assert epsilon(one, target, Adjacency.REPLACE) >= found
    assert 0 <= delta(one, 1.0) <= delta(one, 0.5) <= advantage(one) <= 1


def test_nothing_done_costs_nothing_and_no_noise_costs_everything() -> None:
    assert epsilon([], 1e-5) == delta([], 0.0) == advantage([]) == 0.0
    bare = [event(0.1, 1.5, 100), event(0.1, 0.0, 1)]
    assert epsilon(bare, 1e-5) == math.inf
    assert delta(bare, 50.0) == advantage(bare) == true_positive_bound(bare, 0.01) == 1.0


def test_membership_bounds_against_the_gaussian() -> None:
    # The most powerful test between N(0, 1) and N(mu, 1) has power cdf(quantile(alpha) + mu); alpha 0.0227501 is 2 sd.
    mu = 1.5
    events = [event(1.0, 1 / mu, 1)]
    assert advantage(events) == pytest.approx(2 * cdf(mu / 2) - 1, rel=1e-3)
    assert true_positive_bound(events, cdf(-2.0)) == pytest.approx(cdf(mu - 2.0), rel=2e-3)
    assert true_positive_bound(events, cdf(-2.0)) >= cdf(mu - 2.0)
    assert true_positive_bound(events, 1.0) == 1.0


def test_bad_arguments() -> None:
    one = [event(0.1, 1.5, 1)]
    for bad in (0.0, 1.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="delta"):
            epsilon(one, bad)
    for bad in (-0.1, math.nan):
        with pytest.raises(ValueError, match="epsilon"):
            delta(one, bad)
    for bad in (0.0, 1.1, math.nan):
        with pytest.raises(ValueError, match="alpha"):
            true_positive_bound(one, bad)


@pytest.mark.parametrize("figures", [(1e-12, 0.5, 10), (1.0, 1e6, 10), (0.5, 0.001, 1), (0.5, 1e6, 10**8)])
def test_extremes_are_answered(figures: tuple[float, float, int]) -> None:
    found = epsilon([event(*figures)], 1e-5)
    assert math.isfinite(found)
    assert found >= 0


def many(num_kinds: int) -> list[TrainEvent | EvaluateEvent]:
    """Ten thousand events; some are evaluations."""
    kinds: list[TrainEvent | EvaluateEvent] = [
        event(0.02 + 0.001 * (i % num_kinds), 0.8 + 0.05 * (i % num_kinds), 5) for i in range(9_990)
    ]
    return kinds + [measure(40.0 + i) for i in range(10)]


def test_ten_thousand_events_of_fifty_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[distribution.Step] = []
    single = distribution._single.__wrapped__

    def counted(step: distribution.Step, interval: float, way: str) -> distribution.Distribution:
        calls.append(step)
        return single(step, interval, way)

    monkeypatch.setattr(distribution, "_single", counted)
    found = epsilon(many(50), 1e-6)
    assert len(calls) == 2 * (50 + 1)  # equal events are one kind, all Gaussians one; to remove and to add
    epsilon(list(reversed(many(50))), 1e-6)
    assert len(calls) == 2 * (50 + 1)
    assert found == pytest.approx(42.03, abs=0.05)


@pytest.mark.slow
def test_many_kinds_stay_within_three_thousandths_of_a_fine_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = epsilon(many(50), 1e-5)
    fine = at_interval(many(50), 2e-4, monkeypatch)
    assert fine * (1 - 1e-9) <= ours <= fine * 1.003


def composed_by_dp_accounting(kinds: list[tuple[float, float, int]], adjacency: Adjacency) -> Any:
    """Another composition of the same mechanisms."""
    from dp_accounting import NeighboringRelation
    from dp_accounting.pld import privacy_loss_distribution as pld

    relation = {
        Adjacency.ADD_OR_REMOVE: NeighboringRelation.ADD_OR_REMOVE_ONE,
        Adjacency.REPLACE: NeighboringRelation.REPLACE_ONE,
    }[adjacency]
    total = pld.identity(1e-3)
    for rate, sigma, steps in kinds:
        one = pld.from_gaussian_mechanism(
            sigma, sampling_prob=rate, value_discretization_interval=1e-3, neighboring_relation=relation
        )
        total = total.compose(one.self_compose(steps))
    return total


@pytest.mark.parametrize("adjacency", list(Adjacency))
@pytest.mark.parametrize("kinds", [[(0.1, 1.5, 100)], [(0.05, 0.9, 30), (0.2, 3.0, 50), (1.0, 8.0, 4)]])
def test_our_composition_is_dp_accounting_s(kinds: list[tuple[float, float, int]], adjacency: Adjacency) -> None:
    events = [event(*figures) for figures in kinds]
    theirs = composed_by_dp_accounting(kinds, adjacency)
    for target in (1e-3, 1e-5, 1e-8, 1e-11):
        assert epsilon(events, target, adjacency) == pytest.approx(theirs.get_epsilon_for_delta(target), rel=1e-4)
    for eps in (0.0, 0.7, 3.0):
        assert delta(events, eps, adjacency) == pytest.approx(theirs.get_delta_for_epsilon(eps), rel=1e-4)


@pytest.mark.parametrize(("adjacency", "sensitivity"), [(Adjacency.ADD_OR_REMOVE, 1.0), (Adjacency.REPLACE, 2**0.5)])
@pytest.mark.parametrize(("sigma", "count"), [(0.7, 1), (20.0, 10), (3.0, 40)])
def test_evaluations_are_the_closed_form_gaussian(
    adjacency: Adjacency, sensitivity: float, sigma: float, count: int
) -> None:
    mu = sensitivity * math.sqrt(count) / sigma
    found = epsilon([measure(sigma)] * count, 1e-5, adjacency)
    low, high = 0.0, 100.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if gaussian_delta(mu, middle) > 1e-5 else (low, middle)
    assert high * (1 - 1e-9) <= found <= high * 1.003
    for eps in (0.0, 0.5 * mu):
        assert delta([measure(sigma)] * count, eps, adjacency) == pytest.approx(gaussian_delta(mu, eps), rel=1e-3)


def test_gaussians_of_all_kinds_compose_as_one() -> None:
    both = epsilon([event(1.0, 3.0, 2), measure(4.0)], 1e-5)
    assert both == pytest.approx(epsilon([measure(1 / math.sqrt(2 / 9 + 1 / 16))], 1e-5), rel=1e-9)
    replaced = epsilon([event(1.0, 3.0, 2), measure(4.0)], 1e-5, Adjacency.REPLACE)
    assert replaced == pytest.approx(epsilon([measure(1 / math.sqrt(8 / 9 + 2 / 16))], 1e-5), rel=1e-9)


def test_an_evaluation_without_noise_costs_everything() -> None:
    assert epsilon([event(0.1, 1.5, 1), measure(0.0)], 1e-5) == math.inf


@pytest.mark.parametrize("mu", [0.3, 1.0, 2.5])
def test_mu_of_a_gaussian_is_its_own(mu: float) -> None:
    profile = accountant.Profile([accountant._groups([event(1.0, 2 / mu, 4)], Adjacency.ADD_OR_REMOVE)])
    assert mu <= profile.mu(1e-5) <= mu * 1.002 + 0.001  # type: ignore[operator]


def test_mu_dominates_where_the_central_limit_does_not() -> None:
    rate, sigma, steps, target = 0.01, 0.6, 200, 1e-5
    events = [event(rate, sigma, steps)]
    mu = accountant.Profile([accountant._groups(events, Adjacency.ADD_OR_REMOVE)]).mu(target)
    assert mu is not None
    assert gaussian_delta(mu, epsilon(events, target)) >= target * (1 - 1e-6)
    assert gaussian_delta(mu, 4.45) >= target
    limit = rate * math.sqrt(steps * math.expm1(1 / sigma**2))
    assert gaussian_delta(limit, 2.22) < target  # what the limit would claim, against 4.46
    for eps in (0.0, 0.5, 1.0, 2.0, 4.0):
        assert gaussian_delta(mu, eps) >= delta(events, eps)
    smaller = mu - 0.002
    assert any(gaussian_delta(smaller, i / 100) < delta(events, i / 100) for i in range(446))


def test_a_profile_is_the_greatest_of_its_parts() -> None:
    first, second = [event(0.1, 1.5, 100)], [measure(1.2)]
    groups = [accountant._groups(events, Adjacency.ADD_OR_REMOVE) for events in (first, second)]
    both, reverse = accountant.Profile(groups), accountant.Profile(groups[::-1])
    for eps in (0.0, 0.5, 2.0, 5.0):
        assert both.delta(eps) == reverse.delta(eps) == max(delta(first, eps), delta(second, eps))
    for alpha in (0.001, 0.01, 0.1, 0.6):
        assert both.true_positive_bound(alpha) >= max(true_positive_bound(events, alpha) for events in (first, second))


def test_a_wide_sampled_part_does_not_break_the_window() -> None:
    person = [(accountant.step(event(0.1, 1.5, 5), records=32)[0], 100)]
    assert 300 < accountant.epsilon_of(distribution.collect(person), 1e-5) < 600
