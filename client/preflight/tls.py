"""TLS to a server, judged as the client's own connection judges it; and where it fails, what the other end showed.

The client's gRPC verifies with the CA of the site's file, also where that is no root, and asks for HTTP/2 by ALPN.
"""

import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import NameOID

from privet.client.preflight.network import SECONDS, Place, is_number
from privet.client.preflight.results import Numbers, Status, Step

Dial = Callable[[], socket.socket]  # a new connection to the server, through the proxy where there is one
_SOON_DAYS = 30

# OpenSSL's X509_V_ERR_*
_NOT_YET, _EXPIRED = 9, 10
_WRONG_NAME = (62, 64)  # of a host, of an address
_EXEMPT = "If a proxy is in between, ask the network team to exempt {place} from TLS inspection."


@dataclass(frozen=True)
class Secured:
    """A handshake that went well."""

    version: str  # as OpenSSL names it, such as TLSv1.3
    protocol: str | None  # by ALPN
    certificate: x509.Certificate


def tls_steps(place: Place, ca: bytes, dial: Dial, federation: str, seconds: float = SECONDS) -> list[Step]:
    """The steps "TLS" and "ALPN". dial raises what `network` raises.

    Raises: Unreachable where the connection itself no longer comes about.
    """

    def step(name: str, status: Status, what: str, mend: str = "", numbers: Numbers | None = None) -> Step:
        return Step(name, status, what, mend, federation, numbers or {})

    skipped = step("ALPN", Status.SKIPPED, "TLS comes first.")
    try:
        authorities = x509.load_pem_x509_certificates(ca)
    except ValueError:
        what = "the CA file holds no certificate that can be read."
        mend = "take the ca.crt from the server's operator anew."
        return [step("TLS", Status.FAILED, what, mend), skipped]
    try:
        secured = _handshake(place, ca, dial, seconds)
    except ssl.SSLCertVerificationError as error:
        shown = _shown(dial, place, seconds)
        what, mend = _distrusted(place, authorities, error.verify_code, error.verify_message, shown)
        return [step("TLS", Status.FAILED, what, mend, _described(shown)), skipped]
    except (ssl.SSLError, OSError) as error:
        what, mend = _no_handshake(place, error, seconds)
        return [step("TLS", Status.FAILED, what, mend), skipped]
    return [_good(secured, federation), _alpn(place, secured.protocol, federation)]


def _handshake(place: Place, ca: bytes, dial: Dial, seconds: float) -> Secured:
    """Raises: ssl.SSLError, OSError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cadata=ca.decode("ascii", errors="ignore"))
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VERIFY_X509_TRUSTED_FIRST
    try:
        return _shake(context, ["h2"], place, dial, seconds)
    except ssl.SSLError as error:
        if "NO_APPLICATION_PROTOCOL" not in (error.reason or ""):
            raise
    return _shake(context, [], place, dial, seconds)


def _shake(context: ssl.SSLContext, protocols: list[str], place: Place, dial: Dial, seconds: float) -> Secured:
    if protocols:
        context.set_alpn_protocols(protocols)
    else:
        context = _without_alpn(context)
    with dial() as connection:
        connection.settimeout(seconds)
        with context.wrap_socket(connection, server_hostname=place.host) as secure:
            content = secure.getpeercert(binary_form=True)
            assert content is not None
            certificate = x509.load_der_x509_certificate(content)
            return Secured(secure.version() or "", secure.selected_alpn_protocol(), certificate)


def _without_alpn(context: ssl.SSLContext) -> ssl.SSLContext:
    """The same trust in a context that offers no protocol: one that has offered cannot be told to stop."""
    fresh = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    fresh.minimum_version, fresh.verify_flags = context.minimum_version, context.verify_flags
    fresh.load_verify_locations(cadata=b"".join(context.get_ca_certs(binary_form=True)))
    return fresh


def _shown(dial: Dial, place: Place, seconds: float) -> x509.Certificate | None:
    """The certificate of the other end, whoever that is: a handshake that trusts nothing and sends nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    try:
        with dial() as connection:
            connection.settimeout(seconds)
            with context.wrap_socket(connection, server_hostname=place.host) as secure:
                content = secure.getpeercert(binary_form=True)
                return x509.load_der_x509_certificate(content) if content else None
    except (OSError, ValueError):
        return None


