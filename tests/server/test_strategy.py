"""One bad reply never ends a round; every wait is bounded; what is aggregated is what was sound."""

import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict

from privet.common.adapter import MAX_WEIGHT, digest
from privet.common.errors import Code, RunError
from privet.common.messages import OfferBody, Request, TrainBody
from privet.common.methods import State, Stated, Update, aggregation_weights, method_for
from privet.common.privacy.statement import Statement
from privet.common.tasks.classification import PublicMetrics
from privet.server.checkpoint import load_checkpoint, save_checkpoint
from tests.server.scripted import (
    SPEC,
    Scene,
    Site,
    claimless,
    coded,
    from_node,
    initial,
    plan,
    record,
    reply_to,
    scene,
    silent,
    sound,
    update_of,
)
from tests.server.statements import stated


def _three(**north: Any) -> list[Site]:
    return [Site("north", **north), Site("south"), Site("east")]


def _expected(rounds: list[list[str]], the_plan: Any = None) -> State:
    """The method's own result where these sites' updates are aggregated, uniformly, round by round."""
    method = method_for(the_plan or plan())
    state = method.init(initial())
    for number, names in enumerate(rounds, start=1):
        if names:
            updates = [Update(update_of(name, number), 1 / len(names)) for name in sorted(names)]
            state = method.aggregate(SPEC, state, number, updates)
    return state


def test_a_plan_is_run_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    sites = _three()
    ran = scene(monkeypatch, sites).run()
    assert [row["answered"] for row in ran.rounds()] == [["east", "north", "south"]] * 2
    assert [event["event"] for event in ran.events] == [
        *("started", "offer", "offer", "offer", "round_started", "round", "round_started", "round"),
    ]
    assert digest(ran.strategy.state.arrays) == digest(_expected([["north", "south", "east"]] * 2).arrays)
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
    sites = _three()
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


# One bad reply


def _bad(make: Callable[[str, int, dict[str, Any]], RecordDict | Error]) -> Callable[..., list[Message]]:
    def answer(site: Site, message: Message, request: Request) -> list[Message]:
        assert isinstance(request.body, TrainBody)
        number = request.body.round
        return [reply_to(message, make(request.body.plan_digest, number, update_of(site.name, number)))]

    return answer


def _arrays(**arrays: Array) -> RecordDict:
    return RecordDict({"privet": ConfigRecord({"body": "{}"}), "arrays": ArrayRecord(arrays)})


def _with(change: Callable[[dict[str, Any]], object]) -> Callable[..., list[Message]]:
    def make(plan_digest: str, number: int, arrays: dict[str, Any]) -> RecordDict:
        change(arrays)
        return record(plan_digest, number, arrays)

    return _bad(make)


def _raw(**changes: Any) -> Callable[..., list[Message]]:
    """A sound record but for its array's declared form."""

    def make(plan_digest: str, number: int, arrays: dict[str, Any]) -> RecordDict:
        result = record(plan_digest, number, arrays)
        carried: Any = result["arrays"]
        values = {field: getattr(carried["flat"], field) for field in ("dtype", "shape", "stype", "data")}
        carried["flat"] = Array(**(values | changes))
        return result

    return _bad(make)


def _set(name: str, value: Any) -> Callable[..., list[Message]]:
    return _with(lambda arrays: arrays.update({name: value}))


def _one(value: float) -> Any:
    array = np.zeros((3, 4), np.float32)
    array[1, 2] = value
    return array


