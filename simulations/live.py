"""What the person at a simulation sees: a server's view, and what repeats and baselines add to it."""

from contextlib import AbstractContextManager
from typing import Any

from privet.common import live
from privet.common.live import Listener
from privet.common.tasks.score import score_of
from privet.server.live import public_score
from privet.simulations import progress

_KINDS = {"pooled": "all data pooled at one site", "no_privacy": "all data pooled, without privacy"}


class SimulationView(progress.SimulationView):
    """Folds the events of one simulation after another."""

    def _on_repeat(self, event: dict[str, Any]) -> str | None:
        self.accuracy, self.sites, self.round = [], {}, 0
        self.status = f"run {event['run']} of {event['of']}, seed {event['seed']}"
        return self.status

    def _on_baseline(self, event: dict[str, Any]) -> str:
        what = _KINDS.get(event["kind"]) or f"{event['site']} alone"
        budget = "" if event["epsilon"] is None else f" at ε {event['epsilon']:g}"
        score = "not judged" if score_of(event) is None else public_score(event)
        self.status = f"baseline: {what}{budget}: {score}"
        return self.status


def watch(title: str, *, as_json: bool) -> AbstractContextManager[Listener]:
    """A listener: JSON lines on standard output, or people's words on standard error."""
    return live.watch(SimulationView(title), as_json=as_json, remarkable=("warning", "resumed", "repeat", "baseline"))
