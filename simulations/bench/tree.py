"""Processor time and memory of a process with all its children, from Linux's /proc.

Memory is PSS, the proportional set size: a page that n processes share counts 1/n in each, so that the sum over the
tree is what the tree really takes.
"""

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from privet.common.errors import RunError

_PROC = Path("/proc")
_SECONDS = 0.2  # between two samples


class _Process(NamedTuple):
    pid: int
    parent: int
    session: int
    ended: bool  # and nobody has waited for it yet
    ticks: int  # of its own and of the children that it has waited for


def members(root: int) -> list[int]:
    """`root`, its descendants, and whoever is in the session that it leads; those that still live."""
    return [process.pid for process in _tree(root) if not process.ended]


def cpu_seconds(root: int) -> float:
    """Processor time of the tree so far: of those that live, and of the dead whom somebody in it has waited for.

    In steps of 10 ms for each process.
    """
    return sum(process.ticks for process in _tree(root)) / os.sysconf("SC_CLK_TCK")


def pss_bytes(root: int) -> int:
    """Memory of the tree; 0 where nobody lives any more."""
    return 1024 * sum(_pss_kilobytes(pid) for pid in members(root))


class PeakPss:
    """Samples a tree's memory in a thread of this process as long as the context lasts.

    Raises: RunError on entry where the system does not tell.
    """

    def __init__(self, root: int, seconds: float = _SECONDS) -> None:
        self.peak = self.samples = 0  # bytes, and how many looks it had
        self._root, self._seconds = root, seconds
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="pss", daemon=True)

    def __enter__(self) -> Self:
        if not (_PROC / "self" / "smaps_rollup").exists():
            raise RunError("memory is measured from /proc/PID/smaps_rollup, which is not here.", mend="use Linux.")
        self.look()
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._over.set()
        self._thread.join()

    def look(self) -> None:
        """One sample now."""
        self.peak = max(self.peak, pss_bytes(self._root))
        self.samples += 1

    def _watch(self) -> None:
        while not self._over.wait(self._seconds):
            self.look()


def _tree(root: int) -> list[_Process]:
    every = list(_processes())
    found = {process.pid: process for process in every if root in (process.pid, process.session)}
    grown = True
    while grown:  # a child may be listed before its parent
        further = {p.pid: p for p in every if p.pid not in found and p.parent in found}
        found |= further
        grown = bool(further)
    return list(found.values())


def _processes() -> Iterator[_Process]:
    for folder in _PROC.iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):  # it ended meanwhile
                yield _parsed(int(folder.name), (folder / "stat").read_text(encoding="utf-8", errors="replace"))


def _parsed(pid: int, stat: str) -> _Process:
    """From /proc/PID/stat; a program's name may hold anything, blanks and brackets too.

    >>> _parsed(7, "7 (a) b) S 3 7 5 0 -1 0 0 0 0 0 100 20 3 4 0")
    _Process(pid=7, parent=3, session=5, ended=False, ticks=127)
    """
    fields = stat.rpartition(")")[2].split()
    return _Process(pid, int(fields[1]), int(fields[3]), fields[0] in "ZX", sum(map(int, fields[11:15])))


def _pss_kilobytes(pid: int) -> int:
    try:
        text = (_PROC / str(pid) / "smaps_rollup").read_text(encoding="ascii")
    except OSError:  # it ended meanwhile
        return 0
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")), 0)
