"""Any number of labels a record: each is said from its threshold of the plan on, and each is a statement of its own."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from privet.common.config.task import TaskSpec
from privet.common.evaluating.calibration import Calibration, calibration, expected_error
from privet.common.evaluating.intervals import Floats, Integers
from privet.common.evaluating.reading import Value
from privet.common.evaluating.tally import Tally
from privet.common.tasks.multilabel import Multilabel as Task
from privet.common.tasks.multilabel import codes


class Multilabel:
    """An `Evaluator`: of each record and label whether it stands, whether it is said, and its logit."""

    accuracy_name = "subset accuracy"  # records with every label right
    takes_lists = True

    def __init__(self, task: TaskSpec, separator: str) -> None:
        self._task, self._separator = Task(task), separator
        self._stands: list[NDArray[np.bool_]] = []
        self._logits: list[NDArray[np.float32]] = []

    def labels_of(self, value: Value) -> tuple[str, ...] | None:
        if isinstance(value, tuple):
            return tuple(part for part in value if part.strip())
        return tuple(codes(value or "", self._separator))

    def add(self, logits: NDArray[np.float32], truth: Sequence[tuple[int, ...]]) -> None:
        stands = np.zeros(logits.shape, np.bool_)
        for row, labels in enumerate(truth):
            stands[row, list(labels)] = True
        self._stands.append(stands)
        self._logits.append(logits)

    def tally(self, units: Integers) -> Tally:
        from scipy import sparse

        stands, said = np.concatenate(self._stands), self._task.said(np.concatenate(self._logits))
        hits, actual, given = (sparse.csr_array(kind.astype(np.float64)) for kind in (stands & said, stands, said))
        return Tally(hits, actual, given, (stands == said).all(1).astype(np.float64), units)

    def strata(self) -> Integers:
        packed = np.packbits(np.concatenate(self._stands), axis=1)
        return np.unique(packed, axis=0, return_inverse=True)[1].ravel().astype(np.int64)

    def calibration(self, units: Integers, confidence: float, seed: int) -> Calibration:
        logits, stands = np.concatenate(self._logits).astype(np.float64), np.concatenate(self._stands)
        chances = 1 / (1 + np.exp(-np.clip(logits, -700, 700)))
        losses = np.logaddexp(0, np.where(stands, -logits, logits))
        each = (chances.ravel(), stands.ravel().astype(np.float64), losses.ravel(), ((chances - stands) ** 2).ravel())
        return calibration(*each, np.repeat(units, logits.shape[1]), confidence, seed)

    def label_errors(self) -> dict[str, float]:
        logits, stands = np.concatenate(self._logits).astype(np.float64), np.concatenate(self._stands)
        chances: Floats = 1 / (1 + np.exp(-np.clip(logits, -700, 700)))
        return {
            label: expected_error(chances[:, i], stands[:, i].astype(np.float64))
            for i, label in enumerate(self._task.spec.labels)
        }

    def confusion(self) -> list[list[int]] | None:
        return None
