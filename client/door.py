"""What opens a federation's server to this site: the server's CA, the site's key, and the proxy on the way."""

from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from privet.client.proxy import Proxy, load_proxy
from privet.common.config.site import MembershipSpec
from privet.common.errors import ConfigError
from privet.common.keys import load_site_key, public_pem


@dataclass(frozen=True, eq=False)
class Door:
    """Equal to another that opens the same."""

    ca: bytes  # PEM of one or more authorities
    key: ec.EllipticCurvePrivateKey = field(repr=False)
    proxy: Proxy | None = None

    def _parts(self) -> tuple[Any, ...]:
        return self.ca, public_pem(self.key), self.proxy

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Door) and self._parts() == other._parts()

    def __hash__(self) -> int:
        return hash(self._parts())


def load_door(membership: MembershipSpec, federation: str) -> Door:
    """The door of a federation in site.toml, from its files.

    Raises: ConfigError.
    """
    key, proxy = load_site_key(membership.key), load_proxy(membership)
    try:
        return Door(membership.ca.read_bytes(), key, proxy)
    except OSError:
        raise ConfigError(
            "the CA certificate cannot be read.",
            where=f"{membership.ca} (federation.{federation}.ca)",
            mend="give the ca.crt that came with the invitation.",
        ) from None
