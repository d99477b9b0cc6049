"""The systemd units: what they must say, that systemd reads them, and that privet runs under their filter."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration import deployment as processes
from tests.integration.deployment import Deployment

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
UNITS = ("privet-server.service", "privet-client@.service")
needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze on this host")


def settings(unit: str) -> dict[str, list[str]]:
    """{key: its values in order} of the [Service] and [Unit] sections."""
    found: dict[str, list[str]] = {}
    for line in (DEPLOY / unit).read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


@pytest.mark.parametrize("unit", UNITS)
def test_nothing_private_is_left_behind_and_nothing_is_repeated_that_a_person_must_decide(unit: str) -> None:
    found = settings(unit)
    assert found["LimitCORE"] == ["0"]
    assert found["UMask"] == ["0077"]
    assert found["User"] == ["privet"]
    assert found["NoNewPrivileges"] == found["PrivateTmp"] == ["true"]
    assert found["ProtectSystem"] == ["strict"]
    assert found["Restart"] == ["on-failure"]
    assert set(found["RestartPreventExitStatus"][0].split()) == {"2", "3"}, "refused by policy or budget: never retried"
    assert found["KillSignal"] == ["SIGTERM"]
    assert found["SocketBindDeny"] == ["any"]
    assert "StandardOutput" not in found, "the journal is the log"


def test_a_site_has_no_open_port() -> None:
    assert "SocketBindAllow" not in settings("privet-client@.service")
    assert settings("privet-server.service")["SocketBindAllow"] == ["tcp:9092", "tcp:9464"]


@needs_systemd
def test_systemd_reads_the_units_without_a_complaint(tmp_path: Path) -> None:
    names = []
    for unit in UNITS:
        name = unit.replace("@.", "@north.")
        text = (DEPLOY / unit).read_text().replace("/opt/privet/bin/privet", "/bin/true")
        for copy in {unit, name}:
            (tmp_path / copy).write_text(text)
        names.append(str(tmp_path / name))
    done = subprocess.run(["systemd-analyze", "verify", *names], capture_output=True, text=True)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "")


@needs_systemd
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="no strace on this host")
@pytest.mark.timeout(900)
def test_a_federation_runs_under_the_units_system_call_filter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call that the filter forbids fails with EPERM here, as it would under the unit."""
    denied = _known() - _allowed(settings(UNITS[1])["SystemCallFilter"])
    assert settings(UNITS[0])["SystemCallFilter"] == settings(UNITS[1])["SystemCallFilter"]
    assert {"mount", "ptrace", "reboot", "bpf", "init_module"} <= denied
    assert not {"read", "futex", "mmap", "sched_setaffinity"} & denied
    two = Deployment(tmp_path / "d", ("clinic", "ward"), {"timeout = 600.0": "timeout = 120.0"})
    calls = ",".join(f"?{name}" for name in sorted(denied))
    filtered = ["strace", "-f", "--seccomp-bpf", "-qq", "-o", str(tmp_path / "forbidden.txt"), "-A"]
    filtered += ["-e", f"trace={calls}", "-e", f"inject={calls}:error=EPERM"]
    probe = subprocess.run(
        [*filtered, sys.executable, "-c", "import os; os.chroot('/')"], capture_output=True, text=True
    )
    if "ptrace" in probe.stderr:
        pytest.skip(f"strace cannot trace here: {probe.stderr.strip()}")
    assert "PermissionError" in probe.stderr, "the filter bites"
    monkeypatch.setattr(processes, "PRIVET", (*filtered, *processes.PRIVET))
    try:
        server = two.server()
        clients = [two.client(name) for name in two.sites]
        server.until(lambda event: event["event"] == "finished", timeout=600)
        assert server.wait() == 0
        assert [client.wait() for client in clients] == [0, 0]
    finally:
        two.close()


def _allowed(lines: list[str]) -> set[str]:
    allowed = set[str]()
    for line in lines:
        names = set[str]().union(*(_group(word) for word in line.removeprefix("~").split()))
        allowed = allowed - names if line.startswith("~") else allowed | names
    return allowed


def _known() -> set[str]:
    return _group("@known")


def _group(word: str) -> set[str]:
    """The system calls of one of systemd's groups, and of the groups inside it."""
    if not word.startswith("@"):
        return {word}
    said = subprocess.run(["systemd-analyze", "syscall-filter", word], capture_output=True, text=True, check=True)
    inside = re.findall(r"^\s+(@?[a-z0-9_-]+)$", said.stdout, re.M)
    return set[str]().union(*(_group(name) for name in inside))
