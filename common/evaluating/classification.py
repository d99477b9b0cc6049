"""One label a record."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from privet.common.config.task import TaskSpec
from privet.common.evaluating.calibration import Calibration, calibration
from privet.common.evaluating.intervals import Floats, Integers
from privet.common.evaluating.reading import Value
from privet.common.evaluating.tally import Tally


class Classification:
    """An `Evaluator`: of each record true and given label, the latter's probability, log loss and Brier score."""

    accuracy_name = "accuracy"
    takes_lists = False

    def __init__(self, task: TaskSpec) -> None:
        self._num_labels = len(task.labels)
        self._truth: list[Integers] = []
        self._given: list[Integers] = []
        self._scores: list[Floats] = []  # [n, 3]

    def labels_of(self, value: Value) -> tuple[str, ...] | None:
        return (value,) if isinstance(value, str) and value.strip() else None

    def add(self, logits: NDArray[np.float32], truth: Sequence[tuple[int, ...]]) -> None:
        true = np.array([labels[0] for labels in truth], np.int64)
        rows, given = np.arange(len(true)), logits.argmax(1)
        wide = logits.astype(np.float64)
        wide -= wide.max(1, keepdims=True)
        log_chances = wide - np.log(np.exp(wide).sum(1, keepdims=True))
        chances = np.exp(log_chances)
        brier = (chances**2).sum(1) - 2 * chances[rows, true] + 1  # squared distance from the truth's corner
        self._truth.append(true)
        self._given.append(given)
        self._scores.append(np.stack([chances[rows, given], -log_chances[rows, true], brier], 1))

    def tally(self, units: Integers) -> Tally:
        from scipy import sparse

        truth, given = self.strata(), np.concatenate(self._given)
        right, rows = (truth == given).astype(np.float64), np.arange(len(truth))
        hits, actual, said = (
            sparse.csr_array((values, (rows, places)), shape=(len(rows), self._num_labels))
            for values, places in ((right, truth), (np.ones(len(rows)), truth), (np.ones(len(rows)), given))
        )
        return Tally(hits, actual, said, right, units)

    def strata(self) -> Integers:
        return np.concatenate(self._truth)

    def calibration(self, units: Integers, confidence: float, seed: int) -> Calibration:
        chance, loss, brier = np.concatenate(self._scores).T
        right = (self.strata() == np.concatenate(self._given)).astype(np.float64)
        return calibration(chance, right, loss, brier, units, confidence, seed)

    def label_errors(self) -> dict[str, float]:
        return {}

    def confusion(self) -> list[list[int]] | None:
        cells = self.strata() * self._num_labels + np.concatenate(self._given)
        counts = np.bincount(cells, minlength=self._num_labels**2)
        table: list[list[int]] = counts.reshape(self._num_labels, self._num_labels).tolist()
        return table
