"""A site's agent in the middle of a round that takes its time, for a test that stops it. Not a test.

`python -m tests.client.slow_site FOLDER BASE PLAN.json ROUND_SECONDS LET_END_SECONDS` says `training` on standard
output once the round is under way; the ledger lies under XDG_STATE_HOME.
"""

import sys
import threading
import time
from pathlib import Path
from typing import Any

from privet.client import app
from privet.client.training import RoundTrainer
from privet.common import adapter
from privet.common.cli import leave
from privet.common.config import parse_plan
from privet.common.keys import new_site_key
from privet.common.messages import OfferBody, Request, TrainBody, to_record
from tests.client.agent_bench import site_of


def main(folder: Path, base: Path, plan_file: Path, round_seconds: float, let_end: float) -> None:
    plan = parse_plan(plan_file.read_text(encoding="utf-8"))
    initial = RoundTrainer(plan, base).classifier.read()
    genuine = RoundTrainer.update

    def update(self: RoundTrainer, *arguments: Any) -> Any:
        print("training", flush=True)
        time.sleep(round_seconds)
        return genuine(self, *arguments)

    def serve(*, answer: Any, stop: threading.Event, **_: Any) -> None:
        digest = adapter.digest(initial)
        answer(to_record(Request(OfferBody(plan=plan.canonical(), plan_digest=plan.digest, adapter_digest=digest))))
        arrays = {name: initial[name] for name in ("head.weight", "head.bias")}
        answer(to_record(Request(TrainBody(plan_digest=plan.digest, round=1), arrays)))
        assert stop.wait(60)

    RoundTrainer.update = update  # type: ignore[method-assign, assignment]
    app.serve = serve  # type: ignore[attr-defined]
    app.LET_END_SECONDS = let_end
    (folder / "ca.crt").write_bytes(b"authority")
    new_site_key(folder / "k")
    app.run_client(site_of(folder), lambda _event: None)
    leave(0)


if __name__ == "__main__":
    first, second, third = map(Path, sys.argv[1:4])
    main(first, second, third, float(sys.argv[4]), float(sys.argv[5]))
