"""Hostile replies through the whole strategy: the round goes on without that site, which is named."""

from collections.abc import Callable
from typing import Any

import pytest
from flwr.app import Error, Message, RecordDict
from hypothesis import HealthCheck, Phase, given, seed, settings

from privet.common.adapter import digest
from privet.common.errors import WireError
from privet.common.messages import Request
from privet.common.methods import Update, method_for
from tests.fuzz.mutation import mutants
from tests.fuzz.oracle import PLAN, REPLY, ROUND
from tests.fuzz.strategies import malformed
from tests.server.scripted import SPEC, Site, initial, plan, record, reply_to, scene, sound, update_of

FEW, MANY = 40, 1_000
OTHERS = ("east", "south")


def expected() -> str:
    """The adapter's digest where all three answered the first round, and the others alone the second."""
    method = method_for(plan())
    state = method.init(initial())
    for number, names in ((1, ("east", "north", "south")), (ROUND, OTHERS)):
        state = method.aggregate(
            SPEC, state, number, [Update(update_of(name, number), 1 / len(names)) for name in names]
        )
    return digest(state.arrays)


EXPECTED = expected()


def run(answer: Callable[[Message], list[Message]]) -> None:
    """A federation whose site north answers its second round like this. Nobody else may notice."""

    def train(site: Site, message: Message, request: Request) -> list[Message]:
        number = request.body.round  # type: ignore[union-attr]
        return answer(message) if number == ROUND else sound(site, message, request)

    with pytest.MonkeyPatch.context() as patch:
        ran = scene(patch, [Site("north", train=train), Site("south"), Site("east")]).run()
    first, second = ran.rounds()
    assert first["answered"] == ["east", "north", "south"]
    assert second["answered"] == list(OTHERS)
    assert list(second["failed"]) == ["north"]
    assert second["failed"]["north"] != "ok"
    assert second["missing"] == []
    assert second["aggregated"]
    assert digest(ran.strategy.state.arrays) == EXPECTED


def drawn(count: int) -> None:
    tried = 0

    @seed(21)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(malformed(REPLY))
    def check(content: RecordDict) -> None:
        nonlocal tried
        if not REPLY.is_sound(content):
            tried += 1
            run(lambda message: [reply_to(message, content)])

    check()
    assert tried > 0.9 * count


def mutated(count: int) -> None:
    """As bytes, through the Grid's own way of assembling a reply."""
    tried = 0
    for root, contents in mutants(REPLY, 21, count):
        answer: Any
        try:
            message = REPLY.inflate(root, contents)
            answer = message.error if message.has_error() else message.content
        except WireError as error:
            answer = Error(0, error.what)
        if isinstance(answer, Error) or not REPLY.is_sound(answer):
            tried += 1
            run(lambda message, answer=answer: [reply_to(message, answer)])  # type: ignore[misc]
    assert tried > 0.7 * count


def test_hostile_replies_never_end_a_round() -> None:
    drawn(FEW)
    mutated(FEW)


@pytest.mark.slow
def test_thousands_of_hostile_replies_never_end_a_round() -> None:
    drawn(MANY)
    mutated(MANY)


OUT_OF_TURN: dict[str, Callable[[Message], list[Message]]] = {
    "late": lambda message: [reply_to(message, record(PLAN, ROUND - 1, update_of("north", ROUND - 1)))],
    "before it was asked": lambda message: [reply_to(message, record(PLAN, ROUND + 1, update_of("north", ROUND + 1)))],
    "for another plan": lambda message: [reply_to(message, record("ab" * 32, ROUND, update_of("north", ROUND)))],
    "late, then in time": lambda message: [
        reply_to(message, record(PLAN, ROUND - 1, update_of("north", ROUND - 1))),
        reply_to(message, record(PLAN, ROUND, update_of("north", ROUND))),
    ],
    "an empty one": lambda message: [reply_to(message, RecordDict())],
    "an error, then an answer": lambda message: [
        reply_to(message, Error(0, "x")),
        reply_to(message, record(PLAN, ROUND, update_of("north", ROUND))),
    ],
}


@pytest.mark.parametrize("when", OUT_OF_TURN)
def test_an_answer_out_of_turn_does_not_count(when: str) -> None:
    run(OUT_OF_TURN[when])


def test_an_answer_given_twice_counts_once() -> None:
    """The second would otherwise weigh the site double, or replace what was checked."""

    def twice(site: Site, message: Message, request: Request) -> list[Message]:
        return 2 * sound(site, message, request)

    with pytest.MonkeyPatch.context() as patch:
        doubled = scene(patch, [Site("north", train=twice), Site("south"), Site("east")]).run()
        single = scene(patch, [Site("north"), Site("south"), Site("east")]).run()
    assert [row["answered"] for row in doubled.rounds()] == [["east", "north", "south"]] * 2
    assert digest(doubled.strategy.state.arrays) == digest(single.strategy.state.arrays)
