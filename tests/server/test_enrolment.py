"""Certificates that real TLS accepts and refuses rightly; keys that enrol one site each; an honest invitation."""

import contextlib
import datetime
import socket
import ssl
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from privet.common.config import Federation, ServerSpec, load_federation, load_invite
from privet.common.errors import ConfigError
from privet.common.keys import new_site_key, public_line, public_pem
from privet.server import certificates
from privet.server.certificates import covers
from privet.server.enrolment import (
    create_authority,
    create_federation,
    is_invite_stale,
    load_certificates,
    load_sites,
    rewrite_invite,
    write_invite,
)


def _spec(folder: Path) -> ServerSpec:
    return ServerSpec(certificate=folder / "server.crt", key=folder / "server.key", ca=folder / "ca.crt")


def _federation(folder: Path) -> Path:
    create_federation(
        folder, name="ward", hosts=["fed.example.org"], port=9092, base="some/base", sha256="0" * 64, labels=["a", "b"]
    )
    return folder / "federation.toml"


@contextlib.contextmanager
def _tls_server(folder: Path) -> Iterator[int]:
    """A TLS server on loopback that says one byte to each caller; its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.crt", folder / "server.key")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    caller, _ = listener.accept()
                except OSError:
                    return
                with caller, contextlib.suppress(OSError), context.wrap_socket(caller, server_side=True) as tls:
                    tls.sendall(b"!")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield int(listener.getsockname()[1])
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)


def _call(port: int, ca: Path, name: str) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.load_verify_locations(ca)
    with (
        socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname=name) as tls,
    ):
        return tls.recv(1)


def test_tls_accepts_the_named_hosts_and_no_other(tmp_path: Path) -> None:
    create_authority(tmp_path / "own", ["Fed.Example.org.", "10.1.2.3", "[2001:db8::1]"])
    create_authority(tmp_path / "other", ["fed.example.org"])
    ca = tmp_path / "own" / "ca.crt"
    with _tls_server(tmp_path / "own") as port:
        for name in ("fed.example.org", "10.1.2.3", "2001:db8::1", "localhost", "127.0.0.1"):
            assert _call(port, ca, name) == b"!", name
        for name in ("evil.example.org", "example.org", "10.1.2.4", "2001:db8::2"):
            with pytest.raises(ssl.SSLCertVerificationError, match=r"mismatch|not valid for"):
                _call(port, ca, name)
        with pytest.raises(ssl.SSLCertVerificationError, match="verify failed"):
            _call(port, tmp_path / "other" / "ca.crt", "fed.example.org")


def test_authority_can_do_no_more_than_it_must(tmp_path: Path) -> None:
    create_authority(tmp_path, ["fed.example.org", "10.1.2.3"])
    ca, server = (x509.load_pem_x509_certificate((tmp_path / n).read_bytes()) for n in ("ca.crt", "server.crt"))
    constraints = ca.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert (constraints.value.ca, constraints.value.path_length) == (True, 0)
    usage = ca.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.key_cert_sign
    assert not usage.digital_signature
    assert not server.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert not server.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    purposes = server.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(purposes) == [ExtendedKeyUsageOID.SERVER_AUTH]
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["fed.example.org", "localhost"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["10.1.2.3", "127.0.0.1"]
    own = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    assert server.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier == own
    for certificate, days in ((ca, 3650), (server, 825)):
        assert isinstance(certificate.public_key(), ec.EllipticCurvePublicKey)
        assert (certificate.not_valid_after_utc - certificate.not_valid_before_utc).days == days
        assert certificate.not_valid_before_utc < datetime.datetime.now(datetime.UTC)
    assert ca.serial_number != server.serial_number


def test_private_keys_are_private_and_nothing_is_overwritten(tmp_path: Path) -> None:
    create_authority(tmp_path, ["h"])
    files = ["ca.crt", "ca.key", "server.crt", "server.key"]
    before = {name: (tmp_path / name).read_bytes() for name in files}
    assert sorted(path.name for path in tmp_path.iterdir()) == files
    for name in files:
        mode = stat.S_IMODE((tmp_path / name).stat().st_mode)
        assert mode & 0o077 == (0 if name.endswith(".key") else mode & 0o044)
        assert (b"PRIVATE" in before[name]) == name.endswith(".key")
    for name in files:
        (tmp_path / "again").mkdir(exist_ok=True)
        (tmp_path / "again" / name).write_text("mine")
        with pytest.raises(ConfigError, match="exists already"):
            create_authority(tmp_path / "again", ["h"])
        assert [path.read_text() for path in (tmp_path / "again").iterdir()] == ["mine"]
        (tmp_path / "again" / name).unlink()
    with pytest.raises(ConfigError, match="exists already"):
        create_authority(tmp_path, ["h"])
    assert before == {name: (tmp_path / name).read_bytes() for name in files}


@pytest.mark.parametrize(
    "host", ["", "h:9092", "https://h", "a b", "*.h", "münchen.de", "-h", "a..b", "fe80::1%eth0", "0.0.0.0", "x" * 64]
)
def test_what_is_no_host_is_refused(tmp_path: Path, host: str) -> None:
    with pytest.raises(ConfigError, match="--host"):
        create_authority(tmp_path / "keys", [host])
    assert not (tmp_path / "keys").exists()


def test_sound_certificates_load(tmp_path: Path) -> None:
    create_authority(tmp_path, ["h"])
    names = ("ca.crt", "server.crt", "server.key")
    assert load_certificates(_spec(tmp_path)) == tuple((tmp_path / name).read_bytes() for name in names)


def test_unsound_certificates_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, other = tmp_path / "own", tmp_path / "other"
    create_authority(own, ["h"])
    create_authority(other, ["h"])
    pieces = {"ca": own / "ca.crt", "certificate": own / "server.crt", "key": own / "server.key"}

    def refused(pattern: str, **changed: Path) -> None:
        with pytest.raises(ConfigError, match=pattern) as caught:
            load_certificates(ServerSpec.model_validate(pieces | changed))
        assert caught.value.mend
        assert caught.value.where

    for piece in pieces:
        refused("no such file", **{piece: tmp_path / "none"})
    (tmp_path / "junk").write_text("junk")
    refused("no PEM certificate", ca=tmp_path / "junk")
    refused("no PEM certificate", certificate=own / "server.key")
    refused("no PEM private key", key=tmp_path / "junk")
    refused("does not belong", key=other / "server.key")
    refused("not signed by", ca=other / "ca.crt")
    (tmp_path / "two").write_bytes((other / "server.crt").read_bytes() + (own / "ca.crt").read_bytes())
    refused("chain is broken", certificate=tmp_path / "two", key=other / "server.key")
    (tmp_path / "two").write_bytes((own / "server.crt").read_bytes() + (own / "ca.crt").read_bytes())
    load_certificates(ServerSpec.model_validate(pieces | {"certificate": tmp_path / "two"}))
    for days, pattern in ((-1, "expired on"), (826, "expired on"), (3651, "expired on")):
        if days > 0:
            monkeypatch.setattr(certificates, "_BACKDATED", datetime.timedelta(days=days))
        else:
            monkeypatch.setattr(certificates, "SERVER_DAYS", 0)
        old = tmp_path / f"old{days}"
        create_authority(old, ["h"])
        monkeypatch.undo()
        with pytest.raises(ConfigError, match=pattern):
            load_certificates(_spec(old))
    monkeypatch.setattr(certificates, "_BACKDATED", datetime.timedelta(days=-2))
    create_authority(tmp_path / "early", ["h"])
    with pytest.raises(ConfigError, match="not valid before"):
        load_certificates(_spec(tmp_path / "early"))


def test_renewed_certificate_serves_old_and_new_hosts(tmp_path: Path) -> None:
    path = _federation(tmp_path)
    ca_before = (tmp_path / "keys" / "ca.crt").read_bytes()
    with pytest.raises(ConfigError, match="does not cover 10"):
        rewrite_invite(tmp_path / "invite.toml", load_federation(path), host="10.0.0.9")
    invite = rewrite_invite(tmp_path / "invite.toml", load_federation(path), host="10.0.0.9", renew=True)
    assert invite.address == "10.0.0.9:9092"
    assert (tmp_path / "keys" / "ca.crt").read_bytes() == ca_before
    load_certificates(load_federation(path).server)
    with _tls_server(tmp_path / "keys") as port:
        for name in ("fed.example.org", "10.0.0.9"):
            assert _call(port, tmp_path / "keys" / "ca.crt", name) == b"!"


def test_covering_tells_names_and_addresses_apart() -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    authority = certificates._issue_authority(key)
    certificate = certificates._issue_server(authority, key, key.public_key(), ["fed.example.org", "2001:db8::1"])
    assert covers(certificate, "FED.example.org")
    assert covers(certificate, "2001:0db8:0::1")
    assert not covers(certificate, "sub.fed.example.org")
    assert not covers(certificate, "10.0.0.1")


def _enrol(folder: Path, name: str, file: str | None = None) -> bytes:
    folder.mkdir(exist_ok=True)
    key = ec.generate_private_key(ec.SECP384R1())
    (folder / (file or f"{name}.pub")).write_text(public_line(key, name) + "\n")
    return public_pem(key)


def test_sites_are_known_by_their_keys(tmp_path: Path) -> None:
    expected = {_enrol(tmp_path / "sites", name): name for name in ("b", "a")}
    (tmp_path / "sites" / "README").write_text("notes")
    assert load_sites(tmp_path / "sites") == expected
    assert all(pem.startswith(b"-----BEGIN PUBLIC KEY-----") for pem in expected)
    (tmp_path / "empty").mkdir()
    assert load_sites(tmp_path / "empty") == {}


def test_doubtful_site_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        load_sites(tmp_path / "none")
    _enrol(tmp_path / "renamed", "a", "b.pub")
    with pytest.raises(ConfigError, match=r"b\.pub: the file holds the key of the site a.*a\.pub"):
        load_sites(tmp_path / "renamed")
    twice = tmp_path / "twice"
    _enrol(twice, "a")
    (twice / "b.pub").write_text((twice / "a.pub").read_text().replace(" a\n", " b\n"))
    with pytest.raises(ConfigError, match=r"b\.pub: the same key as in a\.pub"):
        load_sites(twice)
    _enrol(tmp_path / "junk", "a")
    (tmp_path / "junk" / "z.pub").write_text("junk")
    with pytest.raises(ConfigError, match=r"z\.pub.*Mend"):
        load_sites(tmp_path / "junk")
    (tmp_path / "leak").mkdir()
    new_site_key(tmp_path / "leak" / "a.pub")
    with pytest.raises(ConfigError, match="private key"):
        load_sites(tmp_path / "leak")


def test_invite_keeps_the_digest_and_goes_stale_with_the_plan(tmp_path: Path) -> None:
    path = _federation(tmp_path)
    federation, invitation = load_federation(path), tmp_path / "invite.toml"
    invite = load_invite(invitation)
    assert invite.digest == federation.plan.digest
    assert invite.plan == federation.plan
    assert invite.address == "fed.example.org:9092"
    assert invite.ca.encode() == (tmp_path / "keys" / "ca.crt").read_bytes()
    assert not is_invite_stale(invitation, federation)
    path.write_text(path.read_text().replace("rounds = 40", "rounds = 41"))
    changed = load_federation(path)
    assert changed.training.rounds == 41
    assert is_invite_stale(invitation, changed)
    rewrite_invite(invitation, changed)
    assert load_invite(invitation).digest == changed.plan.digest
    assert not is_invite_stale(invitation, changed)
    assert not is_invite_stale(tmp_path / "none", changed)
    path.write_text(path.read_text().replace("wait = 3600.0", "wait = 3.0"))
    assert not is_invite_stale(invitation, load_federation(path))


def test_invite_is_written_over_only_on_purpose(tmp_path: Path) -> None:
    federation = load_federation(_federation(tmp_path))
    ca = (tmp_path / "keys" / "ca.crt").read_bytes()
    with pytest.raises(ConfigError, match="exists already"):
        write_invite(tmp_path / "invite.toml", address="h:1", ca_pem=ca, federation=federation)
    write_invite(tmp_path / "new.toml", address="h:1", ca_pem=ca, federation=federation)
    write_invite(tmp_path / "new.toml", address="[::1]:2", ca_pem=ca, federation=federation, replace=True)
    assert load_invite(tmp_path / "new.toml").address == "[::1]:2"
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    for address in ("h", "h:0", "h:65536", "h h:1", "http://h:1"):
        with pytest.raises(ConfigError, match=r"address|port"):
            write_invite(tmp_path / "bad.toml", address=address, ca_pem=ca, federation=federation)
    for pem in (ca + ca, (tmp_path / "keys" / "server.crt").read_bytes(), (tmp_path / "keys" / "ca.key").read_bytes()):
        with pytest.raises(ConfigError, match=r"Expected .*certificate"):
            write_invite(tmp_path / "bad.toml", address="h:1", ca_pem=pem, federation=federation)
    assert not (tmp_path / "bad.toml").exists()


def test_tampered_invite_is_refused(tmp_path: Path) -> None:
    federation = load_federation(_federation(tmp_path))
    assert isinstance(federation, Federation)
    path = tmp_path / "invite.toml"
    good = path.read_text()
    other = tmp_path / "other"
    create_authority(other, ["h"])
    changes = {
        '"rounds": 40': '"rounds": 400',
        '"max_grad_norm": 1.0': '"max_grad_norm": 1.5',
        f'digest = "{federation.plan.digest}"': f'digest = "{"0" * 64}"',
        'name = "ward"\naddress': 'name = "other"\naddress',
        "format = 1\n": "format = 2\n",
        "address =": "extra = 1\naddress =",
        '"seed": 0,': '"seed": 0, "epsilon": 8,',
        "-----END CERTIFICATE-----\n": "",
        good[good.index("ca = '''") + 8 : good.index("plan = ")]: "\n" + (other / "server.crt").read_text() + "'''\n",
        '"name": "ward"': '"name": "other"',
        "plan = '''": "plan = 3\nrest = '''",
    }
    for old, new in changes.items():
        assert old in good
        path.write_text(good.replace(old, new))
        with pytest.raises(ConfigError) as caught:
            load_invite(path)
        assert "operator" in caught.value.mend
    path.write_text(good)
    load_invite(path)
