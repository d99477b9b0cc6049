"""What the tests of tagged texts share: sentences of a few units with the tags of two types, on a tiny base."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privet.client.training import RoundTrainer
from privet.common.config import Plan
from privet.common.tagged import TaggedExamples
from tests.client.trainer_cases import TEXTS, UNITS
from tests.tiny_models import tiny_plan

__all__ = ["TEXTS", "TYPES", "UNITS", "Tagged", "examples_of", "tags_of", "token_plan"]

TYPES = ("sign", "card")
_TAGS = {"fever": 1, "cough": 1, "pain": 1, "rash": 1, "card": 3, "chest": 1, "skin": 1}


def tags_of(text: str) -> NDArray[np.int16]:
    """A sign or a card each; what follows "chest" and "skin" goes on with it."""
    found = [_TAGS.get(word, 0) for word in text.split(" ")]
    return np.array(
        [
            2 if before in ("chest", "skin") and tag else tag
            for tag, before in zip(found, ["", *text.split(" ")], strict=False)
        ],
        np.int16,
    )


@dataclass
class Tagged:
    """As `LabelledTexts`, with tags."""

    texts: list[str] = field(default_factory=lambda: list(TEXTS))
    units: NDArray[np.int64] = field(default_factory=UNITS.copy)
    tags: list[NDArray[np.int16] | None] = field(default_factory=lambda: [tags_of(text) for text in TEXTS])
    num_units: int = 5

    @property
    def labels(self) -> NDArray[np.int64]:
        return np.zeros(len(self.texts), np.int64)

    def without(self, unit: int) -> "Tagged":
        """Without one unit's records; the others keep their numbers."""
        kept = [row for row, owner in enumerate(self.units) if owner != unit]
        return Tagged([self.texts[row] for row in kept], self.units[kept], [self.tags[row] for row in kept])


def token_plan(base: Path, *, method: str = "ffa", task: dict[str, Any] | None = None, **tables: Any) -> Plan:
    settings: dict[str, Any] = {"kind": "tokens", "labels": list(TYPES), "max_length": 32, "buckets": [8, 16, 32]}
    training = {"optimizer": "sgd", "learning_rate": 1.0} | tables.pop("training", {})
    return tiny_plan(
        base,
        method={"kind": method},
        model={"pooling": "none"},
        task=settings | (task or {}),
        training=training,
        **tables,
    )


def examples_of(trainer: RoundTrainer, data: Tagged | None = None) -> TaggedExamples:
    found = trainer.prepare(data or Tagged())
    assert isinstance(found, TaggedExamples)
    return found
