"""Methods as pure functions: the mean, the server's step, the weights, and what each method may touch."""

import copy
import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from privet.common.adapter import MAX_WEIGHT, AdapterSpec, Entry, Role, digest
from privet.common.config import Plan
from privet.common.methods import Method, State, Stated, Update, aggregation_weights, method_for
from privet.common.methods.base import server_step, weighted_mean


def f32(values: object) -> NDArray[np.float32]:
    return np.array(values, np.float32)


SPEC = AdapterSpec(
    (
        Entry("a", (2, 3), Role.LORA_A),
        Entry("b", (3, 2), Role.LORA_B),
        Entry("head", (2, 3), Role.HEAD),
        Entry("new", (3,), Role.NEW),
    )
)
PARTS = {"head": {"head"}, "ffa": {"b", "head", "new"}, "fedavg": {"a", "b", "head", "new"}}
METHODS = tuple(PARTS)

values = st.floats(-2 * MAX_WEIGHT, 2 * MAX_WEIGHT, width=32)
weights = st.floats(1e-6, 1e6)
updates = st.lists(
    st.builds(lambda rows, weight: Update({"x": f32(rows)}, weight), st.lists(values, min_size=3, max_size=3), weights),
    min_size=1,
    max_size=6,
)


def _method(kind: str, **settings: Any) -> Method:
    plan = Plan.model_validate(
        {
            "format": 1,
            "name": "x",
            "task": {"labels": ["p", "q"]},
            "model": {"base": "x", "sha256": "0" * 64},
            "method": {"kind": kind, **settings},
            "training": {"rounds": 1, "expected_batch": 1, "learning_rate": 1.0},
        }
    )
    return method_for(plan)


def _arrays(seed: int, names: set[str] | None = None) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    drawn = {entry.name: random.normal(size=entry.shape).astype(np.float32) for entry in SPEC.entries}
    return {name: array for name, array in drawn.items() if names is None or name in names}


# The mean


@given(updates)
def test_the_mean_is_numpys_and_lies_between_the_extremes(updates: list[Update]) -> None:
    mean = weighted_mean(updates, ["x"])["x"]
    rows = np.stack([update.arrays["x"] for update in updates]).astype(np.float64)
    expected = np.average(rows, axis=0, weights=[update.weight for update in updates])
    np.testing.assert_allclose(mean, expected, rtol=1e-6, atol=1e-6 * float(np.abs(rows).max()))
    assert mean.dtype == np.float32
    slack = np.spacing(np.float32(np.abs(rows).max()))
    assert (mean >= rows.min(0) - slack).all()
    assert (mean <= rows.max(0) + slack).all()


@given(updates, st.randoms(), st.floats(1e-3, 1e3))
def test_neither_the_order_nor_the_scale_of_weights_matters(updates: list[Update], random: Any, scale: float) -> None:
    mean = weighted_mean(updates, ["x"])["x"]
    shuffled = [Update(update.arrays, update.weight * scale) for update in random.sample(updates, len(updates))]
    size = max(float(np.abs(update.arrays["x"]).max()) for update in updates)
    np.testing.assert_allclose(weighted_mean(shuffled, ["x"])["x"], mean, rtol=2e-7, atol=2e-7 * size)


@given(updates)
def test_a_weight_of_zero_is_no_update(updates: list[Update]) -> None:
    hostile = Update({"x": f32([2e4, -2e4, 2e4])}, 0.0)
    mean = weighted_mean([*updates, hostile], ["x"])["x"]
    assert np.array_equal(mean, weighted_mean(updates, ["x"])["x"])


def test_the_mean_of_nothing_is_an_error() -> None:
    for nothing in ([], [Update({"x": f32([1])}, 0.0)], [Update({"x": f32([1])}, math.nan)]):
        with pytest.raises(ValueError, match="weight above zero"):
            weighted_mean(nothing, ["x"])


