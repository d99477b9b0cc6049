"""Server and sites over real gRPC and TLS: rounds, restarts, kills, stops."""

import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, RecordDict

from privet.client.link import LinkEvent
from privet.client.wire import Wire
from privet.common.errors import RunError, TransportError
from privet.server.fleet import Fleet
from tests.integration.sites import Hall, Scene, ask, echo, eventually, record, text_of, texts
from tests.integration.tls import new_key


def test_two_sites_answer_two_rounds_and_leave(scene: Scene) -> None:
    sites = [scene.site("north"), scene.site("south")]
    scene.gather("north", "south")
    seen: list[Message] = []
    with scene.fleet.run() as grid:
        grid.on_reply = seen.append
        assert texts(scene.fleet, ask(grid, "one", 20.0)) == {"north": "ONE", "south": "ONE"}
        assert texts(scene.fleet, ask(grid, "two", 20.0)) == {"north": "TWO", "south": "TWO"}
    assert len(seen) == 4
    assert len(scene.fleet.store) == 0
    for site in sites:
        site.close()
        assert site.error is None
        assert [event for event, _ in site.events] == [
            LinkEvent.CONNECTING,
            LinkEvent.ONLINE,
            LinkEvent.WORKING,
            LinkEvent.IDLE,
            LinkEvent.WORKING,
            LinkEvent.IDLE,
            LinkEvent.STOPPED,
        ]
    assert scene.fleet.online() == {}


def test_arrays_of_several_chunks_come_back_bit_by_bit(scene: Scene) -> None:
    values = np.random.default_rng(3).normal(size=(1500, 1200)).astype("<f4")  # 7.2 MB, over Flower's 5 MB chunks
    content = RecordDict(
        {"arrays": ArrayRecord({"a": Array(values), "b": Array(values[:3]), "zero": Array(values * 0)})}
    )
    scene.site("north", lambda request: request)
    scene.gather("north")
    with scene.fleet.run() as grid:
        (reply,) = grid.send_and_receive(
            [grid.create_message(content, "train", grid.get_node_ids()[0], "1")], timeout=20.0
        )
    arrays = reply.content.array_records["arrays"]
    assert np.array_equal(arrays["a"].numpy(), values)
    assert np.array_equal(arrays["b"].numpy(), values[:3])


def test_push_and_pull_by_hand(scene: Scene) -> None:
    scene.site("north")
    scene.gather("north")
    with scene.fleet.run() as grid:
        (node,) = grid.get_nodes()
        ids = grid.push_messages([grid.create_message(record("hello"), "train", node.node_id, "1")])
        replies: list[Message] = []

        def collect() -> bool:
            replies.extend(grid.pull_messages(ids))
            return bool(replies)

        assert eventually(collect)
        assert texts(scene.fleet, replies) == {"north": "HELLO"}
        assert len(scene.fleet.store) == 0


def test_reply_of_a_run_that_is_over_is_dropped(scene: Scene) -> None:
    released = threading.Event()

    def late(request: RecordDict) -> RecordDict:
        if text_of(request) == "first":
            released.wait(20.0)
        return echo(request)

    site = scene.site("north", late)
    scene.gather("north")
    with scene.fleet.run() as grid:
        assert ask(grid, "first", 1.0) == []
    released.set()
    assert site.saw(LinkEvent.FAILED)
    assert site.events[-1] == (
        LinkEvent.FAILED,
        "the server did not take the reply: the run that it belongs to is over",
    )
    with scene.fleet.run() as grid:
        assert texts(scene.fleet, ask(grid, "second", 20.0)) == {"north": "SECOND"}


def test_late_reply_does_not_reach_the_next_round(scene: Scene) -> None:
    released = threading.Event()

    def late(request: RecordDict) -> RecordDict:
        if text_of(request) == "first":
            released.wait(20.0)
        return echo(request)

    scene.site("north", late)
    scene.gather("north")
    with scene.fleet.run() as grid:
        assert ask(grid, "first", 1.0) == []
        threading.Timer(0.3, released.set).start()
        assert texts(scene.fleet, ask(grid, "second", 20.0)) == {"north": "SECOND"}
        assert len(scene.fleet.store) == 0


