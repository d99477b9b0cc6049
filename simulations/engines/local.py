"""One worker process for each core of this machine, one thread each.

Workers are forks of a new process that has imported the libraries and done nothing else (`nursery.py`), never of this
one: nothing of its threads or of a GPU's state gets into them, and a script or notebook needs no
`if __name__ == "__main__"`. They hold the store through an inherited descriptor, hang on a pipe whose other end only
this process has, and sit in a session of their own, so that Ctrl-C reaches this process alone.
"""

import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import Any, Self

import numpy as np

from privet.common.adapter import Arrays, Floats
from privet.common.errors import RunError
from privet.simulations.engines.engine import Built, Item, Job, Numbers, Result, Shard, num_cores
from privet.simulations.engines.store import SharedFile, Store
from privet.simulations.engines.work import Recipe, Run

LOAD = ("privet.client.trainer", "privet.simulations.engines.fused")  # torch, and no more of the libraries
_MAIN = __name__.replace(".local", ".nursery")
_PATIENCE = 5.0  # seconds, for what takes none
_AHEAD = 2  # messages that a worker has at once: it never waits for the parent
SETTINGS = {
    **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1"),
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    # Memory that a pass gives back serves the next one, instead of being returned to the system and zeroed by it.
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
    "MALLOC_TRIM_THRESHOLD_": str(2**32),
}


class _Nursery:
    """The process that the workers come from, and what it tells of them."""

    def __init__(self, sockets: Sequence[int], store: int, lifeline: int, load: Sequence[str]) -> None:
        self._log = tempfile.TemporaryFile(prefix="privet-")  # noqa: SIM115 (closed with the nursery)
        self._report, theirs = Pipe(duplex=False)
        self._codes: dict[int, int] = {}
        given = (store, lifeline, theirs.fileno())
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", _MAIN, *map(str, given), ",".join(load), *map(str, sockets)],
                pass_fds=(*given, *sockets),
                env=os.environ | SETTINGS | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._log,
                start_new_session=True,
            )

    def code_of(self, number: int) -> int:
        """How a worker ended whose socket is closed; where the nursery itself did, how that ended."""
        with contextlib.suppress(EOFError, OSError):
            while number not in self._codes and self._report.poll(_PATIENCE):
                ended, code = self._report.recv()
                self._codes[ended] = code
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._codes[number] if number in self._codes else self.process.wait(_PATIENCE)
        return 0

    def last_words(self) -> list[str]:
        """The last line that it or a worker wrote, if any did."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace").strip().splitlines()[-1:]

    def close(self) -> None:
        """The workers have nothing to lose: what they computed and did not send is of no use.

        Called when the lifeline is closed: the nursery kills and reaps them; where it hangs, its whole session goes.
        One that still imports ends by the signal.
        """
        self.process.terminate()
        try:
            self.process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self._report.close()
        self._log.close()


class _Worker:
    """One process and the parent's end of its socket."""

    def __init__(self, number: int, descriptor: int, nursery: _Nursery) -> None:
        self.number, self.nursery = number, nursery
        self.pending: deque[int] = deque()  # of the job under way: indices of what it has
        self.is_building = False
        self.connection = Connection(descriptor)

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
        code = self.nursery.code_of(self.number)
        how = signal.Signals(-code).name if code < 0 else f"code {code}"
        mend = "see what it said last."
        if code == -signal.SIGKILL:
            mend = "if the system ran out of memory, give fewer --workers or a smaller cohort."
        words = self.nursery.last_words()
        return RunError(": ".join([f"worker process {self.number} ended ({how})", *words]) + ".", mend=mend)


class LocalEngine:
    """See the module. num_workers: None is one for each core that this process may use."""

    def __init__(self, num_workers: int | None = None, load: Sequence[str] = LOAD) -> None:
        """load: modules that are imported while this process still reads the data."""
        self.num_workers = num_workers or num_cores()
        self._workers: list[_Worker] = []
        self._nursery: _Nursery | None = None
        self._built: Built | None = None
        self._shared = SharedFile()
        lifeline, self._lifeline = os.pipe()
        pairs = [socket.socketpair() for _ in range(self.num_workers)]
        try:
            self._nursery = _Nursery([theirs.fileno() for _, theirs in pairs], self._shared.fd, lifeline, load)
            for number, (ours, _) in enumerate(pairs, start=1):
                self._workers.append(_Worker(number, ours.detach(), self._nursery))
        except BaseException:
            self.close()
            raise
        finally:
            os.close(lifeline)
            for each in itertools.chain(*pairs):
                each.close()

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
        if self._lifeline >= 0:
            os.close(self._lifeline)
        self._lifeline = -1
        while self._workers:
            self._workers.pop().connection.close()
        if self._nursery is not None:
            self._nursery.close()
        self._nursery = None
        self._shared.close()

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
