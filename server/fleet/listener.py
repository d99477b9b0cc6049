"""The gRPC server behind the Fleet: one TLS port, bound or refused with a plain reason.

Flower's own constructor ends the process when the port is busy, and by gRPC's default two servers may share a port.
"""

import concurrent.futures
import contextlib
import errno
import queue
import resource
import socket
from collections.abc import Sequence
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from privet.common.errors import TransportError
from privet.server.fleet.flower import FleetServicer, add_FleetServicer_to_server

MAX_WORKERS = 512
"""Most requests served at once; a waiting site takes one, an uploading site three."""
_MAX_CONNECTIONS = 1024
"""Most connections at once; a site has one, and may have two while it changes over."""
_OWN_FILES = 256
"""Descriptors that stay free of connections, for the files of the server itself."""
_STOP_SECONDS = 2.0


class Listener:
    """A TLS port that serves one Fleet servicer. TLS 1.2 or newer (gRPC's rule)."""

    def __init__(
        self,
        address: str,
        certificates: tuple[bytes, bytes, bytes],
        servicer: FleetServicer,
        interceptors: Sequence[Any],
        max_message_bytes: int,
        others: Sequence[Any] = (),
    ) -> None:
        """Bind `address` ("host:port"; port 0 picks a free one).

        Args:
            certificates: PEM of the CA, of the server's certificate and of its private key.
            max_message_bytes: most bytes of one RPC.
            others: handlers of further methods.

        Raises:
            TransportError: the certificate is not for the key, or the address cannot be bound.
        """
        first = _checked_pair(certificates)
        self._next: queue.SimpleQueue[Any] = queue.SimpleQueue()  # a pair that was not shown yet
        self._executor = concurrent.futures.ThreadPoolExecutor(MAX_WORKERS, thread_name_prefix="fleet")
        self._server = grpc.server(
            self._executor,
            interceptors=interceptors,
            maximum_concurrent_rpcs=MAX_WORKERS,
            options=[
                ("grpc.so_reuseport", 0),
                ("grpc.max_concurrent_streams", MAX_WORKERS),
                ("grpc.max_send_message_length", max_message_bytes),
                ("grpc.max_receive_message_length", max_message_bytes),
                ("grpc.max_allowed_incoming_connections", _max_connections()),
                ("grpc.server_handshake_timeout_ms", 20_000),
                ("grpc.max_connection_idle_ms", 120_000),  # a site beats every 20 s
                ("grpc.keepalive_time_ms", 210_000),  # some clouds drop connections idle for four minutes
                ("grpc.http2.min_recv_ping_interval_without_data_ms", 60_000),
            ],
        )
        add_FleetServicer_to_server(servicer, self._server)
        self._server.add_generic_rpc_handlers(tuple(others))
        credentials = grpc.dynamic_ssl_server_credentials(first, self._renewed)
        try:
            self.port = int(self._server.add_secure_port(address, credentials))
        except RuntimeError:
            self._executor.shutdown(wait=False)
            raise _cannot_bind(address) from None

    def start(self) -> None:
        """Serve."""
        self._server.start()

    def renew(self, certificates: tuple[bytes, bytes, bytes]) -> None:
        """Show another certificate to whoever connects from now on; connections that stand are left alone.

        Raises:
            TransportError: the certificate is not for the key; the one shown so far stays.
        """
        self._next.put(_checked_pair(certificates))

    def _renewed(self) -> Any:
        """The newest pair, once; None while it stays the same. gRPC asks at each connection.

        Never the pair in use: gRPC puts what it is given in place of the other without regard to handshakes under way
        in its other threads, and a stranger who connects many times at once would end the process.
        """
        found = None
        with contextlib.suppress(queue.Empty):
            while True:
                found = self._next.get_nowait()
        return found

    def close(self) -> None:
        """Stop serving; requests under way get two seconds to end."""
        self._server.stop(_STOP_SECONDS).wait()
        self._executor.shutdown(wait=False)


def _max_connections() -> int:
    """So many that whoever connects, known or not, leaves the server the descriptors that its files take.

    Without them a checkpoint could not be written, and a stranger's connections would end the run.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MAX_CONNECTIONS + 2 * _OWN_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    room = _MAX_CONNECTIONS if soft == resource.RLIM_INFINITY else soft - _OWN_FILES
    return max(32, min(_MAX_CONNECTIONS, room))


def _checked_pair(certificates: tuple[bytes, bytes, bytes]) -> Any:
    """gRPC's form of a server certificate and its private key, found to belong together."""
    _ca, certificate, key = certificates
    try:
        certified = x509.load_pem_x509_certificate(certificate).public_key()
        owned = load_pem_private_key(key, None).public_key()
    except (ValueError, TypeError) as error:
        raise TransportError(
            "The server's certificate or private key cannot be read as PEM.",
            mend="Give the files that `privet init federation` wrote.",
        ) from error
    if certified != owned:
        raise TransportError(
            "The server's certificate is not for its private key.",
            mend="Give a certificate and a key that were made together.",
        )
    return grpc.ssl_server_certificate_configuration([(key, certificate)])


def _cannot_bind(address: str) -> TransportError:
    """Why an address cannot be bound, in words."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.bind(target)
    except (ValueError, OverflowError):
        return TransportError("This is no address.", where=address, mend='Write "host:port", for example "[::]:9092".')
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return TransportError(
                "The port is already in use.",
                where=address,
                mend="Stop the program that listens there, or set another port in the address.",
            )
        reason = (error.strerror or str(error)).lower()
        return TransportError(
            f"This machine cannot listen there: {reason}.",
            where=address,
            mend="Use an address of this machine (0.0.0.0 for all) and a port that you may open.",
        )
    return TransportError("This machine cannot listen there.", where=address, mend="Try again or use another port.")
