"""What the trainer's tests share: texts of a few units on a tiny base, and a source that draws every unit."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privet.client.fused import SiteEngine
from privet.client.trainer import TrainSpec
from privet.client.training import RoundTrainer
from privet.common.config import Plan
from privet.common.examples import TokenExamples
from privet.common.privacy.events import TrainEvent
from privet.common.privacy.noise import SeededNoise
from privet.common.tokens import tokenise
from tests.tiny_models import tiny_plan

TEXTS = [
    "the patient has a fever and cough",
    "no pain in the heart",
    "chest pain and fever today",
    "my account is locked please refund my card today the transfer failed and was charged twice",
    "a rash",
    "the card was charged twice",
    "skin rash and no fever",
    "please refund",
]
LABELS = np.array([0, 1, 1, 2, 0, 2, 0, 2])
UNITS = np.array([0, 0, 0, 1, 2, 1, 3, 4])  # one unit of three records, one of two, three of one


def plan_of(base: Path, *, method: str = "ffa", pooling: str = "mean", **training: Any) -> Plan:
    return tiny_plan(
        base,
        method={"kind": method},
        model={"pooling": pooling},
        task={"max_length": 32, "buckets": [8, 16, 32]},
        training={"optimizer": "sgd", "learning_rate": 1.0, **training},
    )


def examples_of(
    trainer: RoundTrainer, *, drop_unit: int | None = None, labels: NDArray[np.int64] = LABELS
) -> TokenExamples:
    """The texts above; `drop_unit` leaves one unit's records out but keeps the others' numbers."""
    keep = np.flatnonzero(drop_unit != UNITS)
    return tokenise(
        [TEXTS[i] for i in keep],
        labels[keep],
        UNITS[keep],
        5,
        trainer.tokenizer,
        trainer.plan.task.buckets,
    )


def event_of(**changes: Any) -> TrainEvent:
    settings: dict[str, Any] = {
        "sample_rate": 0.5,
        "noise_multiplier": 0.0,
        "steps": 1,
        "max_grad_norm": 0.5,
        "expected_batch": 3,
        "unit": "unit",
        "max_records": 8,
    }
    return TrainEvent(**(settings | changes))


def spec_of(event: TrainEvent, optimizer: str = "sgd", learning_rate: float = 1.0) -> TrainSpec:
    return TrainSpec(event=event, optimizer=optimizer, learning_rate=learning_rate)


def engine_of(trainer: RoundTrainer) -> Any:
    engine: Any = trainer.engine(1)
    rng = np.random.default_rng(5)
    engine.write(rng.normal(0, 0.2, engine.spec.size).astype(np.float32))  # away from zero: no gradient vanishes
    return engine


class Everyone(SeededNoise):
    """Draws every unit."""

    def mask(self, n: int, rate: float) -> NDArray[np.bool_]:
        return np.ones(n, bool)


def hostile(trainer: RoundTrainer) -> Any:
    """Weights that a malicious server may send: they make the model chaotic, and rounding differences large."""
    engine: Any = trainer.engine(1)
    rng = np.random.default_rng(3)
    deviation = {"lora_A": 2.0, "lora_B": 6.0}
    trainer.classifier.write(
        {e.name: rng.normal(0, deviation.get(e.role, 1.0), e.shape).astype(np.float32) for e in trainer.spec.entries}
    )
    if isinstance(engine, SiteEngine):
        engine.take_over()
    return engine
