"""A plan is run: every wait is bounded; what is aggregated is what was sound."""

import json
from typing import Any

import numpy as np
import pytest
from flwr.app import Message, RecordDict

from privet.common.adapter import MAX_WEIGHT, digest
from privet.common.errors import Code, RunError
from privet.common.messages import OfferBody, Request, TrainBody
from privet.common.methods import State, Stated, Update, aggregation_weights, method_for
from privet.common.tasks.classification import PublicMetrics
from privet.server.checkpoint import load_checkpoint, save_checkpoint
from tests.server.scripted import (
    SPEC,
    Scene,
    Site,
    aggregated,
    claimless,
    coded,
    initial,
    plan,
    record,
    reply_to,
    scene,
    silent,
    sound,
    three,
    update_of,
)


def test_a_plan_is_run_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    sites = three()
    ran = scene(monkeypatch, sites).run()
    assert [row["answered"] for row in ran.rounds()] == [["east", "north", "south"]] * 2
    assert [event["event"] for event in ran.events] == [
        *("started", "offer", "offer", "offer", "round_started", "round", "round_started", "round"),
    ]
    assert digest(ran.strategy.state.arrays) == digest(aggregated([["north", "south", "east"]] * 2).arrays)
    assert ran.strategy.completed == 2
    assert ran.strategy.history == ran.rounds()
    for site in sites:
        assert [request.body.kind for request in site.heard] == ["offer", "train", "train", "finish"]
    row, size = ran.rounds()[0], sum(entry.size for entry in SPEC.entries) * 4
    assert (row["bytes_down"], row["bytes_up"], row["public"]) == (3 * size, 3 * size, None)
    assert (row["aggregated"], row["missing"], row["failed"]) == (True, [], {})
    json.dumps(ran.events)


def test_sites_are_sent_the_plan_and_the_present_arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    the_plan = plan(method={"kind": "ffa"})
    sites = three()
    ran = scene(monkeypatch, sites, the_plan)
    ran.run()
    offer, first, second, _ = sites[1].heard
    assert isinstance(offer.body, OfferBody)
    assert offer.body.plan == the_plan.canonical()
    assert offer.body.adapter_digest == digest(initial())
    assert isinstance(first.body, TrainBody)
    assert isinstance(second.body, TrainBody)
    assert (first.body.round, second.body.round) == (1, 2)
    assert set(first.arrays) == {"head.bias", "head.weight", "q.lora_B.weight"}
    assert digest(first.arrays) == digest({name: initial()[name] for name in first.arrays})
    assert sites[0].heard[1].sha256 == first.sha256  # one content for all
    assert ran.grid.timeouts[:2] == [the_plan.cohort.timeout] * 2


# The quorum


