"""What is shown as spent: the worst of all units, each in training or in validation of every plan."""

from dataclasses import replace

import pytest

from privet.client.ledger.summary import Executed, spent
from privet.common.privacy.accountant import epsilon
from privet.common.privacy.events import EvaluateEvent, TrainEvent
from tests.client.ledger_cases import make_admission, make_plan

DELTA = 1e-5
_EVENT = make_admission(make_plan()).event
assert _EVENT is not None
TRAIN: TrainEvent = _EVENT
OTHER = replace(TRAIN, noise_multiplier=0.9)
METRICS = EvaluateEvent(noise_multiplier=20.0, release="accuracy", unit="unit")


def executed(train: TrainEvent, num_train: int, num_evaluations: int = 0, train_fraction: float = 1.0) -> Executed:
    return Executed(
        train=train,
        num_train=num_train,
        evaluation=METRICS if num_evaluations else None,
        num_evaluations=num_evaluations,
        train_fraction=train_fraction,
    )


def test_all_training_composes() -> None:
    assert spent([], DELTA) == 0.0
    alone = spent([executed(TRAIN, 3)], DELTA)
    assert alone == epsilon([TRAIN] * 3, DELTA)
    both = spent([executed(TRAIN, 3), executed(OTHER, 2)], DELTA)
    assert both == epsilon([TRAIN] * 3 + [OTHER] * 2, DELTA) > alone


def test_training_and_validation_of_one_plan_do_not_add() -> None:
    one = executed(TRAIN, 3, 5, 0.8)
    assert spent([one], DELTA) == max(epsilon([TRAIN] * 3, DELTA), epsilon([METRICS] * 5, DELTA))


@pytest.mark.parametrize("num_evaluations", [0, 40])
def test_a_unit_is_looked_for_between_any_two_fractions(num_evaluations: int) -> None:
    """One that validates for the plan with the smaller fraction trains for the other one."""
    plans = [executed(TRAIN, 3, num_evaluations, 0.5), executed(OTHER, 2, 0, 0.8)]
    everywhere = epsilon([TRAIN] * 3 + [OTHER] * 2, DELTA)
    between = epsilon([METRICS] * num_evaluations + [OTHER] * 2, DELTA)
    assert spent(plans, DELTA) == max(everywhere, between)
    assert (between > everywhere) == (num_evaluations == 40)
    assert spent(plans[::-1], DELTA) == pytest.approx(spent(plans, DELTA))


def test_nothing_is_promised_without_delta() -> None:
    assert spent([executed(TRAIN, 1)], 0.0) == float("inf")
    assert spent([], 0.0) == 0.0


def test_a_unit_that_was_told_otherwise_may_have_had_either_place_in_each_plan() -> None:
    """It may have trained in the one plan and judged in the other: then no single place says what it met."""
    one, other = executed(TRAIN, 3, 5, 0.8), executed(OTHER, 3, 5, 0.8)
    alike = spent([one, other], DELTA)
    apart = spent([one, replace(other, reading="another")], DELTA)
    crossed = epsilon([TRAIN] * 3 + [METRICS] * 5, DELTA)
    assert apart >= max(crossed, alike)
    assert apart == spent([one], DELTA / 2) + spent([other], DELTA / 2)
    whole = [executed(TRAIN, 3), replace(executed(OTHER, 3), reading="another")]  # every unit trains in both
    assert spent(whole, DELTA) == epsilon([TRAIN] * 3 + [OTHER] * 3, DELTA)
