"""How far noised metrics are from the truth as units grow: drawn, stated beforehand, and stated with the result.

For each kind of task, units of 1 to 4 records are drawn from a model that is right at a known rate; the task's own
cells, noise of one evaluation at the given ε, and the task's own metrics follow. The truth is the score of very many
units. A point is the root mean square error over the repeats.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from privet.common.config import TaskSpec
from privet.common.errors import ConfigError, RunError
from privet.common.privacy.calibration import noise_multiplier
from privet.common.privacy.events import Release
from privet.common.tasks.base import Task, task_of
from privet.common.tasks.targets import Targets

UNITS = (100, 300, 1_000, 3_000, 10_000, 30_000)
_TRUTH = 200_000  # units
_MOST_RECORDS = 4
_RIGHT = 0.85  # of decisions
_LABELS = ("one", "two", "three", "four", "five", "six")
_STAND = (0.5, 0.35, 0.25, 0.2, 0.12, 0.08)  # how often each stands, with several labels a record

Drawn = tuple[NDArray[np.float32], Targets]  # logits and targets of some records


@dataclass(frozen=True)
class Point:
    """One number of units. Errors are standard errors, or root mean squares; None where nothing was told."""

    units: int
    told: float  # share of the repeats in which the noise did not drown the score
    error: float | None  # against the truth
    noise: float | None  # against the score of the same units without noise
    stated: float | None  # by the metrics, on average
    stated_noise: float | None
    predicted_noise: float  # before anything is spent, at worst


@dataclass(frozen=True)
class Curve:
    kind: str
    release: Release
    score: str
    truth: float
    num_cells: int
    points: list[Point]


@dataclass(frozen=True)
class MetricsBench:
    epsilon: float
    delta: float
    noise_multiplier: float
    repeats: int
    curves: list[Curve]

    def to_json(self) -> dict[str, object]:
        return {"bench": "metrics", **asdict(self)}

    def lines(self) -> list[str]:
        found = [f"one evaluation at epsilon {self.epsilon:g}, delta {self.delta:g}: noise {self.noise_multiplier:.3g}"]
        for curve in self.curves:
            found.append(f"{curve.kind}, release {curve.release}: {curve.score}, truth {curve.truth:.3f}")
            for point in curve.points:
                errors = ", ".join(
                    f"{name} {'-' if value is None else format(value, '.3g')}"
                    for name, value in (("error", point.error), ("stated", point.stated), ("of noise", point.noise))
                )
                found.append(
                    f"  {point.units:>7,} units: {errors}, predicted {point.predicted_noise:.3g}, told "
                    f"{100 * point.told:.0f} %"
                )
        return found


def _classification(random: np.random.Generator, count: int) -> Drawn:
    labels = random.integers(len(_LABELS), size=count)
    said = np.where(random.random(count) < _RIGHT, labels, random.integers(len(_LABELS), size=count))
    return np.eye(len(_LABELS), dtype=np.float32)[said], labels


def _multilabel(random: np.random.Generator, count: int) -> Drawn:
    stand = random.random((count, len(_LABELS))) < np.array(_STAND)
    said = stand ^ (random.random(stand.shape) > _RIGHT + (1 - _RIGHT) / 2)
    return np.where(said, 1, -1).astype(np.float32), stand.astype(np.int8)


CASES: dict[str, tuple[tuple[Release, ...], Callable[[np.random.Generator, int], Drawn]]] = {
    "classification": (("accuracy", "per_class", "confusion"), _classification),
    "multilabel": (("accuracy", "per_class"), _multilabel),
}
"""By kind of task: the releases, and logits and targets of so many records."""


def bench_metrics(
    epsilon: float = 1.0,
    delta: float = 1e-5,
    *,
    repeats: int = 40,
    units: Sequence[int] = UNITS,
    kinds: Sequence[str] = (),
    on_case: Callable[[str], None] = lambda _: None,
) -> MetricsBench:
    """kinds: of CASES; all of them unless told. Raises: ConfigError."""
    sigma = noise_multiplier(sample_rate=1.0, steps=1, epsilon=epsilon, delta=delta)
    curves = []
    for kind in kinds or CASES:
        if kind not in CASES:
            raise ConfigError(f"got the kind {kind!r}.", where="--kind", mend=f"one of: {', '.join(CASES)}.")
        releases, draw = CASES[kind]
        task = task_of(TaskSpec.model_validate({"kind": kind, "labels": list(_LABELS)}))
        for release in releases:
            on_case(f"{kind}, {release}")
            curves.append(_curve(task, release, draw, sigma, repeats, units))
    return MetricsBench(epsilon, delta, sigma, repeats, curves)


def _curve(
    task: Task,
    release: Release,
    draw: Callable[[np.random.Generator, int], Drawn],
    sigma: float,
    repeats: int,
    units: Sequence[int],
) -> Curve:
    truth = task.exact_score(release, _cells(task, release, draw, np.random.default_rng(0), _TRUTH))
    points = []
    for count in units:
        random = np.random.default_rng([count, repeats])
        off_truth, off_own, stated, stated_noise = [], [], [], []
        for _ in range(repeats):
            cells = _cells(task, release, draw, random, count)
            score = task.noised_metrics(release, cells + random.normal(0, sigma, cells.shape), sigma**2).score
            if score is not None:
                off_truth.append(score.value - truth)
                off_own.append(score.value - task.exact_score(release, cells))
                stated.append(score.error)
                stated_noise.append(score.noise_error)
        points.append(
            Point(
                units=count,
                told=len(stated) / repeats,
                error=_root_mean_square(off_truth),
                noise=_root_mean_square(off_own),
                stated=_root_mean_square(stated),
                stated_noise=_root_mean_square(stated_noise),
                predicted_noise=task.predicted_standard_error(release, sigma, count),
            )
        )
    return Curve(task.spec.kind, release, task.score_name, truth, task.num_cells(release), points)


def _cells(
    task: Task,
    release: Release,
    draw: Callable[[np.random.Generator, int], Drawn],
    random: np.random.Generator,
    units: int,
) -> NDArray[np.float64]:
    """Of so many units of 1 to 4 records each."""
    members = np.repeat(np.arange(units), random.integers(1, _MOST_RECORDS + 1, size=units))
    logits, targets = draw(random, len(members))
    return task.unit_cells(release, logits, targets, members, units)


def _root_mean_square(values: Sequence[float]) -> float | None:
    return math.sqrt(sum(value**2 for value in values) / len(values)) if values else None


def write(found: MetricsBench, folder: Path) -> list[Path]:
    """metrics.json and metrics.png in `folder`. Raises: RunError; ConfigError where matplotlib is missing."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError(
            "the plot needs matplotlib.", where="--out", mend='pip install "privet[simulation]"'
        ) from error
    figure = Figure(figsize=(5.2 * max(1, len(found.curves)), 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    for place, curve in enumerate(found.curves, start=1):
        axes = figure.add_subplot(1, len(found.curves), place)
        series: dict[str, tuple[Sequence[float | None], str]] = {
            "error against the truth": ([point.error for point in curve.points], "o-"),
            "stated with the result": ([point.stated for point in curve.points], "s--"),
            "error of the noise alone": ([point.noise for point in curve.points], "^-"),
            "noise predicted before, at worst": ([point.predicted_noise for point in curve.points], ":"),
        }
        for name, (values, style) in series.items():
            known = [(point.units, value) for point, value in zip(curve.points, values, strict=True) if value]
            if known:
                axes.plot(*zip(*known, strict=True), style, label=name, markersize=4)
        axes.set(xscale="log", yscale="log", xlabel="validation units", ylabel=f"error of {curve.score}")
        axes.set_title(f"{curve.kind}, {curve.release} ({curve.num_cells} cells), ε {found.epsilon:g}", fontsize=10)
        axes.grid(alpha=0.3, which="both")
        axes.legend(fontsize=8)
    paths = [folder / "metrics.json", folder / "metrics.png"]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        paths[0].write_text(json.dumps(found.to_json(), indent=2, allow_nan=False) + "\n", encoding="utf-8")
        figure.savefig(paths[1], dpi=130)
    except OSError as error:
        raise RunError(f"cannot be written ({error.strerror}).", where=str(folder), mend="name another.") from None
    return paths
