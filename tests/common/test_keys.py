"""Site keys: files nobody else can read, lines nobody can misread, fingerprints that OpenSSH agrees with."""

import base64
import hashlib
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from privet.common.errors import ConfigError
from privet.common.keys import (
    fingerprint,
    load_site_key,
    new_site_key,
    public_line,
    public_pem,
    read_public_file,
    spoken_fingerprint,
)
from privet.common.starter import NewFile, create_files


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def _private_file(path: Path, content: bytes) -> Path:
    create_files([NewFile(path=path, content=content, private=True)])
    return path


def _pem(
    key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey,
    form: PrivateFormat = PrivateFormat.PKCS8,
    encryption: KeySerializationEncryption | None = None,
) -> bytes:
    return key.private_bytes(Encoding.PEM, form, encryption or NoEncryption())


def test_new_key_is_private_and_loads_again(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        key = new_site_key(tmp_path / "a.key")
    finally:
        os.umask(old)
    assert _mode(tmp_path / "a.key") == 0o600
    assert load_site_key(tmp_path / "a.key").private_numbers() == key.private_numbers()


def test_new_key_never_overwrites(tmp_path: Path) -> None:
    path = tmp_path / "a.key"
    new_site_key(path)
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=r"a\.key: exists already.*Mend"):
        new_site_key(path)
    assert path.read_bytes() == before


def test_new_key_does_not_follow_a_planted_link(tmp_path: Path) -> None:
    (tmp_path / "a.key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="exists already"):
        new_site_key(tmp_path / "a.key")
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601])
def test_key_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "a key"
    new_site_key(path)
    path.chmod(mode)
    with pytest.raises(ConfigError) as caught:
        load_site_key(path)
    assert caught.value.mend == f"chmod 600 '{path}'"
    path.chmod(0o400)
    load_site_key(path)


def test_pkcs8_is_read_too(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    assert load_site_key(_private_file(tmp_path / "k", _pem(key))).private_numbers() == key.private_numbers()


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.OpenSSH])
def test_other_curves_and_kinds_are_refused(tmp_path: Path, form: PrivateFormat) -> None:
    keys: list[ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey] = [
        ec.generate_private_key(ec.SECP256R1()),
        ed25519.Ed25519PrivateKey.generate(),
    ]
    for number, key in enumerate(keys):
        path = _private_file(tmp_path / str(number), _pem(key, form))
        with pytest.raises(ConfigError, match="not an EC P-384 key"):
            load_site_key(path)


