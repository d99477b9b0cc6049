"""A simulation sends its updates through the same codec, and measures what that costs."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privet.common.compression import coded_bytes
from privet.common.config import SimulationSpec
from privet.server.report.curves import bytes_figure
from privet.server.report.folder import read_run
from privet.simulations import SimulationData, simulate
from tests.simulations.small_runs import plan_of, texts_of
from tests.tiny_models import tiny_base


def test_the_error_is_measured_and_the_bytes_are_fewer(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    texts, labels, units = texts_of(60, 0)
    data = SimulationData(texts, labels, units, {}, texts[:20], labels[:20])
    ran: dict[str, Any] = {}
    for kind in ("none", "fp16", "int8"):
        plan = plan_of(base, training={"compression": kind})
        ran[kind] = simulate(plan, data, sites=2, epsilon=8.0, runs=tmp_path / kind, workers=0)
    size = sum(ran["none"].arrays[name].size for name in ("head.weight", "head.bias"))
    cases: Any = (("fp16", 1e-5, 5e-4), ("int8", 1e-3, 0.015))
    for kind, least, most in cases:
        frame = ran[kind].history
        assert (frame["bytes_up"] == 2 * coded_bytes(kind, size)).all()
        assert frame["compression_error"].between(least, most).all()
        bounds = [row["compression"]["error_bound"] for row in ran[kind].rounds]
        assert all(error <= 1.2 * bound for error, bound in zip(frame["compression_error"], bounds, strict=True))
        one, other = (ran[k].arrays["head.weight"] for k in ("none", kind))
        assert 0 < np.abs(one - other).max() < most * np.abs(one).max() * 20
        figure = bytes_figure(read_run(ran[kind].folder))
        assert figure is not None
        assert f"sent as {kind}" in figure.note
        assert "as measured" in figure.note
    assert ran["none"].history["compression_error"].isna().all()
    assert (ran["none"].history["bytes_up"] == 2 * 4 * size).all()
    again = simulate(plan_of(base, training={"compression": "int8"}), data, sites=2, epsilon=8.0, workers=0)
    assert again.arrays["head.weight"].tobytes() == ran["int8"].arrays["head.weight"].tobytes()
    assert math.isfinite(again.accuracy)


@pytest.mark.slow
def test_learning_survives_eight_bits(tmp_path: Path) -> None:
    """On average over seeds: some hundred test records and a tiny model make single runs differ by a tenth."""
    base = tiny_base(tmp_path / "base")
    reached: dict[str, list[float]] = {"none": [], "int8": []}
    for seed in range(3):
        data = SimulationData(*texts_of(150, seed), {}, *texts_of(60, 100 + seed)[:2])
        for kind, accuracies in reached.items():
            plan = plan_of(base, training={"rounds": 6, "expected_batch": 20, "compression": kind})
            spec = SimulationSpec(seed=seed)
            accuracies.append(simulate(plan, data, sites=3, epsilon=math.inf, workers=0, spec=spec).accuracy)
    assert np.mean(reached["int8"]) > np.mean(reached["none"]) - 0.05
    assert np.mean(reached["int8"]) > 0.5
