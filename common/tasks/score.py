"""The one number that a run is judged by, and its name: what rows of metrics say of it, and nothing else does.

Accuracy for classification, and where a row says no other; such rows have it as `accuracy`. All others have `score`,
and its name for people as `score_name`.
"""

from collections.abc import Mapping
from typing import Any

ACCURACY = "accuracy"


def score_of(measured: Mapping[str, Any] | None) -> float | None:
    """The score in a row of metrics; None where there is none or the noise drowned it.

    >>> score_of({"accuracy": 0.5}), score_of({"score": 0.25, "score_name": "micro F1"}), score_of(None)
    (0.5, 0.25, None)
    """
    value = None if measured is None else measured.get("score", measured.get(ACCURACY))
    return None if value is None else float(value)


def score_name(measured: Mapping[str, Any] | None) -> str:
    """What the score is, for people: "accuracy"."""
    return ACCURACY if measured is None else str(measured.get("score_name", ACCURACY))
