"""A process apart, in which a plan is tried out: it never had a record, so that its time, its memory and whether it
fails are no function of one. It may be ended at any time, and run out of memory alone."""

import contextlib
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import IO, Any

import numpy as np

from privet.common.adapter import Arrays, Floats
from privet.common.errors import Code, PrivetError, RefusedError

_POLL_SECONDS = 0.1
_LENGTH = 8  # bytes of a part's length, little-endian

Header = Mapping[str, Any]


class ApartError(PrivetError):
    """The process apart ended, took too long or could not do it."""


class Apart:
    """One such process, started by the first `ask`.

    threads, memory: what it may use; `memory` in bytes of its own data, None for no limit. stop: gives up at once.
    """

    def __init__(self, *, threads: int, memory: int | None, stop: threading.Event) -> None:
        self._threads, self._memory, self._stop = threads, memory, stop
        self._child: subprocess.Popen[bytes] | None = None

    def ask(self, what: Header, arrays: Arrays | None = None, *, seconds: float) -> tuple[Header, dict[str, Floats]]:
        """Its answer, within `seconds`. After any error but RefusedError the process is gone.

        Raises: RefusedError with the code that it found; ApartError.
        """
        end = time.monotonic() + seconds
        child = self._child = self._child or self._start()
        assert child.stdin is not None
        try:
            send(child.stdin, {"threads": self._threads, "memory": self._memory} | dict(what), arrays or {})
            header, found = receive(lambda count: self._read(child, count, end))
        except ApartError:
            self.close()
            raise
        except (OSError, ValueError) as error:
            raise ApartError(f"the process apart {self.close()} ({type(error).__name__}).") from None
        try:
            return settled(header), found
        except ApartError:
            self.close()
            raise

    def close(self) -> str:
        """End the process, if there is one; how it ended, in words."""
        child, self._child = self._child, None
        if child is None:
            return "was not running"
        code = child.poll()
        if code is None:
            child.kill()
            child.wait()
        for stream in (child.stdin, child.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):  # of what it no longer reads
                    stream.close()
        if code is None:
            return "was ended"
        return f"ended by signal {-code}, as when memory ran out" if code < 0 else f"ended with {code}"

    def _start(self) -> "subprocess.Popen[bytes]":
        environment = os.environ | {"OMP_NUM_THREADS": str(self._threads), "RAYON_NUM_THREADS": str(self._threads)}
        try:
            return subprocess.Popen(
                [sys.executable, "-P", "-m", "privet.client.apart_worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
            )
        except OSError as error:
            raise ApartError(f"no process could be started ({error}).") from None

    def _read(self, child: "subprocess.Popen[bytes]", count: int, end: float) -> bytes:
        assert child.stdout is not None
        descriptor, parts, left = child.stdout.fileno(), list[bytes](), count
        while left:
            if self._stop.is_set():
                raise ApartError("given up: the client is to stop.")
            if time.monotonic() > end:
                raise ApartError("it took too long and was ended.")
            if not select.select([descriptor], [], [], _POLL_SECONDS)[0]:
                continue
            part = os.read(descriptor, min(left, 1 << 20))
            if not part:
                child.wait()
                raise ApartError(f"the process apart {self.close()}.")
            parts.append(part)
            left -= len(part)
        return b"".join(parts)


def settled(header: Header) -> Header:
    """The worker's answer, if it is one. Raises: RefusedError with the code that it found; ApartError."""
    if "refused" in header:
        raise RefusedError(Code(header["refused"]), str(header["what"]))
    if "failed" in header:
        raise ApartError(f"the plan could not be tried out: {header['failed']}")
    return header


def send(stream: IO[bytes], header: Header, arrays: Arrays) -> None:
    """Write one message. Raises: OSError."""
    from safetensors.numpy import save

    text = json.dumps(dict(header)).encode()
    body = save({name: np.ascontiguousarray(array, dtype=np.float32) for name, array in arrays.items()})
    for part in (text, body):
        stream.write(len(part).to_bytes(_LENGTH, "little"))
        stream.write(part)
    stream.flush()


def receive(read: Callable[[int], bytes]) -> tuple[Header, dict[str, Floats]]:
    """One message; read(n) gives the next n bytes. Raises: what `read` does; ValueError."""
    from safetensors.numpy import load

    text, body = (read(int.from_bytes(read(_LENGTH), "little")) for _ in range(2))
    header: Header = json.loads(text)
    return header, load(body)
