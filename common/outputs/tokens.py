"""Named entities of a text: type, characters, the text itself and a probability.

What tags say is `privet.common.tasks.tags`'s. A probability is the mean over the entity's words of its tag's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from privet.common.config.task import TaskSpec
from privet.common.outputs.base import Answer, Column, Scores, one_line, rounded, softmax
from privet.common.tasks.tags import entities

__all__ = ["Entity", "TokensOutput"]


@dataclass(frozen=True, repr=False)
class Entity:
    """start, end: characters [start, end) of the text, counted in Unicode code points."""

    type: str
    start: int
    end: int
    text: str
    probability: float


class TokensOutput:
    words = True
    columns = (
        Column("type", "text"),
        Column("start", "integer"),
        Column("end", "integer"),
        Column("text", "text"),
        Column("probability", "number"),
    )

    def __init__(self, task: TaskSpec, every: bool) -> None:
        self._labels = task.labels

    def answers(self, texts: Sequence[str], scores: Scores) -> list[Answer]:
        assert scores.starts is not None
        assert scores.spans is not None
        chances = softmax(scores.logits)
        tags = chances.argmax(1)
        own = chances[np.arange(len(tags)), tags]
        found: list[Answer] = []
        for text, start, end in zip(texts, scores.starts[:-1].tolist(), scores.starts[1:].tolist(), strict=True):
            own_entities = []
            for label, first, last in entities(tags[start:end].tolist()):
                begin, stop = int(scores.spans[start + first, 0]), int(scores.spans[start + last - 1, 1])
                chance = float(own[start + first : start + last].mean())
                own_entities.append(Entity(self._labels[label], begin, stop, text[begin:stop], chance))
            found.append(_Entities(own_entities))
        return found


@dataclass(frozen=True, repr=False, slots=True)
class _Entities:
    """A line has them one after the other, each as TYPE START END PROBABILITY TEXT; a table has a row for each."""

    entities: list[Entity]

    def line(self) -> str:
        return "\t".join(
            f"{one_line(each.type)} {each.start} {each.end} {each.probability:.4f} {one_line(each.text)}"
            for each in self.entities
        )

    def members(self) -> dict[str, Any]:
        return {
            "entities": [
                {
                    "type": each.type,
                    "start": each.start,
                    "end": each.end,
                    "text": each.text,
                    "probability": rounded(each.probability),
                }
                for each in self.entities
            ]
        }

    def table(self) -> Sequence[tuple[Any, ...]]:
        return [(each.type, each.start, each.end, each.text, rounded(each.probability)) for each in self.entities]
