"""Calibration for sites of many sizes: exact for a few, bounds that are close for many."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from privet.common.config import SimulationSpec
from privet.common.privacy.accountant import epsilon
from privet.simulations import terms
from privet.simulations.bench.messages import _plan
from privet.simulations.terms import Kind, Terms, agree

SPEC = SimulationSpec()


def _call(counted: list[int]) -> Callable[[Callable[[Kind], Terms], Sequence[Kind]], list[Terms]]:
    def call(function: Callable[[Kind], Terms], kinds: Sequence[Kind]) -> list[Terms]:
        counted.append(len(kinds))
        return [function(kind) for kind in kinds]

    return call


def test_sites_of_one_size_and_budget_are_calibrated_once() -> None:
    counted: list[int] = []
    sizes = [100, 40, 7, 100, 40, 100, 100, 40]
    found = agree(_plan(1.0, 3), SPEC, sizes, [8.0, math.inf], by_record=False, call=_call(counted))
    assert sum(counted) == len(found.terms) == 4
    assert found.kinds.tolist() == [0, 1, -1, 2, 3, 2, 0, 1]  # 7 units are fewer than the batch
    for index, size in enumerate(sizes):
        site = found.of(index)
        if site is None:
            assert size == 7
            continue
        assert site.event.sample_rate == site.statement.sample_rate == 8 / size
        assert (site.event.noise_multiplier == 0) == (index % 2 == 1)
        assert (site.statement.epsilon is None) == (index % 2 == 1)
        assert not site.statement.guarantee


@pytest.mark.slow
def test_rates_between_are_bounds_and_close(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of interpolated sites the accountant finds no more epsilon than was asked, and hardly less."""
    monkeypatch.setattr(terms, "MOST_EXACT", 4)
    monkeypatch.setattr(terms, "NODES", 4)
    plan, counted = _plan(1.0, 3), list[int]()
    sizes = np.unique(np.geomspace(20, 60, 12).astype(int)).tolist()
    found = agree(plan, SPEC, sizes, 4.0, by_record=False, call=_call(counted))
    assert sum(counted) <= 6 < len(found.terms) == len(sizes)
    between = [site for site in found.terms if "interpolated" in site.statement.reason]
    assert len(between) >= len(sizes) - 6
    for site in between[:3]:
        event, stated = site.event, site.statement
        assert (stated.noise_multiplier, stated.sample_rate) == (event.noise_multiplier, event.sample_rate)
        spent = epsilon([event] * plan.training.horizon, SPEC.delta)
        assert 0.98 * 4.0 < spent <= 4.0 == stated.epsilon
        exact = terms.terms(Kind(plan, SPEC, False, 4.0, event.sample_rate, event.expected_batch)).statement
        for name in ("epsilon_replace", "advantage", "true_positive_bound", "mu"):
            assert getattr(exact, name) <= getattr(stated, name) < 1.03 * getattr(exact, name)
        assert type(stated).model_validate(stated.to_json()) == stated


def test_what_is_no_bound_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were the curve less smooth than it is, every rate would be calibrated on its own."""
    monkeypatch.setattr(terms, "MOST_EXACT", 3)
    monkeypatch.setattr(terms, "NODES", 3)
    real = terms.terms

    def uneven(kind: Kind) -> Terms:
        found = real(kind)
        if kind.rate in (8 / 20, 8 / 30, 8 / 60):
            return found
        event = replace(found.event, noise_multiplier=found.event.noise_multiplier + 0.1)
        return replace(found, event=event)

    monkeypatch.setattr(terms, "terms", uneven)
    found = agree(_plan(1.0, 1), SPEC, [20, 25, 30, 40, 50, 60], 4.0, by_record=False, call=_call([]))
    assert not any("interpolated" in site.statement.reason for site in found.terms)
    assert len(found.terms) == 6


def test_a_sites_own_batch_scales_its_noise_and_costs_nothing() -> None:
    """Rates that are equal share one calibration, whatever the batch."""
    plan = _plan(1.0, 1)
    plan = plan.model_copy(update={"training": plan.training.model_copy(update={"expected_batch": "site"})})
    counted: list[int] = []
    found = agree(plan, SPEC, [100, 50, 200, 0], 4.0, by_record=True, call=_call(counted))
    assert sum(counted) == 2
    assert [site.event.expected_batch for site in found.terms] == [10, 5, 20, 1]
    assert [site.statement.expected_batch for site in found.terms] == [10, 5, 20, 1]
    assert [site.event.sample_rate for site in found.terms] == [0.1, 0.1, 0.1, 1.0]  # of none: whoever came would join
