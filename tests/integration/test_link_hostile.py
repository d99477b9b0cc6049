"""An enrolled site that sends what it should not: its own error at most, and nobody else's."""

import hashlib
import json
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import grpc
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict

from privet.client.door import Door
from privet.client.flower import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    Error,
    Node,
    ObjectTree,
    PullMessagesRequest,
    PullObjectRequest,
    PushMessagesRequest,
    PushObjectRequest,
    get_all_nested_objects,
    get_object_tree,
    message_from_proto,
    message_to_proto,
    remove_content_from_message,
    seal,
)
from privet.client.link import LinkEvent
from privet.client.wire import Wire
from privet.common.handshake import Refusal
from privet.server.fleet.crowd import MAX_CALLS
from tests.integration.sites import Hall, Scene, SiteThread, ask, echo, eventually, record, texts
from tests.integration.tls import new_key, public_pem

Forgery = Callable[[Message], tuple[Any, ObjectTree, dict[str, bytes]]]


class Mallory:
    """The site "south", speaking the protocol by hand."""

    def __init__(self, scene: Scene) -> None:
        key = scene.keys["south"]
        self._wire = Wire(scene.address, Door(scene.ca, key), threading.Event(), 64 << 20)
        request = ActivateNodeRequest(public_key=public_pem(key), heartbeat_interval=30.0)
        self.node = Node(node_id=self.call("ActivateNode", request).node_id)

    def call(self, method: str, request: Any) -> Any:
        return self._wire.call(method, request, seconds=20.0, abandon=False)

    def pull(self) -> tuple[Message, ObjectTree]:
        response = self.call("PullMessages", PullMessagesRequest(node=self.node))
        return message_from_proto(response.messages_list[0]), response.message_object_trees[0]

    def push(self, envelope: Any, tree: ObjectTree, contents: dict[str, bytes]) -> list[bool]:
        """Announce and send a reply; for each object in `contents` whether it was stored."""
        response = self.call(
            "PushMessages",
            PushMessagesRequest(node=self.node, messages_list=[envelope], message_object_trees=[tree]),
        )
        run_id = envelope.metadata.run_id
        return [
            self.call(
                "PushObject",
                PushObjectRequest(
                    node=self.node,
                    run_id=run_id,
                    session_id=response.session_id,
                    object_id=object_id,
                    object_content=contents[object_id],
                ),
            ).stored
            for object_id in response.objects_to_push
            if object_id in contents
        ]

    def close(self) -> None:
        self._wire.close()


NOT_IN_HAND = (grpc.StatusCode.NOT_FOUND, Refusal.NOT_IN_HAND)


