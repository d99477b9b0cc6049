"""What the link tells the operator about a request that failed: text, and nothing that steers a terminal."""

import threading
from typing import Any

import pytest

from privet.client import link as link_module
from privet.client.calls import DroppedError, LinkEvent
from privet.client.link import _Link


class _Calls:
    def __init__(self) -> None:
        self.said: list[tuple[LinkEvent, str]] = []

    def say(self, event: LinkEvent, text: str) -> None:
        self.said.append((event, text))


def _bench(monkeypatch: pytest.MonkeyPatch, fault: Exception) -> tuple[Any, Any]:
    link: Any = object.__new__(_Link)

    def fetch(*_: Any) -> None:
        raise fault

    link._calls, link._fetch, link._deliver, link._stop = _Calls(), fetch, lambda *_: None, threading.Event()
    monkeypatch.setattr(link_module, "Message", lambda *_, **__: None)
    return link, link._calls


def test_what_an_exception_says_of_a_request_cannot_steer_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    link, calls = _bench(monkeypatch, ValueError("\x1b[2Jowned\u202e" + "x" * 100_000))
    link._handle(None, None, None)
    (event, text), _ = calls.said
    assert event is LinkEvent.FAILED
    assert "ValueError: \ufffd[2Jowned\ufffd" in text
    assert text.isprintable()
    assert len(text) <= 20_000


def test_what_a_dropped_message_says_cannot_steer_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    link, calls = _bench(monkeypatch, DroppedError("\x1b[2Jowned"))

    class _Answer:
        messages_list = message_object_trees = (None,)

    answers = iter([_Answer()])

    def demand(*_: Any) -> Any:
        try:
            return next(answers)
        except StopIteration:
            raise KeyboardInterrupt from None  # the end of this test's server

    calls.demand = demand
    monkeypatch.setattr(link_module, "PullMessagesRequest", lambda **_: None)
    monkeypatch.setattr(link_module, "message_from_proto", lambda _: None)
    with pytest.raises(KeyboardInterrupt):
        link._attend(None)
    assert calls.said == [(LinkEvent.FAILED, "the server did not take the reply: \ufffd[2Jowned")]
