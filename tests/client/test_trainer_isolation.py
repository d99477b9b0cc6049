"""No unit shows in what another contributes, to the last bit."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from privet.client.trainer import clipped_sum
from privet.client.training import RoundTrainer
from privet.common.tokens import tokenise
from tests.client.trainer_cases import LABELS, TEXTS, Everyone, engine_of, event_of, examples_of, hostile, plan_of
from tests.tiny_models import tiny_plan


def test_batch_mates_do_not_change_a_units_part(trainer: RoundTrainer) -> None:
    """Adding unit 0 alone equals the difference it makes among the others."""
    event = event_of(max_grad_norm=0.05)
    alone = clipped_sum(engine_of(trainer), examples_of(trainer), np.array([0]), event, Everyone(0))
    among = clipped_sum(engine_of(trainer), examples_of(trainer), np.arange(5), event, Everyone(0))
    others = clipped_sum(engine_of(trainer), examples_of(trainer), np.arange(1, 5), event, Everyone(0))
    np.testing.assert_allclose(among - others, alone, atol=1e-6)


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_a_record_that_cannot_be_computed_contributes_exactly_zero(trainer: RoundTrainer, broken: float) -> None:
    """And leaves the other units' parts as they were, to the last bit."""
    engine, event = engine_of(trainer), event_of()
    data = examples_of(trainer)
    others = clipped_sum(engine, data, np.array([1, 3, 4]), event, Everyone(0))
    place = 2  # of unit 2's only record among the drawn: unit 1 has two
    genuine = engine.per_row

    def poison(batch: Any) -> Any:
        rows = genuine(batch)
        rows[torch.from_numpy(batch.rows[batch.places == place])] = broken
        return rows

    engine.per_row = poison
    try:
        with_it = clipped_sum(engine, data, np.array([1, 2, 3, 4]), event, Everyone(0))
    finally:
        del engine.per_row
    assert np.array_equal(with_it, others)


def test_an_unknown_label_contributes_zero(trainer: RoundTrainer) -> None:
    labels = LABELS.copy()
    labels[4] = -1  # the only record of unit 2
    total = clipped_sum(engine_of(trainer), examples_of(trainer, labels=labels), np.array([2]), event_of(), Everyone(0))
    assert not total.any()


@pytest.mark.parametrize("length", [8, 16, 32, 128])
@pytest.mark.parametrize("method", ["fedavg", "head"])
def test_no_coupling_through_arithmetic(base: Path, method: str, length: int) -> None:
    """Taking any one unit away leaves the others' parts as they were, with weights chosen to show the last bit."""
    plan = tiny_plan(
        base,
        method={"kind": method},
        task={"max_length": length, "buckets": [length]},
        training={"optimizer": "sgd", "learning_rate": 1.0},
    )
    trainer = RoundTrainer(plan, base)
    texts = [" ".join(TEXTS[(n + i) % 8] for i in range(length // 8)) for n in range(11)]
    labels, event = np.arange(11) % 3, event_of(max_grad_norm=1.0)

    class Texts:
        def __init__(self, keep: list[int]) -> None:
            self.texts = [texts[i] for i in keep]
            self.labels, self.units, self.num_units = labels[keep], np.arange(len(keep)), len(keep)

    def summed(keep: list[int]) -> NDArray[np.float64]:
        trainer.classifier.write(trainer_initial)
        data = trainer.prepare(Texts(keep))
        return clipped_sum(hostile(trainer), data, np.arange(len(keep)), event, Everyone(0))

    trainer_initial = trainer.classifier.read()
    everyone = summed(list(range(11)))
    for gone in range(0, 11, 3):
        others = summed([i for i in range(11) if i != gone])
        alone = summed([gone])
        assert np.linalg.norm(everyone - others - alone) < 1e-6  # float64 sums of bit-equal parts
        assert np.linalg.norm(everyone - others) <= 1.0


class Tokenizer:
    """A tokenizer that came with a server's base: it panics at one word and gives an id out of range at another."""

    pad_token_id = 0

    def __call__(self, texts: list[str], **_: Any) -> dict[str, list[list[int]]]:
        if any("panic" in text for text in texts):
            raise BaseException("a panic in Rust")
        return {"input_ids": [[1, 10_000 if "hiv" in text else 2] for text in texts]}


def test_a_hostile_tokenizer_cannot_make_a_record_tell(base: Path) -> None:
    texts = ["fine", "panic", "hiv", "fine too"]
    data = tokenise(texts, np.zeros(4, np.int64), np.arange(4), 4, Tokenizer(), (8,), 100)
    assert data.labels.tolist() == [0, -1, -1, 0]
    trainer = RoundTrainer(plan_of(base), base)
    total = clipped_sum(engine_of(trainer), data, np.array([1, 2]), event_of(), Everyone(0))
    assert not total.any()