BAD_REPLIES: dict[str, tuple[Callable[..., list[Message]], str]] = {
    "no record": (_bad(lambda d, n, a: RecordDict()), "unavailable"),
    "another record": (_bad(lambda d, n, a: RecordDict({"metrics": MetricRecord({"loss": 0.1})})), "unavailable"),
    "a record more": (
        _bad(lambda d, n, a: RecordDict({**record(d, n, a), "metrics": MetricRecord({"num-examples": 1e12})})),
        "unavailable",
    ),
    "a body that is no JSON": (
        _bad(lambda d, n, a: RecordDict({"privet": ConfigRecord({"body": "{"})})),
        "unavailable",
    ),
    "a body of another schema": (_bad(lambda d, n, a: _arrays()), "unavailable"),
    "a pickled array": (_raw(stype="numpy.ndarray"), "unavailable"),
    "an object array": (_raw(dtype="object"), "unavailable"),
    "float64": (_raw(dtype="float64", data=bytes(24)), "unavailable"),
    "a shape that lies": (_raw(shape=(300,)), "unavailable"),
    "a huge shape": (_raw(shape=(1 << 40, 1 << 40)), "unavailable"),
    "a negative shape": (_raw(shape=(-3,)), "unavailable"),
    "another plan": (_bad(lambda d, n, a: record("ab" * 32, n, a)), "unavailable"),
    "another round": (_bad(lambda d, n, a: record(d, n + 1, a)), "unavailable"),
    "round zero": (_bad(lambda d, n, a: record(d, 0, a)), "unavailable"),
    "an error of Flower's": (_bad(lambda d, n, a: Error(1, "site left")), "unavailable"),
    "a hostile reason": (_bad(lambda d, n, a: Error(2**31 - 1, "\x1b[2J" * 100)), "unavailable"),
    "arrays with a refusal": (_bad(lambda d, n, a: record(d, n, a, Code.ROUND_LOST)), "unavailable"),
    "no array": (_bad(lambda d, n, a: record(d, n)), "bad_request"),
    "an array less": (_with(lambda arrays: arrays.pop("head.bias")), "bad_request"),
    "an array more": (_set("extra", np.zeros(3, np.float32)), "bad_request"),
    "a broadcastable shape": (_set("head.bias", np.zeros(1, np.float32)), "bad_request"),
    "a transposed shape": (_set("head.weight", np.zeros((4, 3), np.float32)), "bad_request"),
    "NaN": (_set("head.weight", _one(np.nan)), "bad_request"),
    "infinite": (_set("head.weight", _one(-np.inf)), "bad_request"),
    "1e30": (_set("head.weight", _one(1e30)), "bad_request"),
    "beyond any change of sound weights": (_set("head.weight", _one(2.001 * MAX_WEIGHT)), "bad_request"),
    "lost": (coded(Code.ROUND_LOST), "round_lost"),
    "altered": (coded(Code.ALTERED_REQUEST), "altered_request"),
    "unavailable": (coded(Code.UNAVAILABLE), "unavailable"),
}


