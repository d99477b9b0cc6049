"""The learning rate of a round: of the plan and the number alone, and no digest that was is another now."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privet.common.config import Plan, parse_plan
from privet.common.config.plan import TrainingSpec
from privet.common.schedule import in_words, is_constant, learning_rate
from tests.server.report_runs import plan_of


def _spec(**changes: Any) -> TrainingSpec:
    return TrainingSpec.model_validate({"rounds": 9, "expected_batch": 4, "learning_rate": 0.2} | changes)


@st.composite
def specs(draw: st.DrawFn) -> TrainingSpec:
    rounds = draw(st.integers(1, 40))
    return _spec(
        rounds=rounds,
        spare_rounds=draw(st.integers(0, 10)),
        warmup_rounds=draw(st.integers(0, rounds - 1)),
        schedule=draw(st.sampled_from(["constant", "linear", "cosine"])),
        final_rate=draw(st.floats(1e-3, 1.0)),
        learning_rate=draw(st.floats(1e-8, 100.0)),
    )


@given(specs())
def test_a_rate_climbs_then_falls_and_never_leaves_its_bounds(spec: TrainingSpec) -> None:
    rates = [learning_rate(spec, number) for number in range(1, spec.horizon + 1)]
    top = spec.warmup_rounds
    assert all(0 < rate <= spec.learning_rate * (1 + 1e-12) for rate in rates)
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top] == pytest.approx(spec.learning_rate)
    assert all(a >= b * (1 - 1e-12) for a, b in zip(rates[top:], rates[top + 1 :], strict=False))
    if spec.schedule != "constant" and spec.rounds > top + 1:
        assert rates[spec.rounds - 1] == pytest.approx(spec.final_rate * spec.learning_rate)
    assert all(rate == rates[spec.rounds - 1] for rate in rates[spec.rounds - 1 :])  # spare rounds


def test_rates_by_hand() -> None:
    spec = _spec(warmup_rounds=3, rounds=8, final_rate=0.2, learning_rate=1.0, schedule="linear")
    wanted = [0.25, 0.5, 0.75, 1.0, 0.8, 0.6, 0.4, 0.2, 0.2]
    assert [learning_rate(spec, number) for number in range(1, 10)] == pytest.approx(wanted)
    cosine = _spec(rounds=5, final_rate=0.5, learning_rate=2.0, schedule="cosine")
    wanted = [2.0, 1.5 + 0.5 * math.cos(math.pi / 4), 1.5, 1.5 + 0.5 * math.cos(3 * math.pi / 4), 1.0]
    assert [learning_rate(cosine, number) for number in range(1, 6)] == pytest.approx(wanted)
    with pytest.raises(ValueError, match="at least 1"):
        learning_rate(cosine, 0)


def test_a_plan_of_one_rate_keeps_its_digest_and_its_text() -> None:
    raw = plan_of().model_dump(mode="json")
    old = Plan.model_validate(raw)
    assert not {"schedule", "warmup_rounds", "final_rate"} & set(old.model_dump()["training"])
    same = Plan.model_validate(raw | {"training": raw["training"] | {"schedule": "constant", "final_rate": 0.5}})
    assert same.digest == old.digest
    digests = {old.digest}
    for change in (
        {"schedule": "linear"},
        {"schedule": "cosine"},
        {"warmup_rounds": 1},
        {"schedule": "linear", "final_rate": 0.2},
    ):
        plan = Plan.model_validate(raw | {"training": raw["training"] | change})
        assert parse_plan(plan.canonical()) == plan
        digests.add(plan.digest)
    assert len(digests) == 5


def test_a_warm_up_leaves_a_round() -> None:
    with pytest.raises(ValueError, match="fewer warmup_rounds"):
        _spec(rounds=3, warmup_rounds=3)
    with pytest.raises(ValueError, match="final_rate"):
        _spec(schedule="linear", final_rate=0.0)


def test_words() -> None:
    assert is_constant(_spec())
    assert not is_constant(_spec(warmup_rounds=1))
    assert in_words(_spec(warmup_rounds=1)) == "learning rate 0.2, after 1 round of warm-up"
    assert in_words(_spec(schedule="linear")) == "learning rate 0.2, falling along a line to 0.02 in round 9"