def refused(act: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
    """The status and the words with which the server refuses what `act` asks."""
    with pytest.raises(grpc.RpcError) as caught:
        act()
    return caught.value.code(), caught.value.details()


@contextmanager
def round_with(scene: Scene, timeout: float) -> Iterator[tuple[Mallory, dict[str, str]]]:
    """A round of an honest "north" and Mallory; the dict holds its outcome after the block."""
    honest, mallory = scene.site("north"), Mallory(scene)
    scene.gather("north", "south")
    outcome: dict[str, str] = {}
    with scene.fleet.run() as grid:
        thread = threading.Thread(target=lambda: outcome.update(texts(scene.fleet, ask(grid, "hello", timeout))))
        thread.start()
        try:
            yield mallory, outcome
        finally:
            thread.join(30.0)
            mallory.close()
    assert honest.error is None


def object_of(kind: str, children: list[str], body: bytes) -> tuple[str, bytes]:
    """A Flower object as (id, content)."""
    content = f"{kind} {','.join(children)} {len(body)}".encode() + b"\x00" + body
    return hashlib.sha256(content).hexdigest(), content


def sound(request: Message, content: RecordDict | None = None) -> tuple[Any, ObjectTree, dict[str, bytes]]:
    """A reply as an honest site would send it."""
    reply = Message(content or record("from south"), reply_to=request)
    seal(reply)
    envelope = message_to_proto(remove_content_from_message(reply))
    return (
        envelope,
        get_object_tree(reply),
        {key: part.deflate() for key, part in get_all_nested_objects(reply).items()},
    )


def other_content(request: Message) -> tuple[Any, ObjectTree, dict[str, bytes]]:
    """Objects that are not what their ids say."""
    envelope, tree, contents = sound(request)
    return envelope, tree, {key: object_of("ArrayChunk", [], b"other")[1] for key in contents}


def garbage(request: Message) -> tuple[Any, ObjectTree, dict[str, bytes]]:
    """A root that is no object at all."""
    envelope, _, _ = sound(request)
    content = b"\xff\xfe no head"
    envelope.metadata.message_id = hashlib.sha256(content).hexdigest()
    return envelope, ObjectTree(object_id=envelope.metadata.message_id), {envelope.metadata.message_id: content}


def no_message(request: Message) -> tuple[Any, ObjectTree, dict[str, bytes]]:
    """A root of another type."""
    envelope, _, _ = sound(request)
    object_id, content = object_of("ConfigRecord", [], b"")
    envelope.metadata.message_id = object_id
    return envelope, ObjectTree(object_id=object_id), {object_id: content}


def missing_child(request: Message) -> tuple[Any, ObjectTree, dict[str, bytes]]:
    """A message whose content is not in its tree."""
    envelope, tree, contents = sound(request)
    return envelope, ObjectTree(object_id=tree.object_id), {tree.object_id: contents[tree.object_id]}


def bomb(request: Message) -> tuple[Any, ObjectTree, dict[str, bytes]]:
    """140 KB that inflate to 2 GB: an array that names one chunk many times."""
    chunk = object_of("ArrayChunk", [], b"x" * 100_000)
    body = json.dumps({"dtype": "float32", "shape": [1], "stype": "raw", "arraychunk_ids": [0] * 20_000}).encode()
    array = object_of("Array", [chunk[0]], body)
    arrays = object_of("ArrayRecord", [array[0]], json.dumps({"a": array[0]}).encode())
    records = object_of("RecordDict", [arrays[0]], json.dumps({"r": arrays[0]}).encode())
    envelope, tree, contents = sound(request, RecordDict({"r": ArrayRecord({})}))
    message = object_of("Message", [records[0]], contents[tree.object_id].partition(b"\x00")[2])
    envelope.metadata.message_id = message[0]
    chain = ObjectTree(object_id=chunk[0])
    for object_id, _ in (array, arrays, records, message):
        chain = ObjectTree(object_id=object_id, children=[chain])
    return envelope, chain, dict([chunk, array, arrays, records, message])


@pytest.mark.parametrize(
    ("forge", "reason"),
    [
        (other_content, "malformed reply"),
        (garbage, "malformed reply"),
        (no_message, "malformed reply"),
        (missing_child, "malformed reply"),
        (bomb, "reply too large"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_unsound_objects_are_that_sites_error(scene: Scene, forge: Forgery, reason: str) -> None:
    with round_with(scene, 20.0) as (mallory, outcome):
        request, _ = mallory.pull()
        mallory.push(*forge(request))
    assert outcome == {"north": "HELLO", "south": "!" + reason}
    assert len(scene.fleet.store) == 0


def endless(request: Message) -> tuple[Any, ObjectTree, dict[str, bytes]]:
    envelope, tree, contents = sound(request)
    envelope.metadata.created_at = math.nan
    return envelope, tree, contents


def stuffed(request: Message) -> tuple[Any, ObjectTree, dict[str, bytes]]:
    envelope, tree, contents = sound(request)
    envelope.content.items.add(key="x" * 100)
    return envelope, tree, contents


def verbose(request: Message) -> tuple[Any, ObjectTree, dict[str, bytes]]:
    reply = Message(Error(0, "x" * 100_000), reply_to=request)
    seal(reply)
    return message_to_proto(reply), get_object_tree(reply), {reply.object_id: reply.deflate()}


def crowded(request: Message) -> tuple[Any, ObjectTree, dict[str, bytes]]:
    envelope, tree, contents = sound(request)
    tree.children.extend(ObjectTree(object_id=f"{index:064x}") for index in range(10_001))
    return envelope, tree, contents


def misplaced(request: Message) -> tuple[Any, ObjectTree, dict[str, bytes]]:
    envelope, tree, contents = sound(request)
    envelope.metadata.src_node_id += 1
    return envelope, tree, contents


def borrowed(request: Message) -> tuple[Any, ObjectTree, dict[str, bytes]]:
    """A reply under the id of a message that the server itself sent."""
    envelope, _, contents = sound(request)
    envelope.metadata.message_id = request.metadata.message_id
    return envelope, ObjectTree(object_id=request.metadata.message_id), contents


@pytest.mark.parametrize("forge", [endless, stuffed, verbose, crowded, misplaced, borrowed])
def test_unsound_envelopes_are_refused(scene: Scene, forge: Forgery) -> None:
    with round_with(scene, 20.0) as (mallory, outcome):
        request, _ = mallory.pull()
        with pytest.raises(grpc.RpcError) as caught:
            mallory.push(*forge(request))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        mallory.push(*sound(request))
    assert outcome == {"north": "HELLO", "south": "from south"}


def test_reason_of_an_error_is_fit_for_a_terminal(scene: Scene) -> None:
    with round_with(scene, 20.0) as (mallory, outcome):
        request, _ = mallory.pull()
        reply = Message(Error(0, "\x1b[2Jgone\n" + "y" * 1000), reply_to=request)
        seal(reply)
        assert mallory.push(message_to_proto(reply), get_object_tree(reply), {reply.object_id: reply.deflate()}) == [
            True
        ]
    assert outcome["south"].startswith("![2Jgoney")
    assert len(outcome["south"]) <= 201


def test_objects_and_messages_of_others_are_out_of_reach(scene: Scene) -> None:
    with round_with(scene, 20.0) as (mallory, outcome):
        request, tree = mallory.pull()
        foreign = hashlib.sha256(b"somebody else's").hexdigest()
        run_id = request.metadata.run_id
        answer = mallory.call("PullObject", PullObjectRequest(node=mallory.node, run_id=run_id, object_id=foreign))
        assert not answer.object_found
        own = PullObjectRequest(node=mallory.node, run_id=run_id, object_id=tree.object_id)
        assert mallory.call("PullObject", own).object_available
        envelope, reply_tree, contents = sound(request)
        envelope.metadata.reply_to_message_id = foreign  # no message of this site's
        assert refused(lambda: mallory.push(envelope, reply_tree, contents)) == NOT_IN_HAND
        push = PushObjectRequest(
            node=mallory.node, run_id=run_id, session_id="guessed", object_id=foreign, object_content=b"x"
        )
        assert not mallory.call("PushObject", push).stored
        mallory.push(*sound(request))
    assert outcome == {"north": "HELLO", "south": "from south"}


def test_object_that_another_site_will_send_cannot_be_poisoned(scene: Scene) -> None:
    ready = threading.Event()

    def patient(request: RecordDict) -> RecordDict:
        assert ready.wait(20.0)
        return echo(request)

    scene.site("north", patient)
    mallory = Mallory(scene)
    scene.gather("north", "south")
    outcome: dict[str, str] = {}
    with scene.fleet.run() as grid:
        thread = threading.Thread(target=lambda: outcome.update(texts(scene.fleet, ask(grid, "hello", 20.0))))
        thread.start()
        request, _ = mallory.pull()
        envelope, tree, contents = sound(request, record("HELLO"))  # the very record that north is about to send
        lies = {key: part.deflate() for key, part in get_all_nested_objects(record("LIES!")).items()}
        by_kind = {content.split(b" ")[0]: content for content in lies.values()}
        forged = {
            key: by_kind[kind] for key, content in contents.items() if (kind := content.split(b" ")[0]) in by_kind
        }
        assert len(forged) == 2
        mallory.push(envelope, tree, forged)  # and never the message itself, so that the lies would stay
        ready.set()
        thread.join(30.0)
    mallory.close()
    assert outcome == {"north": "HELLO", "south": "!malformed reply"}


def test_second_pull_without_a_reply_gets_the_message_again(scene: Scene) -> None:
    with round_with(scene, 20.0) as (mallory, outcome):
        first, _ = mallory.pull()
        second, _ = mallory.pull()  # the answer to the first was lost on the way, say
        assert first.metadata.message_id != second.metadata.message_id
        assert refused(lambda: mallory.push(*sound(first))) == NOT_IN_HAND  # withdrawn
        assert set(mallory.push(*sound(second))) == {True}
    assert outcome == {"north": "HELLO", "south": "from south"}


def test_reply_over_the_quota_is_refused_while_it_arrives(hall: Hall) -> None:
    key = new_key()
    fleet = hall.fleet({"north": key}, max_reply_bytes=100_000)
    fleet.start()
    large = RecordDict({"test": ConfigRecord({"text": b"x" * 200_000})})
    site = SiteThread(f"127.0.0.1:{fleet.port}", hall.authority.pem, key, lambda _: large)
    try:
        assert eventually(lambda: len(fleet.online()) == 1)
        with fleet.run() as grid:
            assert texts(fleet, ask(grid, "hello", 20.0)) == {"north": "!reply too large"}
            assert texts(fleet, ask(grid, "hello", 20.0)) == {"north": "!reply too large"}
        assert site.saw(LinkEvent.FAILED)  # told while it uploads, so that the server's memory stays bounded
        assert not any(event is LinkEvent.IDLE for event, _ in site.events)
        site.close()
    finally:
        fleet.close()
    assert site.error is None


# What one site can have in the server's memory


def stored_bytes(scene: Scene) -> int:
    """What the server holds of all objects."""
    return sum(len(entry.content) for entry in scene.fleet.store._entries.values())


def unfinished(request: Message, size: int, seed: int) -> tuple[Any, ObjectTree, dict[str, bytes]]:
    """A reply with `size` bytes that nobody else sends; its root never comes, so that it is never complete."""
    text = hashlib.sha256(str(seed).encode()).hexdigest() * (size // 64)
    envelope, tree, contents = sound(request, record(text))
    del contents[tree.object_id]
    return envelope, tree, contents


def test_uploads_that_never_complete_do_not_fill_the_memory(scene: Scene) -> None:
    scene.fleet.max_reply_bytes = 1 << 20
    most = 0
    with round_with(scene, 60.0) as (mallory, outcome):
        for seed in range(3):  # the message is sent again twice
            request, _ = mallory.pull()
            mallory.push(*unfinished(request, 600_000, seed))
            another = unfinished(request, 600_000, -1 - seed)  # while the first is on its way
            assert refused(partial(mallory.push, *another)) == NOT_IN_HAND
            most = max(most, stored_bytes(scene))
        mallory.call("DeactivateNode", DeactivateNodeRequest(node_id=mallory.node.node_id))
    assert outcome == {"north": "HELLO", "south": "!site left"}
    assert 600_000 < most < 1 << 20
    assert stored_bytes(scene) == 0
    assert scene.fleet.traffic.num_bytes(mallory.node.node_id) == 0


def test_round_that_is_over_frees_what_was_uploaded_for_it(scene: Scene) -> None:
    honest, mallory = scene.site("north"), Mallory(scene)
    scene.gather("north", "south")
    with scene.fleet.run() as grid:
        started = threading.Thread(target=lambda: ask(grid, "hello", 3.0))
        started.start()
        request, _ = mallory.pull()
        mallory.push(*unfinished(request, 300_000, 0))
        assert stored_bytes(scene) > 300_000
        assert scene.fleet.traffic.num_bytes(mallory.node.node_id) > 300_000
        started.join(30.0)
        assert stored_bytes(scene) == 0
        assert len(scene.fleet.store) == 0
        assert scene.fleet.traffic.num_bytes(mallory.node.node_id) == 0
        assert refused(lambda: mallory.push(*sound(request))) == NOT_IN_HAND  # too late
    code, words = refused(lambda: mallory.push(*sound(request)))
    assert (code, words) == (grpc.StatusCode.PERMISSION_DENIED, Refusal.RUN_OVER)
    mallory.close()
    assert honest.error is None


def test_message_that_was_not_handed_out_cannot_be_answered(scene: Scene) -> None:
    """Nothing that a site sends unasked is kept, not even an announcement."""
    with round_with(scene, 20.0) as (mallory, outcome):
        request, _ = mallory.pull()
        mallory.push(*sound(request))
        forged = request.metadata.__dict__["_message_id"] = "ab" * 32
        envelope, tree, contents = sound(request)
        assert envelope.metadata.reply_to_message_id == forged
        assert refused(lambda: mallory.push(envelope, tree, contents)) == NOT_IN_HAND
    assert outcome == {"north": "HELLO", "south": "from south"}


def test_objects_are_as_few_as_the_bytes_need(scene: Scene) -> None:
    scene.fleet.max_reply_bytes = 2 << 20
    with round_with(scene, 20.0) as (mallory, outcome):
        request, _ = mallory.pull()
        envelope, tree, contents = sound(request)
        tree.children.extend(ObjectTree(object_id=f"{index:064x}") for index in range(70))
        assert refused(lambda: mallory.push(envelope, tree, contents))[0] is grpc.StatusCode.INVALID_ARGUMENT
        envelope, tree, contents = sound(request)
        tree.children.extend([ObjectTree(object_id="x" * 1000)])
        assert refused(lambda: mallory.push(envelope, tree, contents))[0] is grpc.StatusCode.INVALID_ARGUMENT
        mallory.push(*sound(request))
    assert outcome == {"north": "HELLO", "south": "from south"}


def test_limit_of_a_reply_follows_the_run(scene: Scene) -> None:
    """Set after the server started, as a run does that knows its plan."""
    scene.fleet.max_reply_bytes = 100_000
    with round_with(scene, 20.0) as (mallory, outcome):
        request, _ = mallory.pull()
        assert not all(mallory.push(*sound(request, record("x" * 200_000))))
        assert stored_bytes(scene) < 100_000
    assert outcome == {"north": "HELLO", "south": "!reply too large"}


def test_calls_of_one_site_are_few_and_others_are_served(scene: Scene) -> None:
    mallory, codes = Mallory(scene), list[Any]()
    honest = scene.site("north")
    scene.gather("north", "south")
    request = PullMessagesRequest(node=mallory.node)
    sent = PushObjectRequest(node=mallory.node, run_id=1, session_id="x", object_content=bytes(4 << 20))
    waiting = threading.Event()
    genuine = scene.fleet.traffic.upload_in

    def slow(session: str) -> Any:
        if session == "x":
            waiting.wait(60.0)
        return genuine(session)

    scene.fleet.traffic.upload_in = slow  # type: ignore[method-assign, assignment]

    def push() -> None:
        try:
            codes.append(mallory.call("PushObject", sent).stored)
        except grpc.RpcError as error:
            codes.append((error.code(), error.details()))

    threads = [threading.Thread(target=push) for _ in range(3 * MAX_CALLS)]
    for thread in threads:
        thread.start()
    assert eventually(lambda: len(codes) == 2 * MAX_CALLS)  # refused while the others hold their places
    assert set(codes) == {(grpc.StatusCode.RESOURCE_EXHAUSTED, Refusal.TOO_MANY_CALLS)}
    assert refused(lambda: mallory.call("PullMessages", request))[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
    with scene.fleet.run() as grid:
        north = [node for node in grid.get_node_ids() if scene.fleet.name_of(node) == "north"]
        (reply,) = grid.send_and_receive([grid.create_message(record("hello"), "train", north[0], "1")], timeout=20.0)
        assert not reply.has_error()
    waiting.set()
    for thread in threads:
        thread.join(30.0)
    assert codes.count(False) == MAX_CALLS
    mallory.close()
    assert honest.error is None


def test_request_larger_than_an_object_is_refused(scene: Scene) -> None:
    with round_with(scene, 20.0) as (mallory, outcome):
        request, _ = mallory.pull()
        push = PushObjectRequest(node=mallory.node, run_id=1, session_id="x", object_content=bytes(9 << 20))
        code, words = refused(lambda: mallory.call("PushObject", push))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "larger than max" in words
        mallory.push(*sound(request))
    assert outcome == {"north": "HELLO", "south": "from south"}


def test_a_site_takes_requests_of_its_plans_size_only(scene: Scene) -> None:
    """A server cannot fill a site's memory; what the bound is, is asked for each request."""
    heard, most = list[int](), [2_000]

    def answer(request: RecordDict) -> RecordDict:
        heard.append(1)
        return echo(request)

    site = SiteThread(scene.address, scene.ca, scene.keys["north"], answer, max_request_bytes=lambda: most[0])
    scene.on_end(site.stop.set)
    scene.gather("north")
    with scene.fleet.run() as grid:
        assert texts(scene.fleet, ask(grid, "x" * 100_000, 20.0)) == {"north": "!unavailable"}
        assert not heard
        most[0] = 1 << 20
        assert texts(scene.fleet, ask(grid, "x" * 100_000, 20.0)) == {"north": "X" * 100_000}
    assert len(heard) == 1
