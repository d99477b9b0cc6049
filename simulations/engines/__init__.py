"""Who computes for the virtual sites: worker processes of this machine, Ray actors, or this process.

work.py        the seam: what a worker does (`Work`), from what it is built (`Recipe`), what one simulation sets (`Run`)
sequential.py  `SequentialWork`: the agent's own trainer, one site after the other
store.py       the data, tokenised once: arrays that all workers read and nobody copies
engine.py      `Engine`: jobs handed out in shards; `InProcess`, the engine without workers
local.py       one worker process a core, one thread each; worker.py is what runs in it
ray.py         the same workers as Ray actors
"""
