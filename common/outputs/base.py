"""What the results of every kind of task have in common."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Answer", "Column", "Output", "Scores", "one_line", "rounded", "sigmoid", "softmax"]

Floats = NDArray[np.float32]
DIGITS = 6  # of a probability in files; a float32 logit tells no more


@dataclass(frozen=True)
class Column:
    """Of a table of results, beside `row` and `id`."""

    name: str
    kind: Literal["text", "integer", "number"]


@dataclass(frozen=True, repr=False)
class Scores:
    """Logits of N texts: [N, K]; or of their words one after the other, [words, K], where text i has those from
    starts[i] to starts[i + 1], and word w the characters spans[w] = [start, end) of its text."""

    logits: Floats
    starts: NDArray[np.int64] | None = None
    spans: NDArray[np.int64] | None = None


class Answer(Protocol):
    """The result of one text."""

    def line(self) -> str:
        """Tab separated, for people and shells."""

    def members(self) -> dict[str, Any]:
        """Of a JSON object."""

    def table(self) -> Sequence[tuple[Any, ...]]:
        """Values of the columns, a row or several."""


class Output(Protocol):
    """The results of one plan's task."""

    @property
    def words(self) -> bool:
        """Whether it reads logits of words, not of texts."""

    @property
    def columns(self) -> tuple[Column, ...]: ...

    def answers(self, texts: Sequence[str], scores: Scores) -> list[Answer]:
        """One for each text, in their order."""


def softmax(logits: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Over the last axis, in float64."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(-1, keepdims=True))


def sigmoid(logits: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Of each value, in float64, without overflow.

    >>> sigmoid(np.array([-1e5, 0.0, 1e5])).tolist()
    [0.0, 0.5, 1.0]
    """
    small = np.exp(-np.abs(logits.astype(np.float64)))
    return np.asarray(np.where(logits >= 0, 1.0, small) / (1.0 + small))


def rounded(probability: float) -> float:
    return round(float(probability), DIGITS)


def one_line(text: str) -> str:
    """White space as single spaces: no tab or line break of a label or text breaks a line in two."""
    return " ".join(text.split())
