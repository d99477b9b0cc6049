"""A site that is killed: a preloaded process forks one child a round, which says on standard output how far it is.

Not a test. `python -m tests.client.round_worker FOLDER BASE PLAN.json` reads a round's number from standard input and
prints the child's process id, `ready` when its plan is offered and the request comes next, and `ended` when it is gone.
What was really done goes to FOLDER/truth, which outlives a kill: `began ROUND` before training touches a record, `sent
ROUND SHA256` with the reply.
"""

import hashlib
import os
import sys
from pathlib import Path
from typing import Any

from privet.client import preparation
from privet.client.training import RoundTrainer
from privet.common.config import parse_plan
from privet.common.errors import Code
from tests.client import agent_bench
from tests.client.agent_bench import Bench, payload


def main(folder: Path, base: Path, plan_file: Path) -> None:
    plan = parse_plan(plan_file.read_text(encoding="utf-8"))
    trainer = RoundTrainer(plan, base)  # all that takes time is done before the first fork
    for room in (preparation, agent_bench):
        room.RoundTrainer = lambda *_, **__: trainer  # type: ignore[attr-defined]
    (folder / "warm").mkdir()
    warm = Bench(folder / "warm", plan, base)
    warm.offer()
    warm.close()
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                _round(folder, base, plan, int(line))
            finally:
                os._exit(0)
        print(child, flush=True)
        os.waitpid(child, 0)
        print("ended", flush=True)


def _round(folder: Path, base: Path, plan: Any, number: int) -> None:
    truth = os.open(folder / "truth", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    genuine = RoundTrainer.update

    def update(self: RoundTrainer, arrays: Any, examples: Any, round: int, *rest: Any) -> Any:
        os.write(truth, f"began {round}\n".encode())
        return genuine(self, arrays, examples, round, *rest)

    RoundTrainer.update = update  # type: ignore[method-assign, assignment]
    bench = Bench(folder, plan, base)
    if bench.offer().code is not Code.OK:
        os.write(truth, f"refused {number} {bench.told}\n".encode())
        return
    os.write(1, b"ready\n")
    reply = bench.train(number)
    if reply.code is Code.OK:
        digest = hashlib.sha256(payload(reply)).hexdigest()
        os.write(truth, f"sent {number} {digest}\n".encode())
    else:
        os.write(truth, f"code {number} {reply.code}\n".encode())


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:]))
