"""What a task's results are, for people and for files: a room for each kind of task.

base.py    what the kinds have in common; classification.py, multilabel.py, tokens.py
"""

from collections.abc import Callable

from privet.common.config.task import TaskSpec
from privet.common.errors import ModelError
from privet.common.outputs.base import Answer, Column, Output, Scores
from privet.common.outputs.classification import ClassificationOutput
from privet.common.outputs.multilabel import MultilabelOutput
from privet.common.outputs.tokens import TokensOutput

__all__ = ["Answer", "Column", "Output", "Scores", "output_of"]

_KINDS: dict[str, Callable[[TaskSpec, bool], Output]] = {
    "classification": ClassificationOutput,
    "multilabel": MultilabelOutput,
    "tokens": TokensOutput,
}


def output_of(task: TaskSpec, *, every: bool = False) -> Output:
    """The form of a task's results. every: with the probabilities of all labels, where that is not the form anyway.

    Raises: ModelError for a kind that this version does not have.
    """
    if task.kind not in _KINDS:
        raise ModelError(
            f"this version of privet has no task of kind {task.kind!r}.",
            where="task.kind",
            mend=f"use a model of one of: {', '.join(_KINDS)}.",
        )
    return _KINDS[task.kind](task, every)
