"""What a machine gives, told against what a plan needs."""

import fcntl
import os
from pathlib import Path
from typing import Any

import pytest

from privet.client.ledger import Ledger
from privet.client.preflight import machine
from privet.client.preflight.results import Status
from privet.common.config import Site
from tests.client.test_report import make_site
from tests.tiny_models import tiny_base, tiny_plan


def told(value: Any) -> Any:
    return lambda *_: value


def test_the_ledgers_disk_must_hold_the_horizons_replies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = tiny_plan(tiny_base(tmp_path / "base"), training={"rounds": 1000, "expected_batch": 4, "learning_rate": 0.1})
    path = tmp_path / "not" / "yet" / "there.sqlite"
    free = machine.disk_step(path, plan, 1000)
    assert free.status is Status.PASSED
    need = free.numbers["need_bytes"]
    assert isinstance(need, int)
    assert need > 1000 * 1000
    for have, status in ((need, Status.PASSED), (need - 1, Status.FAILED)):
        monkeypatch.setattr(machine, "_free", told(have))
        assert machine.disk_step(path, plan, 1000).status is status
    monkeypatch.setattr(machine, "_free", told(10**8))
    assert machine.disk_step(path, None, None).status is Status.WARNING
    assert machine.temporary_step().status is Status.WARNING


@pytest.mark.parametrize(
    ("free", "peak", "status"),
    [
        (10**9, 2 * 10**9, Status.FAILED),
        (10**9, 9 * 10**8, Status.WARNING),
        (10**10, 10**9, Status.PASSED),
        (10**10, None, Status.PASSED),
        (None, 10**9, Status.SKIPPED),
    ],
)
def test_memory(free: int | None, peak: int | None, status: Status, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "available_memory", told(free))
    assert machine.memory_step(peak).status is status


def test_this_systems_own_figures() -> None:
    assert machine.available_cores() >= 1
    free = machine.available_memory()
    assert free is None or 0 <= free < 2**50


def test_more_threads_than_cores_are_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "available_cores", told(2))
    assert machine.threads_step(2).status is Status.PASSED
    assert machine.threads_step(3).status is Status.WARNING
    assert "threads to 2" in machine.threads_step(3).mend


@pytest.mark.parametrize(
    ("mode", "ca_mode", "status", "word"),
    [
        (0o600, 0o644, Status.PASSED, "own"),
        (0o644, 0o644, Status.WARNING, "may read"),
        (0o620, 0o644, Status.WARNING, "the group may change"),
        (0o602, 0o644, Status.FAILED, "everybody may change"),
        (0o600, 0o666, Status.FAILED, "everybody may change"),
    ],
)
def test_file_modes(tmp_path: Path, mode: int, ca_mode: int, status: Status, word: str) -> None:
    file, ca = tmp_path / "site.toml", tmp_path / "ca.crt"
    for path, bits in ((file, mode), (ca, ca_mode)):
        path.write_text("")
        path.chmod(bits)
    raw = make_site().model_dump()
    raw["federation"]["f"]["ca"] = ca
    step = machine.modes_step(file, Site.model_validate(raw))
    assert step.status is status
    assert word in step.what


# The ledger


def test_a_ledger_is_verified_and_an_agent_at_work_is_no_fault(tmp_path: Path) -> None:
    path = tmp_path / "data.sqlite"
    assert "none yet" in machine.ledger_step(path).what
    assert not path.exists()
    with Ledger.open(path, agent=True):
        step = machine.ledger_step(path)
        assert step.status is Status.PASSED
        assert ("agent of this data set is running" in step.what) == Path("/proc/locks").exists()
    assert "running" not in machine.ledger_step(path).what


def test_a_damaged_ledger_fails(tmp_path: Path) -> None:
    path = tmp_path / "data.sqlite"
    with Ledger.open(path):
        pass
    content = bytearray(path.read_bytes())
    content[100:3000] = os.urandom(2900)
    path.write_bytes(content)
    step = machine.ledger_step(path)
    assert step.status is Status.FAILED
    assert step.mend


def test_an_altered_ledger_fails(tmp_path: Path) -> None:
    import sqlite3

    path = tmp_path / "data.sqlite"
    with Ledger.open(path):
        pass
    connection = sqlite3.connect(path)
    trigger = connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchone()[0]
    connection.execute(f"DROP TRIGGER {trigger}")
    connection.commit()
    connection.close()
    assert machine.ledger_step(path).status is Status.FAILED


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/srv/nfs/ledgers", "nfs4"),
        ("/srv/nfsx", "ext4"),
        ("/srv/my data/a", "cifs"),
        ("/", "ext4"),
        ("/over/x", "xfs"),
    ],
)
def test_the_file_system_of_a_folder(tmp_path: Path, folder: str, kind: str) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "/dev/sda / ext4 rw 0 0\nserver:/a /srv/nfs nfs4 rw 0 0\n//s/d /srv/my\\040data cifs rw 0 0\n"
        "a /over nfs rw 0 0\nb /over xfs rw 0 0\nodd\n"
    )
    assert machine.file_system(Path(folder), mounts) == kind
    assert machine.file_system(Path(folder), tmp_path / "none") is None


def test_a_network_file_system_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind, status in (("nfs4", Status.WARNING), ("ext4", Status.PASSED), (None, Status.SKIPPED)):
        monkeypatch.setattr(machine, "file_system", told(kind))
        assert machine.ledger_folder_step(tmp_path / "x.sqlite").status is status


def test_another_files_lock_is_not_the_agents(tmp_path: Path) -> None:
    ledger, locks = tmp_path / "a.sqlite", tmp_path / "locks"
    lock = ledger.with_name("a.sqlite.lock")
    lock.write_text("")
    inode = lock.stat().st_ino
    for line, runs in (
        (f"1: FLOCK  ADVISORY  WRITE 77 08:01:{inode} 0 EOF\n", True),
        (f"1: FLOCK  ADVISORY  WRITE 77 08:01:{inode}7 0 EOF\n", False),
        (f"1: POSIX  ADVISORY  WRITE 77 08:01:{inode} 0 EOF\n", False),
        (f"1: -> FLOCK  ADVISORY  WRITE 77 08:01:{inode} 0 EOF\n", False),
    ):
        locks.write_text(line)
        assert machine.agent_runs(ledger, locks) is runs
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert machine.agent_runs(ledger) == Path("/proc/locks").exists()
