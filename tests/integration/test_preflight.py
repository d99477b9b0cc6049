"""The pre-flight of a federation against a real server: the key, the clock, and an agent that is already there."""

import base64
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from privet.client.link import LinkEvent
from privet.client.preflight.federation import STEPS, federation_steps
from privet.client.preflight.results import Status, Step, failed
from privet.common.config.site import MembershipSpec
from tests.client.preflight.peers import HOST, serving, tunnel
from tests.integration.sites import Scene, ask, texts
from tests.integration.tls import Authority, new_key

PASSWORD = "s3cret-of-the-proxy"


def walk(scene: Scene, key: ec.EllipticCurvePrivateKey, *, ca: bytes | None = None, **proxy: object) -> dict[str, Step]:
    membership = MembershipSpec.model_validate(
        {"address": scene.address, "ca": Path("ca"), "key": Path("key"), "epsilon": 1.0, "delta": 1e-6, **proxy}
    )
    return {step.step: step for step in federation_steps("tiny", membership, ca or scene.ca, key)}


def test_a_site_whose_key_is_enrolled_passes_every_step(scene: Scene) -> None:
    steps = walk(scene, scene.keys["north"])
    assert {name: step.status for name, step in steps.items()} == {
        "TLS": Status.WARNING,  # the scene's certificate has ten days left
        **dict.fromkeys(("name", "connect", "ALPN", "key", "clock"), Status.PASSED),
    }
    assert abs(int(steps["clock"].numbers["seconds_behind"] or 0)) <= 2
    assert not scene.fleet.online()  # nobody was registered


def test_a_key_that_is_not_enrolled_is_told(scene: Scene) -> None:
    steps = walk(scene, new_key())
    assert steps["key"].status is Status.FAILED
    assert "does not know this site's key" in steps["key"].what
    assert ".pub file" in steps["key"].mend


def test_another_authority_is_no_reason_to_ask_about_the_key(scene: Scene) -> None:
    steps = walk(scene, scene.keys["north"], ca=Authority().pem)
    assert steps["TLS"].status is Status.FAILED
    assert "another key than the one of the CA file" in steps["TLS"].what
    assert steps["key"].status is Status.SKIPPED


def test_a_running_agent_is_not_disturbed(scene: Scene) -> None:
    site = scene.site("north")
    scene.gather("north")
    with scene.fleet.run() as grid:
        assert walk(scene, scene.keys["north"])["key"].status is Status.PASSED
        assert sorted(scene.fleet.online().values()) == ["north"]
        assert texts(scene.fleet, ask(grid, "still here", 10)) == {"north": "STILL HERE"}
    assert site.error is None
    assert [event for event, _ in site.events].count(LinkEvent.ONLINE) == 1


@pytest.mark.parametrize("password", [PASSWORD, "wr0ng-of-the-proxy"])
def test_through_a_proxy_that_asks_for_a_password(scene: Scene, tmp_path: Path, password: str) -> None:
    auth = tmp_path / "auth"
    auth.write_text(f"north:{password}\n")
    auth.chmod(0o600)
    with serving(tunnel(base64.b64encode(f"north:{PASSWORD}".encode()).decode())) as port:
        steps = walk(scene, scene.keys["north"], proxy=f"http://{HOST}:{port}", proxy_auth=auth)
    assert list(steps) == list(STEPS)
    told = str(list(steps.values()))
    if password == PASSWORD:
        assert not failed(list(steps.values()))
        assert steps["key"].status is Status.PASSED
    else:
        assert steps["proxy"].status is Status.FAILED
    assert password not in told
    assert base64.b64encode(f"north:{password}".encode()).decode() not in told
