"""What sites answer: one bad reply never ends a round, a statement is held against the plan."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict

from privet.common.adapter import MAX_WEIGHT, digest
from privet.common.errors import Code, RunError
from privet.common.messages import Request, TrainBody
from privet.common.privacy.statement import Statement
from tests.server.scripted import (
    Scene,
    Site,
    aggregated,
    coded,
    from_node,
    plan,
    record,
    reply_to,
    scene,
    silent,
    sound,
    three,
    update_of,
)
from tests.server.statements import stated

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
    ran = scene(monkeypatch, three(train=answer)).run()
    for row in ran.rounds():
        assert row["answered"] == ["east", "south"]
        assert row["failed"] == {"north": code}
        assert row["missing"] == []
        assert row["aggregated"]
    assert digest(ran.strategy.state.arrays) == digest(aggregated([["south", "east"]] * 2).arrays)
    assert ran.grid.nodes[11].count("train") == 2  # it is not shut out


def test_a_site_that_does_not_answer_is_named_as_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = scene(monkeypatch, three(train=silent)).run()
    assert [row["missing"] for row in ran.rounds()] == [["north"]] * 2
    assert [row["answered"] for row in ran.rounds()] == [["east", "south"]] * 2
    assert digest(ran.strategy.state.arrays) == digest(aggregated([["south", "east"]] * 2).arrays)


def test_of_several_replies_of_one_site_the_first_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    def twice(site: Site, message: Message, request: Request) -> list[Message]:
        huge = {name: np.full_like(array, 1e4) for name, array in update_of("x", 1).items()}
        assert isinstance(request.body, TrainBody)
        more = [reply_to(message, record(request.body.plan_digest, request.body.round, huge)) for _ in range(3)]
        return [*sound(site, message, request), *more, *coded(Code.REFUSED_POLICY)(site, message, request)]

    ran = scene(monkeypatch, three(train=twice)).run()
    assert [row["answered"] for row in ran.rounds()] == [["east", "north", "south"]] * 2
    assert digest(ran.strategy.state.arrays) == digest(aggregated([["north", "south", "east"]] * 2).arrays)


def test_a_first_reply_that_is_bad_cannot_be_mended(monkeypatch: pytest.MonkeyPatch) -> None:
    def bad_then_good(site: Site, message: Message, request: Request) -> list[Message]:
        return [reply_to(message, RecordDict()), *sound(site, message, request)]

    ran = scene(monkeypatch, three(train=bad_then_good)).run()
    assert [row["failed"] for row in ran.rounds()] == [{"north": "unavailable"}] * 2
    assert [row["answered"] for row in ran.rounds()] == [["east", "south"]] * 2


@pytest.mark.parametrize("node", [0, 1, 99, 2**63 - 1])
def test_a_stranger_has_no_part_in_a_round(monkeypatch: pytest.MonkeyPatch, node: int) -> None:
    def with_stranger(site: Site, message: Message, request: Request) -> list[Message]:
        assert isinstance(request.body, TrainBody)
        forged = record(request.body.plan_digest, request.body.round, update_of("stranger", 1))
        return [from_node(message, forged, node), *sound(site, message, request)]

    ran = scene(monkeypatch, three(train=with_stranger)).run()
    assert [row["answered"] for row in ran.rounds()] == [["east", "north", "south"]] * 2
    assert digest(ran.strategy.state.arrays) == digest(aggregated([["north", "south", "east"]] * 2).arrays)


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
    ran = scene(monkeypatch, three(), wait=10.0)

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
    sites = three(offer=NO_CONSENT[kind])
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
    sites = three(train=coded(code))
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
