"""What this machine gives, against what a plan needs: disk, memory, threads, precision, file modes, the ledger."""

import os
import shlex
import shutil
import stat
import tempfile
from pathlib import Path

from privet.client.engines import asked_in_words, installed, require
from privet.client.ledger import Ledger, LedgerError
from privet.client.ledger.head import is_there
from privet.client.preflight.results import Status, Step
from privet.common.config import Plan, Site
from privet.common.errors import ConfigError
from privet.common.precision import usable_precision

_GB = 10**9
_REPLY_OVERHEAD = 4_096  # bytes of a stored reply beyond its arrays: its body, its row, the chain's entry
_LOG_BYTES = 64 * 10**6  # write-ahead log and room to breathe
# SQLite's write-ahead log needs shared memory and locks that these do not give, or not soundly.
_NETWORKED = {
    "9p",
    "afs",
    "beegfs",
    "ceph",
    "cifs",
    "davfs",
    "fuse.ceph",
    "fuse.glusterfs",
    "fuse.s3fs",
    "fuse.sshfs",
} | {*("glusterfs", "gpfs", "lustre", "nfs", "nfs4", "smb", "smb2", "smb3", "smbfs", "virtiofs")}


def disk_step(ledger: Path, plan: Plan | None, update_bytes: int | None) -> Step:
    """Room for the ledger: it keeps every reply of a plan's horizon."""
    free = _free(ledger.parent)
    if plan is None or update_bytes is None:
        return _room("disk", f"the ledger's disk ({ledger.parent})", free)
    need = _LOG_BYTES + plan.training.horizon * (update_bytes + _REPLY_OVERHEAD) + plan.num_evaluations * 100_000
    what = f"{_size(free)} free at {ledger.parent}; the plan's stored replies need {_size(need)} at most."
    numbers = {"free_bytes": free, "need_bytes": need}
    if free < need:
        return Step("disk", Status.FAILED, what, "free space there before the plan is approved.", numbers=numbers)
    return Step("disk", Status.PASSED, what, numbers=numbers)


def temporary_step() -> Step:
    """Room for temporary files."""
    folder = Path(tempfile.gettempdir())
    return _room("temporary files", str(folder), _free(folder))


def memory_step(peak_bytes: int | None) -> Step:
    """Memory that can be had now; peak_bytes: what the plan's trial took, None without one."""
    free = available_memory()
    if free is None:
        return Step("memory", Status.SKIPPED, "this system does not tell how much is available.")
    if peak_bytes is None:
        what = f"{_size(free)} available; with --plan it is compared with what a step needs."
        return Step("memory", Status.PASSED, what, numbers={"available_bytes": free})
    what = f"{_size(free)} available; a step of the plan took {_size(peak_bytes)}, and the site's records come on top."
    numbers = {"available_bytes": free, "peak_bytes": peak_bytes}
    mend = "free memory, or ask for a plan with shorter texts or a smaller base."
    if free < peak_bytes:
        return Step("memory", Status.FAILED, what, mend, numbers=numbers)
    if free < 1.25 * peak_bytes:
        return Step("memory", Status.WARNING, what, mend, numbers=numbers)
    return Step("memory", Status.PASSED, what, numbers=numbers)


def threads_step(threads: int) -> Step:
    """CPU cores against `[resources] threads`."""
    cores = available_cores()
    what = f"[resources] threads = {threads}; this process may use {cores} CPU {'cores' if cores > 1 else 'core'}."
    numbers = {"threads": threads, "cores": cores}
    if threads > cores:
        mend = f"set threads to {cores} at most: more threads than cores are slower than one."
        return Step("threads", Status.WARNING, what, mend, numbers=numbers)
    return Step("threads", Status.PASSED, what, numbers=numbers)


def gradients_step(site: Site, plan: Plan | None, base: Path | None) -> Step:
    """`[resources] engine` and `precision` against the plan and this machine; base: the plan's, where it is here."""
    asked = site.resources
    try:
        installed(asked.engine)
        if plan is not None and base is not None:
            require(asked.engine, plan, base)
    except ConfigError as error:
        return Step("gradients", Status.FAILED, error.what, error.mend)
    precision, words = usable_precision(asked.precision)
    what = f"{asked_in_words(site, plan)}: {words}."
    numbers = {"engine": asked.engine, "precision": precision}
    if asked.precision == "bfloat16" and precision != "bfloat16":
        return Step("gradients", Status.WARNING, what, 'set precision = "float32", or "auto".', numbers=numbers)
    return Step("gradients", Status.PASSED, what, numbers=numbers)


