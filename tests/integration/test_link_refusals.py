"""Who is refused, in which words, and that nobody else suffers for it."""

import threading
from pathlib import Path

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import RecordDict

from privet.client.door import Door
from privet.client.flower import (
    ActivateNodeRequest,
    ConfirmMessageReceivedRequest,
    DeactivateNodeRequest,
    Node,
    NodeAuthClientInterceptor,
    PullMessagesRequest,
    PullObjectRequest,
    PushMessagesRequest,
    PushObjectRequest,
    SendNodeHeartbeatRequest,
)
from privet.client.link import LinkEvent, serve
from privet.client.wire import Wire
from privet.common.errors import TransportError
from privet.common.handshake import Refusal
from privet.common.keys import fingerprint
from privet.server.fleet import Fleet, RefusedKey
from privet.server.fleet.authentication import _OFFERED
from tests.integration.sites import Hall, Scene, SiteProcess, SiteThread, ask, echo, eventually, texts
from tests.integration.tls import Authority, new_key, public_pem


def wire_of(scene: Scene, key: ec.EllipticCurvePrivateKey) -> Wire:
    return Wire(scene.address, Door(scene.ca, key), threading.Event(), 64 << 20)


def test_unknown_key_is_refused_and_the_server_goes_on(scene: Scene) -> None:
    stranger = SiteThread(scene.address, scene.ca, new_key())
    error = stranger.refusal()
    assert "does not know this site's key" in str(error)
    assert ".pub file" in error.mend
    scene.site("north")
    scene.gather("north")
    with scene.fleet.run() as grid:
        assert texts(scene.fleet, ask(grid, "hello", 20.0)) == {"north": "HELLO"}


def test_ca_of_somebody_else_is_a_clear_error(scene: Scene) -> None:
    error = SiteThread(scene.address, Authority().pem, scene.keys["north"]).refusal()
    assert "not signed by the CA" in str(error)
    assert error.where == scene.address


def test_wrong_ca_ends_the_process_with_one_line(scene: Scene, tmp_path: Path) -> None:
    process = SiteProcess(tmp_path / "site", scene.address, Authority().pem, scene.keys["north"], "echo")
    code, errors = process.wait()
    assert code == 1
    assert errors.count("\n") == 1  # neither Flower nor gRPC prints anything of its own
    assert "Take the CA file from the server's operator anew" in errors
    assert [line.split()[0] for line in process.lines] == ["connecting"]


def test_name_that_the_certificate_does_not_hold(scene: Scene) -> None:
    address = f"localhost:{scene.fleet.port}"
    assert "certificate is not for localhost" in str(SiteThread(address, scene.ca, scene.keys["north"]).refusal())


def test_expired_certificate(hall: Hall, tmp_path: Path) -> None:
    key = new_key()
    fleet = Fleet(
        address="127.0.0.1:0",
        certificates=hall.authority.server(days=-1),
        database=tmp_path / "fleet.db",
        allowed={public_pem(key): "north"},
    )
    fleet.start()
    try:
        error = SiteThread(f"127.0.0.1:{fleet.port}", hall.authority.pem, key).refusal()
    finally:
        fleet.close()
    assert "out of its dates" in str(error)


def test_ca_file_without_a_certificate(scene: Scene) -> None:
    assert "holds no certificate" in str(SiteThread(scene.address, b"nothing", scene.keys["north"]).refusal())


def test_certificate_and_key_that_do_not_belong_together(hall: Hall, tmp_path: Path) -> None:
    ca, certificate, _ = hall.authority.server()
    _, _, key = hall.authority.server()
    fleet = Fleet(address="127.0.0.1:0", certificates=(ca, certificate, key), database=tmp_path / "f.db", allowed={})
    with pytest.raises(TransportError, match="not for its private key"):
        fleet.start()
    fleet.close()


def test_key_of_another_curve_cannot_be_enrolled(hall: Hall) -> None:
    with pytest.raises(TransportError, match="the key of north: This is not an EC P-384 public key"):
        hall.fleet({"north": ec.generate_private_key(ec.SECP256R1())})


def test_withdrawn_key_is_cut_off_and_may_be_enrolled_again(scene: Scene) -> None:
    kept, removed = scene.site("north"), scene.site("south")
    scene.gather("north", "south")
    keys = {name: public_pem(key) for name, key in scene.keys.items()}
    scene.fleet.enrol({keys["north"]: "north"})
    assert "withdrew this site's key" in str(removed.refusal(10.0))  # a poll of 20 s is cut short
    scene.gather("north")
    with scene.fleet.run() as grid:
        assert texts(scene.fleet, ask(grid, "hello", 20.0)) == {"north": "HELLO"}
    scene.fleet.enrol({pem: name for name, pem in keys.items()})
    scene.site("south")
    scene.gather("north", "south")
    assert kept.error is None


def test_site_withdrawn_while_it_answers_is_an_error_of_its_own(scene: Scene) -> None:
    def withdrawn(request: RecordDict) -> RecordDict:
        scene.fleet.enrol({public_pem(scene.keys["north"]): "north"})
        return echo(request)

    scene.site("north")
    removed = scene.site("south", withdrawn)
    scene.gather("north", "south")
    with scene.fleet.run() as grid:
        assert texts(scene.fleet, ask(grid, "hello", 20.0)) == {"north": "HELLO", "south": "!site removed"}
    assert "withdrew" in str(removed.refusal())


