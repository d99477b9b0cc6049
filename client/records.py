"""A site's private records in memory, and their labels under a plan."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from privet.client.report import DataReport
from privet.client.split import taken, trains
from privet.common.columns import plain
from privet.common.config import TaskSpec
from privet.common.errors import DataError
from privet.common.tasks.base import task_of
from privet.common.tasks.tags import Tags
from privet.common.tasks.targets import Targets
from privet.common.tasks.tokens import read_tags, tag_targets


@dataclass(frozen=True, eq=False, repr=False)
class Records:
    """A site's usable records.

    texts: [N]. labels: the targets of the plan's task (`common.tasks.targets`), or UNKNOWN: the record stays and
    contributes zero.
    units: int64 [N], dense, 0 ≤ unit < num_units; numbered by first appearance and never sent.
    report: for the operator only; of the whole data set.
    """

    texts: list[str]
    labels: Targets
    units: npt.NDArray[np.int64]
    num_units: int
    report: DataReport
    local_labels: list[str]  # [N], NFC, trimmed: as the file has them
    points: npt.NDArray[np.uint64]  # [num_units], each unit's place in [0, 1) by a keyed hash of its id
    tags: list[Tags | None] | None = None  # [N], of the words, where the plan's task labels tokens

    def split(self, train_fraction: float) -> tuple["Records", "Records"]:
        """The records of the units that train, and those of the validation units; units are numbered anew in each.

        Where a unit goes is a function of its id, the data set's id and the fraction alone. With `data.person` all
        units of one person go together. At 1 every unit trains.
        """
        chosen = trains(self.points, train_fraction)
        return self._of(chosen), self._of(~chosen)

    def _of(self, chosen: npt.NDArray[np.bool_]) -> "Records":
        """The records of the chosen units (bool [num_units]), in their order."""
        kept, units = taken(self.units, chosen)
        return replace(
            self,
            texts=[self.texts[index] for index in kept],
            labels=fixed(self.labels[kept]),
            units=fixed(units),
            num_units=int(chosen.sum()),
            local_labels=[self.local_labels[index] for index in kept],
            points=self.points[chosen],
            tags=None if self.tags is None else [self.tags[index] for index in kept],
        )

    def relabel(self, task: TaskSpec | Sequence[str], label_map: Mapping[str, str], separator: str = ";") -> "Records":
        """The same records under a plan's task; the report stays that of the first reading. Labels alone are those of
        a classification; separator: between several labels in one cell.

        A function of plan and site file only: no file is read again, and no record makes it fail.
        Raises: DataError where the map does not fit the plan.
        """
        found = task_of(task)
        known = known_labels(label_map, found.spec.labels, outside=found.per_token)
        if found.per_token:
            tags = read_tags(self.texts, self.local_labels, known)
            return replace(self, labels=fixed(tag_targets(tags)), tags=tags)
        return replace(self, tags=None, labels=fixed(found.targets(self.local_labels, known, separator)))

    def __repr__(self) -> str:
        return "Records(private)"


def known_labels(label_map: Mapping[str, str], labels: Sequence[str], *, outside: bool = False) -> dict[str, int]:
    """Local label -> index of the plan's label. outside: "O" is one too, -1. Raises: DataError when the map does not
    fit the plan."""
    plan = {plain(label): index for index, label in reversed(list(enumerate(labels)))}
    plan |= {"O": -1} if outside else {}
    absent = sorted({target for target in label_map.values() if plain(target) not in plan})
    if absent:
        shown = ", ".join(repr(label) for label in labels[:20]) + (", …" if len(labels) > 20 else "")
        what = f"names {', '.join(map(repr, absent[:5]))}, which the plan does not have."
        raise DataError(what, where="data.label_map", mend=f"the plan's labels are {shown}.")
    if len({plain(local) for local in label_map}) < len(label_map):
        raise DataError("names one label twice.", where="data.label_map", mend="keep one of the entries.")
    return plan | {plain(local): plan[plain(target)] for local, target in label_map.items()}


def fixed(values: Targets) -> Targets:
    array = np.array(values)
    array.setflags(write=False)
    return array
