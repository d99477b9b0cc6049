"""How the agent's process ends: after which replies, and with which exit code."""

import os
import signal
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from privet.client import app
from privet.client.app import _Serving
from privet.client.ledger import Ledger, ledger_path
from privet.client.resources import Hours
from privet.common.config import Site
from privet.common.errors import Code, RefusedError, TransportError
from privet.common.keys import new_site_key
from privet.common.messages import FinishBody, Reply, ReplyBody, Request, parse_reply, to_record
from privet.common.privacy.noise import SecureNoise
from tests.client.agent_bench import site_of

DIGEST = "5e" * 32


def _serving(*, stay: bool, finished: bool, held: Code | None) -> tuple[Any, threading.Event, list[Any]]:
    stop, noises = threading.Event(), list[Any]()
    serving: Any = _Serving.__new__(_Serving)

    def answer(_request: Request, noise: Any) -> Reply:
        noises.append(noise)
        return Reply(ReplyBody(code=held or Code.OK, plan_digest=DIGEST))

    serving._site, serving.stop, serving._noise = SimpleNamespace(stay=stay, federation=["a"]), stop, SecureNoise()
    serving.federation, serving._turn = "a", threading.Lock()
    serving._on_event = lambda _event: None
    serving._hours, serving._rehearsals = Hours(()), SimpleNamespace(close=lambda: None, expected_values=None)
    audit = SimpleNamespace(refused=lambda *_, **__: None)
    serving._agent = SimpleNamespace(answer=answer, finished=finished, held=held, expected_values=None, audit=audit)
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


# Several federations


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "ca.crt").write_bytes(b"authority")
    new_site_key(tmp_path / "k")
    table = {"ca": tmp_path / "ca.crt", "key": tmp_path / "k", "epsilon": 4.0, "delta": 5e-6}
    return site_of(
        tmp_path, federation={"one": table | {"address": "localhost:1"}, "two": table | {"address": "localhost:2"}}
    )


def test_every_federation_of_the_file_is_served_at_once_and_a_signal_ends_all(
    two: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[str] = []

    def serve(*, address: str, stop: threading.Event, **_: Any) -> None:
        served.append(address)
        if len(served) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.wait(30)

    monkeypatch.setattr(app, "serve", serve)
    app.run_client(two, lambda _event: None)
    assert sorted(served) == ["localhost:1", "localhost:2"]


def test_one_federation_out_of_reach_does_not_stop_the_other_and_is_told(
    two: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed, told = threading.Event(), list[dict[str, object]]()

    def serve(*, address: str, **_: Any) -> None:
        if address == "localhost:1":
            failed.set()
            raise TransportError("another authority")
        assert failed.wait(30)

    monkeypatch.setattr(app, "serve", serve)
    with pytest.raises(TransportError, match="another authority"):
        app.run_client(two, told.append)
    assert any(event["event"] == "error" and "one: another authority" in str(event["text"]) for event in told)


def test_a_ledger_that_was_put_back_is_refused_before_anything_connects(
    two: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "serve", lambda **_: pytest.fail("connected"))
    path = ledger_path(two.data.id)
    with Ledger.open(path, agent=True):
        pass
    monkeypatch.setattr(Ledger, "behind", lambda _self: ["an older copy"])
    with pytest.raises(RefusedError, match="--charge-all") as caught:
        app.run_client(two, lambda _event: None)
    assert caught.value.code is Code.LEDGER_BEHIND