def test_the_mean_is_taken_in_float64() -> None:
    many = [Update({"x": f32([2e4])}, 1.0)] + [Update({"x": f32([1e-4])}, 1.0) for _ in range(999)]
    expected = (2e4 + 999 * float(np.float32(1e-4))) / 1000
    assert weighted_mean(many, ["x"])["x"][0] == np.float32(expected)


# The server's step


@given(
    st.lists(st.lists(st.floats(-5, 5, width=32), min_size=3, max_size=3), min_size=1, max_size=5),
    st.floats(0.0, 0.99),
    st.floats(0.01, 10),
)
def test_momentum_follows_the_reference(rounds: list[list[float]], momentum: float, rate: float) -> None:
    state = State({"x": f32([1.0, -1.0, 0.0]), "frozen": f32([7.0])})
    weight, velocity = np.array([1.0, -1.0, 0.0]), np.zeros(3)
    for change in rounds:
        state = server_step(state, {"x": f32(change)}, learning_rate=rate, momentum=momentum, bound=MAX_WEIGHT)
        velocity = momentum * velocity + np.array(change)
        weight = weight + rate * velocity
        np.testing.assert_allclose(state.arrays["x"], weight, rtol=1e-4, atol=1e-4)
    assert state.arrays["x"].dtype == np.float32
    assert state.arrays["frozen"].tolist() == [7.0]
    assert set(state.momentum) == ({"x"} if momentum else set())


def test_plain_averaging_adds_the_mean_exactly() -> None:
    state = server_step(
        State({"x": f32([0.1, 0.2])}), {"x": f32([0.3, -0.7])}, learning_rate=1.0, momentum=0.0, bound=1e4
    )
    assert state.arrays["x"].tolist() == (f32([0.1, 0.2]) + f32([0.3, -0.7])).tolist()


def test_weights_stay_where_sites_accept_them() -> None:
    """Whatever arrives: the next broadcast must pass every site's check."""
    method = _method("fedavg", server_learning_rate=10.0, server_momentum=0.99)
    state = method.init(_arrays(0))
    worst = {name: np.full_like(array, 2 * MAX_WEIGHT) for name, array in _arrays(0).items()}
    for round in range(1, 300):
        state = method.aggregate(SPEC, state, round, [Update(worst, 1.0)])
    SPEC.check(state.arrays)
    assert all((array == MAX_WEIGHT).all() for array in state.arrays.values())
    assert all(np.isfinite(array).all() for array in state.momentum.values())


# Methods


@pytest.mark.parametrize("kind", METHODS)
def test_what_each_method_trains_sends_and_changes(kind: str) -> None:
    method, parts = _method(kind), PARTS[kind]
    assert method.kind == kind
    for round in (1, 2, 100):
        assert set(method.trainable(SPEC, round).names) == parts
        assert list(method.trainable(SPEC, round).names) == [name for name in SPEC.names if name in parts]
    state = method.init(_arrays(0))
    assert set(method.broadcast(SPEC, state, 1)) == parts
    after = method.aggregate(SPEC, state, 1, [Update(_arrays(1), 1.0), Update(_arrays(2), 3.0)])  # more than asked for
    changed = {name for name in SPEC.names if not np.array_equal(after.arrays[name], state.arrays[name])}
    assert changed == parts
    assert set(after.arrays) == set(SPEC.names)
    assert method.frozen_features(SPEC) is (kind == "head")
    bare = SPEC.only(["head"])
    assert method.frozen_features(bare)


@pytest.mark.parametrize("kind", METHODS)
def test_aggregation_is_the_weighted_mean_of_changes(kind: str) -> None:
    method = _method(kind)
    state = method.init(_arrays(0))
    sent = [Update(_arrays(seed, PARTS[kind]), float(seed)) for seed in (1, 2, 5)]
    after = method.aggregate(SPEC, state, 1, sent)
    for name in PARTS[kind]:
        mean = sum(update.weight * update.arrays[name].astype(np.float64) for update in sent) / 8
        np.testing.assert_allclose(after.arrays[name], state.arrays[name] + mean, rtol=1e-5, atol=1e-6)