def test_killed_and_restarted_site_gets_its_message_again(scene: Scene, tmp_path: Path) -> None:
    scene.site("north")
    victim = scene.process("south", "hang", tmp_path / "south")
    scene.gather("north", "south")
    with scene.fleet.run() as grid:
        replies: list[Message] = []
        round_ = threading.Thread(target=lambda: replies.extend(ask(grid, "hello", 30.0)))
        round_.start()
        assert victim.saw(LinkEvent.WORKING)
        victim.kill()
        scene.process("south", "echo", tmp_path / "south")
        round_.join(30.0)
    assert texts(scene.fleet, replies) == {"north": "HELLO", "south": "HELLO"}


def test_killed_site_is_absent_at_the_deadline(scene: Scene, tmp_path: Path) -> None:
    scene.site("north")
    victim = scene.process("south", "hang", tmp_path / "south")
    scene.gather("north", "south")
    with scene.fleet.run() as grid:
        killer = victim.once_working(victim.kill)
        began = time.monotonic()
        replies = ask(grid, "hello", 3.0)
        took = time.monotonic() - began
        killer.join()
        assert len(scene.fleet.store) == 0  # a reply that came now would be refused
    assert 2.9 < took < 8.0
    assert texts(scene.fleet, replies) == {"north": "HELLO"}


def test_site_that_leaves_and_stays_away_is_an_error_after_the_grace(scene: Scene) -> None:
    scene.site("north")
    leaver = scene.site("south", lambda _: exit(0))  # ends the site's thread in the middle of an answer
    scene.gather("north", "south")
    with scene.fleet.run() as grid:
        grid.grace = 1.0
        replies = ask(grid, "hello", 20.0)
    assert isinstance(leaver.error, SystemExit)
    assert texts(scene.fleet, replies) == {"north": "HELLO", "south": "!site left"}


def test_stop_during_an_answer_delivers_the_reply_and_leaves(scene: Scene) -> None:
    def slow(request: RecordDict) -> RecordDict:
        site.stop.set()
        time.sleep(0.5)
        return echo(request)

    site = scene.site("north", slow)
    scene.gather("north")
    with scene.fleet.run() as grid:
        assert texts(scene.fleet, ask(grid, "last", 20.0)) == {"north": "LAST"}
    assert site.ended()
    assert site.error is None
    assert scene.fleet.online() == {}


def test_sigterm_in_an_answer_delivers_the_reply(scene: Scene, tmp_path: Path) -> None:
    process = scene.process("north", "slow", tmp_path / "north")
    scene.gather("north")
    with scene.fleet.run() as grid:
        terminator = process.once_working(process.terminate)
        assert texts(scene.fleet, ask(grid, "last", 20.0)) == {"north": "LAST"}
        terminator.join()
    assert process.wait() == (0, "")
    assert scene.fleet.online() == {}


def test_site_comes_back_by_itself_to_a_restarted_server(scene: Scene) -> None:
    site = scene.site("north")
    scene.gather("north")
    (before,) = scene.fleet.online()
    database = scene.fleet._database
    scene.fleet.close()
    assert site.saw(LinkEvent.RETRYING)
    text = next(text for event, text in site.events if event is LinkEvent.RETRYING)
    assert text.startswith(f"{scene.address} cannot be reached; next try in ")
    scene.fleet = scene.hall.fleet(scene.keys, database=database, port=int(scene.address.rpartition(":")[2]))
    scene.fleet.start()
    scene.gather("north")
    assert list(scene.fleet.online()) == [before]
    with scene.fleet.run() as grid:
        assert texts(scene.fleet, ask(grid, "again", 20.0)) == {"north": "AGAIN"}


def test_site_registers_anew_with_a_server_that_lost_its_database(scene: Scene) -> None:
    scene.site("north")
    scene.gather("north")
    scene.fleet.close()
    scene.fleet = scene.hall.fleet(scene.keys, port=int(scene.address.rpartition(":")[2]))
    scene.fleet.start()
    scene.gather("north")


