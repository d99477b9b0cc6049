"""Training and judging the tags of words: no text sees another, and each of its words counts once."""

from pathlib import Path

import numpy as np
import pytest
import torch
from seqeval.metrics import f1_score

from privet.client.evaluation import exact_cells
from privet.client.gradients import OpacusEngine
from privet.client.trainer import clipped_sum, train
from privet.client.training import RoundTrainer
from privet.common.privacy.noise import SeededNoise
from privet.common.tagging import said_tags
from privet.common.tasks.tags import tag_names
from tests.client.token_cases import TYPES, Tagged, examples_of, token_plan
from tests.client.trainer_cases import Everyone, engine_of, event_of, hostile, spec_of
from tests.tiny_models import Kind, tiny_base

METHODS = ("head", "ffa", "fedavg")


@pytest.fixture(scope="module")
def trainers(base: Path) -> dict[str, RoundTrainer]:
    return {method: RoundTrainer(token_plan(base, method=method), base) for method in METHODS}


@pytest.mark.parametrize("kind", ["roberta", "distilbert"])
def test_other_bases_train_and_judge(kind: Kind, tmp_path: Path) -> None:
    folder = tiny_base(tmp_path / kind, kind)
    trainer = RoundTrainer(token_plan(folder, method="fedavg"), folder)
    update = trainer.update(trainer.classifier.read(), examples_of(trainer), 1, event_of(), Everyone(0))
    assert {name for name, change in update.items() if np.any(change)} >= {"classifier.weight", "classifier.bias"}
    assert np.isfinite(trainer.logits(trainer.classifier.read(), examples_of(trainer))).all()


@pytest.mark.parametrize("method", METHODS)
def test_all_methods_go_through_opacus(trainers: dict[str, RoundTrainer], method: str) -> None:
    trainer = trainers[method]
    engine = trainer.engine(1)
    assert isinstance(engine, OpacusEngine)
    assert "classifier.weight" in engine.spec.names
    assert any("lora_A" in name for name in engine.spec.names) == (method == "fedavg")


def test_the_gradient_of_a_unit_is_the_mean_of_its_texts_by_brute_force(trainers: dict[str, RoundTrainer]) -> None:
    trainer = trainers["fedavg"]
    engine = engine_of(trainer)
    examples, event = examples_of(trainer), event_of(max_grad_norm=1000.0)
    drawn = np.array([0])  # three texts
    found = clipped_sum(engine, examples, drawn, event, SeededNoise(0))
    parameters = [trainer.classifier.parameter(name) for name in engine.spec.names]
    expected = np.zeros(engine.spec.size)
    for record in range(3):
        (batch,) = examples.batches(np.array([record]))
        row = int(batch.rows[0])
        logits = trainer.classifier(batch.inputs[0][row : row + 1], batch.inputs[1][row : row + 1])[0]
        tagged = batch.labels[row] >= 0
        assert int(tagged.sum()) == len(Tagged().texts[record].split())
        loss = torch.nn.functional.cross_entropy(logits[tagged], batch.labels[row][tagged])
        gradient = torch.autograd.grad(loss, parameters)
        expected += torch.cat([part.reshape(-1) for part in gradient]).double().numpy() / 3
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_no_text_s_gradient_sees_the_others(trainers: dict[str, RoundTrainer], method: str) -> None:
    """Removing one unit removes exactly its own part, whatever its length, under a hostile server's weights."""
    trainer = trainers[method]
    engine = hostile(trainer)
    event = event_of(max_grad_norm=1e-3)
    whole = examples_of(trainer)
    parts = [clipped_sum(engine, whole, np.array([unit]), event, SeededNoise(0)) for unit in range(5)]
    for unit in range(5):
        others = np.array([other for other in range(5) if other != unit])
        without = examples_of(trainer, Tagged().without(unit))
        gone = clipped_sum(engine, without, others, event, SeededNoise(0))
        left = clipped_sum(engine, whole, others, event, SeededNoise(0))
        np.testing.assert_array_equal(left, gone)
        np.testing.assert_allclose(left, sum(parts[other] for other in others), atol=1e-12)
        assert np.linalg.norm(parts[unit]) <= event.max_grad_norm


