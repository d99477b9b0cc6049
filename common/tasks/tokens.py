"""Named entities: a tag for each word. The `Task` of `task.kind = "tokens"`.

Of a record its metrics read one row, [3 L + 1]: TP, FP and FN by type, and the mean loss of its words
(`common.tagging.entity_table`); it stands where other tasks have logits.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from privet.common.config.task import TaskSpec
from privet.common.errors import ConfigError
from privet.common.privacy.events import Release
from privet.common.sequences import spelled, types_of, words_of
from privet.common.tasks.entities import (
    SCORE_NAME,
    EntityEstimates,
    EntityScores,
    entity_estimates,
    entity_scores,
    exact_f1,
    num_clipped,
    num_entity_cells,
    predicted_f1_error,
    unit_entity_cells,
)
from privet.common.tasks.tags import Tags, parse_tags, tag_names
from privet.common.tasks.targets import UNKNOWN, Targets

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Tokens", "main_type", "num_entities", "read_tags", "respelled", "tag_targets"]


@dataclass(frozen=True)
class Tokens:
    """The entity types of one plan; a `Task`."""

    spec: TaskSpec
    score_name = SCORE_NAME
    per_token = True

    @property
    def output_names(self) -> tuple[str, ...]:
        return tag_names(self.spec.labels)

    @property
    def num_outputs(self) -> int:
        return 1 + 2 * len(self.spec.labels)

    @property
    def record_width(self) -> int:
        """Numbers in the row that stands for a record's logits."""
        return 3 * len(self.spec.labels) + 1

    def targets(self, cells: Sequence[str], known: Mapping[str, int], separator: str) -> Targets:
        return tag_targets(_parsed(cells, known))

    def nobody(self, num_rows: int, length: int) -> Targets:
        return (np.arange(num_rows)[:, None] + np.arange(length)) % self.num_outputs

    def per_example_loss(self, logits: "Tensor", targets: "Tensor", weights: "Tensor") -> "Tensor":
        from privet.common.tasks.token_loss import token_loss

        return token_loss(logits, targets, weights)

    def num_cells(self, release: Release) -> int:
        return num_entity_cells(_plain(release), len(self.spec.labels))

    def most(self, release: Release) -> tuple[float, float]:
        """Of vectors of norm at most 1: their sum is at most the root of their number of cells."""
        return float(np.sqrt(self.num_cells(release))), 1.0

    def unit_cells(
        self, release: Release, logits: NDArray[np.float32], targets: Targets, units: NDArray[np.int64], num_units: int
    ) -> NDArray[np.float64]:
        counts = _known_counts(logits, targets)
        return unit_entity_cells(_plain(release), counts, units, num_units, self.spec.entity_bound)

    def num_clipped(
        self, release: Release, logits: NDArray[np.float32], targets: Targets, units: NDArray[np.int64], num_units: int
    ) -> int:
        """How many units' counts the plan's bound clips. Private: for simulations."""
        counts = _known_counts(logits, targets)
        return num_clipped(_plain(release), counts, units, num_units, self.spec.entity_bound)

    def predicted_standard_error(self, release: Release, noise_multiplier: float, units: int) -> float:
        num_types, bound = len(self.spec.labels), self.spec.entity_bound
        return predicted_f1_error(_plain(release), num_types, noise_multiplier, units, bound)

    def noised_metrics(self, release: Release, cells: NDArray[np.float64], variance: float) -> EntityEstimates:
        return entity_estimates(_plain(release), cells, variance, self.spec.labels, self.spec.entity_bound)

    def exact_score(self, release: Release, cells: NDArray[np.float64]) -> float:
        return exact_f1(cells)

    def public_metrics(self, logits: NDArray[np.float32], targets: Targets) -> EntityScores:
        table = logits[np.isfinite(logits).all(axis=1)].astype(np.float64)
        return entity_scores(table[:, :-1], table[:, -1], self.spec.labels)


def read_tags(texts: Sequence[str], cells: Sequence[str], known: Mapping[str, int]) -> list[Tags | None]:
    """The tags of texts from their label cells, as `common.sequences` has both; None where a tag is not sound or of a
    type that is not known, or where there are not as many as words.

    known: type -> index in the plan, or -1 for one that does not count.
    """
    return [
        tags if tags is not None and len(tags) == len(words_of(text)) else None
        for text, tags in zip(texts, _parsed(cells, known), strict=True)
    ]


def _known_counts(logits: NDArray[np.float32], targets: Targets) -> NDArray[np.float64]:
    """Counts of records [N, 3 L]; nan of those that are UNKNOWN."""
    return np.where((targets == UNKNOWN)[:, None], np.nan, logits[:, :-1]).astype(np.float64)


def _parsed(cells: Sequence[str], known: Mapping[str, int]) -> list[Tags | None]:
    types = types_of(known)
    return [parse_tags(words_of(cell), types) if cell else None for cell in cells]


def tag_targets(tags: Sequence[Tags | None]) -> Targets:
    """The targets [N] of texts with these tags: 0, or UNKNOWN."""
    return np.array([UNKNOWN if row is None else 0 for row in tags], np.int64)


def num_entities(tags: Sequence[Tags | None], num_types: int) -> NDArray[np.int64]:
    """Entities by type, [L], in all texts."""
    every = np.concatenate([np.zeros(0, np.int16), *(row for row in tags if row is not None)])
    return np.bincount((every[every % 2 == 1] - 1) // 2, minlength=num_types)


def main_type(cell: str) -> str:
    """The type of the first entity of a label cell; "O" where it has none.

    >>> main_type("O B-Disease I-Disease"), main_type("O O")
    ('Disease', 'O')
    """
    return next((tag.partition("-")[2] or tag for tag in words_of(cell) if tag != "O"), "O")


def respelled(cell: str, label_map: Mapping[str, str]) -> str:
    """A label cell with the types of its tags by the map; one that becomes "O" is no entity any more.

    >>> respelled("B-DISO I-DISO B-Drug", {"DISO": "Disease", "Drug": "O"})
    'B-Disease I-Disease O'
    """
    if not label_map:
        return cell
    types = {spelled(local): spelled(name) for local, name in label_map.items()}
    found = []
    for tag in words_of(cell):
        prefix, dash, kind = tag.partition("-")
        kind = types.get(kind, kind)
        found.append("O" if kind == "O" else prefix + dash + kind)
    return " ".join(found)


def _plain(release: Release) -> Release:
    """Raises: ConfigError for a confusion matrix: entities that were missed are confused with nothing."""
    if release == "confusion":
        raise ConfigError(
            'there is no confusion matrix with task.kind = "tokens".',
            where="evaluation.release",
            mend='set "accuracy" (TP, FP and FN over all types) or "per_class" (of each type).',
        )
    return release
