"""A PostgreSQL server that proves who it is: `sslmode=verify-full` reads from the right one, and from no other."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("psycopg", reason="needs psycopg")

from privet.client import database, postgres
from privet.client.data import load_records
from privet.common.errors import DataError
from tests.client.postgres_server import PASSWORD, READER, PostgresServer, binaries
from tests.client.test_data import LABELS, make_site
from tests.client.test_database import SECRET, everything
from tests.integration.tls import Authority

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(binaries() is None, reason="needs PostgreSQL's initdb and postgres (Debian: postgresql)"),
]

HOST = "records.clinic.test"  # no name service knows it: the address is told beside it
QUERY = "SELECT unit, text, label FROM notes"


class Clinic:
    """A server that lets its readers in by TLS alone, and the files of two authorities."""

    def __init__(self, server: PostgresServer, folder: Path) -> None:
        self.server, self.authority = server, Authority()
        self.ca, self.other = folder / "ca.pem", folder / "other.pem"
        self.ca.write_bytes(self.authority.pem)
        self.other.write_bytes(Authority().pem)

    def show(self, host: str = HOST, *, days: int = 10) -> None:
        """From now on the server shows a certificate of this name."""
        _, certificate, key = self.authority.server(host=host, days=days)
        for name, content in (("server.crt", certificate), ("server.key", key)):
            path = self.server.data / name
            path.write_bytes(content)
            path.chmod(0o600)
            if os.geteuid() == 0:
                os.chown(path, 65534, 65534)
        self.restart()

    def restart(self, *, tls: bool = True) -> None:
        (self.server.data / "postgresql.auto.conf").write_text(f"ssl = {'on' if tls else 'off'}\n")
        self.server.stop()
        self.server.start()

    def url(self, sslmode: str = "verify-full", ca: Path | None = None, host: str = HOST) -> str:
        where = f"postgresql+psycopg://{host}:{self.server.port}/clinic?hostaddr=127.0.0.1&sslmode={sslmode}"
        return f"{where}&sslrootcert={ca or self.ca}"

    def read(self, url: str) -> list[str]:
        site = make_site(source=url, query=QUERY, user=READER, password_env="PRIVET_TEST_PASSWORD")
        return load_records(site, LABELS).texts

    def fault(self, url: str) -> str:
        """What the operator is told; it quotes neither the server nor the files."""
        with pytest.raises(DataError) as caught:
            self.read(url)
        shown = everything(caught.value)
        assert not [planted for planted in (SECRET, PASSWORD, READER, str(self.ca)) if planted in shown]
        assert (caught.value.__cause__, caught.value.__context__) == (None, None)
        return str(caught.value)


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clinic]:
    with PostgresServer() as server:
        server.execute(f"INSERT INTO notes VALUES (1, '{SECRET}', 'neurology')")
        made = Clinic(server, tmp_path_factory.mktemp("authorities"))
        rules = server.data / "pg_hba.conf"
        rules.write_text(
            f"hostssl all {READER} 127.0.0.1/32 scram-sha-256\nhostnossl all {READER} 127.0.0.1/32 reject\n"
            "host all all 127.0.0.1/32 scram-sha-256\n"
        )
        made.show()
        yield made


@pytest.fixture(autouse=True)
def _own_login(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No file and no variable of whoever runs the tests takes part."""
    for name in list(os.environ):
        if name.startswith("PG"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PRIVET_TEST_PASSWORD", PASSWORD)


def test_the_right_name_under_the_right_authority_is_read_from(clinic: Clinic) -> None:
    assert clinic.read(clinic.url()) == [SECRET]
    assert "does not let this user in" in clinic.fault(clinic.url("disable"))  # so what was read came by TLS


def test_another_authority_another_name_and_no_file_are_refused(clinic: Clinic) -> None:
    """With the plain words for it, and before a password is sent."""
    before = len(clinic.server.log)
    for url in (
        clinic.url(ca=clinic.other),
        clinic.url(host="records.hospital.test"),
        clinic.url(host="127.0.0.1"),
        clinic.url(ca=clinic.ca.with_name("none.pem")),
        clinic.url("verify-ca", ca=clinic.other),
    ):
        assert "not the right one" in clinic.fault(url)
    log = clinic.server.log[before:]
    assert "connection authorized" not in log
    assert READER not in log
    assert clinic.read(clinic.url("verify-ca", host="records.hospital.test")) == [SECRET]  # what the name is asked for


def test_a_certificate_that_is_over_or_of_another_name_is_refused_and_a_new_one_taken(clinic: Clinic) -> None:
    clinic.show(days=-1)
    assert "not the right one" in clinic.fault(clinic.url())
    clinic.show("elsewhere.test")
    assert "not the right one" in clinic.fault(clinic.url())
    clinic.show()
    assert clinic.read(clinic.url()) == [SECRET]


def test_a_server_without_tls_gets_no_password(clinic: Clinic) -> None:
    """Who sits between may answer so: nothing falls back to plain text."""
    clinic.restart(tls=False)
    try:
        assert "TLS could not be agreed on" in clinic.fault(clinic.url())
    finally:
        clinic.restart()


@pytest.mark.parametrize(("sslmode", "warned"), [("verify-full", False), ("verify-ca", True), ("require", True)])
def test_only_a_proven_server_elsewhere_is_taken_without_a_word(
    clinic: Clinic, monkeypatch: pytest.MonkeyPatch, sslmode: str, warned: bool
) -> None:
    """As if the loopback were a network: what the connection itself says of encryption and mode decides."""
    monkeypatch.setattr(postgres, "local", lambda _host: False)
    url = clinic.url(sslmode) if sslmode != "require" else clinic.url("require").partition("&sslrootcert")[0]
    site: Any = make_site(source=url, query=QUERY, user=READER, password_env="PRIVET_TEST_PASSWORD")
    table, warnings = database.read_query(site.data, ["unit", "text", "label"])
    assert table.columns["text"] == [SECRET]
    assert [("not verified" in text) for text in warnings] == ([True] if warned else [])