@pytest.mark.parametrize("fault", BAD_REPLIES)
def test_one_bad_reply_never_ends_a_round(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    answer, code = BAD_REPLIES[fault]
    ran = scene(monkeypatch, _three(train=answer)).run()
    for row in ran.rounds():
        assert row["answered"] == ["east", "south"]
        assert row["failed"] == {"north": code}
        assert row["missing"] == []
        assert row["aggregated"]
    assert digest(ran.strategy.state.arrays) == digest(_expected([["south", "east"]] * 2).arrays)
    assert ran.grid.nodes[11].count("train") == 2  # it is not shut out


def test_a_site_that_does_not_answer_is_named_as_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = scene(monkeypatch, _three(train=silent)).run()
    assert [row["missing"] for row in ran.rounds()] == [["north"]] * 2
    assert [row["answered"] for row in ran.rounds()] == [["east", "south"]] * 2
    assert digest(ran.strategy.state.arrays) == digest(_expected([["south", "east"]] * 2).arrays)


def test_of_several_replies_of_one_site_the_first_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    def twice(site: Site, message: Message, request: Request) -> list[Message]:
        huge = {name: np.full_like(array, 1e4) for name, array in update_of("x", 1).items()}
        assert isinstance(request.body, TrainBody)
        more = [reply_to(message, record(request.body.plan_digest, request.body.round, huge)) for _ in range(3)]
        return [*sound(site, message, request), *more, *coded(Code.REFUSED_POLICY)(site, message, request)]

    ran = scene(monkeypatch, _three(train=twice)).run()
    assert [row["answered"] for row in ran.rounds()] == [["east", "north", "south"]] * 2
    assert digest(ran.strategy.state.arrays) == digest(_expected([["north", "south", "east"]] * 2).arrays)


def test_a_first_reply_that_is_bad_cannot_be_mended(monkeypatch: pytest.MonkeyPatch) -> None:
    def bad_then_good(site: Site, message: Message, request: Request) -> list[Message]:
        return [reply_to(message, RecordDict()), *sound(site, message, request)]

    ran = scene(monkeypatch, _three(train=bad_then_good)).run()
    assert [row["failed"] for row in ran.rounds()] == [{"north": "unavailable"}] * 2
    assert [row["answered"] for row in ran.rounds()] == [["east", "south"]] * 2


@pytest.mark.parametrize("node", [0, 1, 99, 2**63 - 1])
def test_a_stranger_has_no_part_in_a_round(monkeypatch: pytest.MonkeyPatch, node: int) -> None:
    def with_stranger(site: Site, message: Message, request: Request) -> list[Message]:
        assert isinstance(request.body, TrainBody)
        forged = record(request.body.plan_digest, request.body.round, update_of("stranger", 1))
        return [from_node(message, forged, node), *sound(site, message, request)]

    ran = scene(monkeypatch, _three(train=with_stranger)).run()
    assert [row["answered"] for row in ran.rounds()] == [["east", "north", "south"]] * 2
    assert digest(ran.strategy.state.arrays) == digest(_expected([["north", "south", "east"]] * 2).arrays)


def test_a_site_that_was_not_asked_has_no_part_in_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enrolled and online, but outside the cohort of this round."""
    sites = [Site(name) for name in ("a", "b", "c", "d")]
    the_plan = plan(cohort={"fraction": 0.5})
    ran = scene(monkeypatch, sites, the_plan)

    def for_all(site: Site, message: Message, request: Request) -> list[Message]:
        assert isinstance(request.body, TrainBody)
        content = record(request.body.plan_digest, request.body.round, update_of(site.name, request.body.round))
        return [from_node(message, content, node) for node in ran.grid.nodes if node != message.metadata.dst_node_id]

    for site in sites:
        site.train = for_all
    ran.run()
    for row in ran.rounds():
        assert set(row["answered"]) <= set(row["cohort"])
        assert len(row["cohort"]) == 2


@pytest.mark.parametrize("node", [12, 99])
def test_an_offer_is_accepted_by_the_site_itself_only(monkeypatch: pytest.MonkeyPatch, node: int) -> None:
    ran = scene(monkeypatch, _three(), wait=10.0)

    def forged(site: Site, message: Message, request: Request) -> list[Message]:
        (answer,) = sound(site, message, request)
        return [from_node(message, answer.content, node)]  # 12 is south, 99 nobody

    ran.grid.nodes[11].offer = forged
    ran.run()
    assert all("north" not in row["cohort"] for row in ran.rounds())


# The offer

NO_CONSENT: dict[str, Callable[..., list[Message]]] = {
    "silent": silent,
    "no statement": lambda site, message, request: [reply_to(message, record(request.body.plan_digest, 0))],
    "malformed": lambda site, message, request: [reply_to(message, RecordDict())],
    "an error": lambda site, message, request: [reply_to(message, Error(1, "no"))],
    "another plan": lambda site, message, request: [reply_to(message, record("ab" * 32, 0))],
    "another round": lambda site, message, request: [reply_to(message, record(request.body.plan_digest, 1))],
    "a refusal with a statement": coded(Code.REFUSED_BUDGET),
}


@pytest.mark.parametrize("kind", NO_CONSENT)
def test_who_did_not_agree_is_not_asked_to_train(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    sites = _three(offer=NO_CONSENT[kind])
    ran = scene(monkeypatch, sites).run()
    assert [row["cohort"] for row in ran.rounds()] == [["east", "south"]] * 2
    assert sites[0].count("train") == 0
    assert set(ran.strategy.roster.statements) == {"east", "south"}
    verdict = ran.strategy.roster.verdicts.get("north")
    assert verdict is None or verdict.code is not Code.OK  # else it would never be asked again


@pytest.mark.parametrize("code", [Code.PENDING, Code.REFUSED_BUDGET, Code.UNAVAILABLE, Code.UNKNOWN_PLAN])
def test_a_site_that_says_not_yet_is_asked_again_and_joins(monkeypatch: pytest.MonkeyPatch, code: Code) -> None:
    sites = [Site("north", offer=coded(code)), Site("south")]
    ran = scene(monkeypatch, sites, wait=300.0)
    asked_at: list[float] = []

    def approve(elapsed: float) -> None:
        asked_at.extend([elapsed] * (sites[0].count("offer") - len(asked_at)))
        if elapsed > 65:
            sites[0].offer = sound

    ran.clock.on_wait = approve
    ran.run()
    assert [row["answered"] for row in ran.rounds()] == [["north", "south"]] * 2
    assert sites[0].count("offer") == 4  # at 0 s and then every 20 s or a little more
    assert sites[1].count("offer") == 1
    assert all(later - earlier >= 18 for earlier, later in pairwise(asked_at))
    assert [e["code"] for e in ran.events if e["event"] == "offer" and e["site"] == "north"] == [code] * 3 + ["ok"]


@pytest.mark.parametrize("code", [Code.REFUSED_POLICY, Code.BASE_MISMATCH, Code.ADAPTER_MISMATCH, Code.BAD_REQUEST])
def test_a_site_that_refused_for_good_is_never_asked_again(monkeypatch: pytest.MonkeyPatch, code: Code) -> None:
    sites = [Site("north", offer=coded(code)), Site("south")]
    with pytest.raises(RunError):
        scene(monkeypatch, sites, wait=1000.0).run()
    assert sites[0].count("offer") == 1


def test_an_offer_without_an_answer_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    sites = [Site("north", offer=silent), Site("south")]
    ran = scene(monkeypatch, sites, wait=1000.0)
    ran.clock.on_wait = lambda elapsed: setattr(sites[0], "offer", sound if elapsed > 50 else silent)
    ran.run()
    told = [event["code"] for event in ran.events if event["event"] == "offer" and event["site"] == "north"]
    assert told == ["no_answer", "ok"]
    assert ran.strategy.completed == 2


@pytest.mark.parametrize("code", [Code.UNKNOWN_PLAN, Code.PENDING, Code.REFUSED_BUDGET, Code.REFUSED_POLICY])
def test_a_site_that_no_longer_agrees_is_left_out_of_the_next_round(
    monkeypatch: pytest.MonkeyPatch, code: Code
) -> None:
    sites = _three(train=coded(code))
    ran = scene(monkeypatch, sites, plan(training={"rounds": 3})).run()
    assert [row["cohort"] for row in ran.rounds()] == [["east", "north", "south"], *[["east", "south"]] * 2]
    assert ran.rounds()[0]["failed"] == {"north": str(code)}


# Statements that are checked


def _checked(
    monkeypatch: pytest.MonkeyPatch,
    claims: Callable[[int], Statement],
    fault: str | None,
    *,
    restarts: bool,
    wait: float = 20_000.0,
) -> tuple[Scene, Site, list[Statement]]:
    """A site that makes its n-th answer to an offer with claims(n), beside a quorum that is never reached.

    restarts: whether it is a new process whenever anybody looks.
    """
    checks: list[Statement] = []

    def check(statement: Statement, plan: Any) -> str | None:
        checks.append(statement)
        return fault

    def claiming(site: Site, message: Message, request: Request) -> list[Message]:
        site.statement = claims(site.count("offer"))
        return sound(site, message, request)

    monkeypatch.setattr("privet.server.roster.consistent", check)
    north = Site("north", offer=claiming)
    processes = iter(range(10**9))
    session_of = (lambda _node: next(processes)) if restarts else (lambda _node: None)
    ran = scene(monkeypatch, [north, Site("south", online=False)], wait=wait, session_of=session_of)
    with pytest.raises(RunError):
        ran.run()
    return ran, north, checks


def test_who_is_not_believed_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    ran, north, checks = _checked(monkeypatch, lambda n: stated(epsilon=1.0 + n), "epsilon is 2", restarts=False)
    assert (len(checks), north.count("offer")) == (1, 1)
    assert [e["code"] for e in ran.events if e["event"] == "offer"] == ["bad_request"]
    (warning,) = [e["text"] for e in ran.events if e["event"] == "warning"]
    assert warning == "north: its privacy statement is not accepted: epsilon is 2."


@pytest.mark.parametrize("fault", ["epsilon is 2", None])
def test_a_site_that_starts_anew_buys_few_checks(monkeypatch: pytest.MonkeyPatch, fault: str | None) -> None:
    """Of 20,000 seconds: 40, 80, 160 and so on lie between them, whether or not each was believed."""
    _, north, checks = _checked(monkeypatch, lambda n: stated(epsilon=1.0 + n), fault, restarts=True)
    assert 5 <= len(checks) <= 11
    assert north.count("offer") == len(checks)


def test_a_site_that_keeps_to_its_statement_is_checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    _, north, checks = _checked(monkeypatch, lambda _n: stated(), None, restarts=True, wait=1000.0)
    assert len(checks) == 1
    assert north.count("offer") > 50  # and is offered the plan whenever it was started anew


def test_a_site_that_starts_anew_all_the_time_is_offered_the_plan_a_bounded_number_of_times(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each answer is a line in two files of the server: a site must not fill its disk by coming anew."""
    _, north, _ = _checked(monkeypatch, lambda _n: stated(), None, restarts=True, wait=5000.0)
    assert 400 < north.count("offer") < 20 + 5000 / 10 + 3


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
    expected = _expected([[], ["north", "south"], ["north", "south"]])
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
    sites = [*_three(), Site("late", online=False)]

    def swap(site: Site, message: Message, request: Request) -> list[Message]:
        sites[0].online, sites[3].online = False, True
        return sound(site, message, request)

    sites[2].train = swap  # after its first round north is gone and late is there
    ran = scene(monkeypatch, sites, plan(training={"rounds": 3})).run()
    assert ran.rounds()[0]["cohort"] == ["east", "north", "south"]
    assert [row["cohort"] for row in ran.rounds()[1:]] == [["east", "late", "south"]] * 2
    assert [site.count("finish") for site in sites] == [0, 1, 1, 1]


def test_the_end_is_told_to_every_site_that_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    sites = [*_three(), Site("unwilling", offer=coded(Code.REFUSED_POLICY)), Site("away", online=False)]
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
    ran = scene(monkeypatch, _three())
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
