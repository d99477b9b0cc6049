"""The grid of virtual sites: who answers what, who drops out or comes late, and what thousands of sites cost."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr.app import Message, MessageType

from privet.common.config import SimulationSpec
from privet.common.errors import Code
from privet.common.initial import initial_adapter
from privet.common.messages import (
    COUNTS,
    EvaluateBody,
    FinishBody,
    OfferBody,
    Request,
    TrainBody,
    parse_reply,
    to_record,
)
from privet.common.privacy.accountant import epsilon
from privet.common.privacy.noise import SeededNoise
from privet.server.strategy import PrivetStrategy
from privet.simulations.absence import Absence
from privet.simulations.bench.messages import NullWork, _plan, _spec, _store, bench_messages
from privet.simulations.engines.engine import InProcess
from privet.simulations.engines.work import Recipe
from privet.simulations.grid import SimulationGrid
from privet.simulations.terms import Spent, agree

ROUNDS = 12
BODIES: dict[str, Callable[[str], Any]] = {
    "offer": lambda digest: OfferBody(plan="{}", plan_digest=digest, adapter_digest="0" * 64),
    "train": lambda digest: TrainBody(plan_digest=digest, round=1),
    "evaluate": lambda digest: EvaluateBody(plan_digest=digest, round=1, after=1),
    "finish": lambda digest: FinishBody(plan_digest=digest),
}


def _grid(units: list[int], absence: Absence, release: str = "none", fraction: float = 1.0) -> SimulationGrid:
    plan, spec = _plan(fraction, ROUNDS), _spec()
    if release != "none":
        raw = plan.model_dump()
        raw["training"]["train_fraction"], raw["evaluation"]["release"] = 0.7, release
        plan = type(plan).model_validate(raw)
    agreed = agree(
        plan, SimulationSpec(), units, 8.0, by_record=True, call=lambda f, kinds: [f(kind) for kind in kinds]
    )
    engine = InProcess()
    engine.start(Recipe(plan, None, make=lambda _recipe, _store: NullWork(spec)), _store())
    names = [f"site-{index:03d}" for index in range(len(units))]
    numbers, load = np.arange(len(units)), np.full(len(units), 500.0)
    return SimulationGrid(plan, spec, initial_adapter(spec, 0), engine, names, numbers, load, agreed, absence)


def _asked(grid: SimulationGrid, kind: str, nodes: list[int]) -> list[Message]:
    arrays = initial_adapter(_spec(), 0) if kind in ("train", "evaluate") else {}
    record = to_record(Request(BODIES[kind](grid._digest), arrays))
    return [grid.create_message(record, MessageType.TRAIN, node, "1") for node in nodes]


def test_each_message_is_answered_in_its_own_name() -> None:
    grid = _grid([100] * 40, Absence(0))
    heard: list[tuple[str, str]] = []
    grid.on_reply = lambda site, kind: heard.append((site, kind))
    asked = _asked(grid, "train", [7, 3, 41, 40, 1])
    replies = {reply.metadata.reply_to_message_id: reply for reply in grid.send_and_receive(asked)}
    assert len(replies) == 5
    for message in asked:
        reply = replies[message.metadata.message_id]
        assert reply.metadata.src_node_id == message.metadata.dst_node_id
        assert reply.has_error() == (message.metadata.dst_node_id == 41)
    assert sorted(heard) == [(site, "train") for site in ("site-000", "site-002", "site-006", "site-039")]
    assert np.flatnonzero(grid.trained).tolist() == [0, 2, 6, 39]
    ids = list(grid.push_messages(_asked(grid, "offer", [2, 1])))
    assert [reply.metadata.reply_to_message_id for reply in grid.pull_messages(ids[::-1])] == ids[::-1]
    assert list(grid.pull_messages(ids)) == []


@pytest.mark.parametrize("kind", ["offer", "train", "evaluate", "finish"])
def test_a_site_that_is_too_small_for_the_plan_refuses_everything(kind: str) -> None:
    """A batch of 8 of 7 units: at a rate above 1 the noise that was computed would not be what was needed."""
    grid = _grid([100, 7], Absence(0))
    small, large = (parse_reply(reply.content) for reply in grid.send_and_receive(_asked(grid, kind, [2, 1])))
    if small.body.code is Code.OK:
        small, large = large, small
    assert (small.code, dict(small.arrays), small.body.statement) == (Code.REFUSED_POLICY, {}, None)
    assert large.code is (Code.REFUSED_POLICY if kind == "evaluate" else Code.OK)  # the plan asks for no metrics
    assert grid.trained.tolist() == [1 if kind == "train" else 0, 0]
    assert not grid.measured.any()


def test_metrics_go_out_with_their_sites_noise_and_are_counted() -> None:
    grid = _grid([100] * 3, Absence(5), "accuracy")
    replies = [parse_reply(reply.content) for reply in grid.send_and_receive(_asked(grid, "evaluate", [1, 2]))]
    stated = grid._agreed.terms[0].evaluation
    assert stated is not None
    for reply, name in zip(replies, ("site-000", "site-001"), strict=True):
        noise = stated.noise_multiplier * SeededNoise(5, name, "evaluate", 1).normal(2)
        assert reply.arrays[COUNTS] == pytest.approx(noise, abs=0.01 * stated.noise_multiplier)
    assert grid.measured.tolist() == [1, 1, 0]
    assert grid.exact is not None
    assert grid.exact[1].tolist() == [0, 0]


def _federation(grid: SimulationGrid, min_sites: int = 1) -> PrivetStrategy:
    plan = grid._plan.model_copy(update={"cohort": grid._plan.cohort.model_copy(update={"min_sites": min_sites})})
    grid._plan, grid._digest = plan, plan.digest
    strategy = PrivetStrategy(
        plan, _spec(), grid._initial, name_of=grid.name_of, pause=lambda _: None, wait=0.0, on_event=lambda _: None
    )
    strategy.start(grid)
    return strategy


def test_who_drops_out_spends_nothing_and_who_is_late_spends() -> None:
    absence = Absence(1, dropout=0.3, straggler=0.25)
    grid = _grid([100] * 60, absence, fraction=0.5)
    strategy = _federation(grid)
    trained = np.zeros(60, np.int64)
    counts = {"answers": 0, "late": 0, "absent": 0}
    for row in strategy.history:
        cohort: Any = row["cohort"]
        does = {name: absence.of(name, int(str(row["round"]))) for name in cohort}
        assert row["answered"] == [name for name in cohort if does[name] == "answers"]
        assert row["missing"] == [name for name in cohort if does[name] != "answers"]
        for name, what in does.items():
            counts[what] += 1
            trained[int(name[-3:])] += what != "absent"
    assert grid.trained.tolist() == trained.tolist()
    total = ROUNDS * 30
    assert counts["absent"] == pytest.approx(0.3 * total, abs=4 * math.sqrt(0.21 * total))
    assert counts["late"] == pytest.approx(0.175 * total, abs=4 * math.sqrt(0.15 * total))
    assert Absence(1, 0.3, 0.25).of("site-000", 1) == absence.of("site-000", 1)
    assert {Absence(seed, 0.5, 0.5).of("a", 1) for seed in range(30)} == {"answers", "late", "absent"}


def test_spent_is_the_epsilon_of_the_rounds_that_were_run() -> None:
    grid = _grid([100] * 20, Absence(1, dropout=0.4), fraction=0.5)
    _federation(grid)
    spent = Spent(grid._names, grid._agreed, grid.trained, grid.measured)
    event, found = grid._agreed.terms[0].event, spent.epsilons()
    assert len(set(grid.trained.tolist())) > 3
    for index, name in enumerate(grid._names):
        expected = epsilon([event] * int(grid.trained[index]), 1e-5)
        assert found[name] == spent.epsilon(name) == pytest.approx(expected, rel=1e-6)
        assert found[name] < 8.0


def test_a_round_without_a_quorum_changes_nothing_and_is_spent() -> None:
    grid = _grid([100] * 4, Absence(1, dropout=0.7))
    strategy = _federation(grid, min_sites=4)
    rows = [(bool(row["aggregated"]), len(row["answered"])) for row in strategy.history]  # type: ignore[arg-type]
    assert any(not aggregated and answered for aggregated, answered in rows)
    assert all(aggregated == (answered == 4) for aggregated, answered in rows)
    assert strategy.completed == sum(aggregated for aggregated, _ in rows)
    assert grid.trained.sum() == sum(answered for _, answered in rows)


@pytest.mark.slow
def test_ten_thousand_sites_cost_rows_and_not_objects() -> None:
    """Python's memory at its highest, beside the updates under way, grows by at most 2 KB for each further site."""
    few, many = (bench_messages(size, 50 / size, 1, traced=True) for size in (500, 10_000))
    assert (few["cohort"], many["cohort"]) == (50, 50)
    assert (many["most_bytes"] - few["most_bytes"]) / 9_500 < 2_000
