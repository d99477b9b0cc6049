"""Small simulations: texts of three topics that can be told apart, a plan on a tiny base, all in this process."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from privet.common.config import Plan
from privet.simulations import simulate as simulate_anywhere
from tests.tiny_models import tiny_plan

TOPICS = {
    "calm": ("fever", "cough", "patient", "rash", "skin"),
    "urgent": ("charged", "twice", "refund", "card", "please"),
    "other": ("locked", "transfer", "failed", "account", "today"),
}
simulate = partial(simulate_anywhere, workers=0)  # in this process: workers are tried in test_engines.py
COMMON = ("the", "has", "a", "and", "no", "in", "was", "my", "is")
LABELS = tuple(TOPICS)
PLACES = ("North Ward", "South", "East")


def texts_of(num_units: int, seed: int) -> tuple[list[str], list[str], list[str]]:
    """Texts, labels and units: half of a text's words are its topic's; a unit has one to three texts."""
    random = np.random.default_rng(seed)
    texts, labels, units = [], [], []
    for unit in range(num_units):
        for _ in range(int(random.integers(1, 4))):
            label = LABELS[int(random.integers(3))]
            words = [
                str(random.choice(TOPICS[label] if random.random() < 0.5 else COMMON))
                for _ in range(int(random.integers(6, 14)))
            ]
            texts.append(" ".join(words))
            labels.append(label)
            units.append(f"u{unit}")
    return texts, labels, units


def plan_of(base: Path, kind: str = "head", **tables: dict[str, Any]) -> Plan:
    raw: dict[str, dict[str, Any]] = {
        "method": {"kind": kind},
        "task": {"max_length": 32},
        "training": {
            "rounds": 2,
            "local_steps": 4,
            "expected_batch": 10,
            "learning_rate": 0.3 if kind == "head" else 0.03,
        },
    }
    raw["training"]["learning_rate"] = 0.3 if kind == "head" else 0.03
    return tiny_plan(base, base=None, **{name: raw.get(name, {}) | tables.get(name, {}) for name in {*raw, *tables}})


def untimed(history: Any) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in history]
