"""`privet check` and `privet client` beside a real PostgreSQL server: data, then the connection, and no secret told."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("psycopg", reason="needs psycopg")

from privet.client.enrolment import SiteAnswers, create_site
from privet.common.base import base_digest
from privet.common.config import load_invite
from privet.server.enrolment import create_federation
from tests.client.postgres_server import PASSWORD, READER, PostgresServer, binaries
from tests.tiny_models import tiny_base

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(binaries() is None, reason="needs PostgreSQL's initdb and postgres"),
]

SECRET = "Zebrafinch77"
PATIENCE = 120.0
PLANTED = (SECRET, PASSWORD, READER, "SELECT", "FROM notes")


@pytest.fixture(scope="module")
def database() -> Iterator[PostgresServer]:
    with PostgresServer() as running:
        rows = (
            f"SELECT n / 4, '{SECRET} fever ' || n, (array['calm', 'urgent'])[1 + n % 2] FROM generate_series(0, 399) n"
        )
        running.execute(f"INSERT INTO notes {rows}")
        yield running


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Where the site's federation is said to be."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


@pytest.fixture
def site(tmp_path: Path, database: PostgresServer, listener: socket.socket) -> Path:
    """A site.toml, made by the product's own means, whose source is the database."""
    base = tiny_base(tmp_path / "base")
    create_federation(
        tmp_path / "server",
        name="tiny",
        hosts=["127.0.0.1"],
        port=listener.getsockname()[1],
        base=str(base),
        sha256=base_digest(base),
        labels=["calm", "urgent"],
    )
    answers = SiteAnswers(data=tmp_path / "notes.csv", text="text", label="label", unit="unit", units=100)
    made = create_site(tmp_path / "site", "north", load_invite(tmp_path / "server" / "invite.toml"), answers)
    password = tmp_path / "site" / "database.password"
    password.write_text(PASSWORD)
    password.chmod(0o600)
    old = next(line for line in made.site.read_text().splitlines() if line.startswith("source = "))
    new = (
        f'source = "{database.url}"\nquery = """\nSELECT unit, text, label\nFROM notes ORDER BY unit, text"""\n'
        f'user = "{READER}"\npassword_file = "database.password"'
    )
    made.site.write_text(made.site.read_text().replace(old, new))
    return made.site


def environment(tmp_path: Path) -> dict[str, str]:
    return os.environ | {"XDG_STATE_HOME": str(tmp_path / "state"), "OMP_NUM_THREADS": "1"}


def privet(tmp_path: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "privet.common.cli", *command],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        cwd="/",
    )


def test_check_reads_the_database_and_shows_no_secret(site: Path, tmp_path: Path, database: PostgresServer) -> None:
    done = privet(tmp_path, "check", str(site), "--plan", str(tmp_path / "server" / "invite.toml"), "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["data"]["records"], document["data"]["units"]) == (400, 100)
    assert document["data"]["label_counts"] == {"calm": 200, "urgent": 200}
    words = privet(tmp_path, "check", str(site))
    assert f"Source: a database query (postgresql://127.0.0.1:{database.port}/clinic)" in words.stderr
    told = done.stdout + done.stderr + words.stdout + words.stderr
    assert not [planted for planted in PLANTED if planted in told]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (READER, "stranger", "does not let this user in"),
        ("SELECT unit, text, label", "SELECT unit, text, labell", "a column that does not exist, at character 20"),
    ],
)
def test_the_client_ends_before_it_connects_where_the_data_cannot_be_read(
    site: Path, tmp_path: Path, listener: socket.socket, old: str, new: str, words: str
) -> None:
    site.write_text(site.read_text().replace(old, new))
    done = privet(tmp_path, "client", str(site), "--json")
    assert done.returncode == 2
    assert words in done.stderr
    assert not select.select([listener], [], [], 0)[0]
    assert not [planted for planted in PLANTED if planted in done.stdout + done.stderr]
    assert not (tmp_path / "state").exists()


def test_the_client_reads_the_database_and_connects(site: Path, tmp_path: Path, listener: socket.socket) -> None:
    with (tmp_path / "out").open("w") as out:
        client = subprocess.Popen(
            [sys.executable, "-m", "privet.common.cli", "client", str(site), "--json"],
            env=environment(tmp_path),
            stdout=out,
            stderr=out,
            cwd="/",
        )
    try:
        assert select.select([listener], [], [], PATIENCE)[0], (tmp_path / "out").read_text()
        listener.accept()[0].close()
        client.send_signal(signal.SIGTERM)
        client.wait(PATIENCE)
    finally:
        client.kill()
        client.wait()
    told = (tmp_path / "out").read_text()
    assert '"budget"' in told
    assert not [planted for planted in PLANTED if planted in told]
