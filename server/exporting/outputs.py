"""What a form's outputs mean: their names, as config.json has them, and what a row of logits says."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privet.common.adapter import Floats
from privet.common.config import Plan
from privet.common.tasks.base import task_of
from privet.common.tasks.multilabel import Multilabel
from privet.server.exporting.files import base_config

_PROBLEMS = {"classification": "single_label_classification", "multilabel": "multi_label_classification"}


def form_config(plan: Plan, base: Path, architecture: str) -> dict[str, Any]:
    """config.json: the base's, with the names of the outputs; for several labels a text also `thresholds`, in their
    order: the probability from which each is said."""
    names = task_of(plan.task).output_names
    config = base_config(base) | {
        "architectures": [architecture],
        "dtype": "float32",
        "id2label": dict(enumerate(names)),
        "label2id": {name: i for i, name in enumerate(names)},
    }
    if plan.task.kind in _PROBLEMS:
        config["problem_type"] = _PROBLEMS[plan.task.kind]
    if plan.task.kind == "multilabel":
        config["thresholds"] = Multilabel(plan.task).thresholds.tolist()
    return config


def pipeline_tag(plan: Plan) -> str:
    """What model hubs call the task."""
    return "token-classification" if plan.task.kind == "tokens" else "text-classification"


def decisions(plan: Plan, logits: Floats) -> NDArray[np.int64]:
    """What each row of logits [M, K] says, [M, 1]: its best output; for several labels a text, [M, K] of 0 and 1."""
    if plan.task.kind == "multilabel":
        return Multilabel(plan.task).said(logits).astype(np.int64)
    return np.asarray(logits.argmax(-1), np.int64)[:, None]
