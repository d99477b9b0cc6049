"""How a job is cut: runs of neighbouring sites whose steps hold about so many tokens together."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

MOST_TOKENS = 16_384  # of one local step of a shard's sites: what one pass over many sites carries well
LEAST_TOKENS = 1_024  # below, handing out costs more than an even load brings
PER_WORKER = 1  # shard that each worker gets, where the budget allows: fewer half-filled batches
RECORDS = 256  # of the public test file, or windows, in a shard


def site_shards(sites: Sequence[int], tokens: NDArray[np.float64], num_workers: int) -> list[range]:
    """Positions in `sites` of each shard. tokens: that one step of each of these sites takes on average."""
    share = float(tokens.sum()) / (PER_WORKER * num_workers)
    budget = min(MOST_TOKENS, max(LEAST_TOKENS, share))
    shards: list[range] = []
    start, held = 0, 0.0
    for position, wanted in enumerate(tokens.tolist()):
        if position > start and held + wanted > budget:
            shards.append(range(start, position))
            start, held = position, 0.0
        held += wanted
    if len(sites) > start:
        shards.append(range(start, len(sites)))
    return shards


def even_shards(count: int, size: int = RECORDS) -> list[range]:
    """Runs of `size` numbers below `count`."""
    return [range(start, min(start + size, count)) for start in range(0, count, size)]
