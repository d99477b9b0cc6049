"""Reading and verifying: every line against the one before and against its schema."""

import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from privet.common.audit_log.lines import GENESIS, AuditLogError, BadLine, Line, looks_whole, parse_line, torn_digest
from privet.common.errors import InputError

_MEND = "keep this file for whoever looks into it: it is not as privet wrote it."


@dataclass(frozen=True)
class Torn:
    """A place where a writer was killed before its line was whole."""

    at: int  # the file's line, from 1
    num_bytes: int
    repaired: bool  # closed off by a later writer


@dataclass(frozen=True)
class Verified:
    """A log that is as it was written. That its end was not cut off is told by its head, noted elsewhere."""

    lines: list[Line]
    torn: list[Torn]

    @property
    def count(self) -> int:
        return len(self.lines)

    @property
    def head(self) -> str:
        """The newest line's hash; zeros for an empty log."""
        return self.lines[-1].hash if self.lines else GENESIS


def read(path: Path) -> Verified:
    """Every line of the log at `path`, verified.

    Raises: AuditLogError naming the first bad line; InputError where there is no file to read.
    """
    lines, torn = list[Line](), list[Torn]()
    pieces: list[bytes] = []  # of what a killed writer left
    number = 0
    for number, raw in enumerate(_raw_lines(path), start=1):
        try:
            line = parse_line(raw.rstrip(b"\n"))
        except BadLine as error:
            if looks_whole(raw.rstrip(b"\n")):
                raise _bad(path, number, str(error)) from None
            pieces.append(raw)
            continue
        at = number - len(pieces)
        last = lines[-1] if lines else None
        if pieces and not _closes(line, pieces):
            raise _bad(path, at, "was altered")
        if line.seq != len(lines) + 1 or line.previous != (last.hash if last else GENESIS):
            what = "does not follow the one before: lines were removed, added or put into another order"
            raise _bad(path, number, what)
        _check(path, number, line, expected_repair=bool(pieces), begun=any(one.kind == "begun" for one in lines))
        if pieces:
            torn.append(Torn(at, line.fields["torn_bytes"], True))
            pieces = []
        lines.append(line)
    if pieces:
        at = number - len(pieces) + 1  # not closed off: by the next writer, or the end was cut off
        torn.append(Torn(at, len(b"".join(pieces)), False))
    return Verified(lines, torn)


def _closes(line: Line, pieces: list[bytes]) -> bool:
    """Whether `line` is the repair that names these very bytes."""
    named = line.fields.get("torn_bytes"), line.fields.get("torn_sha256")
    return line.kind == "repaired" and named == torn_digest(b"".join(pieces))


def _check(path: Path, number: int, line: Line, *, expected_repair: bool, begun: bool) -> None:
    try:
        line.entry()
    except BadLine as error:
        raise _bad(path, number, str(error)) from None
    if line.kind == "repaired":
        if not expected_repair:
            raise _bad(path, number, "closes off a torn line that is not there")
    elif (line.kind == "begun") == begun:
        raise _bad(path, number, "begins the log a second time" if begun else "comes before the log's beginning")


def _bad(path: Path, number: int, what: str) -> AuditLogError:
    return AuditLogError(f"line {number} {what}.", where=str(path), mend=_MEND)


def _raw_lines(path: Path) -> Iterator[bytes]:
    """The file's lines, line breaks kept, as far as they stood at a moment at which nobody wrote."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            left = os.fstat(file.fileno()).st_size
            fcntl.flock(file, fcntl.LOCK_UN)
            while left > 0:
                raw = file.readline(left)
                if not raw:
                    return
                left -= len(raw)
                yield raw
    except FileNotFoundError:
        raise InputError("no such audit log.", where=str(path), mend="give the path of an .audit.jsonl file.") from None
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror}).", where=str(path), mend="give a readable file.") from None