def test_ffa_keeps_a_through_any_number_of_rounds() -> None:
    method = _method("ffa", server_momentum=0.5)
    state = method.init(_arrays(0))
    for round in range(1, 6):
        state = method.aggregate(SPEC, state, round, [Update(_arrays(round), 1.0)])
    assert np.array_equal(state.arrays["a"], _arrays(0)["a"])
    assert "a" not in state.momentum


@pytest.mark.parametrize("kind", METHODS)
def test_aggregation_changes_nothing_that_it_was_given(kind: str) -> None:
    method = _method(kind, server_momentum=0.9)
    state = method.aggregate(SPEC, method.init(_arrays(0)), 1, [Update(_arrays(9), 1.0)])
    sent = [Update(_arrays(seed), 1.0) for seed in (1, 2)]
    kept_state, kept_sent = copy.deepcopy(state), copy.deepcopy(sent)
    for array in [*state.arrays.values(), *state.momentum.values(), *(a for u in sent for a in u.arrays.values())]:
        array.setflags(write=False)
    once, twice = (method.aggregate(SPEC, state, 2, sent) for _ in range(2))
    assert digest(once.arrays) == digest(twice.arrays)
    assert digest(once.momentum) == digest(twice.momentum)
    assert digest(state.arrays) == digest(kept_state.arrays)
    assert digest(state.momentum) == digest(kept_state.momentum)
    assert all(digest(u.arrays) == digest(k.arrays) for u, k in zip(sent, kept_sent, strict=True))


# Weights

legal = st.builds(
    Stated,
    noise_multiplier=st.floats(1e-3, 10_000),
    max_grad_norm=st.floats(1e-3, 1e3),
    expected_batch=st.integers(1, 10**9).map(float),
    declared_weight=st.none() | st.floats(1e-9, 1e9),
)
kinds = st.sampled_from(["uniform", "declared", "noise"])


@given(kinds, st.lists(legal, min_size=1, max_size=8))
def test_weights_are_shares_of_one(kind: str, sites: list[Stated]) -> None:
    found = aggregation_weights(kind, sites)
    assert len(found) == len(sites)
    assert sum(found) == pytest.approx(1.0)
    assert all(0 <= weight <= 1 for weight in found)


@given(kinds, st.lists(legal, min_size=1, max_size=5), st.randoms())
def test_weights_go_with_their_sites(kind: str, sites: list[Stated], random: Any) -> None:
    order = list(range(len(sites)))
    random.shuffle(order)
    found = aggregation_weights(kind, sites)
    shuffled = aggregation_weights(kind, [sites[index] for index in order])
    assert shuffled == pytest.approx([found[index] for index in order])


def test_uniform_and_declared() -> None:
    plain = Stated(1.0, 1.0, 10.0)
    two, six = (Stated(9.0, 1.0, 10.0, declared_weight=weight) for weight in (2.0, 6.0))
    assert aggregation_weights("uniform", [plain, two, six, six]) == [0.25] * 4
    assert aggregation_weights("declared", [two, six]) == [0.25, 0.75]
    assert aggregation_weights("declared", [two, plain, six]) == pytest.approx([0.2, 0.2, 0.6])  # the lower median
    assert aggregation_weights("declared", [plain, plain]) == [0.5, 0.5]


@given(
    st.lists(st.none() | st.floats(1.0, 2.0), min_size=1, max_size=8),
    st.floats(1e-9, 1e9),
    st.floats(1e-9, 1e9),
    st.randoms(),
)
def test_a_site_that_declares_too_much_gains_at_most_the_cap(
    others: list[float | None], scale: float, lie: float, random: Any
) -> None:
    """Nor do those that declared nothing gain by it: no other site has more than twice another's share."""
    declared = [None if value is None else value * scale for value in others]
    sites = [Stated(1.0, 1.0, 64.0, weight) for weight in [*declared, 1e9 * scale * lie]]
    order = list(range(len(sites)))
    random.shuffle(order)
    found = dict(zip(order, aggregation_weights("declared", [sites[index] for index in order]), strict=True))
    liar, honest = found.pop(len(others)), list(found.values())
    assert liar <= 4 * max(honest) * (1 + 1e-9)
    assert liar <= 4 / (4 + len(others) / 2) * (1 + 1e-9)  # of honest ones that differ by a factor of two at most
    if 1e9 * lie >= 1:  # a lie upwards
        stating = [weight for weight in others if weight is not None]
        if stating:
            assert max(honest) <= 2 * min(honest) * (1 + 1e-9)


