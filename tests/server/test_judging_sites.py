"""Sites that only evaluate, at the server: in no cohort, in no quorum of training, asked for metrics like any other."""

from typing import Any

import numpy as np
import pytest

from privet.common.errors import RunError
from privet.common.privacy.statement import EvaluationPart
from privet.server.metrics import stated as stated_units
from tests.server.scripted import Site, claimless, scene
from tests.server.test_metrics import evaluated, releasing


def _judge(name: str, sigma: float = 1.0, units: int = 400) -> Site:
    part = EvaluationPart(release="accuracy", noise_multiplier=sigma, evaluations=2)
    statement = claimless(
        rounds=0, train_fraction=0.0, expected_batch=1, sample_rate=1 / units, released=("accuracy",), evaluation=part
    )
    return Site(name, statement=statement, counts=lambda _after: np.array([300.0, 100.0], np.float32))


def _trainers() -> list[Site]:
    return [Site(name, statement=releasing(1.0)) for name in ("north", "south")]


def _plan(**tables: Any) -> Any:
    return evaluated(evaluation={"every": 1} | tables.pop("evaluation", {}), **tables)


def test_it_is_asked_to_judge_and_never_to_train(monkeypatch: pytest.MonkeyPatch) -> None:
    judge = _judge("judge")
    ran = scene(monkeypatch, [*_trainers(), judge], _plan()).run()
    assert judge.count("train") == 0
    assert judge.count("evaluate") == len(ran.rounds()) == 5
    for row in ran.rounds():
        assert row["cohort"] == ["north", "south"]
        assert row["missing"] == []
        assert set(row["evaluation"]["answered"]) == {"judge", "north", "south"}
        assert row["aggregated"]


def test_it_makes_up_no_quorum(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a round would be asked of one trainer alone, whose update the sum would show."""
    north, judge = _trainers()[0], _judge("judge")
    ran = scene(monkeypatch, [north, judge], _plan(), wait=30.0)
    with pytest.raises(RunError, match="1 of at least 2 sites"):
        ran.run()
    assert north.count("train") == judge.count("train") == 0


def test_its_units_are_all_that_it_declares() -> None:
    statement = _judge("judge", units=400).statement
    assert statement is not None
    assert stated_units(statement).units == pytest.approx(400)
    trains = releasing(1.0)
    declared = trains.expected_batch / trains.sample_rate / trains.train_fraction
    assert stated_units(trains).units == pytest.approx(declared * (1 - trains.train_fraction))
