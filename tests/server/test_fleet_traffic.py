"""The books of what is under way, and the store of objects, without a network."""

import threading
import time

import pytest

from privet.server.fleet.flower import NoObjectInStoreError, ObjectTree
from privet.server.fleet.store import MemoryStore
from privet.server.fleet.traffic import Traffic, Upload


@pytest.fixture
def traffic() -> Traffic:
    traffic = Traffic()
    traffic.allow([1, 2])
    traffic.enter(1, "first")
    return traffic


def upload(message_id: str = "reply", reply_to: str = "m") -> Upload:
    return Upload(1, message_id, reply_to, frozenset({"a", "b"}), outstanding={"a", "b"})


def test_newest_process_of_a_site_speaks_for_it(traffic: Traffic) -> None:
    assert traffic.speaks_for(1, "first")
    traffic.enter(1, "second")
    assert not traffic.speaks_for(1, "first")
    assert traffic.speaks_for(1, "second")


def test_first_to_speak_after_a_restart_is_taken_for_the_newest() -> None:
    traffic = Traffic()
    traffic.allow([1])
    assert traffic.speaks_for(1, "early")
    assert not traffic.speaks_for(1, "late")


@pytest.mark.parametrize("event", ["enter", "leave", "pull", "removed"])
def test_message_in_hand_is_lost_once(traffic: Traffic, event: str) -> None:
    traffic.hand_out(1, "m")
    assert traffic.take_lost({"m"}) == set()
    match event:
        case "enter":
            traffic.enter(1, "second")
        case "leave":
            traffic.leave(1)
        case "pull":
            traffic.begin_pull(1)
        case "removed":
            traffic.allow([2])
    assert traffic.take_lost({"other"}) == set()
    assert traffic.take_lost({"m", "other"}) == {"m"}
    assert traffic.take_lost({"m"}) == set()


def test_answered_message_is_not_lost(traffic: Traffic) -> None:
    traffic.hand_out(1, "m")
    reply = upload()
    traffic.begin(reply)
    traffic.expect(reply, "session", ["a", "b"])
    traffic.arrived(reply, "a")
    assert not reply.complete
    assert traffic.collected(1)
    traffic.arrived(reply, "b")
    assert reply.complete
    assert not traffic.collected(1)
    traffic.begin_pull(1)
    assert traffic.take_lost({"m"}) == set()
    traffic.end("reply")
    assert traffic.collected(1)
    assert traffic.upload_in("session") is None


def test_announced_reply_is_not_complete_before_flower_accepted_it(traffic: Traffic) -> None:
    reply = upload()
    traffic.begin(reply)
    assert not reply.complete
    traffic.expect(reply, "session", [])  # another site sent the same objects
    assert reply.complete


def test_reply_announced_again_replaces_the_first(traffic: Traffic) -> None:
    first, second = upload(), upload()
    traffic.begin(first)
    traffic.expect(first, "one", ["a"])
    traffic.begin(second)
    traffic.expect(second, "two", ["a"])
    assert traffic.upload_in("one") is None
    assert traffic.upload_in("two") is second


def test_bytes_are_counted_against_the_limit(traffic: Traffic) -> None:
    reply = upload()
    assert traffic.reserve(reply, 60, 100)
    assert not traffic.reserve(reply, 41, 100)
    assert traffic.reserve(reply, 40, 100)


def test_older_pull_is_known(traffic: Traffic) -> None:
    first, second = traffic.begin_pull(1), traffic.begin_pull(1)
    assert not traffic.is_newest_pull(1, first)
    assert traffic.is_newest_pull(1, second)


def test_change_wakes_who_waits_and_time_passes_without(traffic: Traffic) -> None:
    began = time.monotonic()
    traffic.wait(traffic.version, 0.2)
    assert time.monotonic() - began >= 0.2
    threading.Timer(0.1, lambda: traffic.post([1])).start()
    traffic.wait(traffic.version, 20.0)
    assert time.monotonic() - began < 10.0
    assert traffic.has_mail(1)
    traffic.take_mail(1)
    assert not traffic.has_mail(1)


def test_closing_wakes_everybody(traffic: Traffic) -> None:
    threading.Timer(0.1, traffic.close).start()
    began = time.monotonic()
    traffic.wait_until(lambda: False, 20.0)
    assert time.monotonic() - began < 10.0


def test_site_heard_of_again_is_a_change(traffic: Traffic, monkeypatch: pytest.MonkeyPatch) -> None:
    traffic.hear(1)
    version = traffic.version
    traffic.hear(1)
    assert traffic.version == version
    now = time.monotonic() + 61.0
    monkeypatch.setattr("privet.server.fleet.traffic.time.monotonic", lambda: now)
    traffic.hear(1)
    assert traffic.version > version


def tree(root: str, *children: str) -> ObjectTree:
    return ObjectTree(object_id=root, children=[ObjectTree(object_id=child) for child in children])


def test_shared_object_lives_as_long_as_one_message_holds_it() -> None:
    store = MemoryStore()
    assert store.preregister(1, tree("m1", "shared", "own")) == ["shared", "own", "m1"]
    assert store.preregister(1, tree("m2", "shared")) == ["shared", "m2"]
    store.put("shared", b"s")
    assert store.preregister(1, tree("m3", "shared")) == ["m3"]
    for root in ("m1", "m3"):
        store.delete(root)
    assert store.get("shared") == b"s"
    assert store.get("own") is None
    store.delete("m2")
    assert len(store) == 0


def test_objects_of_a_message_are_its_own() -> None:
    store = MemoryStore()
    store.preregister(1, tree("m1", "a"))
    store.preregister(1, tree("a"))  # a hostile site registers m1's child as its message, without children
    store.delete("a")
    assert store.holds("m1", "a")
    assert not store.holds("a", "a")
    assert store.contents("m1") is None
    store.put("a", b"1")
    store.put("m1", b"2")
    assert store.contents("m1") == {"a": b"1", "m1": b"2"}
    assert store.get_object_tree("m1") == tree("m1", "a")


def test_deleting_a_child_deletes_nothing() -> None:
    store = MemoryStore()
    store.preregister(1, tree("m1", "a"))
    store.delete("a")
    assert "a" in store


def test_unknown_objects_are_refused() -> None:
    store = MemoryStore()
    with pytest.raises(NoObjectInStoreError):
        store.put("a", b"1")
    with pytest.raises(NoObjectInStoreError):
        store.get_object_tree("a")
    assert store.contents("a") is None


def test_end_of_a_run_frees_its_objects_only() -> None:
    store = MemoryStore()
    store.preregister(1, tree("m1", "a"))
    store.preregister(2, tree("m2", "a", "b"))
    store.delete_objects_in_run(1)
    assert not store.registered("m1")
    assert store.registered("m2")
    assert len(store) == 3
    store.clear()
    assert len(store) == 0