@pytest.mark.parametrize("num_honest", [1, 2, 3, 9])
def test_a_huge_declaration_takes_no_run_over(num_honest: int) -> None:
    sites = [Stated(1.0, 1.0, 64.0, 1e9)] + [Stated(1.0, 1.0, 64.0, 100.0)] * num_honest
    liar, *honest = aggregation_weights("declared", sites)
    assert liar == pytest.approx(4 / (4 + num_honest))
    assert honest == pytest.approx([1 / (4 + num_honest)] * num_honest)


near = st.builds(  # precisions within a factor of 2.4: no cap holds
    Stated, st.floats(1.0, 1.3), st.just(0.5), st.integers(60, 70).map(float)
)


@given(st.lists(near, min_size=1, max_size=8))
def test_noise_weights_are_the_inverse_variance(sites: list[Stated]) -> None:
    precision = [(s.expected_batch / (s.noise_multiplier * s.max_grad_norm)) ** 2 for s in sites]
    found = aggregation_weights("noise", sites)
    assert found == pytest.approx([value / sum(precision) for value in precision])


def test_inverse_variance_is_the_best_mean() -> None:
    """Of all weights on a grid none has a smaller variance of the mean."""
    sites = [Stated(1.0, 1.0, 10.0), Stated(1.5, 1.0, 10.0), Stated(1.0, 1.0, 14.0)]
    variance = np.array([(s.noise_multiplier * s.max_grad_norm / s.expected_batch) ** 2 for s in sites])
    best = float((np.array(aggregation_weights("noise", sites)) ** 2 * variance).sum())
    steps = np.linspace(0, 1, 41)
    others = [
        float((np.array([x, y, 1 - x - y]) ** 2 * variance).sum())
        for x, y in itertools.product(steps, steps)
        if x + y <= 1
    ]
    assert best <= min(others) + 1e-12


def test_a_simulation_without_noise_weighs_all_alike() -> None:
    assert aggregation_weights("noise", [Stated(0.0, 1.0, 10.0), Stated(2.0, 1.0, 10.0)]) == [0.5, 0.5]


@pytest.mark.parametrize("num_honest", [1, 2, 3, 9])
@pytest.mark.parametrize("sigma", [1e-3, 1e-30, 1e-160, 5e-324])
def test_a_site_that_understates_its_noise_gains_at_most_the_cap(num_honest: int, sigma: float) -> None:
    """Of two sites, too: the liar must not move the middle that it is held against."""
    sites = [Stated(sigma, 1e-3, 1e9)] + [Stated(1.0, 1.0, 64.0)] * num_honest
    liar, *honest = aggregation_weights("noise", sites)
    assert sum(honest) + liar == pytest.approx(1.0)
    assert liar <= 4 * max(honest) * (1 + 1e-9)
    assert liar / (liar + sum(honest)) <= 4 / (4 + num_honest) * (1 + 1e-9)


@pytest.mark.parametrize("sigma", [100.0, 1e4])
def test_a_site_that_overstates_its_noise_takes_nothing_from_the_others(sigma: float) -> None:
    liar, *honest = aggregation_weights("noise", [Stated(sigma, 1e3, 1.0)] + [Stated(1.0, 1.0, 64.0)] * 3)
    assert liar < 1e-6
    assert honest == pytest.approx([1 / 3] * 3)


def test_an_unknown_kind_and_no_site_are_errors() -> None:
    with pytest.raises(ValueError, match="Expected weight"):
        aggregation_weights("size", [Stated(1.0, 1.0, 1.0)])
    with pytest.raises(ValueError, match="at least one site"):
        aggregation_weights("uniform", [])
