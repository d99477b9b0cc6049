"""The arm that `privet bench simulation` holds its whole system against: a bare loop over clients, Opacus and no more.

One model, used again for every client; no messages, no server, no files.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from privet.simulations.bench.job import Job
from privet.simulations.bench.step_arms import Arm, padded_batch, private_model


def opacus_loop(job: Job) -> Arm:
    """A turn of work is one client: the global weights in, S Poisson steps of DP-AdamW, the change out and averaged.

    Rows are padded to the longest of their batch. An empty draw is noised like any other.
    """
    rows = job.rows()
    model, optimizer = private_model(job)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    start = [parameter.detach().clone() for parameter in trained]
    random = np.random.default_rng(job.seed)
    shares = [np.sort(part) for part in np.array_split(random.permutation(len(rows.ids)), job.sites)]
    clients = _in_turn(job.sites, random)

    def work(count: int) -> int:
        examples, total = 0, [torch.zeros_like(parameter) for parameter in start]
        for _ in range(count):
            own: NDArray[np.int64] = shares[next(clients)]
            with torch.no_grad():
                for parameter, value in zip(trained, start, strict=True):
                    parameter.copy_(value)
            optimizer.original_optimizer.state.clear()
            for _ in range(job.local_steps):
                drawn = own[random.random(len(own)) < min(1.0, job.batch / len(own))]
                optimizer.zero_grad()
                if len(drawn):
                    model(**padded_batch(rows, drawn, None)).loss.backward()
                else:
                    for parameter in trained:
                        parameter.grad_sample = parameter.new_zeros((0, *parameter.shape))
                optimizer.step()
                examples += len(drawn)
            for change, parameter, value in zip(total, trained, start, strict=True):
                change += parameter.detach() - value
        return examples

    return Arm(sum(parameter.numel() for parameter in trained), work)


LOOP_ARMS: dict[str, Callable[[Job], Arm]] = {"opacus-loop": opacus_loop}


def _in_turn(count: int, random: np.random.Generator) -> Iterator[int]:
    while True:
        yield from random.permutation(count).tolist()
