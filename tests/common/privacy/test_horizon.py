"""A plan's cost over places of units, a person's cost, and both against independent accountants."""

import math
import warnings
from functools import cache
from typing import Any, Literal

import numpy as np
import pytest

from privet.common.privacy import (
    Adjacency,
    EvaluateEvent,
    Horizon,
    TrainEvent,
    advantage,
    delta,
    epsilon,
    horizon_epsilon,
    person_epsilon,
)
from privet.common.privacy.distribution import Step, _single
from privet.common.privacy.horizon import FALSE_POSITIVE_RATES, _divisions, figures, horizon_profile

DELTA = 1e-5
Unit = Literal["unit", "record"]


def train(rate: float = 0.1, sigma: float = 1.5, steps: int = 5, unit: Unit = "record") -> TrainEvent:
    return TrainEvent(
        sample_rate=rate,
        noise_multiplier=sigma,
        steps=steps,
        max_grad_norm=1.0,
        expected_batch=32,
        unit=unit,
        max_records=1,
    )


def measure(sigma: float = 4.0, unit: Unit = "record") -> EvaluateEvent:
    return EvaluateEvent(noise_multiplier=sigma, release="accuracy", unit=unit)


def plan(sigma: float = 4.0, unit: Unit = "record", **changes: Any) -> Horizon:
    values: dict[str, Any] = {
        "train": train(unit=unit),
        "rounds": 20,
        "evaluation": measure(sigma, unit),
        "num_evaluations": 4,
        "train_fraction": 0.8,
    }
    return Horizon(**values | changes)


@pytest.mark.parametrize("unit", ["unit", "record"])
@pytest.mark.parametrize("sigma", [8.0, 0.9])
def test_a_unit_pays_for_the_dearer_of_the_two_parts(sigma: float, unit: Unit) -> None:
    one = plan(sigma, unit)
    alone, measured = [one.train] * 20, [measure(sigma, unit)] * 4
    for adjacency in (Adjacency.ADD_OR_REMOVE, Adjacency.REPLACE) if unit == "unit" else (Adjacency.ADD_OR_REMOVE,):
        expected = max(epsilon(alone, DELTA, adjacency), epsilon(measured, DELTA, adjacency))
        assert horizon_epsilon([one], DELTA, adjacency) == expected
    profile = horizon_profile([one])
    assert profile.delta(0.0) == max(advantage(alone), advantage(measured))


def test_a_record_that_is_exchanged_may_change_its_place() -> None:
    # Removed from training and added to validation costs more here than a replacement in either.
    def cost(unit: Unit) -> float:
        one = Horizon(
            train=train(0.1, 0.6, 1, unit),
            rounds=1,
            evaluation=measure(1.289, unit),
            num_evaluations=1,
            train_fraction=0.5,
        )
        return horizon_epsilon([one], DELTA, Adjacency.REPLACE)

    events = [train(0.1, 0.6, 1)], [measure(1.289)]
    replaced = max(epsilon(part, DELTA, Adjacency.REPLACE) for part in events)
    moved = epsilon([*events[0], *events[1]], DELTA)
    assert moved > 1.1 * replaced
    assert cost("record") == moved
    assert cost("unit") == replaced  # the name stays, and with it the place


def test_a_replacement_may_be_the_dearest_exchange() -> None:
    one = plan(4.0)
    assert horizon_epsilon([one], DELTA, Adjacency.REPLACE) == epsilon([one.train] * 20, DELTA, Adjacency.REPLACE)
    two = plan(0.9)
    assert horizon_epsilon([two], DELTA, Adjacency.REPLACE) == epsilon([measure(0.9)] * 4, DELTA, Adjacency.REPLACE)


def test_moving_through_a_split_is_the_integral() -> None:
    """A direct integral: one step at rate q and one count, the record removed here and added there."""
    q, sigma, tau, eps = 0.1, 0.6, 1.289, 3.0
    x, y = np.meshgrid(np.linspace(-6, 7, 1500), np.linspace(-9, 10, 1500), indexing="ij")

    def normal(value: "np.ndarray[Any, Any]", scale: float) -> "np.ndarray[Any, Any]":
        return np.exp(-((value / scale) ** 2) / 2) / (scale * math.sqrt(2 * math.pi))

    there = ((1 - q) * normal(x, sigma) + q * normal(x - 1, sigma)) * normal(y, tau)
    gone = normal(x, sigma) * normal(y - 1, tau)
    area = (13 / 1499) * (19 / 1499)
    truth = max(float(np.maximum(a - math.exp(eps) * b, 0).sum()) * area for a, b in ((there, gone), (gone, there)))
    found = delta([train(q, sigma, 1), measure(tau)], eps)
    assert truth <= found * (1 + 1e-3)
    assert found == pytest.approx(truth, rel=5e-3)


