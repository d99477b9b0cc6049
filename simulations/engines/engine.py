"""What an engine does: build one `Work` in each worker, hand out a job's shards, give back what comes.

`InProcess` is the engine without workers: for a few sites it starts at once, and nothing runs beside the caller.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Protocol, Self, TypeVar

from numpy.typing import NDArray

from privet.common.adapter import AdapterSpec, Arrays, Floats
from privet.simulations.engines.store import Store
from privet.simulations.engines.work import Recipe, Run, Work, make_work

Item = TypeVar("Item")
Result = TypeVar("Result")
Numbers = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Job:
    """One method of `Work` for many sites, records or windows. number: of the round or evaluation."""

    kind: Literal["train", "cells", "logits", "features", "states"]
    number: int = 0
    arrays: Floats | None = None  # the same for every shard


@dataclass(frozen=True, eq=False)
class Shard:
    """A part of a job: site numbers, ascending, or a range of records or windows.

    arrays: [K, P], where each site starts from weights of its own.
    """

    what: Sequence[int] | range
    arrays: Floats | None = None


@dataclass(frozen=True)
class Built:
    """What a worker tells of the `Work` that it built."""

    spec: AdapterSpec
    words: str
    state_bytes: int = 0  # of `Work`

    @classmethod
    def of(cls, work: Work) -> Self:
        return cls(work.spec, work.words, work.state_bytes)


class Engine(Protocol):
    """Used within `with`: nothing that was started outlives the block."""

    @property
    def words(self) -> str:
        """Who computes, for people."""

    @property
    def num_workers(self) -> int: ...

    def start(self, recipe: Recipe, store: Store) -> None:
        """Begin to build the work in every worker; `built` waits for it. Once."""

    def built(self) -> Built:
        """Raises: PrivetError, as the worker's own; RunError where a worker ended."""

    def attach(self, features: Floats) -> None:
        """Put the frozen features [W, d] into every worker's store, or the states [T, d]."""

    def begin(self, run: Run) -> None: ...

    def hold(self, arrays: Arrays) -> None: ...

    def map(self, job: Job, shards: Sequence[Shard]) -> Iterator[tuple[int, Numbers]]:
        """Index and result of each shard, as they come: a worker that is done gets the next.

        Raises: RunError where a worker ended; what the work raised, if privet foresaw it, else RunError.
        """

    def call(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """A module-level function of each item, in the workers; results in the items' order."""

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def most_state_bytes() -> int:
    """Of kept states of a simulation's texts: a quarter of what memory is free, at most 4 GiB."""
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):  # a system that does not tell
        return 2**30
    return min(2**32, free // 4)


def perform(work: Work, job: Job, shard: Shard) -> Numbers:
    """One shard's result."""
    arrays = job.arrays if shard.arrays is None else shard.arrays
    if job.kind in ("features", "states"):
        assert isinstance(shard.what, range)
        return work.features(shard.what) if job.kind == "features" else work.states(shard.what)
    assert arrays is not None
    if job.kind == "train":
        return work.train(job.number, shard.what, arrays)
    if job.kind == "cells":
        return work.cells(job.number, shard.what, arrays)
    assert isinstance(shard.what, range)
    return work.logits(arrays, shard.what)


def build(recipe: Recipe, store: Store) -> Work:
    """The work of one worker."""
    return (recipe.make or make_work)(recipe, store)


class InProcess:
    """Everything in the calling process, one shard after the other; frozen features by several threads."""

    words, num_workers = "in this process", 1

    def __init__(self) -> None:
        self._work: Work | None = None
        self._store: Store | None = None

    def start(self, recipe: Recipe, store: Store) -> None:
        self._store = store
        self._work = build(recipe, store)

    def built(self) -> Built:
        work = self._started()
        return Built.of(work)

    def attach(self, features: Floats) -> None:
        assert self._store is not None
        self._store.features = features

    def begin(self, run: Run) -> None:
        self._started().begin(run)

    def hold(self, arrays: Arrays) -> None:
        self._started().hold(arrays)

    def map(self, job: Job, shards: Sequence[Shard]) -> Iterator[tuple[int, Numbers]]:
        work = self._started()
        if job.kind in ("features", "states"):  # a window's own do not depend on the others
            with ThreadPoolExecutor(num_cores()) as pool:
                yield from enumerate(pool.map(lambda shard: perform(work, job, shard), shards))
            return
        for index, shard in enumerate(shards):
            yield index, perform(work, job, shard)

    def call(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        return [function(item) for item in items]

    def close(self) -> None:
        self._work = self._store = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _started(self) -> Work:
        if self._work is None:
            raise RuntimeError("the engine was not started")
        return self._work
