"""Evaluations at a site: once each, noised, on the units that were not trained on, and only what the file releases."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privet.client import agent as room
from privet.client import evaluation
from privet.common.config import Plan
from privet.common.errors import Code
from privet.common.messages import COUNTS
from tests.client.agent_bench import Bench, payload
from tests.tiny_models import tiny_plan

ROWS = [(f"the patient has a cough {n}", ("calm", "urgent", "other")[n % 3], f"p{n}") for n in range(60)]
RELEASED = {"federation__tiny__release": ("update", "per_class")}


@pytest.fixture(scope="module")
def plan(base: Path) -> Plan:
    training = {"rounds": 3, "local_steps": 1, "expected_batch": 5, "train_fraction": 0.6}
    return tiny_plan(base, training=training, evaluation={"release": "per_class", "every": 2})


@pytest.fixture
def bench(tmp_path: Path, plan: Plan, base: Path) -> Iterator[Bench]:
    made = Bench(tmp_path, plan, base, rows=ROWS, **RELEASED)
    yield made
    made.close()


def test_an_evaluation_is_measured_once_stored_and_replayed(bench: Bench) -> None:
    statement = bench.offer().body.statement
    assert statement is not None
    assert statement.released == ("update", "per_class")
    first = bench.evaluate(1, 2)
    assert first.code is Code.OK
    assert {name: array.shape for name, array in first.arrays.items()} == {COUNTS: (6,)}
    assert payload(bench.evaluate(1, 2)) == payload(first)
    bench.restart()
    assert payload(bench.evaluate(1, 2)) == payload(first)
    assert bench.evaluate(1, 3).code is Code.ALTERED_REQUEST
    assert [(event.kind, event.state) for event in bench.ledger.events()] == [("evaluate", "stored")]


def test_there_are_as_many_as_the_plan_says(bench: Bench) -> None:
    bench.offer()
    assert bench.plan.num_evaluations == 2
    assert [bench.evaluate(number).code for number in (1, 2, 3)] == [Code.OK, Code.OK, Code.OUTSIDE_HORIZON]
    assert bench.train(1).code is Code.OK  # their numbers are their own


def test_units_that_judge_are_not_trained_on(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    genuine = evaluation.counts

    def watch(trainer: Any, arrays: Any, examples: Any, *rest: Any) -> Any:
        seen["validation"] = examples
        return genuine(trainer, arrays, examples, *rest)

    monkeypatch.setattr(room, "counts", watch)
    bench.offer()
    bench.evaluate(1)
    prepared = bench.agent._prepared
    assert prepared is not None
    train, validation = bench.agent._records.split(0.6)
    assert set(train.texts).isdisjoint(validation.texts)
    assert set(train.texts) | set(validation.texts) == {text for text, _, _ in ROWS}
    assert validation.num_units > 10
    assert seen["validation"] is prepared.validation
    assert prepared.validation.units.num_units == validation.num_units
    assert prepared.train.units.num_units == train.num_units


def test_a_release_that_the_file_does_not_hold_is_not_promised_nor_made(tmp_path: Path, plan: Plan, base: Path) -> None:
    bench = Bench(tmp_path, plan, base, rows=ROWS)
    statement = bench.offer().body.statement
    assert statement is not None
    assert statement.released == ("update",)
    assert bench.evaluate(1).code is Code.REFUSED_POLICY
    assert bench.train(1).code is Code.OK
    assert [event.kind for event in bench.ledger.events()] == ["train"]
    bench.close()


def test_a_release_that_was_withdrawn_is_refused(bench: Bench) -> None:
    bench.offer()
    assert bench.evaluate(1).code is Code.OK
    membership = bench.site.federation["tiny"].model_copy(update={"release": ("update",)})
    bench.site = bench.site.model_copy(update={"federation": {"tiny": membership}})
    bench.agent = bench.fresh()
    bench.offer()
    assert bench.evaluate(2).code is Code.REFUSED_POLICY
    assert bench.train(1).code is Code.OK


def test_no_units_to_judge_on_leaves_noise(tmp_path: Path, plan: Plan, base: Path) -> None:
    bench = Bench(tmp_path, plan, base, rows=[], **RELEASED)
    bench.offer()
    reply = bench.evaluate(1)
    assert reply.code is Code.OK
    assert np.count_nonzero(reply.arrays[COUNTS]) == 6
    bench.close()