def modes_step(site_file: Path, site: Site) -> Step:
    """Who may read or change the site's file and the keys; a key that others may read is refused before this."""
    files = list(dict.fromkeys([site_file, *(membership.ca for membership in site.federation.values())]))
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in files}
    for whose, bit, status in (("everybody", 0o002, Status.FAILED), ("the group", 0o020, Status.WARNING)):
        changeable = " ".join(shlex.quote(str(path)) for path, mode in modes.items() if mode & bit)
        if changeable:
            what = f"{whose} may change {changeable}: budget, policy and trust stand there."
            return Step("file modes", status, what, f"chmod go-w {changeable}")
    if modes[site_file] & 0o004:
        what = f"everybody on this machine may read {site_file}; its data.id should stay with the site's account."
        return Step("file modes", Status.WARNING, what, f"chmod 600 {shlex.quote(str(site_file))}")
    return Step("file modes", Status.PASSED, "keys and site file are the owner's own.")


def ledger_step(path: Path) -> Step:
    """The ledger verified against its chain. One that another agent uses is looked at all the same."""
    if not is_there(path):
        return Step("ledger", Status.PASSED, f"{path}: none yet; the first `privet client` makes it.")
    try:
        with Ledger.open(path) as ledger:
            behind = bool(ledger.behind())
            if not behind:
                ledger.verify()
    except LedgerError as error:
        return Step("ledger", Status.FAILED, f"{path}: {error.what}", error.mend)
    agent = " An agent of this data set is running." if agent_runs(path) else ""
    if behind:
        what = f"{path}: put back to an older copy; see the warning below.{agent}"
        return Step("ledger", Status.WARNING, what, "`privet ledger SITE.toml --charge-all` charges the difference.")
    return Step("ledger", Status.PASSED, f"{path}: file, chain, tables and replies agree.{agent}")


def ledger_folder_step(path: Path) -> Step:
    """Whether the ledger's folder is on a local file system."""
    kind = file_system(path.parent)
    if kind is None:
        return Step("ledger's folder", Status.SKIPPED, "this system does not tell its file systems.")
    numbers = {"file_system": kind}
    if kind in _NETWORKED:
        what = f"{path.parent} is on a network file system ({kind}): SQLite's log is not safe there, and locks may lie."
        mend = "keep it on a local disk: set XDG_STATE_HOME to a folder there, and move the ledger with its head file."
        return Step("ledger's folder", Status.WARNING, what, mend, numbers=numbers)
    return Step("ledger's folder", Status.PASSED, f"{path.parent} is local ({kind}).", numbers=numbers)


# What the system says


def available_memory() -> int | None:
    """Bytes that can be had without swapping, by the system and by this process's control group; None: unknown."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        amounts = dict(line.split(":", 1) for line in lines)
        found = [int(amounts["MemAvailable"].split()[0]) * 1024]
    except (OSError, ValueError, KeyError, IndexError):
        return None
    try:
        group = Path("/sys/fs/cgroup")
        limit = (group / "memory.max").read_text(encoding="ascii").strip()
        if limit != "max":
            used = int((group / "memory.current").read_text(encoding="ascii"))
            found.append(max(0, int(limit) - used))
    except (OSError, ValueError):
        pass
    return min(found)


def available_cores() -> int:
    """CPU cores that this process may use, at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        if quota != "max":
            cores = min(cores, max(1, int(quota) // int(period)))
    except (OSError, ValueError, ZeroDivisionError):
        pass
    return max(1, cores)


def file_system(folder: Path, mounts: Path = Path("/proc/self/mounts")) -> str | None:
    """The type of the file system that holds a folder, which may not be there yet; None where nobody tells."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    folder, depth, found = folder.resolve(), -1, None
    for line in lines:
        parts = line.split(" ")
        if len(parts) < 3:
            continue
        point = Path(_unescaped(parts[1]))
        if folder.is_relative_to(point) and len(point.parts) >= depth:  # a later mount hides an earlier one
            depth, found = len(point.parts), parts[2]
    return found


def agent_runs(ledger: Path, locks: Path = Path("/proc/locks")) -> bool:
    """Whether some process holds the agent's lock, as far as the system tells; nothing is locked to find out."""
    try:
        inode = ledger.with_name(ledger.name + ".lock").stat().st_ino
        lines = locks.read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return False
    held = [line.split() for line in lines if " FLOCK " in line and "->" not in line]
    return any(part.rpartition(":")[2] == str(inode) for parts in held for part in parts if part.count(":") == 2)


def _unescaped(text: str) -> str:
    for code, sign in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, sign)
    return text


def _free(folder: Path) -> int:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _room(step: str, where: str, free: int) -> Step:
    what, numbers = f"{_size(free)} free at {where}.", {"free_bytes": free}
    if free < _GB:
        return Step(step, Status.WARNING, what, "free some space: less than 1 GB is left.", numbers=numbers)
    return Step(step, Status.PASSED, what, numbers=numbers)


def _size(number: int) -> str:
    return f"{number / _GB:,.1f} GB" if number >= _GB else f"{max(1, round(number / 10**6)):,} MB"
