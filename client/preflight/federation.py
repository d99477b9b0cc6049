"""A site's way to each of its federations, step by step: name, connection, proxy, TLS, HTTP/2, key, clock.

The first step that fails is told; those that it makes meaningless are skipped. A running agent is not disturbed: the
probe registers nobody.
"""

import socket
from collections.abc import Callable
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric import ec

from privet.client.preflight.network import SECONDS, Place, Route, Unreachable, ask_proxy, connect, reached, resolve
from privet.client.preflight.results import Status, Step, failed
from privet.client.preflight.tls import tls_steps
from privet.common.config.site import MembershipSpec
from privet.common.errors import ConfigError

STEPS = ("name", "connect", "proxy", "TLS", "ALPN", "key", "clock")
_CLOCK_SECONDS = 30  # apart: Flower refuses a site 5 s ahead or 5 min behind, and clocks drift on


class Answer(Protocol):
    """What the server said to this site's key: `privet.client.probe.Probe`."""

    @property
    def finding(self) -> str: ...
    @property
    def reason(self) -> str: ...
    @property
    def mend(self) -> str: ...
    @property
    def clock_behind(self) -> int | None: ...


Ask = Callable[[MembershipSpec, bytes, ec.EllipticCurvePrivateKey, float], Answer]


def federation_steps(
    name: str,
    membership: MembershipSpec,
    ca: bytes,
    key: ec.EllipticCurvePrivateKey,
    *,
    ask: Ask | None = None,
    seconds: float = SECONDS,
) -> list[Step]:
    """Every step of one federation, in the order of `STEPS`; "proxy" only where one is set.

    ca: PEM. ask: asks the server about the key; by default with one signed call that changes nothing there. seconds:
    the longest that a step waits.
    """
    steps: list[Step] = []
    try:
        route = _route(membership)
        _walk(route, ca, name, seconds, steps)
    except Unreachable as error:
        steps.append(Step(error.step, Status.FAILED, error.what, error.mend, name))
    if not failed(steps):
        steps += _asked((ask or _probe)(membership, ca, key, seconds), name)
    told = {step.step for step in steps}
    wanted = [one for one in STEPS if one != "proxy" or membership.proxy is not None]
    steps += [Step(one, Status.SKIPPED, "an earlier step failed.", "", name) for one in wanted if one not in told]
    return sorted(steps, key=lambda step: STEPS.index(step.step))


def offline_steps(name: str) -> list[Step]:
    """Told instead where the network is not to be asked."""
    return [Step("network", Status.SKIPPED, "--offline: no name, port, certificate or key was tried.", "", name)]


def _walk(route: Route, ca: bytes, name: str, seconds: float, steps: list[Step]) -> None:
    """Raises: Unreachable."""
    through = route.proxy is not None
    addresses = resolve(route.first, is_proxy=through, seconds=seconds)
    steps.append(reached(route, name, "name"))

    def dial() -> socket.socket:
        connection = connect(route.first, addresses, is_proxy=through, seconds=seconds)
        try:
            if through:
                ask_proxy(connection, route, seconds)
        except BaseException:
            connection.close()
            raise
        return connection

    with connect(route.first, addresses, is_proxy=through, seconds=seconds) as first:
        steps.append(reached(route, name, "connect"))
        if through:
            ask_proxy(first, route, seconds)
            steps.append(reached(route, name, "proxy"))
    steps += tls_steps(route.server, ca, dial, name, seconds)


def _route(membership: MembershipSpec) -> Route:
    """Raises: Unreachable where the file of the proxy's name and password cannot be used."""
    server = Place.of(membership.address)
    if membership.proxy is None:
        return Route(server)
    from privet.client.proxy import load_proxy

    try:
        proxy = load_proxy(membership)
    except ConfigError as error:
        raise Unreachable("proxy", f"{error.where}: {error.what}", error.mend) from None
    assert proxy is not None
    return Route(server, Place.of(proxy.address), proxy.headers())


def _probe(membership: MembershipSpec, ca: bytes, key: ec.EllipticCurvePrivateKey, seconds: float) -> Answer:
    from privet.client.probe import probe
    from privet.client.proxy import load_proxy

    return probe(membership.address, ca, key, proxy=load_proxy(membership), seconds=seconds)


def _asked(answer: Answer, name: str) -> list[Step]:
    """The steps "key" and "clock"."""
    behind, clock = answer.clock_behind, []
    if behind is not None:
        clock.append(_clock(behind, refused=answer.finding == "wrong clock", name=name))
    elif answer.finding == "wrong clock":
        clock.append(Step("clock", Status.FAILED, answer.reason, answer.mend, name))
    elif answer.finding == "accepted":
        clock.append(Step("clock", Status.PASSED, "near enough to the server's for its signatures.", "", name))
    if answer.finding == "accepted":
        return [Step("key", Status.PASSED, "the server knows this site's key.", "", name), *clock]
    if answer.finding == "wrong clock":
        return [Step("key", Status.SKIPPED, "the server looks at it once the clocks agree.", "", name), *clock]
    return [Step("key", Status.FAILED, answer.reason, answer.mend, name), *clock]


def _clock(behind: int, *, refused: bool, name: str) -> Step:
    apart = f"{abs(behind)} s {'behind' if behind >= 0 else 'ahead of'} the server's"
    numbers = {"seconds_behind": behind}
    mend = "set this machine's clock, best by NTP."
    if refused:
        what = f"this machine's clock is {apart}; the server takes 5 s ahead or 5 min behind at most."
        return Step("clock", Status.FAILED, what, mend, name, numbers)
    if abs(behind) > _CLOCK_SECONDS:
        return Step("clock", Status.WARNING, f"this machine's clock is {apart}.", mend, name, numbers)
    return Step("clock", Status.PASSED, f"this machine's clock is {apart}.", "", name, numbers)
