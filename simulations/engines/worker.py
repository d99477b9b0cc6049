"""What runs in a worker process.

It answers its parent's messages one after the other and ends when the parent is gone, however that went.
"""

import os
import pickle
import traceback
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from privet.common.errors import PrivetError, RunError
from privet.simulations.engines.engine import Built, Job, build, perform
from privet.simulations.engines.store import Store, mapped
from privet.simulations.engines.work import Work


class Server:
    """The messages of one worker, and the work that it builds."""

    def __init__(self, store: int) -> None:
        self._fd = store
        self._store: Store | None = None
        self._work: Work | None = None
        self._job: Job | None = None

    def answer(self, kind: str, *given: Any) -> Any:
        """The reply to one message; None where none is sent."""
        if kind == "call":
            function, item = given
            return function(item)
        if kind == "start":
            recipe, layout = given
            self._store = Store.from_arrays(mapped(self._fd, layout))
            self._work = build(recipe, self._store)
            return Built.of(self._work)
        assert self._work is not None
        assert self._store is not None
        if kind == "attach":
            self._store.features = mapped(self._fd, given[0])["features"]
        elif kind == "begin":
            self._work.begin(given[0])
        elif kind == "hold":
            self._work.hold(given[0])
        elif kind == "job":
            self._job = given[0]
        else:
            assert kind == "shard"
            assert self._job is not None
            return np.ascontiguousarray(perform(self._work, self._job, given[0]))
        return None


def serve(connection: Connection, store: int) -> None:
    """Answer until the parent hangs up. An error is told, and ends nothing: the parent decides."""
    server = Server(store)
    while True:
        try:
            kind, *given = connection.recv()
        except (EOFError, ConnectionError):
            return
        try:
            reply = server.answer(kind, *given)
        except Exception as error:
            connection.send(("error", _carried(error)))
            continue
        if isinstance(reply, np.ndarray):  # beside the pickle: numbers are copied once on each side
            connection.send(("array", reply.dtype.str, reply.shape))
            if reply.size:
                connection.send_bytes(reply.reshape(-1).view(np.uint8).data)
        elif reply is not None or kind == "call":
            connection.send(("object", reply))


def _carried(error: Exception) -> PrivetError:
    """An error of privet's own as it is; of any other its words and trace."""
    if isinstance(error, PrivetError):
        try:
            pickle.loads(pickle.dumps(error))  # noqa: S301 (made in this line)
            return error
        except Exception:
            return RunError(error.what, where=error.where, mend=error.mend)
    told = RunError(f"a worker process failed: {type(error).__name__}: {error}", mend="report this to privet.")
    told.add_note(traceback.format_exc())
    return told


def end_with(lifeline: int) -> None:
    """Block until the parent's end of a pipe is closed: by it, or by the system after its death; then end."""
    while os.read(lifeline, 1):
        pass
    os._exit(1)
