"""What an operator may meet at the other end, on the loopback: TLS servers of all sorts, proxies, silent ports."""

import contextlib
import datetime
import ipaddress
import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

HOST = "127.0.0.1"
_DAY = datetime.timedelta(days=1)


class Issuer:
    """A certificate authority of some name."""

    def __init__(self, name: str = "the federation's CA") -> None:
        self._key, self.name = ec.generate_private_key(ec.SECP256R1()), name
        self.certificate = (
            self._builder(name, self._key, -20, 400)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    def issue(
        self, names: Sequence[str] = (HOST,), *, since: int = -2, until: int = 200, subject: str = "a server"
    ) -> bytes:
        """PEM of a key and its certificate, valid from `since` to `until` days from now."""
        key = ec.generate_private_key(ec.SECP256R1())
        covered = [
            x509.IPAddress(ipaddress.ip_address(name)) if name[0].isdigit() else x509.DNSName(name) for name in names
        ]
        certificate = (
            self._builder(subject, key, since, until)
            .add_extension(x509.SubjectAlternativeName(covered), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return private + certificate.public_bytes(Encoding.PEM)

    def _builder(
        self, subject: str, key: ec.EllipticCurvePrivateKey, since: int, until: int
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + since * _DAY)
            .not_valid_after(now + until * _DAY)
        )


@contextlib.contextmanager
def serving(handle: Callable[[socket.socket], None]) -> Iterator[int]:
    """A port at which each connection is handled in a thread of its own, and closed."""
    with socket.create_server((HOST, 0)) as listener:
        listener.settimeout(0.05)
        over = threading.Event()

        threads: list[threading.Thread] = []

        def one(connection: socket.socket) -> None:
            with connection, contextlib.suppress(OSError):
                connection.settimeout(5)
                handle(connection)

        def run() -> None:
            while not over.is_set():
                try:
                    connection, _ = listener.accept()
                except TimeoutError:
                    continue
                threads.append(threading.Thread(target=one, args=(connection,)))
                threads[-1].start()

        accepting = threading.Thread(target=run)
        accepting.start()
        try:
            yield listener.getsockname()[1]
        finally:
            over.set()
            accepting.join()
            for thread in threads:
                thread.join()


def tls(
    folder: Path, pem: bytes, *, protocols: Sequence[str] = ("h2",), most: ssl.TLSVersion | None = None
) -> Callable[[socket.socket], None]:
    """Shakes hands by the key and certificate in `pem`."""
    path = folder / f"{len(list(folder.iterdir()))}.pem"
    path.write_bytes(pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if most is not None:
        with contextlib.suppress(DeprecationWarning, Warning):
            context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
            context.maximum_version = most
        context.set_ciphers("ALL:@SECLEVEL=0")
    context.load_cert_chain(path)
    if protocols:
        context.set_alpn_protocols(list(protocols))

    def handle(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as secure, contextlib.suppress(OSError):
            secure.recv(1)

    return handle


def head_of(connection: socket.socket) -> list[str]:
    """The lines of a CONNECT request."""
    head = b""
    while b"\r\n\r\n" not in head:
        part = connection.recv(1)
        if not part:
            break
        head += part
    return head.decode().split("\r\n")


def answering(answer: bytes, then: Callable[[socket.socket], None] | None = None) -> Callable[[socket.socket], None]:
    """A proxy that gives this answer to every request, and then does as another peer."""

    def handle(connection: socket.socket) -> None:
        head_of(connection)
        connection.sendall(answer)
        if then is not None:
            then(connection)

    return handle


def tunnel(credentials: str | None = None) -> Callable[[socket.socket], None]:
    """A proxy that connects to whatever is asked for; `credentials`: base64 of name:password that it wants."""

    def handle(connection: socket.socket) -> None:
        first, *headers = head_of(connection)
        given = dict(header.lower().replace(" ", "").split(":", 1) for header in headers if ":" in header)
        if credentials is not None and given.get("proxy-authorization") != f"basic{credentials}".lower():
            connection.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\n\r\n")
            return
        host, _, port = first.split(" ")[1].rpartition(":")
        with socket.create_connection((host, int(port))) as server:
            connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            _splice(connection, server)

    return handle


def _splice(one: socket.socket, other: socket.socket) -> None:
    """Until both ends are done or nothing comes for 5 s."""
    while True:
        ready, _, _ = select.select([one, other], [], [], 5)
        if not ready:
            return
        for source in ready:
            part = source.recv(65_536)
            if not part:
                return
            (other if source is one else one).sendall(part)


def closed_port() -> int:
    """A port at which nothing listens."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def black_hole() -> Iterator[int]:
    """A port that takes no further connection and refuses none: its queue is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind((HOST, 0))
        listener.listen(0)
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield int(listener.getsockname()[1])