def test_plans_of_other_fractions_part_units_otherwise() -> None:
    first, second = plan(train_fraction=0.8), plan(2.0, train_fraction=0.5, rounds=10)
    a, b = [first.train] * 20, [second.train] * 10
    x, y = [measure(4.0)] * 4, [measure(2.0)] * 4
    expected = max(epsilon([*a, *b], DELTA), epsilon([*a, *y], DELTA), epsilon([*x, *y], DELTA))
    assert horizon_epsilon([first, second], DELTA) == expected
    same = plan(2.0, rounds=10)
    assert horizon_epsilon([first, same], DELTA) == max(epsilon([*a, *b], DELTA), epsilon([*x, *y], DELTA))
    assert horizon_epsilon([first, second], DELTA, Adjacency.REPLACE) >= horizon_epsilon(
        [first], DELTA, Adjacency.REPLACE
    )


def test_nothing_costs_nothing_and_bad_horizons_are_refused() -> None:
    assert horizon_epsilon([], DELTA) == 0.0
    assert horizon_epsilon([plan(rounds=0, num_evaluations=0)], DELTA) == 0.0
    for changes in (
        {"rounds": -1},
        {"evaluation": None},
        {"train_fraction": 0.0},
        {"evaluation": measure(unit="unit")},
    ):
        with pytest.raises(ValueError, match="Expected"):
            plan(**changes)
    with pytest.raises(ValueError, match="one kind"):
        horizon_epsilon([plan(), plan(unit="unit")], DELTA)


@pytest.mark.parametrize(("records", "expected"), [(1, 3.54), (2, 7.96), (4, 18.85), (8, 48.12)])
def test_a_person_with_several_records(records: int, expected: float) -> None:
    assert person_epsilon([train()] * 20, [], DELTA, records) == pytest.approx(expected, abs=0.01)


def test_a_mixture_is_dp_accounting_s() -> None:
    from dp_accounting.pld import privacy_loss_distribution as pld

    chances = [math.comb(3, k) * 0.1**k * 0.9 ** (3 - k) for k in range(4)]
    one = pld.from_mixture_gaussian_mechanism(1.5, [0.0, 1.0, 2.0, 3.0], chances, value_discretization_interval=5e-3)
    theirs = one.self_compose(40).get_epsilon_for_delta(DELTA)
    assert person_epsilon([train(steps=40)], [], DELTA, 3) == pytest.approx(theirs, rel=1e-3)


@pytest.mark.parametrize("way", ["remove", "add"])
def test_either_direction_of_a_mixture_is_dp_accounting_s(way: str) -> None:
    from dp_accounting.pld import privacy_loss_mechanism as mechanisms

    chances = [math.comb(3, k) * 0.1**k * 0.9 ** (3 - k) for k in range(4)]
    theirs = mechanisms.MixtureGaussianPrivacyLoss(
        1.5, [0.0, 1.0, 2.0, 3.0], chances, adjacency_type=mechanisms.AdjacencyType[way.upper()]
    )
    ours = _single(Step(0.1, 1.5, 3), 1e-3, way)
    at = np.array([-0.3, -0.1, 0.0, 0.1, 0.25])
    assert ours.delta(at) == pytest.approx(theirs.get_delta_for_epsilon(at), rel=1e-3)


@pytest.mark.parametrize("most", [1, 7, 8, 9, 40, 1000])
def test_blocks_cover_every_division_of_a_person_s_records(most: int) -> None:
    blocks = list(_divisions(most, True, True))
    assert len(blocks) <= 9
    for trained in range(most + 1):
        assert any(trained <= first and most - trained <= second for first, second in blocks)
    assert most > 8 or set(blocks) == {(trained, most - trained) for trained in range(most + 1)}


