"""Joining a Ray cluster that was started apart: it is found out within seconds whether one answers, nothing of it is
started or stopped, and an address of the loopback interface is taken as it stands."""

import contextlib
import ipaddress
import os
from collections.abc import Iterator
from typing import Any

from privet.common.errors import ConfigError

_ANSWER_SECONDS = 10.0  # until the cluster's head must have said that it is one
_WHERE = "--ray-address"
_CHECK_ALIVE = "/ray.rpc.NodeInfoGcsService/CheckAlive"


def join(ray: Any, address: str) -> None:
    """Connect to the cluster whose head is at `address`, "HOST:PORT".

    Raises: ConfigError where none answers there, its version is another, or this machine is no part of it.
    """
    host, port = _parted(address)
    wants_token = _ask(host, port)
    if wants_token:
        _use_token()
    where = contextlib.nullcontext() if not _is_loopback(host) else loopback_alone()
    with where, _short_waits():
        try:
            ray.init(address=f"{host}:{port}", log_to_driver=False, logging_level="error")
        except (ConnectionError, RuntimeError, ValueError, ray.exceptions.AuthenticationError) as error:
            ray.shutdown()
            if wants_token and isinstance(error, ConnectionError):
                raise _token_refused("it does not take the token of this machine.") from None
            if isinstance(error, ray.exceptions.AuthenticationError):  # a busy head was asked, and did not say so
                raise _token_refused("this machine has none, or another.") from None
            raise _refusal(error, address) from None


@contextlib.contextmanager
def loopback_alone() -> Iterator[None]:
    """Ray takes an address of the loopback interface as a wish for the machine's own one, to be reached by others. It
    does not where it is told that there are no clusters, as it is by default on desktop systems."""
    from ray._private import ray_constants

    told, name = ray_constants.ENABLE_RAY_CLUSTER, ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR
    ray_constants.ENABLE_RAY_CLUSTER = False  # here, and in the processes that are started
    try:
        with _set(name, "0"):
            yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = told


def _parted(address: str) -> tuple[str, int]:
    """Raises: ConfigError."""
    host, _, port = address.rpartition(":")
    if not host or "://" in address or not (port.isascii() and port.isdigit() and 0 < int(port) < 2**16):
        mend = "give HOST:PORT, as `ray start --head` tells it: 10.0.0.7:6379."
        raise ConfigError(f"got {address!r}.", where=_WHERE, mend=mend)
    return host, int(port)


def _ask(host: str, port: int) -> bool:
    """Ask the cluster's head whether it is there: Ray itself would try for minutes. Whether it wants a token.

    Raises: ConfigError.
    """
    if os.environ.get("RAY_USE_TLS", "").lower() in ("1", "true"):  # whose certificates are Ray's affair
        return False
    import grpc

    with grpc.insecure_channel(f"{host}:{port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
        ask = channel.unary_unary(_CHECK_ALIVE, request_serializer=bytes, response_deserializer=bytes)
        try:
            ask(b"", timeout=_ANSWER_SECONDS)
        except grpc.RpcError as error:
            if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                raise ConfigError(
                    f"no Ray cluster answers at {host}:{port}.",
                    where=_WHERE,
                    mend="start one there with `ray start --head`, or leave the address out: then one starts here.",
                ) from None
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                what = f"what answers at {host}:{port} is no head of a Ray cluster."
                raise ConfigError(what, where=_WHERE, mend="give the address that `ray start --head` told.") from None
            return error.code() is grpc.StatusCode.UNAUTHENTICATED
    return False


def _use_token() -> None:
    """Show the cluster the token that Ray keeps on this machine, as it does by itself only for clusters that it found.

    Raises: ConfigError where there is none.
    """
    try:
        from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
    except ImportError:
        raise _token_refused("this version of Ray has none to show.") from None
    if not maybe_enable_token_auth_if_token_available(warn_if_disabled=False):
        raise _token_refused("this machine has none, or is told by RAY_AUTH_MODE to show none.")


def _token_refused(what: str) -> ConfigError:
    return ConfigError(
        f"the cluster lets nobody in without its token: {what}",
        where=_WHERE,
        mend="have the head's file ~/.ray/auth_token here too, or set RAY_AUTH_TOKEN_PATH to it.",
    )


def _refusal(error: Exception, address: str) -> ConfigError:
    """What kept this process out of a cluster that is there."""
    words = " ".join(str(error).split())
    if "No node info found" in words:
        return ConfigError(
            "this machine is no part of the cluster.",
            where=_WHERE,
            mend=f"run privet on one that is, or first `ray start --address {address}` here.",
        )
    return ConfigError(
        f"the cluster does not take this process in: {words[:300]}",
        where=_WHERE,
        mend="install the same versions of Python, Ray and privet on every machine.",
    )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@contextlib.contextmanager
def _short_waits() -> Iterator[None]:
    """Ray tries so many seconds, not a third of a minute, to reach a head that has just answered."""
    name = "RAY_gcs_server_port_wait_time_s"
    with _set(name, os.environ.get(name, "5")):
        yield


@contextlib.contextmanager
def _set(name: str, value: str) -> Iterator[None]:
    """An environment variable, for a while."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before
