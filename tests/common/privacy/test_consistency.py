"""A statement that does not fit its plan, or flatters its site, is found."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privet.common.config import Plan
from privet.common.privacy import EvaluateEvent, Statement, TrainEvent, accountant, distribution, horizon
from privet.common.privacy.consistency import _floor, consistent
from privet.common.privacy.horizon import person_epsilon
from privet.common.privacy.statement import statement


def plan(release: str = "per_class", **training: Any) -> Plan:
    values: dict[str, Any] = {
        "rounds": 18,
        "spare_rounds": 2,
        "local_steps": 5,
        "expected_batch": 32,
        "learning_rate": 0.1,
        "train_fraction": 0.8,
    }
    return Plan.model_validate(
        {
            "format": 1,
            "name": "ward",
            "task": {"labels": ["calm", "urgent"]},
            "model": {"base": "package:tiny", "sha256": "0" * 64},
            "training": values | training,
            "evaluation": {"release": release, "every": 5},
        }
    )


@pytest.fixture(scope="module")
def honest() -> Statement:
    event = TrainEvent(
        sample_rate=0.1,
        noise_multiplier=1.5,
        steps=5,
        max_grad_norm=1.0,
        expected_batch=32,
        unit="record",
        max_records=1,
    )
    return statement(
        event,
        20,
        1e-5,
        released=("update", "per_class"),
        evaluation=EvaluateEvent(noise_multiplier=4.0, release="per_class", unit="record"),
        num_evaluations=4,
        train_fraction=0.8,
        max_per_person=2,
    )


def changed(honest: Statement, **changes: Any) -> Statement:
    return Statement.from_json(honest.to_json() | changes)


def test_an_honest_statement_fits(honest: Statement) -> None:
    assert consistent(honest, plan()) is None
    assert consistent(changed(honest, epsilon=4.0, epsilon_replace=9.0, mu=None), plan()) is None  # more is no flattery
    assert consistent(changed(honest, max_per_person=None, epsilon_person=None), plan()) is None
    assert consistent(changed(honest, trade_off=[]), plan()) is None
    without = changed(honest, evaluation=None, released=["update"])
    assert consistent(without, plan()) is None  # a site need not release what is asked
    assert consistent(without, plan("none")) is None
    assert consistent(changed(honest, expected_batch=40), plan(expected_batch="site")) is None


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"local_steps": 4}, "local_steps"),
        ({"rounds": 18}, "rounds"),
        ({"max_grad_norm": 0.5}, "max_grad_norm"),
        ({"expected_batch": 16}, "expected_batch"),
        ({"train_fraction": 0.5}, "train_fraction"),
        ({"evaluation": {"release": "accuracy", "noise_multiplier": 4.0, "evaluations": 4}}, "evaluation.release"),
        ({"evaluation": {"release": "per_class", "noise_multiplier": 4.0, "evaluations": 3}}, "evaluation.evaluations"),
        ({"evaluation": None}, "released"),
        ({"released": ["update"]}, "released"),
        ({"released": ["update", "per_class", "loss"]}, "released"),
        ({"delta": 0.01}, "delta"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_statement_of_another_plan_is_found(honest: Statement, change: dict[str, Any], word: str) -> None:
    found = consistent(changed(honest, **change), plan())
    assert found is not None
    assert found.startswith(word)


@pytest.mark.parametrize("name", ["epsilon", "epsilon_replace", "epsilon_person", "advantage", "mu"])
def test_a_statement_that_flatters_is_found(honest: Statement, name: str) -> None:
    value = getattr(honest, name)
    assert consistent(changed(honest, **{name: value * (1 - 1e-7)}), plan()) is None
    found = consistent(changed(honest, **{name: value * (1 - 1e-5)}), plan())
    assert found is not None
    assert found.startswith(f"{name} is ")


def test_less_noise_with_the_same_claim_is_found(honest: Statement) -> None:
    assert (consistent(changed(honest, noise_multiplier=1.49), plan()) or "").startswith("epsilon")
    assert (consistent(changed(honest, sample_rate=0.101), plan()) or "").startswith("epsilon")
    loud = {"release": "per_class", "noise_multiplier": 0.5, "evaluations": 4}
    assert (consistent(changed(honest, evaluation=loud), plan()) or "").startswith("epsilon")
    assert (consistent(changed(honest, max_per_person=3), plan()) or "").startswith("epsilon_person")
    assert (consistent(changed(honest, noise_multiplier=1e-9), plan()) or "").startswith("its figures")


def test_flattering_trade_offs_are_found(honest: Statement) -> None:
    points = honest.to_json()["trade_off"]
    for index in range(3):
        flattered = [dict(point) for point in points]
        flattered[index]["true_positive_bound"] *= 0.999
        changes: dict[str, Any] = {"trade_off": flattered}
        if index == 1:
            changes["true_positive_bound"] = flattered[1]["true_positive_bound"]
        assert "is" in (consistent(changed(honest, **changes), plan()) or "")


def test_no_guarantee_is_judged_too(honest: Statement) -> None:
    loose = changed(honest, guarantee=False, reason="a simulation")
    assert consistent(loose, plan()) is None
    assert consistent(changed(loose, delta=0.01), plan()) is None  # smaller figures would do
    assert consistent(changed(loose, epsilon=3.0), plan()) is not None


# How long a check may take


class _Work:
    """Counts the compositions for several records, and what their mixtures amount to."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.terms: list[int] = []
        cutoffs = distribution._cutoffs

        def counted(step: Any, way: str, losses: Any) -> Any:
            self.terms.append(len(losses) * len(distribution._jumps(step)))
            return cutoffs(step, way, losses)

        patch.setattr(distribution, "_cutoffs", counted)
        for cache in (distribution._single, distribution.compose, accountant.epsilon_of, horizon.figures):
            cache.cache_clear()


