"""Secrets planted in texts, units, labels, paths and credentials: none is in a log, file or message of a federation."""

import csv
import os
import re
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.chaos.processes import Forked, Party, Zygote
from tests.client.postgres_server import PostgresServer, binaries
from tests.integration.proxy import ConnectProxy

MARK = "qx7"  # stands in every secret, whatever its case
PASSWORD = "Qx7-database-password"
CREDENTIALS = "Qx7-user:Qx7-proxy-password"


@pytest.mark.slow
def test_no_planted_secret_is_in_any_log_file_or_message(tmp_path: Path) -> None:
    with ExitStack() as stack:
        zygote = Zygote(dict(os.environ))
        stack.callback(zygote.close)
        deployment = Forked(zygote, tmp_path / "d", ("clinic", "ward"), {"rounds = 3": "rounds = 2"})
        stack.callback(deployment.close)
        logs = tmp_path / "logs"
        logs.mkdir()
        rows = _planted(deployment.folder / "clinic" / "notes.csv")
        hidden = tmp_path / "Qx7-folder"  # the operator's own: what is in here is not searched
        hidden.mkdir()
        with (hidden / "Qx7-notes.csv").open("w", newline="") as file:
            csv.DictWriter(file, list(rows[0])).writeheader()
            csv.DictWriter(file, list(rows[0])).writerows(rows)
        (deployment.folder / "clinic" / "notes.csv").unlink()
        labels = sorted({row["label"].removeprefix("Qx7 ") for row in rows[:-1]})
        table = ", ".join(f'"Qx7 {label}" = "{label}"' for label in labels)
        common = ["--set", f"data.label_map={{{table}}}"]
        proxy = ConnectProxy(CREDENTIALS)
        stack.callback(proxy.close)
        given = hidden / "proxy"
        given.touch(mode=0o600)
        given.write_text(CREDENTIALS + "\n")
        sites = {
            "clinic": [
                *("--set", f'data.source="{hidden / "Qx7-notes.csv"}"'),
                *("--set", f'federation.tiny.proxy="http://{proxy.address}"'),
                *("--set", f'federation.tiny.proxy_auth="{given}"'),
            ],
            "ward": _from_database(stack, rows, hidden) if binaries() else [],
        }
        if not sites["ward"]:
            (hidden / "ward.csv").write_text((hidden / "Qx7-notes.csv").read_text())
            sites["ward"] = ["--set", f'data.source="{hidden / "ward.csv"}"']
        (deployment.folder / "ward" / "notes.csv").unlink()

        server = Party(
            "server", zygote, ["server", "federation.toml", "--json"], deployment.home, deployment.environment, logs
        )
        server.start()
        clients = []
        for name, settings in sites.items():
            environment = deployment.environment | {
                "PRIVET_TEST_CAPTURE": str(logs / f"{name}.messages"),
                "XDG_STATE_HOME": str(tmp_path / f"state.{name}"),
            }
            argv = ["client", "site.toml", "--json", *common, *settings]
            clients.append(Party(name, zygote, argv, deployment.folder / name, environment, logs))
            clients[-1].start()
        assert server.wait(240) == 0, server.words[-2000:]
        assert [client.wait(60) for client in clients] == [0, 0], [client.words[-2000:] for client in clients]
        assert proxy.targets
        time.sleep(0.2)

        searched = _files(tmp_path, hidden)
        for name in sites:
            assert (logs / f"{name}.messages").stat().st_size > 10_000  # updates are in it
            assert (logs / f"{name}.messages").read_bytes().count(b"PushObject") > 2
            assert any(f"state.{name}" in str(path) and path.name.endswith(".audit.jsonl") for path in searched)
        assert any(path.name == "status.json" for path in searched)
        assert [str(path) for path in searched if _holds(path)] == []


def _planted(source: Path) -> list[dict[str, str]]:
    """The generated rows with a secret in each cell, and a row whose label nobody knows."""
    with source.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["text"] += " Qx7 secret"
        row["label"] = f"Qx7 {row['label']}"
        row["patient"] = f"Qx7-{row['patient']}"
    return [*rows, rows[0] | {"label": "Qx7 unheard of", "patient": "Qx7-last"}]


def _from_database(stack: ExitStack, rows: list[dict[str, str]], hidden: Path) -> list[str]:
    database = stack.enter_context(PostgresServer())
    database.execute(f"CREATE ROLE scribe LOGIN PASSWORD '{PASSWORD}'", "CREATE TABLE planted (t text, l text, p text)")
    for row in rows:
        cells = ", ".join("'" + row[name].replace("'", "''") + "'" for name in ("text", "label", "patient"))
        database.execute(f"INSERT INTO planted VALUES ({cells})")
    database.execute("GRANT SELECT ON planted TO scribe")
    password = hidden / "database"
    password.touch(mode=0o600)
    password.write_text(PASSWORD + "\n")
    url = re.sub(r"//[^@/]*@", "//", database.url)
    query = "SELECT t AS text, l AS label, p AS patient FROM planted WHERE t <> 'Qx7-never'"
    return [
        *("--set", f'data.source="{url}"'),
        *("--set", f'data.query="{query}"'),
        *("--set", 'data.user="scribe"'),
        *("--set", f'data.password_file="{password}"'),
    ]


def _files(folder: Path, hidden: Path) -> list[Path]:
    found = [path for path in folder.rglob("*") if path.is_file() and hidden not in path.parents]
    return [path for path in found if path.suffix not in (".crt", ".key")]


def _holds(path: Path) -> bool:
    return MARK.encode() in path.read_bytes().lower()
