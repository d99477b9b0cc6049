"""What classification and multilabel have in common: records have labels, and each label has one output."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from privet.common.config.task import TaskSpec

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Labelled:
    """The part of a `Task` that follows from its labels alone."""

    spec: TaskSpec

    @property
    def output_names(self) -> tuple[str, ...]:
        return self.spec.labels

    @property
    def num_outputs(self) -> int:
        return len(self.spec.labels)

    @cached_property
    def class_weights(self) -> "Tensor | None":
        """Of each label, float64 [L]; None where the plan names none."""
        if not self.spec.class_weights:
            return None
        import torch

        return torch.tensor([self.spec.class_weights.get(name, 1.0) for name in self.spec.labels], dtype=torch.float64)
