"""What records' labels are in memory: arrays whose first axis is the records.

classification  int [N]: an index into the plan's labels
multilabel      int8 [N, L]: 1 where the label stands, else 0
tokens          int [N]: 0; the tags stand beside the token ids (`TokenExamples`), NO_TAG where a piece has none

A record that contributes nothing is UNKNOWN, in its whole row.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Targets = NDArray[Any]

UNKNOWN = -1  # of a record whose label the plan does not have
NO_TAG = -100  # of a word piece that no loss counts


def known(targets: Targets) -> NDArray[np.bool_]:
    """Which records have a label of the plan, [N]."""
    return np.asarray(targets >= 0 if targets.ndim == 1 else (targets >= 0).all(axis=1), np.bool_)


def per_label(targets: Targets, num_labels: int) -> NDArray[np.int64]:
    """How many records each label stands in, [L]."""
    sound = targets[known(targets)]
    if targets.ndim == 1:
        return np.bincount(sound, minlength=num_labels)
    return np.asarray(sound.sum(axis=0, dtype=np.int64))


def without(targets: Targets, rows: NDArray[np.bool_]) -> Targets:
    """A copy in which the records of `rows` (bool [N]) are unknown."""
    found = targets.copy()
    found[rows] = UNKNOWN
    return found
