"""Who computes for the virtual sites: worker processes of this machine, Ray actors, or this process.

work.py        the seam: what a worker does (`Work`), from what it is built (`Recipe`), what one simulation sets (`Run`)
sequential.py  `SequentialWork`: the agent's own trainer, one site after the other
store.py       the data, tokenised once: arrays that all workers read and nobody copies
engine.py      `Engine`: jobs handed out in shards; `InProcess`, the engine without workers
local.py       one worker process a core, one thread each; worker.py is what runs in it
ray.py         the same workers as Ray actors
"""

from typing import TYPE_CHECKING, Literal, get_args

from privet.common.errors import ConfigError

if TYPE_CHECKING:
    from privet.simulations.engines.engine import Engine

EngineName = Literal["local", "ray"]
MOST_WORKERS = 1024


def open_engine(name: EngineName, workers: int | None = None, ray_address: str | None = None) -> "Engine":
    """An engine, started; to be used within `with`. workers: None is one for each core, 0 is this process.

    Raises: ConfigError.
    """
    if workers is not None and not 0 <= workers <= MOST_WORKERS:
        raise ConfigError(f"got {workers}.", where="--workers", mend=f"give a number from 0 to {MOST_WORKERS:,}.")
    if name not in get_args(EngineName):
        raise ConfigError(f"got {name!r}.", where="--engine", mend='give "local" or "ray".')
    if ray_address is not None and name != "ray":
        raise ConfigError("an address is for Ray alone.", where="--ray-address", mend="add --engine ray.")
    if name == "ray":
        from privet.simulations.engines.ray import RayEngine

        return RayEngine(workers, ray_address)
    if workers == 0:
        from privet.simulations.engines.engine import InProcess

        return InProcess()
    from privet.simulations.engines.local import LocalEngine

    return LocalEngine(workers)
