"""Addresses of this machine alone: what listens there is reached from nowhere else."""

import ipaddress
from typing import Annotated

from pydantic import AfterValidator


def split_loopback(address: str) -> tuple[str, int]:
    """Host and port of a loopback address, written in numbers: a name may be given another address tomorrow.

    Raises: ValueError.

    >>> split_loopback("[::1]:9464")
    ('::1', 9464)
    """
    host, _, port = address.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        found = ipaddress.ip_address(bare)
        sound = found.is_loopback and (found.version == 6) == (bare != host) and "%" not in bare
    except ValueError:
        sound = False
    if not sound or not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65_535):
        raise ValueError(
            'Expected an address of this machine alone, such as "127.0.0.1:9464" or "[::1]:9464": these numbers are '
            "shown to whoever asks."
        )
    return bare, int(port)


def _loopback(address: str) -> str:
    split_loopback(address)
    return address


Loopback = Annotated[str, AfterValidator(_loopback)]
