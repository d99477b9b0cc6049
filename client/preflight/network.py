"""From this machine to a server's port: the name, the connection, and the proxy's answer where one is in between.

Every wait is bounded. Nothing is sent but, to a proxy, the CONNECT request that asks for the server.
"""

import errno
import ipaddress
import re
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from privet.client.preflight.results import Status, Step

SECONDS = 10.0  # the longest that any one step waits
_MAX_ANSWER = 16_384  # bytes of a proxy's answer that are read


@dataclass(frozen=True)
class Place:
    """A host and a port, as "host:port" or "[v6]:port" names them."""

    host: str
    port: int

    @classmethod
    def of(cls, address: str) -> "Place":
        host, _, port = address.rpartition(":")
        return cls(host.strip("[]"), int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Route:
    """How a federation's server is reached: straight, or through an HTTP proxy."""

    server: Place
    proxy: Place | None = None
    headers: str = field(default="", repr=False)  # for the proxy; may hold a password

    @property
    def first(self) -> Place:
        """Where this machine itself connects to."""
        return self.proxy or self.server


class Unreachable(Exception):
    """A step of the way failed: which, what is wrong and the mend."""

    def __init__(self, step: str, what: str, mend: str) -> None:
        super().__init__(what)
        self.step, self.what, self.mend = step, what, mend


def resolve(place: Place, *, is_proxy: bool = False, seconds: float = SECONDS) -> list[Any]:
    """The addresses of the place, as `socket.getaddrinfo` gives them.

    Raises: Unreachable.
    """
    step, whose = "name", "the proxy's name" if is_proxy else "the server's name"
    key = "proxy" if is_proxy else "address"
    if not 0 < place.port < 65_536:
        raise Unreachable(step, f"{place.port} is no port.", f"give a port from 1 to 65535 in `{key}`.")
    found: list[Any] = []
    fault: list[OSError | UnicodeError] = []

    def look() -> None:
        try:
            found.extend(socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            fault.append(error)

    thread = threading.Thread(target=look, daemon=True, name="name resolution")  # the system's own wait has no limit
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        what = f"{whose} {place.host} got no answer from this machine's name server within {seconds:g} s."
        raise Unreachable(step, what, "check the name server of this machine (/etc/resolv.conf) and the firewall.")
    if fault or not found:
        mend = f"correct `{key}` in the site file, or have the name entered in this network's DNS or /etc/hosts."
        raise Unreachable(step, f"{whose} {place.host} cannot be resolved.", mend)
    return found


def is_number(host: str) -> bool:
    """Whether a host is an IP address already."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def connect(
    place: Place, addresses: Sequence[Any], *, is_proxy: bool = False, seconds: float = SECONDS
) -> socket.socket:
    """A TCP connection to the first address that takes one.

    Raises: Unreachable.
    """
    deadline = time.monotonic() + seconds
    last: OSError = TimeoutError()
    for number, (family, kind, protocol, _, target) in enumerate(addresses):
        left = (deadline - time.monotonic()) / (len(addresses) - number)  # a silent one leaves time for the next
        if left <= 0:
            break
        made = socket.socket(family, kind, protocol)
        try:
            made.settimeout(left)
            made.connect(target)
            made.settimeout(seconds)
            return made
        except OSError as error:
            made.close()
            last = error
    raise _no_connection(place, last, is_proxy, seconds)


def _no_connection(place: Place, error: OSError, is_proxy: bool, seconds: float) -> Unreachable:
    who = f"the proxy {place}" if is_proxy else str(place)
    if isinstance(error, ConnectionRefusedError):
        what = f"{who} refuses the connection: nothing listens there, or a firewall rejects it."
        mend = "check host and port, and " + ("ask the network team." if is_proxy else "ask whether the server runs.")
    elif isinstance(error, TimeoutError) or error.errno == errno.ETIMEDOUT:
        what = f"{who} does not answer within {seconds:g} s: a firewall drops the packets, or the host is down."
        mend = f"ask the network team to allow TCP from this machine to {place}."
    elif error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH):
        what, mend = f"there is no way to {who} from this machine.", "check the network, its routes and the address."
    else:
        what = f"{who} cannot be reached ({(error.strerror or type(error).__name__).lower()})."
        mend = "check the network of this machine and the address."
    return Unreachable("connect", what, mend)


def ask_proxy(connection: socket.socket, route: Route, seconds: float = SECONDS) -> None:
    """Have the proxy connect to the server; afterwards the connection is one with the server.

    Raises: Unreachable; its words never hold the name or the password.
    """
    server, proxy = route.server, route.proxy
    lines = [f"CONNECT {server} HTTP/1.1", f"Host: {server}"]
    if route.headers:
        lines.append(route.headers)
    try:
        connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        answer = _answer(connection, time.monotonic() + seconds)
    except TimeoutError:
        what, mend = f"the proxy {proxy} does not answer within {seconds:g} s.", "ask the network team."
        raise Unreachable("proxy", what, mend) from None
    except OSError:
        what = f"the proxy {proxy} ended the connection without an answer."
        raise Unreachable("proxy", what, "ask the network team whether it is an HTTP proxy.") from None
    status = re.match(rb"HTTP/1\.[01] ([0-9]{3})(?:[ \r]|$)", answer)
    if status is None:
        what = f"what answers at {proxy} is not an HTTP proxy."
        raise Unreachable("proxy", what, "correct `proxy` in the site file.")
    _judge(int(status[1]), route)


def _answer(connection: socket.socket, deadline: float) -> bytes:
    """Up to the empty line. The server behind says nothing by itself, so nothing of TLS is read here."""
    answer = b""
    while b"\r\n\r\n" not in answer and len(answer) < _MAX_ANSWER:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        connection.settimeout(left)
        part = connection.recv(4_096)
        if not part:
            if not answer:
                raise ConnectionResetError
            break
        answer += part
    return answer


def _judge(code: int, route: Route) -> None:
    server, proxy = route.server, route.proxy
    if 200 <= code < 300:
        return
    if code == 407 and not route.headers:
        what = f"the proxy {proxy} asks for a name and a password (407)."
        mend = "set `proxy_auth` in the federation's table to a file of mode 0600 that holds name:password."
    elif code == 407:
        what = f"the proxy {proxy} does not take the name and the password of `proxy_auth` (407)."
        mend = "correct that file; where the proxy wants another scheme than Basic, ask the network team."
    elif code == 403:
        what = f"the proxy {proxy} does not allow a tunnel to {server} (403)."
        mend = f"ask the network team to allow CONNECT to {server}."
    elif code in (405, 501):
        what = f"the proxy {proxy} offers no tunnels ({code})."
        mend = "ask the network team for a proxy that allows CONNECT."
    elif code in (502, 503, 504):
        what = f"the proxy {proxy} cannot reach {server} ({code})."
        mend = f"ask the network team whether the proxy may go to {server}, and whether the server runs."
    else:
        what, mend = f"the proxy {proxy} answers {code} to CONNECT {server}.", "ask the network team."
    raise Unreachable("proxy", what, mend)


def reached(route: Route, federation: str, step: str) -> Step:
    """A step of the way that went well."""
    words = {
        "name": f"{route.first.host} {'needs no look-up' if is_number(route.first.host) else 'resolves'}"
        + (" (the proxy; it looks up the server's name)." if route.proxy else "."),
        "connect": f"{route.first} takes the connection" + (" (the proxy)." if route.proxy else "."),
        "proxy": f"{route.proxy} opens a tunnel to {route.server}.",
    }
    return Step(step, Status.PASSED, words[step], federation=federation)
