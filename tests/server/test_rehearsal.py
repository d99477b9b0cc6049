"""The server's half of a rehearsal, over scripted sites: every fault is told in its site's name, nothing is kept."""

from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import pytest
from flwr.app import Error, Message, RecordDict

from privet.common.errors import Code
from privet.common.messages import Reply, ReplyBody, to_record
from privet.common.rehearsal import (
    RehearsalEndBody,
    RehearsalReply,
    RehearsalReplyBody,
    RehearsalReport,
    RehearsalRequest,
    RehearsalRoundBody,
    parse_rehearsal,
)
from privet.server.live import View
from privet.server.rehearsal import Rehearsal
from tests.server.scripted import SPEC, Clock, ScriptedGrid, initial, plan, reply_to, update_of

Answer = Callable[[RehearsalRequest], RecordDict | Error | None]


def replied(request: RehearsalRequest, code: Code = Code.OK, arrays: Any = None, **more: Any) -> RecordDict:
    number = request.body.round if isinstance(request.body, RehearsalRoundBody) else 0
    report = RehearsalReport(seconds=0.5, prepare_seconds=2.0, peak_bytes=10**8) if code is Code.OK else None
    body: dict[str, Any] = {
        "code": code,
        "plan_digest": request.body.plan_digest,
        "round": number,
        "report": report,
    } | more
    return to_record(RehearsalReply(RehearsalReplyBody(**body), arrays or {}))


def sound(request: RehearsalRequest) -> RecordDict:
    is_round = isinstance(request.body, RehearsalRoundBody)
    return replied(request, arrays=update_of("any", 1) if is_round else None)


def coded(code: Code) -> Answer:
    return lambda request: replied(request, code)


def in_a_round(answer: Answer) -> Answer:
    return lambda request: answer(request) if isinstance(request.body, RehearsalRoundBody) else sound(request)


def old(request: RehearsalRequest) -> RecordDict:
    return to_record(Reply(ReplyBody(code=Code.BAD_REQUEST, plan_digest="0" * 64)))


def an_update(request: RehearsalRequest) -> RecordDict:
    """The reply to a training request."""
    return to_record(Reply(ReplyBody(code=Code.OK, plan_digest=request.body.plan_digest, round=1), update_of("any", 1)))


def poisoned(request: RehearsalRequest) -> RecordDict:
    return replied(request, arrays=update_of("any", 1) | {"head.bias": np.full(3, np.nan, np.float32)})


def misshapen(request: RehearsalRequest) -> RecordDict:
    return replied(request, arrays=update_of("any", 1) | {"head.bias": np.zeros(4, np.float32)})


class Site:
    def __init__(self, name: str, answer: Answer = sound, online: bool = True) -> None:
        self.name, self.online, self._answer = name, online, answer
        self.heard: list[str] = []

    def answer(self, message: Message) -> list[Message]:
        request = parse_rehearsal(message.content)
        assert request is not None
        self.heard.append(request.body.kind)
        content = self._answer(request)
        return [] if content is None else [reply_to(message, content)]


def rehearsed(
    monkeypatch: pytest.MonkeyPatch, *sites: Site, rounds: int = 2, wait: float = 1000.0, **more: Any
) -> tuple[Rehearsal, list[dict[str, Any]], Clock]:
    clock, events = Clock(), list[dict[str, Any]]()
    monkeypatch.setattr("privet.server.rehearsal.time", clock)
    grid = ScriptedGrid(sites)  # type: ignore[arg-type]
    made = Rehearsal(
        plan(),
        SPEC,
        initial(),
        grid,
        enrolled=lambda: {site.name for site in sites},
        name_of=lambda node: sites[node - 11].name,
        session_of=lambda node: sites[node - 11],
        pause=clock.pause,
        on_event=events.append,
        **more,
    )
    ready = made.gather(wait)
    for number in range(1, rounds + 1):
        made.round(number, ready)
    made.end(ready)
    return made, events, clock


def test_sound_sites_pass_and_are_told_that_it_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    sites = Site("a"), Site("b")
    made, events, clock = rehearsed(monkeypatch, *sites)
    assert clock.now == 1000.0  # nobody waited
    assert [one.heard for one in sites] == [["rehearsal_offer", *["rehearsal_round"] * 2, "rehearsal_end"]] * 2
    for found in made.found.values():
        assert found.passed
        assert found.prepare_seconds == 2.0
        size = sum(array.nbytes for array in initial().values())
        assert [(row["bytes_down"], row["bytes_up"], row["seconds"]) for row in found.rounds] == [(size, size, 0.5)] * 2
    assert made.estimate() is not None
    view = View("test")
    lines = [view.feed(event) for event in events]
    assert lines[0] == "a: ready to rehearse"
    assert "0.5 s, 100 MB" in str(lines[2])


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (coded(Code.REFUSED_POLICY), "no consent"),
        (coded(Code.BASE_MISMATCH), "base model differs"),
        (coded(Code.ADAPTER_MISMATCH), "another version"),
        (coded(Code.OUTSIDE_HORIZON), "enough for today"),
        (old, "another version of privet"),
        (lambda _request: None, "no answer in time"),
        (lambda _request: Error(1, "boom"), "could not"),
        (lambda request: replied(request, plan_digest="1" * 64), "malformed"),
        (in_a_round(lambda _request: None), "no answer in time"),
        (in_a_round(poisoned), "other names, shapes or values"),
        (in_a_round(misshapen), "other names, shapes or values"),
        (in_a_round(lambda request: replied(request)), "other names, shapes or values"),
        (in_a_round(an_update), "malformed"),
        (in_a_round(lambda request: replied(request, arrays=update_of("any", 1), report=None)), "malformed"),
        (in_a_round(coded(Code.UNAVAILABLE)), "could not"),
        (in_a_round(coded(Code.UNKNOWN_PLAN)), "started anew"),
    ],
)
def test_each_fault_is_told_in_its_site_s_name(answer: Answer, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made, _, _ = rehearsed(monkeypatch, Site("a"), Site("b", answer), Site("c"))
    assert made.found["a"].passed
    assert made.found["c"].passed
    assert not made.found["b"].passed
    assert words in made.found["b"].fault


def test_a_site_that_never_comes_is_named_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    made, _, clock = rehearsed(monkeypatch, Site("a"), Site("b", online=False), wait=50.0)
    assert clock.now == 1050.0
    assert made.found["a"].passed
    assert made.found["b"].fault == "never came"
    made, _, clock = rehearsed(monkeypatch, Site("a"), Site("b"), Site("c", online=False))
    assert clock.now == 1000.0  # the quorum is there
    assert not made.found["c"].passed


def test_an_offer_that_a_site_lost_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def take_lost(message_ids: Collection[str]) -> list[str]:
        return [message_id for message_id in message_ids if len(forgetful.heard) == 1]

    forgetful = Site("b", lambda request: None if len(forgetful.heard) == 1 else sound(request))
    made, _, clock = rehearsed(monkeypatch, Site("a"), forgetful, take_lost=take_lost)
    assert forgetful.heard.count("rehearsal_offer") == 2
    assert made.found["b"].passed
    assert clock.now < 1010.0


def test_a_site_that_says_yes_and_leaves_has_not_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    made, _, _ = rehearsed(monkeypatch, Site("a"), Site("b"), rounds=0)
    assert [found.passed for found in made.found.values()] == [False, False]
    assert made.found["a"].fault == "it left before the first round"
    assert made.estimate() is None


def test_an_end_is_no_round() -> None:
    with pytest.raises(ValueError, match="extra"):
        RehearsalEndBody.model_validate({"plan_digest": "0" * 64, "round": 1})
