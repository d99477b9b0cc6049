"""One arm in a process of its own, one thread: it works when it is told to, so that arms can take turns.

Run as ``python -m privet.simulations.bench.worker FOLDER ARM``. Lines of JSON: {"ready": true, "parameters": P} once it
could begin; then for each number n on standard input what n turns of work took. It ends with its input.
"""

import privet.common.quiet  # noqa: F401, I001 - before transformers

import gc
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TextIO


def main(folder: Path, name: str) -> None:
    told = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print does not get among the figures
    warnings.simplefilter("ignore")
    import torch

    from privet.simulations.bench.job import Job
    from privet.simulations.bench.loop_arms import LOOP_ARMS
    from privet.simulations.bench.step_arms import STEP_ARMS, Arm

    torch.set_num_threads(1)
    torch.manual_seed(0)
    arms: dict[str, Callable[[Job], Arm]] = STEP_ARMS | LOOP_ARMS
    arm = arms[name](Job.read(folder))
    _say(told, {"ready": True, "parameters": arm.num_parameters})
    for line in sys.stdin:
        gc.collect()
        cpu, wall = time.process_time(), time.perf_counter()
        examples = arm.work(int(line))
        spent = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall, "examples": examples}
        _say(told, spent)


def _say(told: TextIO, document: Mapping[str, object]) -> None:
    told.write(json.dumps(document) + "\n")
    told.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