def loose(sigma: float, rate: float, most: int, person: float | None, **changes: Any) -> Statement:
    """A statement that claims next to nothing, so that all of it has to be looked at."""
    part = {"release": "per_class", "noise_multiplier": 3 * sigma, "evaluations": 4}
    values: dict[str, Any] = {
        "guarantee": True,
        "unit": "record",
        "delta": 1e-9,
        "epsilon": person and min(person, 9e6),
        "epsilon_replace": 9e6,
        "max_per_person": most,
        "epsilon_person": person,
        "advantage": 1.0,
        "true_positive_bound": 1.0,
        "accountant": "dp-accounting 0.6.0, privacy loss distributions",
        "noise_multiplier": sigma,
        "max_grad_norm": 1.0,
        "sample_rate": rate,
        "expected_batch": 32,
        "local_steps": 5,
        "rounds": 20,
        "max_records": 4,
        "train_fraction": 0.8,
        "released": ("update", "per_class"),
        "evaluation": part,
    }
    return Statement(**(values | changes))


@pytest.mark.parametrize(("sigma", "rate", "most"), [(30.0, 0.01, 990), (8.0, 0.05, 40)])
def test_a_check_is_bounded_whatever_is_stated(
    monkeypatch: pytest.MonkeyPatch, sigma: float, rate: float, most: int
) -> None:
    """Not each of nine divisions of a person's records: one mixture, in two directions."""
    work = _Work(monkeypatch)
    assert consistent(loose(sigma, rate, most, 9e6), plan(max_grad_norm=1.0)) is None
    assert 0 < len(work.terms) <= 2


@pytest.mark.parametrize(
    ("sigma", "rate", "most", "word"), [(0.05, 0.3, 1000, "epsilon_person"), (0.002, 0.99, 1, "epsilon")]
)
def test_what_is_far_from_its_mechanism_is_found_before_anything_is_composed(
    monkeypatch: pytest.MonkeyPatch, sigma: float, rate: float, most: int, word: str
) -> None:
    work = _Work(monkeypatch)
    monkeypatch.setattr("privet.common.privacy.consistency.figures", None)  # may not be called
    found = consistent(loose(sigma, rate, most, 5e6), plan())
    assert (found or "").startswith(f"{word} is 5e+06")
    assert not work.terms


def test_nothing_is_computed_for_a_person_where_nothing_is_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    work = _Work(monkeypatch)
    assert consistent(loose(5.0, 0.05, 1000, None, epsilon=9e6), plan()) is None
    assert not work.terms


@pytest.mark.parametrize(("sigma", "rate", "noise"), [(8.0, 0.05, 40.0), (8.0, 0.01, 2.0)])
def test_a_person_of_many_records_is_not_flattered_by_more_than_a_per_cent(
    monkeypatch: pytest.MonkeyPatch, sigma: float, rate: float, noise: float
) -> None:
    """Once training, once the evaluations cost most; the honest figure is above either."""
    monkeypatch.setattr("privet.common.privacy.consistency._MAX_WORK", 0.0)
    event = TrainEvent(
        sample_rate=rate,
        noise_multiplier=sigma,
        steps=5,
        max_grad_norm=1.0,
        expected_batch=32,
        unit="record",
        max_records=1,
    )
    evaluation = EvaluateEvent(noise_multiplier=noise, release="per_class", unit="record")
    train, evaluate = [event] * 20, [evaluation] * 4
    least = max(person_epsilon(train, [], 1e-5, 12), person_epsilon([], evaluate, 1e-5, 12))
    honest = statement(
        event,
        20,
        1e-5,
        released=("update", "per_class"),
        evaluation=evaluation,
        num_evaluations=4,
        train_fraction=0.8,
        max_per_person=12,
    )
    assert honest.epsilon is not None
    assert honest.epsilon_person is not None
    assert honest.epsilon_person >= least
    assert consistent(honest, plan()) is None
    found = consistent(changed(honest, epsilon_person=max(least * 0.98, honest.epsilon)), plan())
    assert (found or "").startswith("epsilon_person is ")


@given(
    st.floats(2.0, 50.0), st.integers(1, 2000), st.floats(0.001, 1.0), st.integers(1, 2), st.sampled_from([1e-9, 1e-3])
)
@settings(max_examples=12, deadline=None)
def test_the_floor_is_below_the_accountant(sigma: float, steps: int, rate: float, records: int, delta: float) -> None:
    event = TrainEvent(
        sample_rate=rate,
        noise_multiplier=sigma,
        steps=steps,
        max_grad_norm=1.0,
        expected_batch=1,
        unit="record",
        max_records=1,
    )
    assert _floor(sigma, steps, rate, records, delta) <= person_epsilon([event], [], delta, records) * (1 + 1e-9)
