"""Connections that die without a word, sites that stand still, answers that take long: nobody is given up too early."""

import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from flwr.app import Message, RecordDict

from privet.client import calls, wire
from privet.client.link import LinkEvent
from privet.server.fleet.service import LONG_POLL_SECONDS
from privet.server.fleet.traffic import PRESENCE_SECONDS
from tests.integration.relay import Relay
from tests.integration.sites import Scene, SiteThread, ask, echo, eventually, texts

NOTICE_SECONDS = wire.PULL_SECONDS
"""The longest that an idle site takes to notice a dead connection; a working one: a heartbeat and its limit."""


@pytest.fixture
def relay(scene: Scene) -> Iterator[Relay]:
    made = Relay(scene.address)
    yield made
    made.close()


def site_by(scene: Scene, relay: Relay, answer: object = echo) -> SiteThread:
    site = SiteThread(relay.address, scene.ca, scene.keys["north"], answer)  # type: ignore[arg-type]
    scene.on_end(site.stop.set)
    return site


def test_the_bounds_fit_together() -> None:
    assert LONG_POLL_SECONDS <= 20.0  # traffic on an idle connection at least this often
    assert LONG_POLL_SECONDS + 10.0 <= wire.PULL_SECONDS
    assert wire._HEARTBEAT_SECONDS * 2.5 <= PRESENCE_SECONDS  # one heartbeat may be lost


def test_an_idle_site_leaves_a_connection_that_went_silent(
    scene: Scene, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "PULL_SECONDS", 6.0)  # a busy machine takes its time for a handshake
    site = site_by(scene, relay)
    scene.gather("north")
    relay.silence()
    with scene.fleet.run() as grid:
        assert texts(scene.fleet, ask(grid, "anybody", 90.0)) == {"north": "ANYBODY"}
    assert relay.connections == 2
    assert site.error is None


def test_a_working_site_leaves_a_connection_that_went_silent_and_delivers(
    scene: Scene, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "_HEARTBEAT_SECONDS", 1.0)
    answered: list[str] = []

    def long(request: RecordDict) -> RecordDict:
        relay.silence()
        assert eventually(lambda: relay.connections == 2)  # by the heartbeats, while the answer is computed
        answered.append("once")
        return echo(request)

    site_by(scene, relay, long)
    scene.gather("north")
    with scene.fleet.run() as grid:
        assert texts(scene.fleet, ask(grid, "go on", 30.0)) == {"north": "GO ON"}
    assert answered == ["once"]


def test_objects_on_their_way_are_not_dropped_for_a_late_heartbeat(scene: Scene, relay: Relay) -> None:
    """A slow line delays heartbeats behind the upload that makes it slow."""
    site = site_by(scene, relay)
    scene.gather("north")
    made = wire.Wire.__new__(wire.Wire)
    made._turn, made._closed, made.generation = threading.RLock(), False, 0
    made._reconnect = lambda _: pytest.fail("reconnected")  # type: ignore[method-assign,assignment]
    made._transfers = 1
    made.reconnect(0)
    made._transfers, made.generation = 0, 1
    made.reconnect(0)  # somebody else was faster
    assert site.error is None


@pytest.mark.slow
def test_a_site_behind_a_firewall_that_forgot_it_is_back_within_the_bound(scene: Scene, relay: Relay) -> None:
    """With the real times: an idle one within PULL_SECONDS."""
    site_by(scene, relay)
    scene.gather("north")
    began = time.monotonic()
    relay.silence()
    assert eventually(lambda: relay.connections == 2, NOTICE_SECONDS + 10.0)
    assert time.monotonic() - began < NOTICE_SECONDS + 10.0
    with scene.fleet.run() as grid:
        assert texts(scene.fleet, ask(grid, "back", 20.0)) == {"north": "BACK"}


@pytest.mark.slow
def test_a_server_counts_a_site_that_went_silent_as_gone_within_a_minute(scene: Scene, tmp_path: Path) -> None:
    process = scene.process("north", "echo", tmp_path / "north")
    scene.gather("north")
    process.signal(signal.SIGSTOP)
    try:
        assert eventually(lambda: scene.fleet.online() == {}, PRESENCE_SECONDS + 10.0)
    finally:
        process.signal(signal.SIGCONT)
    scene.gather("north")


@pytest.mark.slow
def test_a_site_that_stood_still_gets_the_same_request_again(scene: Scene, tmp_path: Path) -> None:
    """Stopped in an answer for 75 s: its session is stale by then. The same content comes anew, so that an agent can
    answer from its stored reply.
    """
    process = scene.process("north", "slow", tmp_path / "north")
    scene.site("south")
    scene.gather("north", "south")
    with scene.fleet.run() as grid:
        replies: list[Message] = []
        round_ = threading.Thread(target=lambda: replies.extend(ask(grid, "hello", 150.0)))
        round_.start()
        assert process.saw(LinkEvent.WORKING)
        process.signal(signal.SIGSTOP)
        time.sleep(75.0)
        process.signal(signal.SIGCONT)
        round_.join(60.0)
        assert not round_.is_alive()
    assert texts(scene.fleet, replies) == {"north": "HELLO", "south": "HELLO"}
    assert len([line for line in process.lines if line.startswith("request ")]) == 2
    assert len({line for line in process.lines if line.startswith("request ")}) == 1


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["hashing", "holding"])
def test_a_long_round_that_keeps_the_interpreter_busy_keeps_its_registration(
    scene: Scene, tmp_path: Path, mode: str
) -> None:
    process = scene.process("north", mode, tmp_path / "north")
    scene.gather("north")
    seen: list[bool] = []
    with scene.fleet.run() as grid:
        grid.retries = 0  # a site that was counted as gone would fail the round
        replies: list[Message] = []
        round_ = threading.Thread(target=lambda: replies.extend(ask(grid, "long", 240.0)))
        round_.start()
        assert process.saw(LinkEvent.WORKING)
        while round_.is_alive():
            round_.join(1.0)
            seen.append(len(scene.fleet.online()) == 1)
    assert texts(scene.fleet, replies) == {"north": "LONG"}
    assert len(seen) > PRESENCE_SECONDS
    assert all(seen)