def _distrusted(
    place: Place, authorities: list[x509.Certificate], code: int, message: str, shown: x509.Certificate | None
) -> tuple[str, str]:
    """What is wrong with the certificate, and the mend."""
    if shown is None:
        return f"the server's certificate is not trusted ({message}).", "take the ca.crt from the server's operator."
    seen = _words(shown)
    if code in (_NOT_YET, _EXPIRED):
        return _dates(authorities, shown, code, seen)
    if code in _WRONG_NAME:
        what = f"the certificate is the federation's, and not for {place.host} but for {_names(shown)}. {seen}"
        return what, "use one of these in `address`, or ask the server's operator for a certificate with this name."
    own = {authority.subject for authority in authorities}
    if shown.issuer in own:
        what = (
            f"the certificate is issued by a {_name(shown.issuer)} that has another key than the one of the CA file. "
            f"{seen}"
        )
        mend = (
            "the CA file is another federation's, or the federation's CA was made anew, or somebody pretends to be it: "
            "ask the server's operator for ca.crt, and compare its fingerprint by telephone."
        )
        return what, mend
    whose = " or ".join(sorted(_name(name) for name in own))
    if shown.issuer == shown.subject:
        what = f"the certificate is signed by itself, not by the federation's {whose}. {seen}"
        return what, f"check host and port: this is another server. {_EXEMPT.format(place=place)}"
    issuer = _name(shown.issuer)
    if _covers(shown, place.host):
        what = (
            f"a proxy inspects TLS here: the certificate is issued by {issuer}, not by the federation's {whose}. {seen}"
        )
        mend = (
            f"ask the network team to exempt {place} from TLS inspection. If nobody inspects TLS in this network, the "
            "CA file is another federation's: take it from the server's operator anew."
        )
        return what, mend
    what = (
        f"the certificate is issued by {issuer}, not by the federation's {whose}, and is for {_names(shown)}, not for "
        f"{place.host}. {seen}"
    )
    return what, f"check host and port: this is another server. {_EXEMPT.format(place=place)}"


def _dates(authorities: list[x509.Certificate], shown: x509.Certificate, code: int, seen: str) -> tuple[str, str]:
    now = datetime.now(UTC)
    whose, one = "the server's certificate", shown
    if shown.not_valid_before_utc <= now <= shown.not_valid_after_utc:
        whose, one = "the CA's certificate", authorities[0]
    clock = f"This machine's clock says {now:%Y-%m-%d %H:%M} UTC; if that is wrong, set it, best by NTP."
    if code == _EXPIRED:
        what = f"{whose} expired on {one.not_valid_after_utc:%Y-%m-%d %H:%M} UTC. {seen}"
        return what, f"ask the server's operator to renew it (`privet init invite --renew`). {clock}"
    what = f"{whose} is not valid before {one.not_valid_before_utc:%Y-%m-%d %H:%M} UTC. {seen}"
    return what, f"{clock} If it is right, the server's clock was wrong when the certificate was made."


