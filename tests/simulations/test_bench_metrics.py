"""`privet bench metrics`: what noised metrics are off by, for each kind of task, and the picture in the docs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privet.common.errors import ConfigError
from privet.common.privacy.calibration import noise_multiplier
from privet.common.tasks.base import _KINDS, task_of
from privet.simulations.bench.messages import NullWork, _spec
from privet.simulations.bench.metrics import MetricsBench, bench_metrics, write
from privet.simulations.bench.metrics_cases import CASES
from privet.simulations.bench.metrics_plot import mark_of
from privet.simulations.choosing.drawing import mark_in
from privet.simulations.engines.engine import Job, Shard, perform
from tests.docs.pages import ROOT

FIGURES = ROOT / "docs" / "figures"


@pytest.fixture(scope="module")
def found() -> MetricsBench:
    return bench_metrics(repeats=6, units=(300, 8_000), kinds=["tokens"], of_truth=30_000)


def test_every_kind_of_task_has_its_curves() -> None:
    """With every release that it may have."""
    assert set(CASES) == set(_KINDS)
    for kind, case in CASES.items():
        expected = {"accuracy", "per_class"} | ({"confusion"} if kind == "classification" else set())
        assert {setting.release for setting in case.settings} == expected
        assert all((setting.bound is not None) == (kind == "tokens") for setting in case.settings)


def test_metrics_of_entities_tend_to_what_clipping_leaves(found: MetricsBench) -> None:
    """More units take away the noise, not the bias; a tighter bound clips more, is off more, and needs less noise."""
    wide, types, tight = found.curves
    counts, _ = CASES["tokens"].draw(np.random.default_rng(5), 50_000)  # the truth, by hand
    right, wrong, missed = counts[:, :-1].reshape(-1, 3).sum(axis=0).tolist()
    assert 2 * right / (2 * right + wrong + missed) == pytest.approx(wide.truth, abs=0.01)
    assert [curve.bound for curve in found.curves] == [4.0, 4.0, 1.0]
    for curve in found.curves:
        few, many = curve.points
        assert curve.score == "entity F1"
        assert curve.truth == pytest.approx(wide.truth, abs=1e-3)  # of the same model, whatever is clipped
        assert curve.clipped is not None
        assert many.error == pytest.approx(abs(curve.bias), rel=0.35)
        assert few.noise is not None
        assert many.noise is not None
        assert many.noise < few.noise / 10
        assert many.noise < abs(curve.bias) / 3
        assert many.noise <= many.predicted_noise
        assert many.stated_noise == pytest.approx(many.noise, rel=0.8)
    assert types.clipped is not None
    assert wide.clipped is not None
    assert tight.clipped is not None
    assert 0.02 < types.clipped < wide.clipped < 0.4 < tight.clipped
    assert 0 < types.bias < wide.bias < tight.bias / 2
    assert (tight.points[0].noise or 1) < (wide.points[0].noise or 0)
    told = found.lines()
    assert any(line.startswith("  clipped ") and f"bias {wide.bias:+.3g}" in line for line in told)


def test_other_tasks_are_not_biased() -> None:
    done = bench_metrics(repeats=6, units=(8_000,), kinds=["multilabel"], of_truth=30_000)
    for curve in done.curves:
        assert (curve.bound, curve.clipped, curve.bias) == (None, None, 0.0)
        assert (curve.points[0].error or 1) < 3 * (curve.points[0].stated or 0)
    with pytest.raises(ConfigError, match="'words'"):
        bench_metrics(kinds=["words"])


def test_picture_and_numbers_are_written_together(found: MetricsBench, tmp_path: Path) -> None:
    numbers, picture = write(found, tmp_path / "out")
    document = json.loads(numbers.read_text("utf-8"))
    assert document == json.loads(json.dumps(found.to_json()))
    assert mark_in(picture) == mark_of(document)
    document["curves"][0]["bias"] += 1e-9
    assert mark_in(picture) != mark_of(document)


def test_the_figure_of_the_docs_shows_its_numbers() -> None:
    """It is of all cases as they are, its picture of its numbers, and the page's table of these."""
    stored: dict[str, Any] = json.loads((FIGURES / "metrics.json").read_text("utf-8"))
    assert mark_in(FIGURES / "metrics.png") == mark_of(stored), "run `privet bench metrics --out docs/figures`"
    settings = [(kind, setting.release, setting.bound) for kind, case in CASES.items() for setting in case.settings]
    assert [(c["kind"], c["release"], c["bound"]) for c in stored["curves"]] == settings
    sigma = noise_multiplier(sample_rate=1.0, steps=1, epsilon=stored["epsilon"], delta=stored["delta"])
    assert stored["noise_multiplier"] == sigma
    page = (ROOT / "docs" / "benchmarks.md").read_text("utf-8")
    assert "figures/metrics.png" in page
    for curve in stored["curves"]:
        task = task_of(CASES[curve["kind"]].spec(curve["kind"], curve["bound"]))
        for point in curve["points"]:
            expected = task.predicted_standard_error(curve["release"], sigma, point["units"])
            assert point["predicted_noise"] == pytest.approx(expected)
        last = curve["points"][-1]
        bias = "–" if curve["clipped"] is None else f"{curve['bias']:+.4f}"
        share = "–" if curve["clipped"] is None else f"{100 * curve['clipped']:.0f} %"
        bound = "" if curve["bound"] is None else f", bound {curve['bound']:g}"
        row = f"| {curve['kind']}, {curve['release']}{bound} | {curve['points'][2]['error']:.4f} | {last['error']:.4f} "
        assert f"{row}| {last['noise']:.5f} | {share} | {bias} |" in page


def test_work_that_is_nothing_answers_whatever_is_asked() -> None:
    """Every job that an engine may hand out."""
    work, spec = NullWork(_spec()), _spec()
    arrays = np.zeros(spec.size, np.float32)
    for job, shard, shape in (
        (Job("train", 1, arrays), Shard([3, 5]), (2, spec.size)),
        (Job("cells", 1, arrays), Shard([3, 5, 6]), (3, 2)),
        (Job("logits", 0, arrays), Shard(range(4, 9)), (5, 77)),
        (Job("features"), Shard(range(7)), (7, 128)),
    ):
        found = perform(work, job, shard)
        assert found.shape == shape
        assert not found.any()
