"""How the agent's process ends: after which replies, and with which exit code."""

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from privet.client.app import _Serving
from privet.common.errors import Code, RefusedError
from privet.common.messages import FinishBody, Reply, ReplyBody, Request, parse_reply, to_record
from privet.common.privacy.noise import SecureNoise

DIGEST = "5e" * 32


def _serving(*, stay: bool, finished: bool, held: Code | None) -> tuple[Any, threading.Event, list[Any]]:
    stop, noises = threading.Event(), list[Any]()
    serving: Any = _Serving.__new__(_Serving)

    def answer(_request: Request, noise: Any) -> Reply:
        noises.append(noise)
        return Reply(ReplyBody(code=held or Code.OK, plan_digest=DIGEST))

    serving._site, serving._stop, serving._noise = SimpleNamespace(stay=stay), stop, SecureNoise()
    serving._on_event = lambda _event: None
    serving._agent = SimpleNamespace(answer=answer, finished=finished, held=held, expected_values=None)
    return serving, stop, noises


@pytest.mark.parametrize("stay", [False, True])
@pytest.mark.parametrize(("finished", "held"), [(True, None), (False, Code.PENDING), (False, Code.REFUSED_BUDGET)])
def test_it_ends_after_its_reply_unless_it_is_to_stay(stay: bool, finished: bool, held: Code | None) -> None:
    serving, stop, noises = _serving(stay=stay, finished=finished, held=held)
    record = serving.answer(to_record(Request(FinishBody(plan_digest=DIGEST))))
    assert parse_reply(record).code is (held or Code.OK)
    assert stop.is_set() is not stay
    assert [type(noise) for noise in noises] == [SecureNoise]


def test_it_goes_on_while_a_plan_is_served() -> None:
    serving, stop, _ = _serving(stay=False, finished=False, held=None)
    serving.answer(to_record(Request(FinishBody(plan_digest=DIGEST))))
    assert not stop.is_set()
    serving.conclude()


@pytest.mark.parametrize("held", [Code.PENDING, Code.REFUSED_POLICY])
def test_a_plan_that_is_not_served_ends_with_exit_3(held: Code) -> None:
    serving, _, _ = _serving(stay=False, finished=False, held=held)
    with pytest.raises(RefusedError) as caught:
        serving.conclude()
    assert caught.value.exit_code == 3
    assert caught.value.code is held


def test_a_malformed_request_gets_one_code_and_never_reaches_the_agent(tmp_path: Path) -> None:
    from flwr.app import ConfigRecord, RecordDict

    serving, stop, noises = _serving(stay=False, finished=True, held=None)
    record = serving.answer(RecordDict({"privet": ConfigRecord({"body": "{"})}))
    assert parse_reply(record).code is Code.BAD_REQUEST
    assert not noises
    assert not stop.is_set()