def test_what_is_no_usable_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such key.*Mend"):
        load_site_key(tmp_path / "none")
    with pytest.raises(ConfigError, match="not a private key"):
        load_site_key(_private_file(tmp_path / "junk", b"hello"))
    with pytest.raises(ConfigError, match="not a private key"):
        load_site_key(_private_file(tmp_path / "cut", b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n"))
    locked = _pem(ec.generate_private_key(ec.SECP384R1()), encryption=BestAvailableEncryption(b"secret"))
    with pytest.raises(ConfigError, match="passphrase"):
        load_site_key(_private_file(tmp_path / "locked", locked))


def test_public_file_round_trip_holds_no_secret(tmp_path: Path) -> None:
    key = new_site_key(tmp_path / "a.key")
    line = public_line(key, "clinic-a")
    path = tmp_path / "clinic-a.pub"
    path.write_text(line + "\n")
    name, public = read_public_file(path)
    assert name == "clinic-a"
    assert public_pem(public) == public_pem(key)
    assert line.startswith("ecdsa-sha2-nistp384 AAAA")
    assert "\n" not in line
    secret = key.private_numbers().private_value.to_bytes(48, "big")
    assert secret not in base64.b64decode(line.split(" ")[1])


def test_public_pem_is_what_flower_names_a_key_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLWR_TELEMETRY_ENABLED", "0")
    asymmetric = pytest.importorskip("flwr.supercore.primitives.asymmetric")
    key = new_site_key(tmp_path / "a.key")
    assert public_pem(key) == asymmetric.public_key_to_bytes(key.public_key())


def test_public_file_is_read_strictly(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    line = public_line(key, "a")
    kind, blob, _ = line.split(" ")
    other = ec.generate_private_key(ec.SECP256R1()).public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    trailing = base64.b64encode(base64.b64decode(blob) + b"x").decode()
    final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    assert blob.endswith("==")
    respelt = blob[:-3] + final[final.index(blob[-3]) ^ 1] + "=="  # the same bytes: the last 4 bits are padding
    assert base64.b64decode(respelt) == base64.b64decode(blob)
    refused = {
        "no name": f"{kind} {blob}",
        "a fourth field": f"{line} more",
        "options": f'command="x" {line}',
        "two lines": f"{line}\n{line}",
        "a blank line first": f"\n{line}",
        "two spaces": f"{kind}  {blob} a",
        "a tab": f"{kind}\t{blob} a",
        "a name in capitals": f"{kind} {blob} A",
        "a name with a path": f"{kind} {blob} ../a",
        "a name that is no ASCII": f"{kind} {blob} é",
        "another curve": f"{other.decode()} a",
        "a false kind": f"ecdsa-sha2-nistp256 {blob} a",
        "cut": f"{kind} {blob[:-8]} a",
        "trailing bytes": f"{kind} {trailing} a",
        "line breaks in the key": f"{kind} {blob[:20]}\n{blob[20:]} a",
        "another spelling": f"{kind} {respelt} a",
        "nothing": "",
    }
    for what, text in refused.items():
        path = tmp_path / "a.pub"
        path.write_text(text + "\n", encoding="utf-8")
        with pytest.raises(ConfigError) as caught:
            read_public_file(path)
        assert caught.value.mend, what
    for accepted in (line, f"{line}\n", f"{line}\r\n"):
        (tmp_path / "a.pub").write_bytes(accepted.encode())
        assert read_public_file(tmp_path / "a.pub")[0] == "a"


def test_private_key_sent_by_mistake_is_named(tmp_path: Path) -> None:
    new_site_key(tmp_path / "a.pub")
    with pytest.raises(ConfigError, match="must never leave its site"):
        read_public_file(tmp_path / "a.pub")


@pytest.mark.parametrize("name", ["", "A", "a b", "-a", "a\n", "a/b", "x" * 65])
def test_bad_site_names_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="site's name"):
        public_line(ec.generate_private_key(ec.SECP384R1()), name)


def test_fingerprint_is_the_hash_of_the_wire_form() -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    point = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    fields = [b"ecdsa-sha2-nistp384", b"nistp384", point]
    wire = b"".join(len(field).to_bytes(4, "big") + field for field in fields)  # RFC 5656, section 3.1
    digest = hashlib.sha256(wire)
    assert fingerprint(key) == "SHA256:" + base64.b64encode(digest.digest()).decode().rstrip("=")
    assert fingerprint(key.public_key()) == fingerprint(key)
    groups = spoken_fingerprint(key).split(" ")
    assert "".join(groups) == digest.hexdigest()
    assert {len(group) for group in groups} == {4}


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs ssh-keygen")
def test_openssh_agrees(tmp_path: Path) -> None:
    key = new_site_key(tmp_path / "a.key")
    (tmp_path / "a.pub").write_text(public_line(key, "a") + "\n")
    told = subprocess.run(["ssh-keygen", "-lf", tmp_path / "a.pub"], capture_output=True, text=True, check=True).stdout
    assert told.split()[:3] == ["384", fingerprint(key), "a"]
    derived = subprocess.run(["ssh-keygen", "-yf", tmp_path / "a.key"], capture_output=True, text=True, check=True)
    assert derived.stdout.split()[:2] == public_line(key, "a").split(" ")[:2]


def test_files_are_made_together_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    wanted = [NewFile(path=tmp_path / "one", content=b"1"), NewFile(path=tmp_path / "file" / "two", content=b"2")]
    with pytest.raises(ConfigError):
        create_files(wanted)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "mine"
    assert "secret" not in repr(NewFile(path=tmp_path / "k", content=b"secret"))
