"""What a kind of task is called, and what its cells say, for people: statements, model cards, operators' screens."""

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["TASK_WORDS", "TaskWords"]


@dataclass(frozen=True)
class TaskWords:
    """model: what is trained; label: what one of its labels is. counted: what one evaluation counts, by the plan's
    release; short: the same as a table's cell has it. limit: what a unit's counts may lose beside the noise."""

    model: str
    label: str
    counted: Mapping[str, str]
    short: Mapping[str, str]
    limit: str = ""

    def model_of(self, num_labels: int) -> str:
        """What is trained, for so many labels."""
        return self.model.format(f"{num_labels} {self.label}{'' if num_labels == 1 else 's'}")


TASK_WORDS: Mapping[str, TaskWords] = {
    "classification": TaskWords(
        model="A classifier of text into {}",
        label="label",
        counted={
            "accuracy": "how many the model labelled rightly and how many wrongly",
            "per_class": "for each label how many the model labelled rightly and how many wrongly",
            "confusion": "for each label how many the model gave that label and each other",
        },
        short={"accuracy": "accuracy", "per_class": "per_class", "confusion": "confusion"},
    ),
    "multilabel": TaskWords(
        model="A classifier of text that gives a text any number of {}",
        label="label",
        counted={
            "accuracy": "over all labels together, how often one was rightly said, wrongly said, missed and rightly "
            "left out",
            "per_class": "for each label, how often it was rightly said, wrongly said, missed and rightly left out",
        },
        short={"accuracy": "decisions over all labels", "per_class": "decisions on each label"},
    ),
    "tokens": TaskWords(
        model="A tagger of words that finds entities of {}",
        label="type",
        counted={
            "accuracy": "over all types together, how many entities were found, how many were said that are none, and "
            "how many were missed",
            "per_class": "for each type, how many entities were found, how many were said that are none, and how many "
            "were missed",
        },
        short={"accuracy": "entities over all types", "per_class": "entities of each type"},
        limit="with many entities counts for less than it has",
    ),
}
"""By `task.kind`."""
