"""Writing: each entry is durable when `append` returns, whoever else writes and whatever was killed before.

Every append opens the file, holds its lock (flock), looks at its last line and writes the next one with one call; so
threads and processes may share a log. A line that a killed writer left half written is closed off, and told, by an
entry `repaired` of the next writer.
"""

import contextlib
import fcntl
import os
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from privet.common.audit_log.entries import Begun, Entry, Repaired
from privet.common.audit_log.lines import AuditLogError, BadLine, Line, looks_whole, parse_line, torn_digest

LOCK_SECONDS = 30.0  # how long to wait for another writer
_BLOCK = 64 << 10
_ALTERED = "keep this file for whoever looks into it, and move it away; the next start begins a new one."


class AuditLog:
    """The log at `path`, of mode 0600; made with its first entry.

    observe: is called with each entry after it is durable.
    """

    def __init__(self, path: Path, *, role: Literal["site", "server"], name: str) -> None:
        self.path, self._role, self._name = path, role, name
        self.observe: Callable[[Entry], None] = lambda _entry: None

    def append(self, entry: Entry) -> Line:
        """Add an entry; when this returns, it is durable.

        Raises: AuditLogError: it is not in the log, or not surely so; what it tells of must not go on.
        """
        try:
            with self._locked() as descriptor:
                line = self._write(descriptor, entry)
        except OSError as error:
            mend = "free space on this disk, and see that this user may write there."
            what = f"the audit log cannot be written ({error.strerror or type(error).__name__})."
            raise AuditLogError(what, where=str(self.path), mend=mend) from None
        self.observe(entry)
        return line

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int]:
        """The file, held by this thread alone; the file that `path` names, also where another was moved away."""
        end = time.monotonic() + LOCK_SECONDS
        while True:
            descriptor = self._open()
            try:
                self._lock(descriptor, end)
                if _is_at(descriptor, self.path):
                    yield descriptor
                    return
            finally:
                os.close(descriptor)

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC
        try:
            return os.open(self.path, flags)
        except FileNotFoundError:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self.path, flags | os.O_CREAT, 0o600)
            folder = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)  # the name, too
            finally:
                os.close(folder)
            return descriptor

    def _lock(self, descriptor: int, end: float) -> None:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > end:
                    mend = "wait until the other privet process is done, then try again."
                    raise AuditLogError("another process holds it.", where=str(self.path), mend=mend) from None
                time.sleep(0.005)

    def _write(self, descriptor: int, entry: Entry) -> Line:
        size = os.fstat(descriptor).st_size
        last, tail = _last(descriptor, size, self.path)
        blob = b""
        if tail:
            num_bytes, digest = torn_digest(tail)
            last = Line.after(last, Repaired(torn_bytes=num_bytes, torn_sha256=digest))
            blob = last.to_bytes()
        if last is None or (last.seq == 1 and last.kind == "repaired"):  # the very first line was torn
            last = Line.after(last, Begun(role=self._role, name=self._name, random=secrets.token_hex(16)))
            blob += last.to_bytes()
        line = Line.after(last, entry)
        blob += line.to_bytes()
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            blob = b"\n" + blob
        try:
            if os.write(descriptor, blob) != len(blob):
                raise OSError(28, "no space left on the device")
            os.fsync(descriptor)
        except OSError:
            with contextlib.suppress(OSError):  # nobody was told that it is written
                os.ftruncate(descriptor, size)
            raise
        return line


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _last(descriptor: int, size: int, path: Path) -> tuple[Line | None, bytes]:
    """The last whole line, and what stands after it: what a killed writer left, or nothing.

    Raises: AuditLogError where the last line is one that nobody wrote so.
    """
    block = _BLOCK
    while True:
        start = max(0, size - block)
        data = _read(descriptor, start, size)
        first = 0 if start == 0 else data.find(b"\n") + 1  # of the first line that is there from its beginning
        if first > 0 or start == 0:
            end = len(data)
            for begin in _beginnings(data, first):
                piece = data[begin:end].rstrip(b"\n")
                try:
                    return parse_line(piece), data[end:]
                except BadLine:
                    if looks_whole(piece):
                        what = "the last line was altered."
                        raise AuditLogError(what, where=str(path), mend=_ALTERED) from None
                    end = begin
            if start == 0:
                return None, data
        block *= 4


def _beginnings(data: bytes, first: int) -> Iterator[int]:
    """Where the lines of `data` from `first` on begin, the last first; one without a line break counts."""
    at = len(data)
    while at > first:
        at = max(first, data.rfind(b"\n", first, at - 1) + 1)
        yield at


def _read(descriptor: int, start: int, end: int) -> bytes:
    data = b""
    while start + len(data) < end:
        more = os.pread(descriptor, end - start - len(data), start + len(data))
        if not more:
            break
        data += more
    return data
