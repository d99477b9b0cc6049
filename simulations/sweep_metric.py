"""What the trials of a sweep are judged and ranked by, as the plan's task names it."""

from collections.abc import Mapping, Sequence
from typing import Any

from privet.common.config import Plan
from privet.common.errors import ConfigError
from privet.common.tasks.base import task_of
from privet.common.tasks.score import ACCURACY, metric_keys


def metrics_of(plan: Plan) -> tuple[str, ...]:
    """The score, macro F1, loss, and the score at the sites."""
    return metric_keys(task_of(plan.task).score_name)


def metric_of(plans: Sequence[Plan], asked: str) -> str:
    """The metric that a person asks for: "score" and "sites_score" are those of any task.

    Raises: ConfigError for what is no metric of the plans' task, and where their tasks have several scores.
    """
    names = metrics_of(plans[0])
    if any(metrics_of(plan) != names for plan in plans):
        raise ConfigError("trials of unlike scores cannot be ranked.", where="task.kind", mend="sweep each alone.")
    found = {"score": names[0], "sites_score": names[3]}.get(asked, asked)
    if found not in names:
        given = ", ".join(("score", "sites_score", *names))
        raise ConfigError(f"got {asked!r}.", where="--metric", mend=f"for this plan's task one of: {given}.")
    return found


def renamed(final: Mapping[str, Any], metrics: Sequence[str]) -> dict[str, Any]:
    """A run's results as they are called now: in those of earlier versions every score is called accuracy.

    >>> renamed({"accuracy": 0.5, "loss": 1.0}, ("micro_f1", "macro_f1", "loss", "sites_micro_f1"))
    {'micro_f1': 0.5, 'loss': 1.0}
    """
    old = {ACCURACY: metrics[0], f"sites_{ACCURACY}": metrics[3]}
    return {old.get(name, name): value for name, value in final.items()}