def test_too_few_sound_updates_change_nothing_and_use_a_spare_round(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost_in_the_first(site: Site, message: Message, request: Request) -> list[Message]:
        assert isinstance(request.body, TrainBody)
        return silent(site, message, request) if request.body.round == 1 else sound(site, message, request)

    sites = [Site("north", train=lost_in_the_first), Site("south")]
    ran = scene(monkeypatch, sites, plan(training={"spare_rounds": 2})).run()
    assert [row["aggregated"] for row in ran.rounds()] == [False, True, True]
    assert [row["round"] for row in ran.rounds()] == [1, 2, 3]  # a number is never used twice
    assert digest(sites[1].heard[2].arrays) == digest(initial())  # nothing was changed
    expected = aggregated([[], ["north", "south"], ["north", "south"]])
    assert digest(ran.strategy.state.arrays) == digest(expected.arrays)
    assert ran.strategy.completed == 2


def test_the_horizon_bounds_the_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A site has reserved rounds and spare rounds, and no more are asked for."""
    sites = [Site("north", train=silent), Site("south")]
    ran = scene(monkeypatch, sites, plan(training={"rounds": 3, "spare_rounds": 2})).run()
    assert [row["aggregated"] for row in ran.rounds()] == [False] * 5
    assert sites[1].count("train") == 5
    assert ran.strategy.completed == 0
    assert digest(ran.strategy.state.arrays) == digest(initial())
    assert sites[1].count("finish") == 1


def test_waiting_for_a_quorum_is_bounded_and_says_who_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    sites = [Site("north", offer=coded(Code.PENDING)), Site("south"), Site("east", offer=coded(Code.BASE_MISMATCH))]
    ran = scene(monkeypatch, sites, wait=123.0)
    with pytest.raises(RunError) as caught:
        ran.run()
    assert ran.clock.now == pytest.approx(1123.0)
    assert "1 of at least 2 sites" in caught.value.what
    assert "north: pending" in caught.value.what
    assert "east: base_mismatch" in caught.value.what
    assert "south" not in caught.value.what
    assert caught.value.mend
    assert all(site.count("train") == 0 for site in sites)
    waiting = [event for event in ran.events if event["event"] == "waiting"]
    assert len(waiting) == 1  # told once, not every two seconds
    assert (waiting[0]["ready"], waiting[0]["needed"]) == (["south"], 2)


def test_a_site_that_never_answered_an_offer_is_named_too(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = scene(monkeypatch, [Site("north", offer=silent), Site("south")], wait=200.0)
    with pytest.raises(RunError, match="north"):
        ran.run()


def test_with_no_site_at_all_the_wait_is_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RunError, match="0 of at least 2 sites"):
        scene(monkeypatch, [], wait=5.0).run()


def test_sites_may_leave_and_come(monkeypatch: pytest.MonkeyPatch) -> None:
    sites = [*three(), Site("late", online=False)]

    def swap(site: Site, message: Message, request: Request) -> list[Message]:
        sites[0].online, sites[3].online = False, True
        return sound(site, message, request)

    sites[2].train = swap  # after its first round north is gone and late is there
    ran = scene(monkeypatch, sites, plan(training={"rounds": 3})).run()
    assert ran.rounds()[0]["cohort"] == ["east", "north", "south"]
    assert [row["cohort"] for row in ran.rounds()[1:]] == [["east", "late", "south"]] * 2
    assert [site.count("finish") for site in sites] == [0, 1, 1, 1]


def test_the_end_is_told_to_every_site_that_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    sites = [*three(), Site("unwilling", offer=coded(Code.REFUSED_POLICY)), Site("away", online=False)]
    sites[1].finish = lambda site, message, request: [reply_to(message, RecordDict())]  # nobody reads the answer
    scene(monkeypatch, sites).run()
    assert [site.count("finish") for site in sites] == [1, 1, 1, 1, 0]


# The cohort


def _cohorts(monkeypatch: pytest.MonkeyPatch, names: list[str], seed: int, **cohort: Any) -> list[list[str]]:
    the_plan = plan(method={"seed": seed}, training={"rounds": 8}, cohort=cohort)
    return [row["cohort"] for row in scene(monkeypatch, [Site(name) for name in names], the_plan).run().rounds()]


def test_the_cohort_is_drawn_by_the_plans_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"s{index}" for index in range(10)]
    drawn = _cohorts(monkeypatch, names, 1, fraction=0.3)
    assert all(len(cohort) == 3 == len(set(cohort)) for cohort in drawn)
    assert len({tuple(cohort) for cohort in drawn}) > 1
    assert len({name for cohort in drawn for name in cohort}) > 5
    assert _cohorts(monkeypatch, names, 1, fraction=0.3) == drawn
    assert _cohorts(monkeypatch, names[::-1], 1, fraction=0.3) == drawn  # by name, whoever came first
    assert _cohorts(monkeypatch, names, 2, fraction=0.3) != drawn


def test_a_cohort_is_never_smaller_than_the_quorum(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["a", "b", "c", "d"]
    assert all(len(cohort) == 3 for cohort in _cohorts(monkeypatch, names, 0, fraction=0.01, min_sites=3))
    assert all(cohort == names for cohort in _cohorts(monkeypatch, names, 0, fraction=1.0))


# Aggregation


@pytest.mark.parametrize("kind", ["head", "ffa", "fedavg"])
@pytest.mark.parametrize("weight", ["uniform", "declared", "noise"])
def test_the_aggregate_is_the_methods_own(monkeypatch: pytest.MonkeyPatch, kind: str, weight: str) -> None:
    the_plan = plan(
        method={"kind": kind, "server_momentum": 0.5, "server_learning_rate": 0.7},
        cohort={"weight": weight},
        training={"rounds": 3},
    )
    statements = {
        "north": claimless(noise_multiplier=2.0, declared_weight=5.0),
        "south": claimless(noise_multiplier=1.5, declared_weight=3.0),
        "east": claimless(expected_batch=90, declared_weight=1.0),
    }
    method = method_for(the_plan)
    names = method.trainable(SPEC, 1).names

    def trained(site: Site, message: Message, request: Request) -> list[Message]:
        assert isinstance(request.body, TrainBody)
        update = {name: update_of(site.name, request.body.round)[name] for name in names}
        return [reply_to(message, record(request.body.plan_digest, request.body.round, update))]

    sites = [Site(name, statement=statement, train=trained) for name, statement in statements.items()]
    ran = scene(monkeypatch, sites, the_plan).run()
    order = sorted(statements)
    shares = aggregation_weights(
        weight,
        [
            Stated(s.noise_multiplier, s.max_grad_norm, s.expected_batch, s.declared_weight)
            for s in (statements[name] for name in order)
        ],
    )
    if weight != "uniform":
        assert len(set(shares)) == 3
    state = method.init(initial())
    for number in (1, 2, 3):
        updates = [Update(update_of(name, number), share) for name, share in zip(order, shares, strict=True)]
        state = method.aggregate(SPEC, state, number, updates)
    assert digest(ran.strategy.state.arrays) == digest(state.arrays)
    assert digest(ran.strategy.state.momentum) == digest(state.momentum)


def test_updates_are_summed_in_one_order_whoever_answers_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Floating-point sums depend on their order: a run must not depend on the network."""
    seen: list[list[str]] = []
    ran = scene(monkeypatch, [Site(name) for name in ("b", "c", "a")], plan(training={"rounds": 1}))
    method: Any = ran.strategy.method

    class Watched:
        def __getattr__(self, name: str) -> Any:
            return getattr(method, name)

        def aggregate(self, spec: Any, state: State, round: int, updates: Any) -> State:
            known = {digest(update_of(name, round)): name for name in "abc"}
            seen.append([known[digest(update.arrays)] for update in updates])
            return method.aggregate(spec, state, round, updates)  # type: ignore[no-any-return]

    ran.strategy.method = Watched()
    ran.run()
    assert seen == [["a", "b", "c"]]


@pytest.mark.parametrize("sigma", [0.0, 5e-324, 1e-200, 1e-3, 10_000.0])
@pytest.mark.parametrize("num_others", [1, 2])
def test_a_hostile_statement_neither_ends_a_run_nor_takes_it_over(
    monkeypatch: pytest.MonkeyPatch, sigma: float, num_others: int
) -> None:
    claim = claimless(
        noise_multiplier=sigma,
        max_grad_norm=1e-3,
        expected_batch=10**9,
        guarantee=False,
        reason="x",
        epsilon=None,
        epsilon_replace=None,
    )
    others = [Site("south"), Site("east")][:num_others]
    ran = scene(monkeypatch, [Site("liar", statement=claim), *others], plan(cohort={"weight": "noise"})).run()
    assert [row["aggregated"] for row in ran.rounds()] == [True, True]
    state = initial()["head.bias"] + sum(update_of("liar", number)["head.bias"] for number in (1, 2))
    moved = np.abs(ran.strategy.state.arrays["head.bias"] - state)
    assert moved.max() > 0.1  # the honest sites count


def test_what_is_sent_stays_within_what_sites_accept(monkeypatch: pytest.MonkeyPatch) -> None:
    def huge(site: Site, message: Message, request: Request) -> list[Message]:
        assert isinstance(request.body, TrainBody)
        update = {entry.name: np.full(entry.shape, 2 * MAX_WEIGHT, np.float32) for entry in SPEC.entries}
        return [reply_to(message, record(request.body.plan_digest, request.body.round, update))]

    sites = [Site(name, train=huge) for name in ("a", "b")]
    scene(monkeypatch, sites, plan(training={"rounds": 3}, method={"server_learning_rate": 10.0})).run()
    for request in sites[0].heard[2:4]:
        SPEC.check(request.arrays)


def test_no_metrics_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = scene(monkeypatch, three())
    nothing: Any = None
    assert list(ran.strategy.configure_evaluate(1, nothing, nothing, ran.grid)) == []
    assert ran.strategy.aggregate_evaluate(1, []) is None
    with pytest.raises(RuntimeError, match="before configure_train"):
        ran.strategy.aggregate_train(1, [])


def test_public_metrics_are_judged_at_the_start_and_after_each_change(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def judge(arrays: dict[str, Any]) -> PublicMetrics:
        seen.append(digest(arrays))
        return PublicMetrics(0.25 * len(seen), 0.5, 1.0, 4, {"p": 1.0}, [[1]])

    def lost_in_the_second(site: Site, message: Message, request: Request) -> list[Message]:
        assert isinstance(request.body, TrainBody)
        return silent(site, message, request) if request.body.round == 2 else sound(site, message, request)

    sites = [Site("north", train=lost_in_the_second), Site("south")]
    ran = scene(monkeypatch, sites, plan(training={"spare_rounds": 1}), evaluate=judge).run()
    (first,) = [event for event in ran.events if event["event"] == "initial"]
    assert first["public"]["accuracy"] == 0.25
    assert [row["public"] and row["public"]["accuracy"] for row in ran.rounds()] == [0.5, None, 0.75]
    assert seen[0] == digest(initial())
    assert seen[-1] == digest(ran.strategy.state.arrays)


# Checkpoints


def _restored(ran: Scene, fresh: Scene, round: int, folder: Any) -> Scene:
    kept = load_checkpoint(save_checkpoint(ran.checkpoints[round], folder))
    fresh.strategy.state, fresh.strategy.completed = kept.state, kept.completed
    fresh.strategy._sampler.bit_generator.state = kept.sampler
    assert kept.plan_digest == ran.strategy.plan.digest
    assert kept.round == round
    return fresh


@pytest.mark.parametrize("round", [1, 3, 5])
def test_a_checkpoint_of_each_round_holds_everything_the_next_one_needs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, round: int
) -> None:
    the_plan = plan(
        training={"rounds": 5, "spare_rounds": 1}, method={"server_momentum": 0.9}, cohort={"fraction": 0.5}
    )
    names = [f"s{index}" for index in range(6)]

    def lost_in_the_second(site: Site, message: Message, request: Request) -> list[Message]:
        assert isinstance(request.body, TrainBody)
        return silent(site, message, request) if request.body.round == 2 else sound(site, message, request)

    def sites() -> list[Site]:
        return [Site(name, train=lost_in_the_second) for name in names]

    whole = scene(monkeypatch, sites(), the_plan).run()
    assert [kept.round for kept in whole.checkpoints] == [0, 1, 2, 3, 4, 5, 6]
    assert [kept.completed for kept in whole.checkpoints] == [0, 1, 1, 2, 3, 4, 5]
    again = _restored(whole, scene(monkeypatch, sites(), the_plan), round, tmp_path)
    nothing: Any = None
    for number in range(round + 1, 7):
        messages = again.strategy.configure_train(number, nothing, nothing, again.grid)
        again.strategy.aggregate_train(number, again.grid.send_and_receive(messages))
    assert [row["cohort"] for row in again.rounds()] == [row["cohort"] for row in whole.rounds()[round:]]
    assert digest(again.strategy.state.arrays) == digest(whole.strategy.state.arrays)
    assert digest(again.strategy.state.momentum) == digest(whole.strategy.state.momentum)
    assert again.strategy.completed == whole.strategy.completed
    assert again.checkpoints[-1].sampler == whole.checkpoints[-1].sampler
