"""The main program of a process apart: `python -m privet.client.apart_worker`, spoken to by `Apart` over its pipes."""

import contextlib
import os
import re
import select
import sys
import time
from pathlib import Path
from typing import Any

from privet.client.apart import Header, receive, send
from privet.common.adapter import Arrays, Floats
from privet.common.errors import Code, ModelError, RefusedError, WireError

_IDLE_SECONDS = 900.0  # without a question it ends


def peak_bytes() -> int | None:
    """The most memory that this program held; None where the system does not tell it.

    Not `ru_maxrss`: that survives the start of a program, so that a child begins with its parent's, and the parent
    holds the records.
    """
    try:
        found = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        return None
    return None if found is None else int(found[1]) * 1024


class Worker:
    """Answers questions one by one; holds what the latest `prepare` made."""

    def __init__(self) -> None:
        self._stage: Any = None
        self._prepare_seconds = 0.0

    def answer(self, header: Header, arrays: Arrays) -> tuple[dict[str, Any], dict[str, Floats]]:
        """Never raises: a refusal's code and words, or what failed, in the header."""
        try:
            if header["do"] == "round":
                return self._round(int(header["round"]), arrays)
            return self._prepare(header)
        except ModelError as error:
            return {"refused": str(Code.BASE_MISMATCH), "what": str(error)}, {}
        except WireError as error:
            return {"refused": str(Code.BAD_REQUEST), "what": f"a malformed request: {error}"}, {}
        except RefusedError as error:
            return {"refused": str(error.code), "what": str(error)}, {}
        except Exception as error:
            return {"failed": f"{type(error).__name__}: {error}"[:2000]}, {}

    def _prepare(self, header: Header) -> tuple[dict[str, Any], dict[str, Floats]]:
        import torch

        from privet.client.stage import Stage
        from privet.common.config import parse_plan
        from privet.common.prefix import cache_bytes
        from privet.common.privacy.events import TrainEvent

        torch.set_num_threads(int(header["threads"]))
        self._stage = None  # one model at a time
        began = time.monotonic()
        event = TrainEvent(**header["event"])
        self._stage = Stage(
            parse_plan(header["plan"]),
            header["base"],
            event,
            local_only=header["local_only"],
            engine=header["engine"],
            precision=header["precision"],
            cache_bytes=cache_bytes(header.get("memory")),
        )
        self._prepare_seconds = round(time.monotonic() - began, 3)
        made = {"initial_digest": self._stage.initial_digest, "size": self._stage.size}
        return made | self._report(0.0), {}

    def _round(self, number: int, arrays: Arrays) -> tuple[dict[str, Any], dict[str, Floats]]:
        if self._stage is None:
            raise RefusedError(Code.UNKNOWN_PLAN, "a rehearsal that was not prepared.")
        began = time.monotonic()
        update = self._stage.round(arrays, number)
        return self._report(round(time.monotonic() - began, 3)), update

    def _report(self, seconds: float) -> dict[str, Any]:
        report = {"prepare_seconds": self._prepare_seconds, "seconds": seconds, "peak_bytes": peak_bytes()}
        return {"report": report}


def limit(memory: int | None) -> None:
    """Allow this process so many bytes of data; see `privet.client.resources`."""
    if memory is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (memory, resource.getrlimit(resource.RLIMIT_DATA)[1]))


def first_to_go() -> None:
    """Where the machine runs out of memory, the system ends this process and not the agent, whose round would fail."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def main() -> None:
    """Until the pipe is closed, or nothing was asked for a while."""
    first_to_go()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints stays out of the answers
    worker, limited = Worker(), False
    while select.select([0], [], [], _IDLE_SECONDS)[0]:
        try:
            header, arrays = receive(_exactly)
        except EOFError:
            return
        if not limited:
            limit(header["memory"])
            limited = True
        send(answers, *worker.answer(header, arrays))


def _exactly(count: int) -> bytes:
    parts, left = list[bytes](), count
    while left:
        part = os.read(0, min(left, 1 << 20))
        if not part:
            raise EOFError
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


if __name__ == "__main__":
    try:
        main()
    except (BrokenPipeError, KeyboardInterrupt):
        sys.exit(0)
