"""A site whose hours end while it works: the reply arrives, then the site is gone; then it comes back."""

import threading
import time

import pytest
from flwr.app import RecordDict

from privet.client import resources
from privet.client.link import LinkEvent, serve
from privet.client.resources import Hours, attend
from tests.integration.sites import Scene, ask, echo, texts

pytestmark = pytest.mark.timeout(120)


def test_hours_that_end_in_a_round_let_its_reply_out(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "_LOOK_SECONDS", 0.05)
    now, stop, told = [9 * 60], threading.Event(), list[str]()
    heard: list[LinkEvent] = []

    def answer(request: RecordDict) -> RecordDict:
        now[0] = 10 * 60
        time.sleep(0.3)
        return echo(request)

    def connected(leave: threading.Event) -> None:
        serve(
            address=scene.address,
            ca=scene.ca,
            key=scene.keys["north"],
            answer=answer,
            stop=leave,
            on_event=lambda event, _text: heard.append(event),
        )

    hours = Hours(("09:00-10:00",), lambda: now[0])
    site = threading.Thread(target=lambda: attend(hours, stop, connected, told.append))
    site.start()
    try:
        scene.gather("north")
        with scene.fleet.run() as grid:
            assert texts(scene.fleet, ask(grid, "round", timeout=30)) == {"north": "ROUND"}
        scene.gather()
        assert told == ["outside [resources] hours until 09:00: this site is not connected."]
        now[0] = 9 * 60 + 30
        scene.gather("north")
        assert heard.count(LinkEvent.ONLINE) == 2
    finally:
        stop.set()
        site.join(30)
    assert not site.is_alive()
    scene.gather()
