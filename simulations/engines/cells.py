"""What one site's evaluation counts in a simulation: its exact cells, and how many of its units the task clipped.

How many were clipped is private: a real site never computes it. A simulation tells it to the researcher alone.
"""

import numpy as np
from numpy.typing import NDArray

from privet.common.adapter import Floats
from privet.common.privacy.events import Release
from privet.common.tasks.base import Task
from privet.common.tasks.targets import Targets


def site_cells(
    task: Task, release: Release, logits: Floats, targets: Targets, units: NDArray[np.int64], num_units: int
) -> NDArray[np.float64]:
    """The row of `Work.cells`: the task's cells; of a task that clips units' counts, how many it clipped, and of how
    many, behind them."""
    cells = task.unit_cells(release, logits, targets, units, num_units)
    if not clips(task):
        return cells
    clipped: int = task.num_clipped(release, logits, targets, units, num_units)  # type: ignore[attr-defined]
    return np.append(cells, [clipped, num_units])


def clips(task: Task) -> bool:
    """Whether the task clips a unit's counts."""
    return hasattr(task, "num_clipped")
