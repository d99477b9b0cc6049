"""Labelled files and a model whose answers stand in the text itself: "3 0.5" is label 3 with a logit of 0.5 above 0."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privet.common.config import Plan

LABELS = ("calm", "urgent", "other", "none")


def plan_of(labels: Sequence[str] = LABELS, **task: Any) -> Plan:
    """A plan whose base is never loaded."""
    return Plan.model_validate(
        {
            "format": 1,
            "name": "judged",
            "task": {"labels": list(labels), **task},
            "model": {"base": "example/tiny", "sha256": "a" * 64},
            "training": {"rounds": 1, "expected_batch": 4, "learning_rate": 0.1},
        }
    )


class Echo:
    """Reads pairs "PLACE LOGIT" out of each text: everything else has the logit 0. It notes how many texts it got."""

    def __init__(self, plan: Plan | None = None) -> None:
        self.plan = plan or plan_of()
        self.sizes: list[int] = []

    def predict(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.sizes.append(len(texts))
        found = np.zeros((len(texts), len(self.plan.task.labels)), np.float32)
        for row, text in enumerate(texts):
            numbers = text.split()
            for place, logit in zip(numbers[::2], numbers[1::2], strict=True):
                found[row, int(place)] = float(logit)
        return found


def write(path: Path, rows: Sequence[dict[str, str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def records(num: int, *, right: float = 0.8, seed: int = 0, labels: Sequence[str] = LABELS) -> list[dict[str, str]]:
    """`num` rows, of which the model gives the share `right` the true label."""
    random = np.random.default_rng(seed)
    rows = []
    for _ in range(num):
        true = int(random.integers(len(labels)))
        given = true if random.random() < right else (true + 1 + int(random.integers(len(labels) - 1))) % len(labels)
        rows.append({"text": f"{given} {random.uniform(0.5, 4):.3f}", "label": labels[true]})
    return rows