def test_a_person_s_records_may_lie_in_both_parts() -> None:
    events, measured = [train()] * 20, [measure(4.0)] * 4
    found = person_epsilon(events, measured, DELTA, 2)
    assert found >= person_epsilon(events, [], DELTA, 2) * (1 - 1e-9)
    assert found >= epsilon([*events, *measured], DELTA) * (1 - 1e-9)  # one record in each
    assert person_epsilon([], measured, DELTA, 3) == pytest.approx(epsilon([measure(4.0 / 3)] * 4, DELTA), rel=1e-9)
    dear = person_epsilon(events, [measure(0.5)], DELTA, 2)
    assert dear >= epsilon([measure(0.25)], DELTA) * (1 - 1e-9)


def test_a_person_s_cost_grows_with_the_records_also_in_blocks() -> None:
    events, measured = [train(0.05, 3.0)] * 4, [measure(8.0)]
    costs = [person_epsilon(events, measured, DELTA, records) for records in (1, 3, 12)]
    assert costs == sorted(costs)
    assert costs[0] < costs[-1]


def test_bad_persons_are_refused() -> None:
    with pytest.raises(ValueError, match="max_per_person"):
        person_epsilon([train()], [], DELTA, 0)
    with pytest.raises(ValueError, match="record mode"):
        person_epsilon([train(unit="unit")], [], DELTA, 2)


def test_figures_take_the_greater_part_everywhere() -> None:
    measured_more = plan(0.9)
    found = figures(measured_more, DELTA, 2)
    alone = figures(plan(evaluation=None, num_evaluations=0), DELTA, 2)
    assert found.epsilon > alone.epsilon
    assert found.advantage > alone.advantage
    assert found.mu is not None
    assert found.mu > (alone.mu or 0.0)
    assert all(a > b for a, b in zip(found.true_positives, alone.true_positives, strict=True))
    assert len(found.true_positives) == len(FALSE_POSITIVE_RATES)
    assert found.epsilon_person is not None
    assert found.epsilon_person >= found.epsilon


PLANS = ((0.1, 1.5, 100), (0.05, 1.1, 60), (0.2, 4.0, 80))  # sample_rate, noise_multiplier, steps


@cache
def independent(num_plans: int) -> dict[str, float]:
    """What others make of the steps of the first plans."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import dp_accounting as dp
        from dp_accounting.pld import PLDAccountant
        from dp_accounting.rdp import RdpAccountant
        from opacus.accountants import PRVAccountant

        prv, rdp = PRVAccountant(), RdpAccountant()
        added = PLDAccountant(dp.NeighboringRelation.ADD_OR_REMOVE_ONE, value_discretization_interval=1e-3)
        replaced = PLDAccountant(dp.NeighboringRelation.REPLACE_ONE, value_discretization_interval=1e-3)
        for rate, sigma, steps in PLANS[:num_plans]:
            prv.history.append((sigma, rate, steps))
            for accountant in (rdp, added, replaced):
                accountant.compose(dp.PoissonSampledDpEvent(rate, dp.GaussianDpEvent(sigma)), steps)
        return {
            "PRV": prv.get_epsilon(DELTA),
            "RDP": rdp.get_epsilon(DELTA),
            "PLD": added.get_epsilon(DELTA),
            "PLD, replace": replaced.get_epsilon(DELTA),
        }


@pytest.mark.parametrize("unit", ["unit", "record"])
@pytest.mark.parametrize("num_plans", [1, 2, 3])
def test_claims_against_independent_accountants(unit: Unit, num_plans: int) -> None:
    horizons = [Horizon(train=train(rate, sigma, 5, unit), rounds=steps // 5) for rate, sigma, steps in PLANS]
    ours = horizon_epsilon(horizons[:num_plans], DELTA)
    within = horizon_epsilon(horizons[:num_plans], DELTA, Adjacency.REPLACE)
    theirs = independent(num_plans)
    assert ours <= theirs["RDP"]
    assert ours == pytest.approx(theirs["PRV"], rel=0.02)
    assert theirs["PLD"] * (1 - 1e-6) <= ours <= theirs["PLD"] * 1.003
    assert theirs["PLD, replace"] * (1 - 1e-6) <= within <= theirs["PLD, replace"] * 1.003
