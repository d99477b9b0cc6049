"""Sites that leave their network by an HTTP proxy: which one, with which words, and TLS to the server all the way."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from privet.client.door import Door
from privet.client.link import LinkEvent
from privet.client.probe import Finding, probe
from privet.client.proxy import Proxy
from tests.integration.proxy import ConnectProxy
from tests.integration.sites import Scene, SiteThread, ask, texts
from tests.integration.tls import Authority


@pytest.fixture
def proxies() -> Iterator[Callable[..., ConnectProxy]]:
    made: list[ConnectProxy] = []

    def make(*arguments: str, **options: str) -> ConnectProxy:
        made.append(ConnectProxy(*arguments, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


def site_by(scene: Scene, proxy: Proxy | None, **options: Any) -> SiteThread:
    site = SiteThread(scene.address, scene.ca, scene.keys["north"], proxy=proxy, **options)
    scene.on_end(site.stop.set)
    return site


def test_a_round_goes_through_the_proxy_and_the_proxy_sees_no_word_of_it(
    scene: Scene, proxies: Callable[..., ConnectProxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")  # the file rules
    proxy = proxies("clinic:pass:word")
    site = site_by(scene, Proxy(proxy.address, "clinic:pass:word"))
    scene.gather("north")
    with scene.fleet.run() as grid:
        assert texts(scene.fleet, ask(grid, "tell nobody", 20.0)) == {"north": "TELL NOBODY"}
    assert proxy.targets == [scene.address]
    assert len(proxy.seen) > 1000
    assert b"NOBODY" not in proxy.seen.upper()
    assert site.events[0] == (LinkEvent.CONNECTING, f"connecting to {scene.address} by the proxy {proxy.address}")
    assert "pass:word" not in str(site.events)
    assert "pass:word" not in repr(Door(scene.ca, scene.keys["north"], Proxy(proxy.address, "clinic:pass:word")))


def test_the_environments_proxy_is_not_followed_and_this_is_said(
    scene: Scene, proxies: Callable[..., ConnectProxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = proxies()
    for name in ("grpc_proxy", "https_proxy", "http_proxy"):
        monkeypatch.setenv(name, f"http://user:secret@{proxy.address}")
    site = site_by(scene, None)
    scene.gather("north")
    assert not proxy.heads
    assert site.events[0][1] == (
        f"connecting to {scene.address} directly: grpc_proxy of the environment is not followed, only `proxy` in "
        "site.toml"
    )


def test_a_proxy_that_wants_a_password_is_a_clear_refusal(scene: Scene, proxies: Callable[..., ConnectProxy]) -> None:
    proxy = proxies("clinic:right")
    error = site_by(scene, Proxy(proxy.address, "clinic:wrong")).refusal()
    assert error.what == "The proxy wants a user and a password, or other ones."
    assert "proxy_auth" in error.mend
    found = probe(scene.address, scene.ca, scene.keys["north"], proxy=Proxy(proxy.address))
    assert (found.finding, found.reason) == (Finding.REFUSED, error.what)
    found = probe(scene.address, scene.ca, scene.keys["north"], proxy=Proxy(proxy.address, "clinic:right"))
    assert found.finding is Finding.ACCEPTED


def test_a_proxy_that_forbids_the_server_is_a_clear_refusal(scene: Scene, proxies: Callable[..., ConnectProxy]) -> None:
    error = site_by(scene, Proxy(proxies(status="403 forbidden").address)).refusal()
    assert error.what == "The proxy does not let this site through to the server (403)."


def test_a_proxy_that_cannot_reach_the_server_is_tried_again(
    scene: Scene, proxies: Callable[..., ConnectProxy]
) -> None:
    site = site_by(scene, Proxy(proxies(status="503 try later").address))
    assert site.saw(LinkEvent.RETRYING)
    assert "cannot be reached by the proxy" in str(site.events)
    assert not site.ended(0.0)


def test_a_proxy_that_leads_elsewhere_is_not_trusted(scene: Scene, proxies: Callable[..., ConnectProxy]) -> None:
    proxy = Proxy(proxies().address)
    found = probe(scene.address, Authority().pem, scene.keys["north"], proxy=proxy)
    assert found.finding is Finding.UNTRUSTED
    assert "not signed by the CA" in found.reason
    other_name = f"localhost:{scene.fleet.port}"  # reached, but its certificate is for 127.0.0.1 alone
    found = probe(other_name, scene.ca, scene.keys["north"], proxy=proxy)
    assert found.finding is Finding.UNTRUSTED
    assert "not for localhost" in found.reason


def test_a_new_proxy_in_the_file_is_taken_up_when_the_old_one_is_gone(
    scene: Scene, proxies: Callable[..., ConnectProxy], tmp_path: Path
) -> None:
    old, new = proxies(), proxies()
    doors = [Proxy(old.address)]
    site = site_by(scene, doors[0], reopen=lambda: Door(scene.ca, scene.keys["north"], doors[0]))
    assert site.saw(LinkEvent.ONLINE)
    doors[0] = Proxy(new.address)
    old.close()
    with scene.fleet.run() as grid:
        assert texts(scene.fleet, ask(grid, "again", 20.0)) == {"north": "AGAIN"}
    assert new.targets == [scene.address]
