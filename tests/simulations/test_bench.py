"""`privet bench privacy`: every arm does the same work, and the figures hang together."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from privet.client.trainer import clipped_sum
from privet.client.training import RoundTrainer
from privet.common.cli.bench import app
from privet.common.privacy.events import TrainEvent
from privet.common.privacy.noise import SeededNoise
from privet.simulations.bench import arms as bench
from tests.tiny_models import tiny_base, tiny_plan

TEXTS = [
    f"the patient has pain in the {word} " * (1 + number % 4) for number, word in enumerate(["heart", "chest"] * 32)
]
LABELS = np.arange(64) % 3


@pytest.mark.parametrize("method", ["ffa", "head"])
def test_every_arm_reads_as_many_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    trainer = RoundTrainer(tiny_plan(tiny_base(tmp_path), method={"kind": method}), tmp_path)
    engine: Any = trainer.engine(1)
    read: list[int] = []
    genuine = engine.unit_gradients

    def watch(data: Any, members: Any) -> Any:
        read.append(len(members.windows))
        return genuine(data, members)

    monkeypatch.setattr(engine, "unit_gradients", watch)
    for arm in bench.arms(trainer, TEXTS, LABELS):
        read.clear()
        arm.step(1)
        assert sum(read) == bench.RECORDS


@pytest.mark.parametrize("method", ["ffa", "head"])
def test_the_plain_arm_adds_up_the_same(tmp_path: Path, method: str) -> None:
    trainer = RoundTrainer(tiny_plan(tiny_base(tmp_path), method={"kind": method}), tmp_path)
    data = bench._prepared(trainer, TEXTS, LABELS, np.arange(64))
    packed: Any = bench.Packed(data)  # type: ignore[arg-type]
    event = TrainEvent(
        sample_rate=1, noise_multiplier=1, steps=1, max_grad_norm=1, expected_batch=9, unit="record", max_records=1
    )
    drawn = np.arange(0, 64, 7)
    sums = [clipped_sum(trainer.engine(1), one, drawn, event, SeededNoise(0)) for one in (data, packed)]
    assert len(list(packed.batches(drawn))) == 1
    np.testing.assert_allclose(sums[0], sums[1], atol=1e-5)


def test_the_command_tells_the_figures_in_json(tmp_path: Path) -> None:
    base = tiny_base(tmp_path)
    ended = CliRunner().invoke(app, ["privacy", "--base", str(base), "--repetitions", "1", "--json"])
    assert ended.exit_code == 0, ended.output
    found = json.loads(ended.stdout)
    assert [row["method"] for row in found["timings"]] == ["ffa"] * 4 + ["head"] * 4
    assert all(found["timings"][first]["cpu_ratio"] == 1 for first in (0, 4))
    assert found["machine"]["threads"] == 1
    assert found["noise"]["secure"] > 0
