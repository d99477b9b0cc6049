"""A statement that does not fit its plan, or flatters its site, is found."""

from typing import Any

import pytest

from privet.common.config import Plan
from privet.common.privacy import EvaluateEvent, Statement, TrainEvent
from privet.common.privacy.consistency import consistent
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
