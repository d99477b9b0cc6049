"""Tagged texts and texts of several labels in a simulation's workers: many sites in one pass, as one by one."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privet.common.config import Plan, SimulationSpec
from privet.common.errors import ConfigError
from privet.simulations.corpus.tagged import TYPES, tagged_notes
from privet.simulations.data import SimulationData
from privet.simulations.engines.fused import FusedWork
from privet.simulations.engines.sequential import SequentialWork
from privet.simulations.engines.work import Recipe, Run, make_work
from privet.simulations.filling import fill
from tests.simulations.small_runs import simulate
from tests.simulations.test_multilabel_runs import _rows
from tests.tiny_models import tiny_base, tiny_plan

SITES = 3


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base"))


def _plan(base: Path, kind: str, method: str) -> Plan:
    labels: dict[str, Any] = {"labels": list(TYPES)} if kind == "tokens" else {}
    return tiny_plan(
        base,
        task={"kind": kind, "max_length": 24, "buckets": [12, 24], "windows": 2, "stride": 4} | labels,
        model={"pooling": "none" if kind == "tokens" else "mean"},
        method={"kind": method},
        training={"rounds": 1, "local_steps": 4, "expected_batch": 6, "learning_rate": 0.01, "train_fraction": 0.7},
        evaluation={"release": "per_class", "every": 1},
    )


def _data(kind: str) -> SimulationData:
    if kind == "tokens":
        corpus = tagged_notes(num_sites=SITES, num_patients=20)
        cells = ["O", *corpus.label[1:]]  # one whose tags are not as many as its words: unknown
        test = tagged_notes(num_sites=1, num_patients=8, public=True)
        return SimulationData(corpus.text, cells, corpus.unit, {}, test.text, test.label)
    texts, cells = _rows(60, 0)
    return SimulationData(texts, cells, [f"u{row // 2}" for row in range(60)], {}, *_rows(20, 1))


@pytest.mark.parametrize(("kind", "method"), [("tokens", "fedavg"), ("tokens", "head"), ("multilabel", "fedavg")])
def test_workers_compute_for_every_task_as_sites_do(base: Path, kind: str, method: str) -> None:
    """Updates after four noised AdamW steps to 1e-5, cells and rows of the public texts; and for some sites as for all,
    to the last bit."""
    plan, data = _plan(base, kind, method), _data(kind)
    store = fill(plan, base, data.sites("iid", plan.task, num_sites=SITES, seed=0), data)
    recipe = Recipe(plan, base, device="cpu", precision="float32")
    quick, slow = make_work(recipe, store), SequentialWork(recipe, store)
    assert isinstance(quick, FusedWork)
    assert quick.words.startswith("fused, sites side by side")
    for work in (quick, slow):
        work.begin(Run(3, "unit", 2, np.full(SITES, 0.5), np.full(SITES, 0.7), np.full(SITES, 6)))
    size = quick.spec.size if method == "fedavg" else sum(e.size for e in quick.spec.entries if e.role == "head")
    start, whole = (np.random.default_rng(0).normal(0, 0.1, n).astype(np.float32) for n in (size, quick.spec.size))
    sites = range(SITES)
    updates, cells, rows = quick.train(1, sites, start), quick.cells(1, sites, whole), quick.logits(whole, range(8))
    np.testing.assert_allclose(updates, slow.train(1, sites, start), atol=1e-5)
    assert np.abs(updates).max() > 1e-3
    np.testing.assert_allclose(cells, slow.cells(1, sites, whole), atol=1e-9)
    assert cells.any(axis=1).all()
    np.testing.assert_allclose(rows, slow.logits(whole, range(8)), atol=1e-5)
    assert np.isfinite(rows).all()
    assert quick.train(1, [0, 2], start).tolist() == updates[[0, 2]].tolist()
    assert quick.cells(1, [1], whole).tolist() == cells[[1]].tolist()
    assert quick.logits(whole, range(3, 8)).tolist() == rows[3:].tolist()


def test_a_simulation_of_tagged_texts_says_that_it_is_fused(base: Path) -> None:
    """Of itself, and where it is asked for; Opacus where that is."""
    events: list[dict[str, Any]] = []
    plan, data = _plan(base, "tokens", "fedavg"), _data("tokens")
    for engine in ("auto", "fused", "opacus"):
        spec = SimulationSpec(engine=engine)
        simulate(plan, data, sites=2, epsilon=8.0, spec=spec, on_event=events.append)
    told = [event["gradients"].split(",")[0] for event in events if event["event"] == "engine"]
    assert told == ["fused", "fused", "opacus"]
    other = _plan(tiny_base(base / "roberta", "roberta"), "tokens", "fedavg")
    with pytest.raises(ConfigError, match="roberta"):
        simulate(other, data, sites=2, epsilon=8.0, spec=SimulationSpec(engine="fused"))
