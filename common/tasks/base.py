"""The seam of the tasks: what training, metrics and screens ask of one, and which there are.

A new kind is a class with these members and one line in `_KINDS`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from privet.common.config.task import TaskSpec
from privet.common.errors import ConfigError
from privet.common.privacy.events import Release
from privet.common.tasks.classification import Classification
from privet.common.tasks.counts import Estimate
from privet.common.tasks.multilabel import Multilabel
from privet.common.tasks.targets import Targets
from privet.common.tasks.tokens import Tokens

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Noised", "Public", "Task", "record_width", "task_of"]


class Public(Protocol):
    """Metrics of text that anyone may see."""

    @property
    def score(self) -> float:
        """The one number that a run is judged by, in [0, 1]."""

    @property
    def loss(self) -> float: ...
    @property
    def num_records(self) -> int: ...
    def to_json(self) -> dict[str, object]:
        """Of JSON's types; the score stands at the top (`common.tasks.score`)."""


class Noised(Protocol):
    """What pooled noised counts tell."""

    @property
    def score(self) -> Estimate | None:
        """The one number that a run is judged by; None where the noise drowns it."""

    @property
    def num_units(self) -> float: ...
    def to_json(self) -> dict[str, object]:
        """Of JSON's types; the score's value and errors stand at the top, None where the noise drowns it."""


class Task(Protocol):
    """One kind of task with the labels of one plan."""

    @property
    def spec(self) -> TaskSpec: ...
    @property
    def score_name(self) -> str:
        """What `score` is, for people: "accuracy"."""

    @property
    def output_names(self) -> tuple[str, ...]:
        """Of the last linear layer, one a row."""

    @property
    def num_outputs(self) -> int:
        """Width of the last linear layer, K."""

    @property
    def per_token(self) -> bool:
        """Whether logits are [N, T, K] instead of [N, K]."""

    # Data

    def targets(self, cells: Sequence[str], known: Mapping[str, int], separator: str) -> Targets:
        """The targets of label cells as a file has them, [N] or [N, L] (`common.tasks.targets`).

        known: label -> index in the plan, NFC and trimmed, local names included. separator: between several labels in
        one cell. A cell with a label that is not known is UNKNOWN in its whole row.
        """

    def nobody(self, num_rows: int, length: int) -> Targets:
        """Targets of rows that stand for nobody, as a batch has them; length: of their windows."""

    # Training

    def per_example_loss(self, logits: "Tensor", targets: "Tensor", weights: "Tensor") -> "Tensor":
        """The loss of each row [N], 0 where its weight is 0; one row never sees another.

        targets: classification int64 [N]; multilabel float32 [N, L] of 0 and 1; tokens int64 [N, T], NO_TAG where a
        piece has none.
        """

    # Metrics

    def num_cells(self, release: Release) -> int:
        """How many numbers one evaluation at a site releases."""

    def most(self, release: Release) -> tuple[float, float]:
        """What one unit adds at most to the sum of all cells, and to one cell."""

    def unit_cells(
        self, release: Release, logits: NDArray[np.float32], targets: Targets, units: NDArray[np.int64], num_units: int
    ) -> NDArray[np.float64]:
        """The un-noised sum over units, float64 [cells]: private. One unit adds a vector of norm at most 1."""

    def predicted_standard_error(self, release: Release, noise_multiplier: float, units: int) -> float:
        """The standard error that privacy noise will give the score, before anything is spent."""

    def noised_metrics(self, release: Release, cells: NDArray[np.float64], variance: float) -> Noised:
        """Metrics from noised cells [cells] alone; variance: of the noise on each, summed over the sites."""

    def exact_score(self, release: Release, cells: NDArray[np.float64]) -> float:
        """The score that un-noised cells tell; nan where no unit counts. For researchers on simulated sites."""

    def public_metrics(self, logits: NDArray[np.float32], targets: Targets) -> Public:
        """Metrics of logits on public text, all of known targets."""


def record_width(task: Task) -> int:
    """Numbers of the row that a record's metrics are read from: its logits, or what stands for them."""
    return getattr(task, "record_width", task.num_outputs)


_KINDS: dict[str, Callable[[TaskSpec], Task]] = {
    "classification": Classification,
    "multilabel": Multilabel,
    "tokens": Tokens,
}


def task_of(spec: TaskSpec | Sequence[str]) -> Task:
    """The task of a plan; labels alone are those of a classification.

    Raises: ConfigError for a kind that this version does not have.
    """
    if not isinstance(spec, TaskSpec):
        return Classification(TaskSpec.model_construct(labels=tuple(spec)))
    if spec.kind not in _KINDS:
        raise ConfigError(
            f"this version of privet has no task of kind {spec.kind!r}.",
            where="task.kind",
            mend=f"set one of: {', '.join(_KINDS)}.",
        )
    return _KINDS[spec.kind](spec)
