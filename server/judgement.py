"""Which round was the best, and when to stop: from public metrics or noised ones, and from nothing else.

A round is judged where the plan's metric was measured after it: on the public file, or, with `metric = "sites"`, by an
evaluation. The best is the one with the highest accuracy, of equals the earliest; the initial adapter is none.

Patience counts judgements since the last improvement. An improvement must exceed the accuracy at the last one by more
than one standard error of the privacy noise on the difference of the two, √(s₁² + s₂²): else the noise alone would keep
a run going. A public accuracy has no noise: any gain counts. Slow gains add up, for what they are held against stays.
Rounds of the plan's warm-up cost no patience: with a rate that small no gain is to be expected. A round without a
quorum, and one whose metric did not come, is no judgement.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from privet.common.adapter import Arrays, Floats
from privet.common.config.plan import EvaluationSpec, Plan
from privet.common.live import Event, Listener
from privet.common.tasks.base import Public, task_of
from privet.common.tasks.score import score_of, scored_as
from privet.server.public_metrics import NotJudgedError

NO_PUBLIC = (
    "the plan keeps the best round, or stops early, by public accuracy, and there is no public file: the run goes to "
    "its end and the last round is kept. Name a file in [server.public]."
)


@dataclass(frozen=True)
class Judged:
    """A round's accuracy, or other score of the task, by the plan's metric, and the standard error of its noise."""

    round: int
    accuracy: float
    noise_error: float = 0.0


@dataclass(frozen=True)
class Standing:
    """All that later judgements depend on. Replaced, never changed; a checkpoint keeps it."""

    best: Judged | None = None
    arrays: Arrays | None = None  # the best round's adapter, where the plan keeps it
    improved: Judged | None = None  # the last improvement: what the next must exceed
    waited: int = 0  # judgements since then

    def take(self, judged: Judged, arrays: Arrays, spec: EvaluationSpec, warmup_rounds: int = 0) -> "Standing":
        """The standing after one more judgement, of the adapter `arrays`."""
        now = self
        if now.best is None or judged.accuracy > now.best.accuracy:
            now = replace(now, best=judged, arrays=dict(arrays) if spec.keep == "best" else None)
        last = now.improved
        if last is None or judged.accuracy - last.accuracy > math.hypot(judged.noise_error, last.noise_error):
            return replace(now, improved=judged, waited=0)
        return now if judged.round <= warmup_rounds else replace(now, waited=now.waited + 1)

    def is_over(self, spec: EvaluationSpec) -> bool:
        """Whether the plan's patience is at its end."""
        return 0 < spec.patience <= self.waited


def goes_by_public(spec: EvaluationSpec) -> bool:
    """Whether the run's end depends on a public file."""
    return spec.metric == "public" and (spec.keep == "best" or spec.patience > 0)


def judged(row: Mapping[str, Any], spec: EvaluationSpec) -> Judged | None:
    """What the event of a round says by the plan's metric; None where it was not measured or the noise drowned it."""
    measured = row.get(spec.metric)
    value = score_of(measured)
    if not row["aggregated"] or not measured or value is None:
        return None
    return Judged(int(row["round"]), value, float(measured.get("noise_error") or 0.0))


def kept_round(history: Iterable[Mapping[str, Any]], spec: EvaluationSpec) -> Mapping[str, Any] | None:
    """The event of the round whose adapter a run leaves behind; None where no round was aggregated."""
    rows = [row for row in history if row["aggregated"]]
    if spec.keep == "best":
        found = [(verdict, row) for row in rows if (verdict := judged(row, spec)) is not None]
        if found:
            return max(found, key=lambda pair: pair[0].accuracy)[1]  # of equals the first
    return rows[-1] if rows else None


class Judge:
    """Judges a run's rounds: by the public file itself, and by what an evaluation at the sites told.

    evaluate: the task's metrics of an adapter on public text; None where there is no file.
    """

    def __init__(
        self, plan: Plan, on_event: Listener, evaluate: Callable[[dict[str, Floats]], Public] | None = None
    ) -> None:
        self.standing = Standing()
        self._plan, self._on_event, self._evaluate = plan, on_event, evaluate

    @property
    def is_over(self) -> bool:
        """Whether the plan's patience is at its end."""
        return self.standing.is_over(self._plan.evaluation)

    def warn(self) -> None:
        """Tell where the run's end depends on a public file, and there is none."""
        if self._evaluate is None and goes_by_public(self._plan.evaluation):
            self._on_event({"event": "warning", "text": NO_PUBLIC})

    def measure(self, number: int, arrays: dict[str, Floats]) -> Event:
        """For a round's event: public metrics of the adapter after it, or why there are none where there might be."""
        if self._evaluate is None:
            return {}
        try:
            public = self._evaluate(arrays).to_json()
        except NotJudgedError as error:
            self._on_event({"event": "warning", "text": f"not judged on public text: {error}"})
            return {"not_judged": str(error)}
        if number == 0:
            self._on_event({"event": "initial", "public": public})
        return {"public": public}

    def weigh(self, row: Event, arrays: Arrays) -> None:
        """Hold this adapter against the best, where the plan's metric was measured in the round of event `row`."""
        verdict = judged(row, self._plan.evaluation)
        if verdict is not None:
            warmup = self._plan.training.warmup_rounds
            self.standing = self.standing.take(verdict, arrays, self._plan.evaluation, warmup)

    def conclude(self, number: int, completed: int) -> Arrays | None:
        """Tell of a stop before time; the best round's adapter where the plan keeps it, None where the last stays."""
        best, standing = self.standing.best, self.standing
        if best is None:  # nothing was judged
            return None
        score = scored_as(task_of(self._plan.task).score_name, best.accuracy)
        told: Event = {"best": best.round, **score, "metric": self._plan.evaluation.metric}
        if completed < self._plan.training.rounds and self.is_over:
            self._on_event({"event": "stopped_early", "round": number, "judgements": standing.waited, **told})
        if self._plan.evaluation.keep != "best" or standing.arrays is None:
            return None
        self._on_event({"event": "kept", **told})
        return standing.arrays