def _no_handshake(place: Place, error: OSError, seconds: float) -> tuple[str, str]:
    """Why there is no TLS at all, and the mend."""
    reason = (error.reason or "") if isinstance(error, ssl.SSLError) else ""
    if isinstance(error, TimeoutError):
        what = f"{place} takes the connection and then says nothing for {seconds:g} s."
        mend = "ask whether a firewall or a proxy holds TLS back, and whether the port is the server's."
    elif "PROTOCOL_VERSION" in reason or reason == "UNSUPPORTED_PROTOCOL":
        what = f"{place} speaks no TLS 1.2 or newer."
        mend = "a privet server does: check host and port, and ask whether a proxy in between downgrades TLS."
    elif reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG"):
        what = f"what answers at {place} does not speak TLS."
        mend = "check host and port; a portal or a proxy may answer in the server's place."
    elif isinstance(error, ConnectionResetError | BrokenPipeError | ssl.SSLEOFError | ssl.SSLZeroReturnError):
        what = f"{place} ends the connection in the middle of the TLS handshake."
        mend = f"often a firewall that inspects TLS: ask the network team to allow TLS to {place} untouched."
    else:
        what = f"no TLS with {place} ({(reason or type(error).__name__).lower().replace('_', ' ')})."
        mend = "check host and port; a privet server speaks TLS 1.2 and 1.3."
    return what, mend


def _good(secured: Secured, federation: str) -> Step:
    certificate = secured.certificate
    days = (certificate.not_valid_after_utc - datetime.now(UTC)).days
    what = f"{secured.version}, a certificate of the federation's CA, {_until(certificate)}."
    numbers: Numbers = {**_described(certificate), "version": secured.version, "days_left": days}
    if days >= _SOON_DAYS:
        return Step("TLS", Status.PASSED, what, "", federation, numbers)
    mend = "ask the server's operator to renew it in time (`privet init invite --renew`); sites need nothing new."
    return Step("TLS", Status.WARNING, f"{what[:-1]}: {days} days are left.", mend, federation, numbers)


def _alpn(place: Place, protocol: str | None, federation: str) -> Step:
    if protocol == "h2":
        return Step("ALPN", Status.PASSED, "HTTP/2.", "", federation, {"protocol": protocol})
    what = f"{place} does not agree on HTTP/2 (ALPN h2), which gRPC needs."
    mend = (
        "check host and port: this is no privet server. If it is, a proxy in between speaks HTTP/1.1 only: ask the "
        f"network team to pass TLS to {place} through untouched."
    )
    return Step("ALPN", Status.FAILED, what, mend, federation, {"protocol": protocol})


# Certificates in words


def _described(certificate: x509.Certificate | None) -> dict[str, str]:
    if certificate is None:
        return {}
    return {
        "subject": certificate.subject.rfc4514_string(),
        "issuer": certificate.issuer.rfc4514_string(),
        "fingerprint": fingerprint(certificate),
        "valid_until": f"{certificate.not_valid_after_utc:%Y-%m-%d}",
    }


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of the DER form, as `openssl x509 -fingerprint -sha256` writes it."""
    return certificate.fingerprint(SHA256()).hex(":").upper()


def _words(certificate: x509.Certificate) -> str:
    return (
        f"It was shown with subject {_name(certificate.subject)}, issuer {_name(certificate.issuer)}, SHA-256 "
        f"{fingerprint(certificate)}."
    )


def _until(certificate: x509.Certificate) -> str:
    return f"valid until {certificate.not_valid_after_utc:%Y-%m-%d}"


def _name(name: x509.Name) -> str:
    common = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    text = str(common[0].value) if common else name.rfc4514_string()
    return f"'{text[:100]}'"


def _alternatives(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return []
    return [str(name.value) for name in names if isinstance(name, x509.DNSName | x509.IPAddress)]


def _names(certificate: x509.Certificate) -> str:
    found = _alternatives(certificate)
    return (", ".join(name[:100] for name in found[:5]) + (", …" if len(found) > 5 else "")) or "no host"


def _covers(certificate: x509.Certificate, host: str) -> bool:
    """Whether a certificate claims to be for the host, whoever signed it."""
    host = host.lower()
    names = [name.lower() for name in _alternatives(certificate)]
    if is_number(host):
        return host in names
    return any(name == host or (name.startswith("*.") and host.partition(".")[2] == name[2:]) for name in names)
