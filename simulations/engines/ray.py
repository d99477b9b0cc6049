"""The same workers as Ray actors: of a Ray that is started here for as long as it is needed, or of a cluster.

Started here it listens on the loopback interface alone, tells nobody that it is used, and has no dashboard. On a
cluster privet, of the same version, and the base model must be installed on every node; the data go there: a cluster
sees every site's text.
"""

import contextlib
import ipaddress
import os
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Self

from privet.common.adapter import Arrays, Floats
from privet.common.errors import ConfigError, PrivetError, RunError
from privet.simulations.engines.engine import Built, Item, Job, Numbers, Result, Shard, build, num_cores, perform
from privet.simulations.engines.local import SETTINGS
from privet.simulations.engines.ray_cluster import join, loopback_alone
from privet.simulations.engines.store import Store
from privet.simulations.engines.work import Recipe, Run, Work

if TYPE_CHECKING:
    from types import ModuleType

_AHEAD = 2  # calls that an actor has at once
_PATIENCE = 300.0  # seconds until a cluster must have found room for the actors


class Actor:
    """What runs in a Ray process. Arrays that come through Ray's store are read-only and shared on each node."""

    def __init__(self) -> None:
        import torch

        torch.set_num_threads(1)
        self._store: Store | None = None
        self._work: Work | None = None

    def version(self) -> tuple[str, str]:
        """Of privet on this machine, and the machine's name."""
        return socket.gethostname(), version("privet")

    def start(self, recipe: Recipe, arrays: dict[str, Any]) -> Built:
        if recipe.base is not None and not recipe.base.is_dir():  # another machine
            recipe = replace(recipe, base=None)
        self._store = Store.from_arrays(arrays)
        self._work = build(recipe, self._store)
        return Built.of(self._work)

    def attach(self, features: Floats) -> None:
        assert self._store is not None
        self._store.features = features

    def begin(self, run: Run) -> None:
        assert self._work is not None
        self._work.begin(run)

    def hold(self, arrays: dict[str, Floats]) -> None:
        assert self._work is not None
        self._work.hold(arrays)

    def perform(self, job: Job, shard: Shard) -> Numbers:
        assert self._work is not None
        return perform(self._work, job, shard)

    def call(self, function: Callable[[Any], Any], item: Any) -> Any:
        return function(item)


class RayEngine:
    """See the module. num_workers: None is one for each core, of this machine or of the cluster at `address`."""

    def __init__(self, num_workers: int | None = None, address: str | None = None) -> None:
        self._ray = ray = _library()
        self._ours = not ray.is_initialized()
        self._actors: list[Any] = []
        self._built: list[Any] = []  # references to what the actors tell of their work
        self._told: list[Any] = []  # to calls whose results only matter where they are errors
        with _as_errors(ray):
            if self._ours and address is None:
                _start_on_loopback(ray, num_workers or num_cores())
            elif self._ours and address is not None:
                join(ray, address)
        cores = int(ray.cluster_resources().get("CPU", 1))
        self.num_workers = num_workers or cores
        if self.num_workers > cores:
            self.close()
            raise ConfigError(f"the cluster has {cores} cores.", where="--workers", mend=f"give at most {cores}.")
        made = ray.remote(num_cpus=1, runtime_env={"env_vars": SETTINGS})(Actor)
        self._actors = [made.remote() for _ in range(self.num_workers)]

    @property
    def words(self) -> str:
        return "1 Ray actor" if self.num_workers == 1 else f"{self.num_workers} Ray actors"

    def start(self, recipe: Recipe, store: Store) -> None:
        arrays = self._ray.put(store.arrays())
        self._built = [actor.start.remote(recipe, arrays) for actor in self._actors]

    def built(self) -> Built:
        with _as_errors(self._ray):
            found: list[Built] = self._ray.get(self._built, timeout=_PATIENCE)
            versions = self._ray.get([actor.version.remote() for actor in self._actors], timeout=_PATIENCE)
        others = sorted({f"{name} has {number}" for name, number in versions if number != version("privet")})
        if others:
            what = f"this machine has privet {version('privet')}, {', '.join(others[:3])}."
            raise ConfigError(what, where="the cluster", mend="install one version on every machine.")
        return found[0]

    def attach(self, features: Floats) -> None:
        shared = self._ray.put(features)
        self._told += [actor.attach.remote(shared) for actor in self._actors]

    def begin(self, run: Run) -> None:
        shared = self._ray.put(run)
        self._told += [actor.begin.remote(shared) for actor in self._actors]

    def hold(self, arrays: Arrays) -> None:
        shared = self._ray.put(dict(arrays))
        self._told += [actor.hold.remote(shared) for actor in self._actors]

    def map(self, job: Job, shards: Sequence[Shard]) -> Iterator[tuple[int, Numbers]]:
        with _as_errors(self._ray):
            self._ray.get(self._told)
        self._told = []
        return self._hand_out([("perform", self._ray.put(job), shard) for shard in shards])

    def call(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        results = dict(self._hand_out([("call", function, item) for item in items]))
        return [results[index] for index in range(len(items))]

    def close(self) -> None:
        for actor in self._actors:
            self._ray.kill(actor)
        self._actors = []
        if self._ours:
            self._ray.shutdown()
        self._ours = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _hand_out(self, calls: Sequence[tuple[Any, ...]]) -> Iterator[tuple[int, Any]]:
        """Index and result of each call (a method's name and arguments), as they come; who is done gets the next."""
        waiting = deque(enumerate(calls))
        under_way: dict[Any, tuple[int, Any]] = {}

        def give(actor: Any) -> None:
            if waiting:
                index, (name, *given) = waiting.popleft()
                under_way[getattr(actor, name).remote(*given)] = index, actor

        for _ in range(_AHEAD):
            for actor in self._actors:
                give(actor)
        while under_way:
            with _as_errors(self._ray):
                (done, *_), _ = self._ray.wait(list(under_way), num_returns=1)
                result = self._ray.get(done)
            index, actor = under_way.pop(done)
            give(actor)
            yield index, result


def _library() -> "ModuleType":
    """Ray, kept quiet. Raises: ConfigError where it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise ConfigError(
            "Ray is not installed.", where="--engine ray", mend='pip install "privet[ray]", or use --engine local.'
        ) from None
    module: ModuleType = ray
    return module


def _start_on_loopback(ray: Any, cores: int) -> None:
    """A Ray of its own, whatever clusters run on this machine or stand in RAY_ADDRESS: nobody asked for those.

    Raises: RunError where it listens elsewhere all the same.
    """
    with loopback_alone():
        ray.init("local", num_cpus=cores, include_dashboard=False, log_to_driver=False, logging_level="error")
    if not ipaddress.ip_address(ray.util.get_node_ip_address()).is_loopback:
        ray.shutdown()
        raise RunError("it does not stay on this machine.", where="Ray", mend="install the version that privet pins.")


@contextlib.contextmanager
def _as_errors(ray: Any) -> Iterator[None]:
    """Raises: what an actor raised, if privet foresaw it; else RunError."""
    try:
        yield
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, PrivetError):
            raise error.cause from None
        words = f"{type(error.cause).__name__}: {error.cause}"
        raise RunError(f"a Ray actor failed: {words}", mend="report this to privet.") from None
    except ray.exceptions.GetTimeoutError:
        raise RunError(
            "the cluster found no room for the actors.", mend="free cores, or give fewer --workers."
        ) from None
    except (ray.exceptions.RayError, ConnectionError, RuntimeError, ValueError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise RunError(f"Ray: {first}", mend="see that the cluster is up, or use --engine local.") from None
