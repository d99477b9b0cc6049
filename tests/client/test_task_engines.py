"""Every task's loss, in every engine: the reference's gradients, and a unit's part that no other unit changes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from privet.client.engines import EngineName
from privet.client.fused import SiteEngine, covers
from privet.client.trainer import _windows, clipped_sum
from privet.client.training import RoundTrainer
from privet.client.unit_gradients import Members
from privet.common.batch import Batch
from privet.common.examples import TRAINING_ROWS
from privet.common.initial import uniform
from privet.common.tasks.targets import UNKNOWN, Targets
from tests.client.test_trainer_mates import LONG, NUM_UNITS, UNITS, _parts
from tests.client.trainer_cases import Everyone, event_of, hostile
from tests.tiny_models import tiny_plan

TASKS: dict[str, dict[str, Any]] = {
    "weighted": {"class_weights": {"urgent": 4.0, "other": 0.25}, "label_smoothing": 0.2},
    "multilabel": {"kind": "multilabel"},
    "multilabel-weighted": {
        "kind": "multilabel",
        "class_weights": {"urgent": 4.0, "other": 0.25},
        "label_smoothing": 0.2,
    },
}
ENGINES = ("opacus", "opacus-cls", "head", "fused", "fused-cls")


def targets_of(task: dict[str, Any]) -> Targets:
    """Records of every combination of labels, and one that is unknown."""
    if task.get("kind") != "multilabel":
        found: Targets = np.arange(len(UNITS)) % 3
    else:
        found = ((np.arange(len(UNITS))[:, None] >> np.arange(3)) % 2).astype(np.int8)
    found[2] = UNKNOWN
    return found


def trainer_of(base: Path, task: str, engine: str, *, plain: bool = False) -> RoundTrainer:
    """With weights that a malicious server may send, or plain ones, under which rounding stays small."""
    plan = tiny_plan(
        base,
        method={"kind": "head" if engine == "head" else "fedavg"},
        model={"pooling": "cls" if engine.endswith("cls") else "mean"},
        task={"max_length": 16, "buckets": [8, 16], "windows": 3, "stride": 2} | TASKS[task],
    )
    name: EngineName = "fused" if engine.startswith("fused") else "opacus"
    assert covers(plan, base) is None
    made = RoundTrainer(plan, base, engine=name)
    if plain:
        made.classifier.write({entry.name: uniform(entry, 3) for entry in made.spec.entries})
        if isinstance(chosen := made.engine(1), SiteEngine):
            chosen.take_over()
    else:
        hostile(made)
    return made


class Texts:
    """The long texts without some units, whose numbers the others keep."""

    def __init__(self, targets: Targets, gone: int | None = None) -> None:
        kept = np.flatnonzero(gone != UNITS)
        self.texts, self.labels = [LONG[row] for row in kept], targets[kept]
        self.units, self.num_units = UNITS[kept], NUM_UNITS


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("engine", ENGINES)
def test_a_unit_that_is_taken_away_leaves_every_other_part_equal(base: Path, task: str, engine: str) -> None:
    """To the last bit, long notes of several windows among them; a record with an unknown label adds nothing."""
    trainer, targets = trainer_of(base, task, engine), targets_of(TASKS[task])
    whole, event = trainer.prepare(Texts(targets)), event_of()
    assert sorted(set(whole.windows.counts.tolist())) == [1, 2, 3]
    expected = _parts(trainer.engine(1), whole, np.arange(NUM_UNITS), event)
    assert all(part.any() for part in expected.values())
    for gone in (0, 4):
        others = np.array([unit for unit in range(NUM_UNITS) if unit != gone])
        parts = _parts(trainer.engine(1), trainer.prepare(Texts(targets, gone)), others, event)
        for unit, part in parts.items():
            assert part[-1] == expected[unit][-1]
            if trainer.frozen_features:  # one product over all units adds the parts up: in float64, beside zeros
                np.testing.assert_allclose(part, expected[unit], rtol=1e-12, atol=1e-15)
            else:
                assert np.array_equal(part, expected[unit])


def _alone(trainer: RoundTrainer, examples: Any, event: Any) -> NDArray[np.float64]:
    """g_u of every unit by a plain backward pass for each window: mean over its records, each the mean over its
    windows."""
    engine: Any = trainer.engine(1)
    found = np.zeros((NUM_UNITS, engine.spec.size))
    windows, slots, shares = _windows(examples, np.arange(NUM_UNITS), event.max_records, Everyone(0))
    for window, slot, part in zip(windows, slots, shares, strict=True):
        (batch,) = list(examples.batches(np.array([window])))
        found[slot] += part * engine.alone(batch, int(batch.rows[0])).double().numpy()
    return found


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("engine", ENGINES)
def test_units_gradients_are_those_of_a_plain_backward_pass(base: Path, task: str, engine: str) -> None:
    """Mean over a unit's records of the mean over a record's windows, under every task; Opacus, fused and linear."""
    trainer, targets = trainer_of(base, task, engine, plain=True), targets_of(TASKS[task])
    examples, event = trainer.prepare(Texts(targets)), event_of()
    windows, slots, shares = _windows(examples, np.arange(NUM_UNITS), event.max_records, Everyone(0))
    found = trainer.engine(1).unit_gradients(examples, Members(windows, slots, shares, NUM_UNITS))
    expected = _alone(trainer, examples, event)
    scale = float(np.abs(expected).max())
    assert scale > 1e-3
    np.testing.assert_allclose(found.norms().numpy(), np.linalg.norm(expected, axis=1), atol=1e-4 * scale, rtol=1e-4)
    for unit in range(NUM_UNITS):
        one = torch.zeros(NUM_UNITS, dtype=torch.float64)
        one[unit] = 1.0
        np.testing.assert_allclose(found.weighted_sum(one).numpy(), expected[unit], atol=2e-4 * scale)


@pytest.mark.parametrize("task", TASKS)
def test_fused_and_opacus_come_to_the_same_clipped_sum(base: Path, task: str) -> None:
    targets, event, sums = targets_of(TASKS[task]), event_of(), []
    for engine in ("opacus", "fused"):
        trainer = trainer_of(base, task, engine, plain=True)
        everyone = np.arange(NUM_UNITS)
        sums.append(clipped_sum(trainer.engine(1), trainer.prepare(Texts(targets)), everyone, event, Everyone(0)))
    np.testing.assert_allclose(sums[1], sums[0], atol=2e-4)
    assert np.linalg.norm(sums[0]) > 0.1


def test_weights_and_smoothing_change_what_is_trained(base: Path) -> None:
    """Else the tests above would be of nothing."""
    event, sums = event_of(max_grad_norm=1e3), []
    plans: list[dict[str, Any]] = [{}, {"class_weights": {"urgent": 4.0}}, {"label_smoothing": 0.3}]
    for kind in ("classification", "multilabel"):
        targets = targets_of({"kind": kind})
        for settings in plans:
            task = {"kind": kind, "max_length": 16, "buckets": [8, 16]} | settings
            trainer = RoundTrainer(tiny_plan(base, method={"kind": "head"}, task=task), base)
            examples = trainer.prepare(Texts(targets))
            sums.append(clipped_sum(trainer.engine(1), examples, np.arange(NUM_UNITS), event, Everyone(0)))
    for index, one in enumerate(sums):
        assert all(np.linalg.norm(one - other) > 1e-3 for other in sums[:index])


def test_a_record_with_several_labels_one_of_them_unknown_adds_exactly_nothing(base: Path) -> None:
    trainer = trainer_of(base, "multilabel", "fused")
    targets = np.full((len(UNITS), 3), UNKNOWN, np.int8)
    examples = trainer.prepare(Texts(targets))
    assert not clipped_sum(trainer.engine(1), examples, np.arange(NUM_UNITS), event_of(), Everyone(0)).any()
    batch: Batch = next(iter(examples.batches(np.arange(TRAINING_ROWS))))
    assert not batch.weights.any()
    assert not batch.labels.any()
    assert batch.labels.dtype == torch.float32
