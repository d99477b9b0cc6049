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


def scored_as(name: str, value: float | None) -> dict[str, object]:
    """What a row says of a score of this name.

    >>> scored_as("accuracy", 0.5), scored_as("micro F1", 0.25)
    ({'accuracy': 0.5}, {'score': 0.25, 'score_name': 'micro F1'})
    """
    return {ACCURACY: value} if name == ACCURACY else {"score": value, "score_name": name}


def score_key(name: str) -> str:
    """The score's name as that of a column or a key.

    >>> score_key("micro F1"), score_key("accuracy")
    ('micro_f1', 'accuracy')
    """
    return name.lower().replace(" ", "_")


def key_words(key: str) -> str:
    """A column's or a metric's key for people.

    >>> key_words("micro_f1"), key_words("sites_accuracy"), key_words("public_macro_f1")
    ('micro F1', 'accuracy at the sites', 'public macro F1')
    """
    own = key.removeprefix("sites_")
    words = own.replace("_", " ").replace("f1", "F1")
    return words if own == key else f"{words} at the sites"


def metric_keys(name: str) -> tuple[str, ...]:
    """The metrics that a simulation is told by, of a task whose score has this name.

    >>> metric_keys("entity F1")
    ('entity_f1', 'macro_f1', 'loss', 'sites_entity_f1')
    """
    return score_key(name), "macro_f1", "loss", f"sites_{score_key(name)}"


def score_name(measured: Mapping[str, Any] | None) -> str:
    """What the score is, for people: "accuracy"."""
    return ACCURACY if measured is None else str(measured.get("score_name", ACCURACY))
