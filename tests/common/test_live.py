"""Events told by several threads at once: every line of the output is one event, whole."""

import io
import json
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from privet.client import live as client_live
from privet.common.live import Listener
from privet.server import live as server_live


class Slow(io.StringIO):
    """Every write lets the other threads go first."""

    def write(self, text: str, /) -> int:
        written = super().write(text)
        time.sleep(1e-5)
        return written


@pytest.mark.parametrize("watch", [client_live.watch, server_live.watch], ids=["site", "server"])
def test_threads_never_share_a_line(
    watch: Callable[..., AbstractContextManager[Listener]], monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = Slow()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        with watch("title", as_json=True) as listener:
            threads = [threading.Thread(target=_tell, args=(listener, number)) for number in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    told = [json.loads(line) for line in stream.getvalue().splitlines()]
    for number in range(4):
        assert [event["turn"] for event in told if event["thread"] == number] == list(range(100))


def _tell(listener: Listener, number: int) -> None:
    for turn in range(100):
        listener({"event": "link", "thread": number, "turn": turn, "text": "x" * 200})
