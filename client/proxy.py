"""The proxy that a site's file names for leaving its network. The file alone decides, never the environment."""

import base64
import os
from dataclasses import dataclass, field

from privet.common.config.site import MembershipSpec
from privet.common.errors import ConfigError
from privet.common.keys import read_private

_VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")  # that gRPC would follow by itself


@dataclass(frozen=True)
class Proxy:
    """An HTTP proxy that opens a tunnel (CONNECT). TLS runs through it to the server: it sees sizes and times."""

    address: str  # host:port
    credentials: str = field(default="", repr=False)  # user:password for basic authentication

    def headers(self) -> str:
        """What gRPC adds to its CONNECT request."""
        if not self.credentials:
            return ""
        return "Proxy-Authorization:Basic " + base64.b64encode(self.credentials.encode()).decode()


def load_proxy(membership: MembershipSpec) -> Proxy | None:
    """The proxy of a federation in site.toml, with the user and password of its private file; None without one.

    Raises: ConfigError where the file is missing, may be read by others, or does not hold one line user:password.
    """
    if membership.proxy is None:
        return None
    address = membership.proxy.removeprefix("http://").removesuffix("/")
    if membership.proxy_auth is None:
        return Proxy(address)
    path = membership.proxy_auth
    content = read_private(path, "file", "correct `proxy_auth`, or make this file: one line, user:password.")
    try:
        text = content.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        text = ""
    user, colon, _ = text.partition(":")
    if not user or not colon or not text.isprintable():
        raise ConfigError("does not hold one line user:password.", where=str(path), mend="write that one line.")
    return Proxy(address, text)


def route(proxy: Proxy | None) -> str:
    """How a connection leaves, as the end of a line for the operator.

    The environment's proxy is named where it might be expected to count; its value, which may hold a password, is not.
    """
    if proxy is not None:
        return f" by the proxy {proxy.address}"
    for name in _VARIABLES:
        if os.environ.get(name) or os.environ.get(name.upper()):
            return f" directly: {name} of the environment is not followed, only `proxy` in site.toml"
    return ""