def test_newer_instance_takes_over_and_the_message_is_redelivered(scene: Scene) -> None:
    released = threading.Event()

    def stuck(request: RecordDict) -> RecordDict:
        released.wait(20.0)
        return echo(request)

    older = scene.site("north", stuck)
    scene.gather("north")
    with scene.fleet.run() as grid:
        starter = threading.Thread(target=lambda: older.saw(LinkEvent.WORKING) and scene.site("north"))
        starter.start()
        assert texts(scene.fleet, ask(grid, "whose", 20.0)) == {"north": "WHOSE"}
        starter.join()
    released.set()
    assert "Another instance of this site" in str(older.refusal())


def test_answer_that_raises_is_told_to_the_operator_only(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[bytes] = []
    call = Wire.call

    def spy(self: Wire, method: str, request: Any, **options: Any) -> Any:
        sent.append(request.SerializeToString())
        return call(self, method, request, **options)

    monkeypatch.setattr(Wire, "call", spy)

    def leak(_: RecordDict) -> RecordDict:
        raise KeyError("patient 4711 has the flu")

    failing, sound = scene.site("north", leak), scene.site("south")
    scene.gather("north", "south")
    with scene.fleet.run() as grid:
        assert texts(scene.fleet, ask(grid, "hello", 20.0)) == {"north": "!unavailable", "south": "HELLO"}
        assert texts(scene.fleet, ask(grid, "again", 20.0)) == {"north": "!unavailable", "south": "AGAIN"}
    assert any(b"unavailable" in message for message in sent)
    assert not any(word in message for message in sent for word in (b"4711", b"KeyError", b"the flu"))
    assert any(event is LinkEvent.FAILED and "4711" in text for event, text in failing.events)
    assert not failing.ended(0.0)
    assert sound.error is None


def test_reply_of_another_type_is_unavailable(scene: Scene) -> None:
    scene.site("north", lambda _: {"not": "a record"})
    scene.gather("north")
    with scene.fleet.run() as grid:
        assert texts(scene.fleet, ask(grid, "hello", 20.0)) == {"north": "!unavailable"}


def test_closing_ends_a_round_early(scene: Scene) -> None:
    def slow(request: RecordDict) -> RecordDict:
        time.sleep(3.0)
        return request

    scene.site("north", slow)
    scene.gather("north")
    began = time.monotonic()
    with scene.fleet.run() as grid:
        threading.Timer(0.5, scene.fleet.traffic.close).start()
        assert ask(grid, "hello", 20.0) == []
    assert time.monotonic() - began < 2.5


def test_wait_for_change_returns_when_a_site_comes(scene: Scene) -> None:
    scene.fleet.wait_for_change(0.0)
    threading.Timer(0.3, lambda: scene.site("north")).start()
    began = time.monotonic()
    scene.fleet.wait_for_change(20.0)
    assert time.monotonic() - began < 15.0
    scene.gather("north")


def test_one_run_at_a_time(scene: Scene) -> None:
    with scene.fleet.run(), pytest.raises(RunError, match="already under way"), scene.fleet.run():
        pass
    with scene.fleet.run():
        pass


def test_port_in_use_is_told_with_its_mend(scene: Scene) -> None:
    second = scene.hall.fleet(scene.keys, port=scene.fleet.port)
    with pytest.raises(TransportError, match=f"127.0.0.1:{scene.fleet.port}: The port is already in use.*another port"):
        second.start()
    second.close()


def test_serve_leaves_signal_handlers_alone(scene: Scene) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    scene.site("north").saw(LinkEvent.ONLINE)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.slow
def test_answer_longer_than_the_heartbeat_limit_keeps_the_registration(scene: Scene) -> None:
    def long(request: RecordDict) -> RecordDict:
        time.sleep(90.0)
        return echo(request)

    scene.site("north", long)
    scene.gather("north")
    with scene.fleet.run() as grid:
        grid.retries = 0
        assert texts(scene.fleet, ask(grid, "long", 120.0)) == {"north": "LONG"}


def test_fleet_can_be_named_before_it_starts(hall: Hall) -> None:
    fleet: Fleet = hall.fleet({"north": new_key()})
    assert fleet.online() == {}
    with pytest.raises(RunError, match="not started"), fleet.run():
        pass
    fleet.close()
