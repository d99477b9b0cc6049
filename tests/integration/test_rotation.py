"""Keys, authorities and certificates that are replaced while server and sites run."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from cryptography import x509
from flwr.app import Message, RecordDict

from privet.client.door import Door, load_door
from privet.client.enrolment import renew_key
from privet.client.flower import ActivateNodeRequest
from privet.client.link import LinkEvent
from privet.client.probe import Finding, probe
from privet.client.wire import Wire
from privet.common.config import ServerSpec
from privet.common.config.site import MembershipSpec
from privet.common.errors import TransportError
from privet.common.keys import load_site_key, new_site_key, public_line
from privet.server.certificates import create_authority, load_certificates, renew_certificate
from privet.server.fleet import RefusedKey
from privet.server.watch import Watch
from tests.integration.sites import Hall, Scene, SiteThread, ask, echo, eventually, texts
from tests.integration.tls import Authority, new_key, public_pem


class House:
    """A server with its files, watched, and a site with its own."""

    def __init__(self, hall: Hall, folder: Path, stack: ExitStack) -> None:
        self.folder, self._stack = folder, stack
        self.server, self.site = folder / "server", folder / "site"
        for made in (self.server / "sites", self.site):
            made.mkdir(parents=True)
        create_authority(self.server / "keys", ["127.0.0.1"])
        self.spec = ServerSpec(
            certificate=self.server / "keys/server.crt",
            key=self.server / "keys/server.key",
            ca=self.server / "keys/ca.crt",
            sites=self.server / "sites",
        )
        new_site_key(self.site / "north.key")
        (self.site / "ca.crt").write_bytes(self.spec.ca.read_bytes())
        self.enrol("north", self.site / "north.key")
        self.events: list[dict[str, object]] = []
        self.refused: list[RefusedKey] = []
        keys = {"north": load_site_key(self.site / "north.key")}
        self.fleet = hall.fleet(keys, certificates=load_certificates(self.spec), on_refusal=self.refused.append)
        self.fleet.start()
        stack.callback(self.fleet.close)
        stack.enter_context(Watch(self.fleet, self.spec, self.events.append))
        self.address = f"127.0.0.1:{self.fleet.port}"
        self.membership = MembershipSpec(
            address=self.address, ca=self.site / "ca.crt", key=self.site / "north.key", epsilon=1.0, delta=1e-6
        )

    def enrol(self, name: str, key: Path) -> None:
        draft = self.server / f"{name}.new"
        draft.write_text(public_line(load_site_key(key), name) + "\n")
        os.replace(draft, self.server / "sites" / f"{name}.pub")

    def start(self, answer: object = echo) -> SiteThread:
        door = load_door(self.membership, "test")
        site = SiteThread(
            self.address,
            door.ca,
            door.key,
            answer,  # type: ignore[arg-type]
            reopen=lambda: load_door(self.membership, "test"),
        )
        self._stack.callback(site.stop.set)
        return site

    def there(self) -> bool:
        return list(self.fleet.online().values()) == ["north"]

    def told(self, kind: str) -> bool:
        return eventually(lambda: any(event["event"] == kind for event in self.events))

    def round(self) -> dict[str, str]:
        with self.fleet.run() as grid:
            return texts(self.fleet, ask(grid, "hello", 30.0))


@pytest.fixture
def house(hall: Hall, tmp_path: Path) -> Iterator[House]:
    with ExitStack() as stack:
        yield House(hall, tmp_path, stack)


def test_a_new_key_of_a_site_is_taken_up_on_both_sides_without_a_restart(house: House) -> None:
    site = house.start()
    assert eventually(house.there)
    (before,) = house.fleet.online()
    made = renew_key(house.site, "north")
    assert made.kept.stat().st_mode & 0o777 == 0o600
    assert made.key.stat().st_mode & 0o777 == 0o600
    time.sleep(1.0)
    assert list(house.fleet.online()) == [before]  # the old key serves until the server has the new one
    house.enrol("north", made.key)
    assert eventually(lambda: house.there() and before not in house.fleet.online())
    assert eventually(lambda: house.round() == {"north": "HELLO"})  # it may just be between two calls
    assert site.error is None
    assert any(event is LinkEvent.RETRYING and "the one in its file" in text for event, text in site.events)
    assert {"event": "enrolled", "sites": ["north"]} in house.events


def test_a_key_that_the_server_no_longer_has_ends_the_site_if_its_file_is_the_same(house: House) -> None:
    site = house.start()
    assert eventually(house.there)
    (house.server / "sites" / "north.pub").unlink()
    assert "withdrew this site's key" in site.refusal().what
    assert eventually(lambda: len(house.refused) > 0)
    assert (house.refused[0].name, house.refused[0].reason) == ("north", "not enrolled")


def test_a_key_withdrawn_while_a_round_is_under_way_ends_that_sites_part(house: House) -> None:
    new_site_key(house.folder / "south.key")
    house.enrol("south", house.folder / "south.key")
    assert house.told("enrolled")

    def withdrawn(request: RecordDict) -> RecordDict:
        (house.server / "sites" / "north.pub").unlink()
        assert eventually(lambda: "north" not in house.fleet.online().values(), 5.0)
        return echo(request)

    removed = house.start(withdrawn)
    south = SiteThread(house.address, load_door(house.membership, "t").ca, load_site_key(house.folder / "south.key"))
    assert eventually(lambda: len(house.fleet.online()) == 2)
    assert house.round() == {"north": "!site removed", "south": "HELLO"}
    assert "withdrew" in removed.refusal().what
    south.close()


def test_a_key_withdrawn_before_its_message_was_fetched_does_not_hold_the_round(house: House) -> None:
    """The site hangs: it registered and never pulls what is ready for it."""
    door = load_door(house.membership, "test")
    wire = Wire(house.address, door, threading.Event(), 64 << 20)
    request = ActivateNodeRequest(public_key=public_pem(door.key), heartbeat_interval=30.0)
    wire.call("ActivateNode", request, seconds=10.0, abandon=False)
    replies: list[Message] = []
    with house.fleet.run() as grid:
        round_ = threading.Thread(target=lambda: replies.extend(ask(grid, "hello", 60.0)))
        round_.start()
        time.sleep(0.5)
        (house.server / "sites" / "north.pub").unlink()
        round_.join(15.0)
        assert not round_.is_alive()
    wire.close()
    assert [reply.error.reason for reply in replies] == ["site removed"]


def test_a_malformed_public_file_keeps_the_keys_and_is_told_once(house: House) -> None:
    house.start()
    assert eventually(house.there)
    (house.server / "sites" / "south.pub").write_text("not a key\n")
    assert house.told("warning")
    time.sleep(1.5)
    assert len([event for event in house.events if event["event"] == "warning"]) == 1
    assert house.there()


def test_a_key_is_withdrawn_after_a_fault_of_the_disk_too(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """The watching goes on, and tries again: a key that was withdrawn is not let in because a disk was full."""
    site = house.start()
    assert site.saw(LinkEvent.ONLINE)
    state = house.fleet.state
    assert state is not None
    full = threading.Event()
    genuine = state.get_node_info

    def faulty(*args: object, **kwargs: object) -> object:
        if threading.current_thread().name == "watch" and not full.is_set():
            raise OSError(28, "no space left on device")
        return genuine(*args, **kwargs)

    monkeypatch.setattr(state, "get_node_info", faulty)
    (house.server / "sites" / "north.pub").unlink()
    assert eventually(lambda: any("OSError" in str(event.get("text")) for event in house.events))
    full.set()
    assert "withdrew" in site.refusal().what
    assert sum("OSError" in str(event.get("text")) for event in house.events) == 1


def certificate_of(house: House) -> x509.Certificate:
    """What the server shows to whoever connects now."""
    import ssl

    host, _, port = house.address.rpartition(":")
    return x509.load_pem_x509_certificate(ssl.get_server_certificate((host, int(port))).encode())


def test_a_renewed_certificate_is_shown_and_sessions_go_on(house: House) -> None:
    site = house.start()
    assert eventually(house.there)
    before = certificate_of(house)
    renew_certificate(house.spec, [])
    assert eventually(lambda: certificate_of(house).serial_number != before.serial_number)
    assert house.round() == {"north": "HELLO"}
    assert [event for event, _ in site.events].count(LinkEvent.ONLINE) == 1
    assert house.told("certificate")


def test_a_certificate_that_is_not_for_the_key_keeps_the_old_one(house: House) -> None:
    before = certificate_of(house)
    create_authority(house.folder / "other", ["127.0.0.1"])
    house.spec.certificate.write_bytes((house.folder / "other/server.crt").read_bytes())
    assert house.told("warning")
    assert "does not belong" in str(house.events)
    assert certificate_of(house).serial_number == before.serial_number
    door = load_door(house.membership, "test")
    assert probe(house.address, door.ca, door.key).finding is Finding.ACCEPTED
    with pytest.raises(TransportError, match="not for its private key"):
        house.fleet.renew((b"", house.spec.certificate.read_bytes(), house.spec.key.read_bytes()))


def test_a_certificate_that_ends_soon_is_warned_of(tmp_path: Path) -> None:
    authority = Authority()
    for name, pem in zip(("ca.crt", "server.crt", "server.key"), authority.server(days=9), strict=True):
        (tmp_path / name).write_bytes(pem)
    spec = ServerSpec(
        certificate=tmp_path / "server.crt", key=tmp_path / "server.key", ca=tmp_path / "ca.crt", sites=tmp_path
    )
    events: list[dict[str, object]] = []
    with Watch(None, spec, events.append):  # type: ignore[arg-type]
        pass
    assert "expires on" in str(events[0]["text"])


def test_a_new_authority_comes_in_by_a_bundle_and_by_a_replaced_file(hall: Hall, tmp_path: Path) -> None:
    keys = {"north": new_key(), "south": new_key()}
    pems: dict[str, tuple[bytes, bytes, bytes]] = {}
    for name in ("old", "new"):
        create_authority(tmp_path / name, ["127.0.0.1"])
        ca, certificate, key = (
            (tmp_path / name / file).read_bytes() for file in ("ca.crt", "server.crt", "server.key")
        )
        pems[name] = (ca, certificate, key)
    bundle, file = pems["old"][0] + pems["new"][0], tmp_path / "ca.crt"
    file.write_bytes(pems["old"][0])
    fleet = hall.fleet(keys, certificates=pems["old"])
    fleet.start()
    address, database = f"127.0.0.1:{fleet.port}", fleet._database
    reopen = lambda: Door(file.read_bytes(), keys["south"])  # noqa: E731
    sites = [
        SiteThread(address, bundle, keys["north"]),
        SiteThread(address, pems["old"][0], keys["south"], reopen=reopen),
    ]
    try:
        assert eventually(lambda: len(fleet.online()) == 2)
        fleet.close()
        fleet = hall.fleet(keys, certificates=pems["new"], port=fleet.port, database=database)
        fleet.start()
        assert eventually(lambda: list(fleet.online().values()) == ["north"])  # the bundle holds both authorities
        assert eventually(lambda: "cannot be trusted" in str(sites[1].events))
        file.write_bytes(bundle)
        assert eventually(lambda: len(fleet.online()) == 2)
    finally:
        for site in sites:
            site.stop.set()
        fleet.close()
    assert [site.error for site in sites] == [None, None]


def test_a_key_file_that_others_may_read_is_not_taken_up(house: House) -> None:
    site = house.start()
    assert eventually(house.there)
    made = renew_key(house.site, "north")
    house.enrol("north", made.key)
    made.key.chmod(0o644)
    assert "withdrew" in site.refusal().what
    assert any("may be read by others" in text for event, text in site.events if event is LinkEvent.FAILED)


def test_a_stranger_is_told_without_a_name(scene: Scene) -> None:
    told: list[RefusedKey] = []
    scene.fleet._refusals._tell = told.append
    SiteThread(scene.address, scene.ca, new_key()).refusal()
    assert eventually(lambda: len(told) > 0)
    assert (told[0].name, told[0].reason) == (None, "not enrolled")
