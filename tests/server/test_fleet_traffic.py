"""The books of what is under way, and the store of objects, without a network."""

import threading
import time

import pytest

from privet.server.fleet.flower import NoObjectInStoreError, ObjectTree
from privet.server.fleet.store import MemoryStore
from privet.server.fleet.traffic import Traffic
from privet.server.fleet.upload import MAX_UPLOADS, OBJECT_BYTES, Upload, max_objects

LIMIT = 1 << 20


@pytest.fixture
def discarded() -> list[str]:
    """Ids of the replies whose objects were thrown away."""
    return []


@pytest.fixture
def traffic(discarded: list[str]) -> Traffic:
    traffic = Traffic(discarded.append)
    traffic.allow([1, 2])
    traffic.enter(1, "first")
    return traffic


def upload(message_id: str = "reply", reply_to: str = "m") -> Upload:
    return Upload(1, message_id, reply_to, frozenset({"a", "b"}), outstanding={"a", "b"})


def test_posting_to_nobody_wakes_nobody(traffic: Traffic) -> None:
    """A server that waits for its sites asks for news again and again: it must not be its own news."""
    version = traffic.version
    traffic.post(iter(()))
    assert traffic.version == version
    traffic.post([1])
    assert traffic.version > version


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
    assert traffic.begin(reply, LIMIT)
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


def announced(traffic: Traffic, message_id: str = "reply", reply_to: str = "m") -> Upload:
    """A reply whose objects `a` and `b` are awaited in the push session of its name."""
    reply = upload(message_id, reply_to)
    assert traffic.begin(reply, LIMIT)
    assert traffic.expect(reply, message_id, ["a", "b"])
    return reply


def test_announced_reply_is_not_complete_before_flower_accepted_it(traffic: Traffic) -> None:
    traffic.hand_out(1, "m")
    reply = upload()
    assert traffic.begin(reply, LIMIT)
    assert not reply.complete
    traffic.expect(reply, "session", [])  # another site sent the same objects
    assert reply.complete


def test_reply_announced_again_replaces_the_first(traffic: Traffic) -> None:
    traffic.hand_out(1, "m")
    announced(traffic)
    second = upload()
    assert traffic.begin(second, LIMIT)
    traffic.expect(second, "two", ["a"])
    assert traffic.upload_in("reply") is None
    assert traffic.upload_in("two") is second


# What a site may send


def test_only_the_message_in_hand_is_answered(traffic: Traffic) -> None:
    assert not traffic.begin(upload(), LIMIT)  # nothing was handed out
    traffic.hand_out(1, "m")
    assert not traffic.begin(upload(reply_to="other"), LIMIT)
    assert not traffic.begin(Upload(2, "reply", "m", frozenset("a"), outstanding={"a"}), LIMIT)  # another site's
    reply = announced(traffic)
    for object_id in "ab":
        traffic.arrived(reply, object_id)
    assert not traffic.begin(upload("again"), LIMIT)  # it was answered
    traffic.begin_pull(1)
    assert not traffic.begin(upload("again"), LIMIT)


def test_one_answer_at_a_time_is_on_its_way(traffic: Traffic) -> None:
    traffic.hand_out(1, "m")
    announced(traffic)
    assert not traffic.begin(upload("another answer"), LIMIT)
    assert traffic.num_bytes(1) == 2 * OBJECT_BYTES


def test_bytes_of_all_that_waits_from_a_site_are_counted_together(traffic: Traffic) -> None:
    limit = 4 * OBJECT_BYTES + 100
    traffic.hand_out(1, "m")
    first = announced(traffic)
    assert traffic.reserve(first, 60, limit)
    for object_id in "ab":
        traffic.arrived(first, object_id)
    traffic.hand_out(1, "n")  # while the first waits to be collected
    second = announced(traffic, "second", "n")
    assert traffic.num_bytes(1) == 4 * OBJECT_BYTES + 60
    assert not traffic.reserve(second, 41, limit)
    assert traffic.reserve(second, 40, limit)
    assert traffic.num_bytes(2) == 0
    traffic.end("reply")
    assert traffic.reserve(second, 60, limit)


def test_announcement_alone_counts(traffic: Traffic) -> None:
    traffic.hand_out(1, "m")
    assert not traffic.begin(upload(), 2 * OBJECT_BYTES - 1)
    assert traffic.upload("reply") is None
    assert traffic.begin(upload(), 2 * OBJECT_BYTES)


def test_replies_in_the_books_are_few(traffic: Traffic, discarded: list[str]) -> None:
    for number in range(10):
        traffic.hand_out(1, f"m{number}")
        reply = announced(traffic, f"r{number}", f"m{number}")
        for object_id in "ab":
            traffic.arrived(reply, object_id)
    kept = [number for number in range(10) if traffic.upload(f"r{number}")]
    assert kept == list(range(10 - MAX_UPLOADS, 10))
    assert discarded == [f"r{number}" for number in range(10 - MAX_UPLOADS)]


@pytest.mark.parametrize("event", ["enter", "leave", "pull", "removed", "withdrawn", "silent", "over", "void"])
def test_nothing_is_kept_of_an_upload_that_never_completes(
    traffic: Traffic, discarded: list[str], event: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    traffic.hand_out(1, "m")
    reply = announced(traffic)
    assert traffic.reserve(reply, 1000, LIMIT)
    traffic.arrived(reply, "a")
    discarded.clear()
    traffic.expire()
    assert discarded == []
    match event:
        case "enter":
            traffic.enter(1, "second")
        case "leave":
            traffic.leave(1)
        case "pull":
            traffic.begin_pull(1)
        case "removed":
            traffic.allow([2])
        case "withdrawn":
            traffic.withdraw("m")
        case "silent":
            now = time.monotonic() + 61.0
            monkeypatch.setattr("privet.server.fleet.traffic.time.monotonic", lambda: now)
            traffic.expire()
        case "over":
            traffic.reset()
        case "void":
            traffic.fail(reply, "malformed")
    assert "reply" in discarded
    assert traffic.num_bytes(1) == 0
    assert traffic.upload_in("reply") is None
    assert not traffic.reserve(reply, 1, LIMIT)
    assert reply.complete == (event == "void")  # else the Grid would take it for a reply, and a malformed one
    assert traffic.take_lost({"m"}) == ({"m"} if event not in ("withdrawn", "over", "void") else set())


def test_upload_given_up_while_flower_accepts_it_is_not_awaited(traffic: Traffic, discarded: list[str]) -> None:
    traffic.hand_out(1, "m")
    reply = upload()
    assert traffic.begin(reply, LIMIT)
    traffic.begin_pull(1)
    discarded.clear()
    assert not traffic.expect(reply, "session", ["a"])
    assert discarded == ["reply"]
    assert traffic.upload_in("session") is None


def test_fault_of_an_upload_that_was_given_up_is_no_reply(traffic: Traffic) -> None:
    traffic.hand_out(1, "m")
    reply = announced(traffic)
    traffic.begin_pull(1)
    traffic.fail(reply, "malformed")
    assert not reply.complete


def test_message_handed_out_over_another_loses_that_one(traffic: Traffic) -> None:
    traffic.hand_out(1, "m")
    traffic.hand_out(1, "n")
    assert traffic.take_lost({"m", "n"}) == {"m"}


def test_objects_of_a_reply_are_as_few_as_its_bytes_need() -> None:
    assert max_objects(1 << 20) < 100
    for size in (1 << 20, 100 << 20, 512 << 20):
        assert 6 + size // (5 << 20) < max_objects(size) < 70 + size // (1 << 20)


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
