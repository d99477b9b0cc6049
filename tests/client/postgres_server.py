"""A PostgreSQL server of a test's own: a folder, a port and a password of its own, gone at the end."""

import glob
import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg

OWNER, OWNER_PASSWORD = "owner", "Nuthatch41"
READER, PASSWORD = "reader", "Mockingbird93"


def binaries() -> Path | None:
    """The folder with initdb and postgres, or None where PostgreSQL is not installed."""
    found = [Path(path).parent for path in sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"), reverse=True)]
    on_path = shutil.which("initdb")
    found += [Path(on_path).resolve().parent] if on_path else []
    return next((folder for folder in found if (folder / "postgres").exists()), None)


class PostgresServer:
    """A running server with the database `clinic`, and the role `reader` that logs in by password."""

    def __init__(self) -> None:
        folder = binaries()
        assert folder is not None
        self._binaries, self.folder = folder, Path(tempfile.mkdtemp(prefix="pg"))
        # The server refuses to run as root.
        self._as: dict[str, Any] = {"user": "nobody", "group": 65534, "extra_groups": []} if os.geteuid() == 0 else {}
        self.folder.chmod(0o700)
        if self._as:
            os.chown(self.folder, 65534, 65534)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        (self.folder / "pw").write_text(OWNER_PASSWORD)
        (self.folder / "pw").chmod(0o644)
        options = ("-U", OWNER, "-A", "scram-sha-256", "--pwfile", str(self.folder / "pw"))
        self._run(
            "initdb", "-D", str(self.data), *options, "-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions"
        )
        with (self.data / "postgresql.conf").open("a") as file:
            file.write(
                f"\nlisten_addresses = '127.0.0.1'\nport = {self.port}\nunix_socket_directories = '{self.folder}'\n"
                "fsync = off\nshared_buffers = '8MB'\nmax_connections = 10\nautovacuum = off\n"
            )

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://127.0.0.1:{self.port}/clinic"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._binaries / program), *arguments]
        environment = {"PATH": os.environ["PATH"], "LC_ALL": "C", "TZ": "UTC"}
        done = subprocess.run(
            command, cwd=self.folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **self._as
        )
        assert done.returncode == 0, done.stderr.decode()

    def start(self) -> None:
        self._run("pg_ctl", "-D", str(self.data), "-l", str(self.folder / "log"), "-w", "start")

    def stop(self) -> None:
        """At once, as if it had been killed: every connection is cut."""
        self._run("pg_ctl", "-D", str(self.data), "-m", "immediate", "-w", "stop")

    def __enter__(self) -> Self:
        try:
            self.start()
            self.execute("CREATE DATABASE clinic", database="postgres")
            self.execute(
                f"CREATE ROLE {READER} LOGIN PASSWORD '{PASSWORD}'",
                "CREATE TABLE notes (unit int, text text, label text)",
                f"GRANT SELECT, INSERT, UPDATE, DELETE ON notes TO {READER}",  # reading only is not left to the grants
                f"GRANT CREATE ON SCHEMA public TO {READER}",
            )
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if (self.data / "postmaster.pid").exists():
            self.stop()
        shutil.rmtree(self.folder)

    def execute(self, *statements: str, database: str = "clinic") -> list[Any]:
        """Run statements as the owner; the rows of the last one, if it has any."""
        with psycopg.connect(
            host="127.0.0.1", port=self.port, user=OWNER, password=OWNER_PASSWORD, dbname=database, autocommit=True
        ) as connection:
            cursor = connection.cursor()
            for statement in statements:
                cursor.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []
