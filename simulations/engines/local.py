"""One worker process for each core of this machine, one thread each.

Workers are new processes, never forks: nothing of the parent's threads or of a GPU's state gets into them, and a
script or notebook needs no `if __name__ == "__main__"`. They hold the store through an inherited descriptor, hang on a
pipe whose other end only the parent has, and sit in sessions of their own, so that Ctrl-C reaches the parent alone.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, Self

import numpy as np

from privet.common.adapter import Arrays, Floats
from privet.common.errors import RunError
from privet.simulations.engines.engine import Built, Item, Job, Numbers, Result, Shard, num_cores
from privet.simulations.engines.store import SharedFile, Store
from privet.simulations.engines.work import Recipe, Run

_AHEAD = 2  # messages that a worker has at once: it never waits for the parent
SETTINGS = {
    **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1"),
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    # Memory that a pass gives back serves the next one, instead of being returned to the system and zeroed by it.
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
    "MALLOC_TRIM_THRESHOLD_": str(2**32),
}


class _Worker:
    """One process and the parent's end of its socket."""

    def __init__(self, number: int, store: int, lifeline: int) -> None:
        ours, theirs = socket.socketpair()
        self.number = number
        self.pending: deque[int] = deque()  # of the job under way: indices of what it has
        self.is_building = False
        self.log = tempfile.TemporaryFile(prefix="privet-")  # noqa: SIM115 (closed with the worker)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", __name__.replace(".local", ".worker")]
                + [str(fd) for fd in (theirs.fileno(), store, lifeline)],
                pass_fds=(theirs.fileno(), store, lifeline),
                env=os.environ | SETTINGS | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self.log,
                start_new_session=True,
            )
        self.connection = Connection(ours.detach())

    def take(self, found: tuple[int, tuple[Any, ...]] | None) -> None:
        """One more message of those that are handed out, if there is one."""
        if found is not None:
            self.pending.append(found[0])
            self.send(*found[1])

    def send(self, *message: Any) -> None:
        try:
            self.connection.send(message)
        except (ConnectionError, OSError):
            raise self._ended() from None

    def receive(self) -> Any:
        """The next reply. Raises: what the worker told; RunError where it is gone."""
        try:
            kind, *given = self.connection.recv()
            if kind == "array":
                dtype, shape = given
                array = np.empty(shape, dtype)
                if array.size:
                    self.connection.recv_bytes_into(array.reshape(-1).view(np.uint8).data)
                return array
        except (EOFError, ConnectionError, OSError):
            raise self._ended() from None
        if kind == "error":
            raise given[0]
        return given[0]

    def _ended(self) -> RunError:
        try:
            code = self.process.wait(5)
        except subprocess.TimeoutExpired:
            code = 0
        how = signal.Signals(-code).name if code < 0 else f"code {code}"
        self.log.seek(0)
        last = self.log.read().decode(errors="replace").strip().splitlines()[-1:]
        mend = "see what it said last."
        if code == -signal.SIGKILL:
            mend = "if the system ran out of memory, give fewer --workers or a smaller cohort."
        return RunError(": ".join([f"worker process {self.number} ended ({how})", *last]) + ".", mend=mend)

    def close(self) -> None:
        """It has nothing to lose: what it computed and did not send is of no use."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        self.connection.close()
        self.log.close()


class LocalEngine:
    """See the module. num_workers: None is one for each core that this process may use."""

    def __init__(self, num_workers: int | None = None, load: Sequence[str] = ("torch",)) -> None:
        """load: modules that workers import while the parent still reads the data."""
        self.num_workers = num_workers or num_cores()
        self._workers: list[_Worker] = []
        self._built: Built | None = None
        self._shared = SharedFile()
        lifeline, self._lifeline = os.pipe()
        try:
            for number in range(self.num_workers):
                self._workers.append(_Worker(number + 1, self._shared.fd, lifeline))
            self._tell("load", tuple(load))
        except BaseException:
            self.close()
            raise
        finally:
            os.close(lifeline)

    @property
    def words(self) -> str:
        return "1 worker process" if self.num_workers == 1 else f"{self.num_workers} worker processes"

    def start(self, recipe: Recipe, store: Store) -> None:
        self._tell("start", recipe, self._shared.append(store.arrays()))
        for worker in self._workers:
            worker.is_building = True

    def built(self) -> Built:
        with self._ended_by_errors():
            self._arrive()
        assert self._built is not None
        return self._built

    def attach(self, features: Floats) -> None:
        self._tell("attach", self._shared.append({"features": features}))

    def begin(self, run: Run) -> None:
        self._tell("begin", run)

    def hold(self, arrays: Arrays) -> None:
        self._tell("hold", dict(arrays))

    def map(self, job: Job, shards: Sequence[Shard]) -> Iterator[tuple[int, Numbers]]:
        self._tell("job", job)
        yield from self._hand_out([("shard", shard) for shard in shards])

    def call(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        results = dict(self._hand_out([("call", function, item) for item in items]))
        return [results[index] for index in range(len(items))]

    def close(self) -> None:
        while self._workers:
            self._workers.pop().close()
        self._shared.close()
        if self._lifeline >= 0:
            os.close(self._lifeline)
        self._lifeline = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _tell(self, *message: Any) -> None:
        """A message to every worker, once all that was handed out has come back."""
        with self._ended_by_errors():
            self._arrive()
            for worker in self._workers:
                worker.send(*message)

    def _arrive(self) -> None:
        """Take in what is still to come: of a work that is being built, or that an earlier caller did not wait for."""
        for worker in self._workers:
            if worker.is_building:
                self._built = worker.receive()
                worker.is_building = False
            while worker.pending:
                worker.pending.popleft()
                worker.receive()

    def _hand_out(self, messages: Sequence[tuple[Any, ...]]) -> Iterator[tuple[int, Any]]:
        """Index and reply of each message, as they come; whoever is done gets the next."""
        with self._ended_by_errors():
            self._arrive()
            waiting = iter(enumerate(messages))
            by_connection = {worker.connection: worker for worker in self._workers}
            for _ in range(_AHEAD):
                for worker in self._workers:
                    worker.take(next(waiting, None))
            while busy := [worker.connection for worker in self._workers if worker.pending]:
                for ready in wait(busy):
                    worker = by_connection[ready]  # type: ignore[index]
                    reply = worker.receive()
                    index = worker.pending.popleft()
                    worker.take(next(waiting, None))
                    yield index, reply

    @contextlib.contextmanager
    def _ended_by_errors(self) -> Iterator[None]:
        """After an error nobody knows what the others are at: they are ended."""
        if not self._workers:
            raise RunError("the workers have ended.", mend="start the simulation again.")
        try:
            yield
        except GeneratorExit:  # a caller that needs no more
            raise
        except BaseException:
            self.close()
            raise
