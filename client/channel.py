"""One gRPC channel to a server: TLS by the federation's CA, every call signed, by a proxy where the site has one."""

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from privet.client.flower import NodeAuthClientInterceptor
from privet.client.proxy import Proxy
from privet.common.errors import TransportError


def open_channel(
    address: str, ca: bytes, key: ec.EllipticCurvePrivateKey, proxy: Proxy | None, max_message_bytes: int
) -> grpc.Channel:
    """A channel that connects at its first call, over a connection of its own.

    Args:
        ca: PEM of one or more authorities; the server's certificate must come from one of them.

    Raises:
        TransportError: `ca` is no PEM file of certificates.
    """
    try:
        x509.load_pem_x509_certificates(ca)
    except ValueError:
        raise TransportError(
            "The CA file holds no certificate.",
            where=address,
            mend="Take the CA file (PEM) from the server's operator anew.",
        ) from None
    target = address
    options: list[tuple[str, str | int]] = [
        ("grpc.max_send_message_length", -1),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.initial_reconnect_backoff_ms", 500),
        ("grpc.max_reconnect_backoff_ms", 5_000),
        ("grpc.keepalive_time_ms", 65_000),  # a server allows one ping in 60 s
        ("grpc.keepalive_timeout_ms", 20_000),  # also TCP's limit for data that nobody acknowledges
        ("grpc.use_local_subchannel_pool", 1),  # a new channel is a new connection
        ("grpc.enable_http_proxy", 0),  # the environment's
    ]
    if proxy is not None:
        target = proxy.address
        options += [
            ("grpc.http_connect_server", address),
            ("grpc.http_connect_headers", proxy.headers()),
            # The certificate must be the server's, not the proxy's.
            ("grpc.ssl_target_name_override", address.rpartition(":")[0].strip("[]")),
            ("grpc.default_authority", address),
        ]
    credentials = grpc.ssl_channel_credentials(ca)
    return grpc.intercept_channel(
        grpc.secure_channel(target, credentials, options=options), NodeAuthClientInterceptor(key, key.public_key())
    )
