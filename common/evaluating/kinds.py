"""The seam of the tasks: what evaluating one asks of it. A new task is one file, and one line in `evaluator_of`."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from privet.common.config.task import TaskSpec
from privet.common.errors import ModelError
from privet.common.evaluating.calibration import Calibration
from privet.common.evaluating.classification import Classification
from privet.common.evaluating.intervals import Integers
from privet.common.evaluating.multilabel import Multilabel
from privet.common.evaluating.reading import Value
from privet.common.evaluating.tally import Tally


class Evaluator(Protocol):
    """Takes predictions in pieces and keeps of them what the metrics need: no text."""

    accuracy_name: str  # what `Tally.right` is, for people
    takes_lists: bool  # whether a record's label may be a JSON list

    def labels_of(self, value: Value) -> tuple[str, ...] | None:
        """The labels that a record's cell names, as the file has them; None where it says nothing about labels."""

    def add(self, logits: NDArray[np.float32], truth: Sequence[tuple[int, ...]]) -> None:
        """logits: [n, K]; truth: of each record, the places of its labels in the plan."""

    def tally(self, units: Integers) -> Tally:
        """Of all records added so far; units: [N], dense."""

    def strata(self) -> Integers:
        """[N], equal for records of the same truth."""

    def calibration(self, units: Integers, confidence: float, seed: int) -> Calibration: ...
    def label_errors(self) -> dict[str, float]:
        """Each label's expected calibration error, where each is a statement of its own."""

    def confusion(self) -> list[list[int]] | None:
        """Rows: truth, columns: given; None where a record may have several labels."""


def evaluator_of(task: TaskSpec, separator: str = ";") -> Evaluator:
    """separator: between several labels of one cell. Raises: ModelError for a task that cannot be evaluated."""
    if task.kind == "classification":
        return Classification(task)
    if task.kind == "multilabel":
        return Multilabel(task, separator)
    what = f"this version of privet evaluates no adapters for {task.kind} here."
    raise ModelError(what, where="task.kind", mend="give an adapter for classification, multilabel or tokens.")