def test_untagged_places_and_padding_enter_no_gradient(trainers: dict[str, RoundTrainer]) -> None:
    trainer = trainers["ffa"]
    engine = engine_of(trainer)
    data = Tagged(["the patient has a fever"], np.zeros(1, np.int64), [np.zeros(5, np.int16)], 1)
    longer = Tagged(["the patient has a fever"], np.zeros(1, np.int64), [np.zeros(9, np.int16)], 1)  # tags beyond words
    fewer = Tagged(["the patient has a fever"], np.zeros(1, np.int64), [np.zeros(2, np.int16)], 1)
    found = [
        clipped_sum(engine, examples_of(trainer, each), np.array([0]), event_of(), SeededNoise(0))
        for each in (data, longer, fewer)
    ]
    np.testing.assert_array_equal(found[0], found[1])
    assert np.abs(found[0] - found[2]).max() > 1e-4


FAULTS = {
    "unknown tags": ("the patient has a fever", None),
    "no word": ("", np.zeros(0, np.int16)),
    "white space": ("   ", np.zeros(4, np.int16)),
    "fewer tags": ("the patient has a fever", np.zeros(1, np.int16)),
    "no tags": ("the patient has a fever", np.zeros(0, np.int16)),
    "huge": ("fever " * 20_000, np.ones(20_000, np.int16)),
    "surrogates": ("\ud800 fever", np.zeros(2, np.int16)),
    "a tag out of range": ("a fever", np.array([0, 99], np.int16)),
}


@pytest.mark.parametrize("fault", FAULTS, ids=list(FAULTS))
def test_a_faulty_text_fails_nothing_and_touches_no_other(trainers: dict[str, RoundTrainer], fault: str) -> None:
    """Whoever is a neighbour: an update of the same form, within the clip, and the others' parts to the last bit."""
    trainer = trainers["ffa"]
    engine = engine_of(trainer)
    text, tags = FAULTS[fault]
    sound = Tagged()
    faulty = Tagged([*sound.texts, text], np.array([*sound.units, 5]), [*sound.tags, tags], 6)
    event, everyone = event_of(max_grad_norm=0.1), np.arange(5)
    examples = examples_of(trainer, faulty)
    others = clipped_sum(engine, examples, everyone, event, SeededNoise(0))
    np.testing.assert_array_equal(others, clipped_sum(engine, examples_of(trainer), everyone, event, SeededNoise(0)))
    alone = clipped_sum(engine, examples, np.array([5]), event, SeededNoise(0))
    assert np.isfinite(alone).all()
    assert np.linalg.norm(alone) <= event.max_grad_norm
    change, _ = train(engine, examples, spec_of(event), Everyone(0))
    assert np.isfinite(change).all()
    table = trainer.logits(trainer.classifier.read(), examples)
    np.testing.assert_array_equal(table[:-1], trainer.logits(trainer.classifier.read(), examples_of(trainer)))
    cells = exact_cells(trainer, trainer.classifier.read(), examples, "per_class")
    assert np.isfinite(cells).all()


def test_judged_as_seqeval_does_and_words_beyond_the_windows_are_missed(base: Path) -> None:
    plan = token_plan(base, task={"max_length": 8, "buckets": [8], "windows": 2, "stride": 2})
    trainer = RoundTrainer(plan, base)
    hostile(trainer)
    examples = examples_of(trainer)
    said, _ = said_tags(trainer.classifier, examples)
    names = tag_names(TYPES)
    data = Tagged()
    assert [len(row) for row in said if row is not None] == [len(text.split()) for text in data.texts]
    long = said[3]
    assert long is not None
    assert not long[11:].any()  # two windows of six words that share two hold ten, and what is cut is outside
    assert any(row is not None and row.any() for row in said)
    metrics = trainer.task.public_metrics(trainer.logits(trainer.classifier.read(), examples), examples.labels)
    truth = [[names[tag] for tag in row] for row in data.tags if row is not None]
    guessed = [[names[tag] for tag in row] for row in said if row is not None]
    assert metrics.score == pytest.approx(f1_score(truth, guessed))
    assert metrics.num_records == len(data.texts)


def test_it_learns(base: Path) -> None:
    plan = token_plan(base, method="fedavg", training={"optimizer": "adamw", "learning_rate": 0.05})
    trainer = RoundTrainer(plan, base)
    arrays, examples = trainer.classifier.read(), examples_of(trainer)
    before = trainer.task.public_metrics(trainer.logits(arrays, examples), examples.labels)
    event = event_of(steps=30, sample_rate=1.0, max_grad_norm=10.0, expected_batch=5)
    update = trainer.update(arrays, examples, 1, event, Everyone(0))
    arrays = {name: array + update.get(name, 0) for name, array in arrays.items()}
    after = trainer.task.public_metrics(trainer.logits(arrays, examples), examples.labels)
    assert before.score < 0.2
    assert after.score > 0.8
    assert after.loss < before.loss / 2