def test_forged_requests_are_refused_and_the_site_stays(scene: Scene) -> None:
    site = scene.site("north")
    scene.gather("north")
    (node_id,) = scene.fleet.online()
    told: list[RefusedKey] = []
    scene.fleet._refusals._tell = told.append
    mallory = wire_of(scene, scene.keys["south"])  # enrolled, and after another site's place
    own = next(node for node in scene.fleet.traffic.allowed if node != node_id)
    victim, forged = public_pem(scene.keys["north"]), Node(node_id=node_id)
    attempts = [
        ("ActivateNode", ActivateNodeRequest(public_key=victim, heartbeat_interval=1800.0), Refusal.MALFORMED),
        ("DeactivateNode", DeactivateNodeRequest(node_id=node_id), Refusal.WRONG_NODE),
        ("PullMessages", PullMessagesRequest(node=forged), Refusal.WRONG_NODE),
        ("SendNodeHeartbeat", SendNodeHeartbeatRequest(node=forged, heartbeat_interval=30.0), Refusal.WRONG_NODE),
        ("PullObject", PullObjectRequest(node=forged, run_id=1, object_id="0" * 64), Refusal.WRONG_NODE),
        ("ConfirmMessageReceived", ConfirmMessageReceivedRequest(node=forged, run_id=1), Refusal.WRONG_NODE),
        ("PushMessages", PushMessagesRequest(node=forged), Refusal.WRONG_NODE),
        ("PushObject", PushObjectRequest(node=forged, run_id=1, session_id="s", object_id="0"), Refusal.WRONG_NODE),
        ("PullMessages", PullMessagesRequest(), Refusal.WRONG_NODE),
        ("PushMessages", PushMessagesRequest(node=Node(node_id=own)), Refusal.MALFORMED),
    ]
    for method, request, refusal in attempts:
        with pytest.raises(grpc.RpcError) as caught:
            mallory.call(method, request, seconds=10.0, abandon=False)
        assert caught.value.details() == refusal
    assert {method for method, _, _ in attempts} == {path.rpartition("/")[2] for path in _OFFERED}  # every RPC
    mallory.close()
    with scene.fleet.run() as grid:
        assert texts(scene.fleet, ask(grid, "hello", 20.0)) == {"north": "HELLO"}
    assert site.error is None
    assert [(one.fingerprint, one.name) for one in told] == [
        (fingerprint(scene.keys["south"]), "south")
    ]  # one a minute


def test_signature_by_another_key_is_refused(scene: Scene) -> None:
    class Forger(NodeAuthClientInterceptor):  # type: ignore[misc]
        def __init__(self, private: object, public: object) -> None:
            super().__init__(private, scene.keys["north"].public_key())

    told: list[RefusedKey] = []
    scene.fleet._refusals._tell = told.append
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("privet.client.channel.NodeAuthClientInterceptor", Forger)
        wire = Wire(scene.address, Door(scene.ca, new_key()), threading.Event(), 64 << 20)
    request = ActivateNodeRequest(public_key=public_pem(scene.keys["north"]), heartbeat_interval=30.0)
    with pytest.raises(grpc.RpcError) as caught:
        wire.call("ActivateNode", request, seconds=10.0, abandon=False)
    wire.close()
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert scene.fleet.online() == {}
    assert eventually(lambda: [(one.name, one.reason) for one in told] == [("north", "invalid signature")])


@pytest.mark.parametrize("method", ["RegisterNode", "UnregisterNode", "GetRun", "GetFab"])
def test_what_flower_offers_beyond_is_not_offered(scene: Scene, method: str) -> None:
    from flwr.proto import fab_pb2, fleet_pb2, run_pb2

    wire = wire_of(scene, scene.keys["north"])
    activation = ActivateNodeRequest(public_key=public_pem(scene.keys["north"]), heartbeat_interval=30.0)
    node_id = wire.call("ActivateNode", activation, seconds=10.0, abandon=False).node_id
    requests = {
        "RegisterNode": fleet_pb2.RegisterNodeFleetRequest(public_key=activation.public_key),
        "UnregisterNode": fleet_pb2.UnregisterNodeFleetRequest(node_id=node_id),
        "GetRun": run_pb2.GetRunRequest(node=Node(node_id=node_id), run_id=1),
        "GetFab": fab_pb2.GetFabRequest(node=Node(node_id=node_id), run_id=1, hash_str="0" * 64),
    }
    with pytest.raises(grpc.RpcError) as caught:
        wire.call(method, requests[method], seconds=10.0, abandon=False)
    wire.close()
    assert caught.value.code() in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNAUTHENTICATED)
    assert scene.fleet.state is not None
    assert len(scene.fleet.state.get_node_info()) == 2


def test_unreachable_server_is_retried_until_stop() -> None:
    site = SiteThread("127.0.0.1:9", Authority().pem, new_key())
    assert site.saw(LinkEvent.RETRYING)
    site.close()
    assert site.error is None
    assert (LinkEvent.CONNECTING, "connecting to 127.0.0.1:9") in site.events


def test_stop_before_the_start_connects_to_nobody() -> None:
    stop = threading.Event()
    stop.set()
    events: list[LinkEvent] = []
    serve(
        address="127.0.0.1:9",
        ca=Authority().pem,
        key=new_key(),
        answer=echo,
        stop=stop,
        on_event=lambda event, _: events.append(event),
    )
    assert LinkEvent.RETRYING not in events
