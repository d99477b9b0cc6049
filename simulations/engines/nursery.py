"""The process that workers are forked from: `python -m privet.simulations.engines.nursery STORE LIFELINE REPORT LOAD
SOCKET…` (descriptors, and modules by comma).

It imports what every worker needs, and computes nothing: it has one thread and no state of a GPU when it forks. So the
libraries are loaded once and lie in memory once, whatever the number of cores. Then it waits: it reports how each
worker ended, and kills and reaps them all when the parent is gone or says so by closing its end of the lifeline.
"""

import contextlib
import gc
import importlib
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection

from privet.simulations.engines.worker import end_with, serve


def fork(sockets: Sequence[int], store: int, lifeline: int, report: int) -> dict[int, int]:
    """A worker for each socket: their numbers by pid. Returns in this process alone."""
    children: dict[int, int] = {}
    for number, descriptor in enumerate(sockets, start=1):
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.close(report)
            for other in sockets[number:]:  # those before are closed already
                os.close(other)
            _work(descriptor, store, lifeline)
        children[pid] = number
        os.close(descriptor)
    return children


def _work(descriptor: int, store: int, lifeline: int) -> None:
    """Be a worker to the end; never returns into what this process was forked from."""
    code = 1
    try:
        threading.Thread(target=end_with, args=(lifeline,), daemon=True).start()
        serve(Connection(socket.socket(fileno=descriptor).detach()), store)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def wait(children: dict[int, int], report: Connection, lifeline: int) -> None:
    """Reap every worker and report its number and code, negative for a signal's."""

    def end() -> None:
        while os.read(lifeline, 1):
            pass
        for pid in list(children):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    threading.Thread(target=end, daemon=True).start()
    while children:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)  # its pid is nobody else's until it is reaped
        assert found is not None
        number = children.pop(found.si_pid, 0)
        _, status = os.waitpid(found.si_pid, 0)
        with contextlib.suppress(OSError):
            report.send((number, os.waitstatus_to_exitcode(status)))


def main() -> None:
    store, lifeline, report = map(int, sys.argv[1:4])
    for name in filter(None, sys.argv[4].split(",")):
        importlib.import_module(name)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # until here it ends at once; from now on in order, by the lifeline
    gc.freeze()  # a collection in a worker would write to what all of them share, and so copy it
    wait(fork([int(fd) for fd in sys.argv[5:]], store, lifeline, report), Connection(report, readable=False), lifeline)


if __name__ == "__main__":
    main()
