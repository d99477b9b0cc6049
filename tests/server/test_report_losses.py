"""Epsilon by round: the accountant's composition of what a site was asked, never a sum."""

import itertools
from typing import Any

import pytest

from privet.common.privacy import EvaluateEvent, TrainEvent
from privet.common.privacy.accountant import epsilon
from privet.common.privacy.horizon import horizon_epsilon
from privet.common.privacy.statement import Statement, statement
from privet.server.report import losses as module
from privet.server.report.curves import epsilon_figure
from privet.server.report.losses import losses
from tests.server.report_runs import crowd, rows
from tests.server.statements import at_sites, round_row, stated


def _event(**changes: Any) -> TrainEvent:
    values: dict[str, Any] = {"sample_rate": 0.1, "noise_multiplier": 2.0, "steps": 5, "max_grad_norm": 1.0}
    return TrainEvent(**values | {"expected_batch": 8, "unit": "unit", "max_records": 4} | changes)


def _stated(rounds: int = 6, **changes: Any) -> Statement:
    return statement(_event(**changes), rounds, 1e-5, released=("update",))


def test_after_each_round_it_is_the_composition_of_the_rounds_asked() -> None:
    history = rows(*(round_row(n, cohort=["north"]) for n in range(1, 7)))
    found = losses(history, {"north": _stated()})
    assert found is not None
    assert found.rounds == (1, 2, 3, 4, 5, 6)
    (group,) = found.groups
    for number, value in zip(found.rounds, group.epsilons, strict=True):
        assert value == pytest.approx(epsilon([_event()] * number, 1e-5), rel=1e-6)
    assert group.epsilons[-1] == _stated().epsilon
    assert group.epsilons[-1] < 0.6 * 6 * group.epsilons[0]  # a sum would overstate it far
    assert all(a < b for a, b in itertools.pairwise(group.epsilons))


def test_a_round_counts_where_the_site_was_asked_answered_or_not() -> None:
    history = rows(
        round_row(1, cohort=["north", "south"], answered=["north"], missing=["south"]),
        round_row(2, cohort=["north", "south"], answered=["north"], failed={"south": "unavailable"}),
        round_row(3, cohort=["north"], answered=["north"]),
    )
    found = losses(history, {"north": _stated(), "south": _stated()})
    assert found is not None
    assert found.spent["south"] == pytest.approx(epsilon([_event()] * 2, 1e-5), rel=1e-6)
    assert found.spent["north"] == pytest.approx(epsilon([_event()] * 3, 1e-5), rel=1e-6)
    assert found.largest[-1] == found.spent["north"]


def test_evaluations_are_on_other_units_and_count_for_these() -> None:
    evaluation = EvaluateEvent(noise_multiplier=1.5, release="per_class", unit="unit")
    train = _event(noise_multiplier=8.0)
    told = statement(
        train, 6, 1e-5, released=("update", "per_class"), evaluation=evaluation, num_evaluations=3, train_fraction=0.8
    )
    history = rows(round_row(1, cohort=["north"], **at_sites(answered=["north"])), round_row(2, cohort=["north"]))
    found = losses(history, {"north": told})
    assert found is not None
    assert found.spent["north"] == pytest.approx(epsilon([evaluation], 1e-5), rel=1e-6)
    assert found.spent["north"] > 2 * horizon_epsilon([_stated(2, noise_multiplier=8.0).horizon], 1e-5)


def test_sites_without_a_finite_epsilon_are_told_apart() -> None:
    loose = stated(guarantee=False, reason="no noise", noise_multiplier=0.0, epsilon=None, epsilon_replace=None)
    history = rows(round_row(1, cohort=["north", "south"]))
    assert losses(history, {"south": loose}) is None
    assert losses([], {"north": _stated()}) is None
    found = losses(history, {"north": _stated(), "south": loose})
    assert found is not None
    assert (list(found.spent), found.unbounded) == (["north"], 1)


def test_many_sites_with_equal_events_are_composed_all_and_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counted(told: Statement, rounds: int, evaluations: int) -> float:
        calls.append((rounds, evaluations))
        return float(rounds)

    monkeypatch.setattr(module, "_epsilon", counted)
    events, _ = crowd(500, 10, spread=False, fraction=0.3)
    history = rows(*events[1:])
    found = losses(history, {f"site-{i:05d}": _stated(10) for i in range(500)})
    assert found is not None
    assert (found.num_sites, found.num_sampled, found.groups) == (500, 500, ())
    assert len(calls) == len(set(calls)) <= 11
    asked = sorted(sum(name in row.cohort for row in history) for name in (f"site-{i:05d}" for i in range(500)))
    asked = [number for number in asked if number]
    assert found.quantiles[-1] == tuple(float(asked[round(s * (len(asked) - 1))]) for s in module.QUANTILES)


def test_of_many_unlike_sites_a_sample_stands_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_epsilon", lambda told, rounds, _evaluations: (told.epsilon or 0.0) * (rounds / 40))
    events, statements = crowd(1000, 40, spread=False, fraction=1.0, budgets=(0.5, 100.0))
    found = losses(rows(*events[1:]), statements)
    assert found is not None
    assert (found.num_sites, found.num_sampled, found.spent) == (1000, 24, {})
    declared = sorted(s.epsilon or 0.0 for s in statements.values())
    assert found.quantiles[-1][0] == declared[0]
    assert found.quantiles[-1][-1] == declared[-1] == found.largest[-1]
    figure = epsilon_figure(found, "δ 1e-5")
    assert figure.scale == "log"
    assert not figure.lines or [line.name for line in figure.lines] == ["median"]
    assert [band.name for band in figure.bands] == ["least to greatest", "middle half of the sites"]
    assert "24 of 1,000 sites" in figure.note


@pytest.mark.parametrize(("budgets", "scale"), [((0.5, 100.0), "log"), ((4.0, 8.0), "linear")])
def test_the_axis_is_logarithmic_where_budgets_lie_far_apart(
    monkeypatch: pytest.MonkeyPatch, budgets: tuple[float, float], scale: str
) -> None:
    monkeypatch.setattr(module, "_epsilon", lambda told, rounds, _evaluations: (told.epsilon or 0.0) * rounds / 2)
    history = rows(round_row(1), round_row(2))
    statements = {"north": stated(epsilon=budgets[0]), "south": stated(epsilon=budgets[1], noise_multiplier=0.8)}
    found = losses(history, statements)
    assert found is not None
    figure = epsilon_figure(found, "δ 1e-5")
    assert figure.scale == scale
    assert {line.name: line.points[-1][1] for line in figure.lines} == {"north": budgets[0], "south": budgets[1]}


def test_sites_whose_lines_coincide_share_one() -> None:
    history = rows(round_row(1, cohort=["a", "b", "c"]), round_row(2, cohort=["a", "b", "c"]))
    near, far = _stated(noise_multiplier=2.001), _stated(noise_multiplier=1.0)
    found = losses(history, {"a": _stated(), "b": near, "c": far})
    assert found is not None
    assert len(found.groups) == 3
    figure = epsilon_figure(found, "δ 1e-5")
    assert [line.name for line in figure.lines] == ["c", "2 sites"]
    assert figure.lines[1].points[-1][1] == found.spent["a"]  # the greater of the two
