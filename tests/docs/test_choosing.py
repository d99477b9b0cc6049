"""The figures of docs/choosing.md are what its commands compute."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from privet.client.update_size import update_bytes
from privet.common.base import resolve_base
from privet.common.privacy.accountant import epsilon
from privet.common.privacy.events import TrainEvent
from privet.simulations.choosing import accuracy, noise
from privet.simulations.choosing.drawing import Chart, Series, draw, mark_in
from tests.docs.pages import ROOT

FIGURES = ROOT / "docs" / "figures"
PAGE = ROOT / "docs" / "choosing.md"


def _stored(name: str) -> dict:  # type: ignore[type-arg]
    found: dict = json.loads((FIGURES / name).read_text(encoding="utf-8"))  # type: ignore[type-arg]
    return found


def _charts() -> list[Chart]:
    """As they are stored, in the types that are drawn."""
    made = []
    for raw in _stored("noise.json")["charts"].values():
        lines = tuple(Series(**line | {"points": tuple(map(tuple, line["points"]))}) for line in raw["lines"])
        made.append(Chart(**raw | {"lines": lines}))
    return made


def _spent(sigma: float, terms: noise.Terms) -> float:
    event = TrainEvent(
        sample_rate=terms.batch / terms.units,
        noise_multiplier=sigma,
        steps=terms.rounds * terms.local_steps,
        max_grad_norm=1.0,
        expected_batch=terms.batch,
        unit="unit",
        max_records=1,
    )
    return epsilon([event], terms.delta)


def test_plots_carry_the_numbers_that_stand_beside_them() -> None:
    for chart in _charts():
        assert mark_in(FIGURES / f"{chart.key}.png") == noise.mark_of(chart), "run `privet docs noise`"
    assert mark_in(FIGURES / "accuracy-epsilon.png") == accuracy.mark_of(_stored("accuracy.json"))
    assert noise.mark_of(replace(_charts()[0], title="another")) != noise.mark_of(_charts()[0])


def test_stored_noise_is_the_least_that_keeps_its_epsilon() -> None:
    """One point of each chart, by the accountant itself: enough, and a thousandth less is not."""
    document = _stored("noise.json")
    terms = noise.Terms(**document["terms"])
    lines = {(c.key, line.name): dict(line.points) for c in _charts() for line in c.lines}
    for sigma, at in (
        (lines["noise-epsilon", "40 rounds"][2.0], replace(terms, epsilon=2.0)),
        (lines["noise-rounds", "ε 4"][160], replace(terms, epsilon=4.0, rounds=160)),
        (256 * lines["noise-batch", "2,000 units at the site"][256], replace(terms, batch=256)),
    ):
        assert _spent(sigma, at) <= at.epsilon < _spent(sigma - 0.001, at)


@pytest.mark.slow
def test_the_command_reproduces_the_figures_of_noise(tmp_path: Path) -> None:
    noise.write_noise(tmp_path, noise.Terms())
    assert (tmp_path / "noise.json").read_text() == (FIGURES / "noise.json").read_text()
    for chart in _charts():
        assert mark_in(tmp_path / f"{chart.key}.png") == mark_in(FIGURES / f"{chart.key}.png")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_command_of_accuracy_measures(tmp_path: Path) -> None:
    """The smallest run of it: more ε, more accuracy, for the cheap method and for one with LoRA."""
    setting = accuracy.Setting(patients=150, public=120, rounds=2)
    told: list[str] = []
    seeds = {"head": 2, "ffa": 1}
    image, numbers = accuracy.write_accuracy(
        tmp_path, told.append, seeds=seeds, setting=setting, epsilons=dict.fromkeys(seeds, (0.1, float("inf")))
    )
    found = json.loads(numbers.read_text())
    assert len(told) == 6
    accuracy.write_accuracy(
        tmp_path, told.append, seeds=seeds, setting=setting, epsilons=dict.fromkeys(seeds, (0.1, float("inf")))
    )
    assert len(told) == 6, "what is there is not run again"
    assert mark_in(image) == accuracy.mark_of(found)
    for method in seeds:
        worst, best = (found["methods"][method]["accuracy"][name] for name in ("0.1", "inf"))
        assert max(worst) < min(best), found


def test_the_page_shows_every_figure_and_the_stored_accuracies() -> None:
    page, benchmarks = PAGE.read_text(encoding="utf-8"), PAGE.with_name("benchmarks.md").read_text(encoding="utf-8")
    for image in FIGURES.glob("*.png"):
        assert f"(figures/{image.name})" in page + benchmarks
        assert image.stat().st_size < 100_000
    head = re.search(r"^\| accuracy at ε \| (.+) \|$", page, re.MULTILINE)
    assert head
    names = [name.replace("∞", "inf") for name in head[1].split(" | ")]
    for method, found in _stored("accuracy.json")["methods"].items():
        runs = [found["accuracy"].get(name) for name in names]
        shown = " | ".join(f"{sum(r) / len(r):.3f}".removeprefix("0") if r else "" for r in runs)
        assert f"| `{method}` | {shown} |" in page


def test_updates_have_the_sizes_that_the_page_tells() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for method in accuracy.LEARNING_RATES:
        plan = accuracy.Setting(first_layer=0).plan(method)
        size = update_bytes(plan, resolve_base(accuracy.BASE))
        assert size is not None
        assert re.search(rf"^\| `{method}` \| .* \| {size / 1000:.0f} kB \|$", page, re.MULTILINE), size


def test_the_table_of_meanings_is_what_is_stored() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for row in _stored("noise.json")["means"]:
        rates = [f"{100 * row[name]:.1f} %" for name in ("advantage", "true_positives")]
        assert f"| {row['epsilon']:g} | {row['sigma']:.3f} | {' | '.join(rates)} |" in page


def test_a_damaged_picture_is_noticed(tmp_path: Path) -> None:
    chart = Chart(key="a", title="t", note="n", x="x", y="y", lines=(Series("s", ((1.0, 2.0), (2.0, 1.0))),))
    draw(chart, tmp_path / "a.png", "mark")
    assert mark_in(tmp_path / "a.png") == "mark"
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[17] ^= 1  # of the head
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(ValueError, match="damaged"):
        mark_in(tmp_path / "a.png")
