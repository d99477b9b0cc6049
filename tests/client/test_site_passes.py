"""A site computes batches of constant shapes: passes of mixed lengths, whose shape tells who was drawn, are for sites
that are simulated."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privet.client.fused import SiteEngine
from privet.client.training import RoundTrainer
from privet.common import passes
from privet.common.batch import Batch
from tests.client.test_task_engines import TASKS, Texts, targets_of
from tests.client.trainer_cases import Everyone, event_of
from tests.tiny_models import tiny_base, tiny_plan


@pytest.mark.parametrize("task", ["plain", "multilabel-weighted"])
def test_no_pass_of_mixed_lengths_at_a_site(task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, settings = tiny_base(tmp_path / "base"), TASKS.get(task, {})
    lengths = {"max_length": 16, "buckets": [8, 16], "windows": 3, "stride": 2}
    plan = tiny_plan(base, method={"kind": "fedavg"}, task=lengths | settings)
    trainer = RoundTrainer(plan, base, engine="fused")
    engine = trainer.engine(1)
    assert isinstance(engine, SiteEngine)

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("a pass of mixed lengths at a site")

    shapes = set()
    genuine = passes.Pass.of

    def of(batch: Batch) -> passes.Pass:
        shapes.add(tuple(batch.inputs[0].shape))
        return genuine(batch)

    monkeypatch.setattr(passes, "_pass", never)
    monkeypatch.setattr(passes.Pass, "of", of)
    examples, arrays = trainer.prepare(Texts(targets_of(settings))), trainer.classifier.read()
    for drawn in (Everyone(0), _One(0)):
        change = trainer.update(arrays, examples, 1, event_of(max_records=2), drawn)
        assert all(np.isfinite(array).all() for array in change.values())
    assert any(array.any() for array in change.values())  # the engine did compute them
    trainer.logits(arrays, examples)
    assert shapes == set(zip(engine.rows_of_batches, plan.task.buckets, strict=True))


class _One(Everyone):
    """Draws the first unit alone."""

    def mask(self, n: int, rate: float) -> Any:
        return np.arange(n) == 0
