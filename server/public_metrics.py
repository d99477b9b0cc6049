"""What public texts tell of an adapter: metrics of those that it computes, and a reason where it computes none."""

import numpy as np

from privet.common.adapter import Floats
from privet.common.errors import PrivetError
from privet.common.tasks.base import Public, Task
from privet.common.tasks.targets import Targets


class NotJudgedError(PrivetError):
    """An adapter that no public text can be judged by."""


def judge_public(task: Task, logits: Floats, truth: Targets) -> Public:
    """Metrics of the texts whose outputs [N, L] are finite; `num_records` is how many these are. A text that cannot be
    computed is left out: what stands in its row says nothing of the adapter.

    Raises: NotJudgedError where there is no such text.
    """
    sound = np.isfinite(logits).all(axis=1)
    if not sound.any():
        raise NotJudgedError(
            f"the model has no finite output for any of {len(logits):,} public texts: it diverged or fails.",
            mend="lower training.learning_rate, and see that the base model computes here.",
        )
    return task.public_metrics(logits[sound], truth[sound])
