"""How far noised metrics are from the truth as units grow: drawn, stated beforehand, and stated with the result.

For each kind of task, units of 1 to 4 records are drawn from a model that is right at a known rate; the task's own
cells, noise of one evaluation at the given ε, and the task's own metrics follow. The truth is the score of very many
units, none of whose counts is clipped. A point is the root mean square error over the repeats. Where a task clips, its
metrics tend to another number with more units: the curve's bias says how far from the truth that lies.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from privet.common.errors import ConfigError, RunError
from privet.common.privacy.calibration import noise_multiplier
from privet.common.privacy.events import Release
from privet.common.tasks.base import Task, task_of
from privet.simulations.bench.metrics_cases import CASES, Draw
from privet.simulations.bench.metrics_plot import picture
from privet.simulations.engines.cells import site_cells

UNITS = (100, 300, 1_000, 3_000, 10_000, 30_000)
_TRUTH = 200_000  # units
_MOST_RECORDS = 4
_NO_BOUND = 1000.0  # that clips nothing here: the largest that a plan may have


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
    bound: float | None  # of a unit's counts, where the task clips them
    bias: float  # of the score without noise, by clipping
    clipped: float | None  # share of the units
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
            bound = "" if curve.bound is None else f", bound {curve.bound:g}"
            found.append(f"{curve.kind}, release {curve.release}{bound}: {curve.score}, truth {curve.truth:.3f}")
            if curve.clipped is not None:
                found.append(f"  clipped {100 * curve.clipped:.1f} % of the units: bias {curve.bias:+.3g}")
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


def bench_metrics(
    epsilon: float = 1.0,
    delta: float = 1e-5,
    *,
    repeats: int = 40,
    units: Sequence[int] = UNITS,
    kinds: Sequence[str] = (),
    of_truth: int = _TRUTH,
    on_case: Callable[[str], None] = lambda _: None,
) -> MetricsBench:
    """kinds: of CASES; all of them unless told. of_truth: units that the truth is taken from. Raises: ConfigError."""
    sigma = noise_multiplier(sample_rate=1.0, steps=1, epsilon=epsilon, delta=delta)
    curves = []
    for kind in kinds or CASES:
        if kind not in CASES:
            raise ConfigError(f"got the kind {kind!r}.", where="--kind", mend=f"one of: {', '.join(CASES)}.")
        case = CASES[kind]
        for release, bound in case.settings:
            on_case(f"{kind}, {release}" + ("" if bound is None else f", bound {bound:g}"))
            task = task_of(case.spec(kind, bound))
            free = task if bound is None else task_of(case.spec(kind, _NO_BOUND))
            curves.append(_curve(task, free, release, case.draw, bound, sigma, repeats, units, of_truth))
    return MetricsBench(epsilon, delta, sigma, repeats, curves)


def _curve(
    task: Task,
    free: Task,
    release: Release,
    draw: Draw,
    bound: float | None,
    sigma: float,
    repeats: int,
    units: Sequence[int],
    of_truth: int,
) -> Curve:
    """free: the same task, which clips nothing."""
    truth = free.exact_score(release, _cells(free, release, draw, np.random.default_rng(0), of_truth)[0])
    cells, clipped = _cells(task, release, draw, np.random.default_rng(0), of_truth)
    bias = task.exact_score(release, cells) - truth
    points = []
    for count in units:
        random = np.random.default_rng([count, repeats])
        off_truth, off_own, stated, stated_noise = [], [], [], []
        for _ in range(repeats):
            cells, _ = _cells(task, release, draw, random, count)
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
    share = None if clipped is None else clipped / of_truth
    return Curve(task.spec.kind, release, task.score_name, truth, task.num_cells(release), bound, bias, share, points)


def _cells(
    task: Task, release: Release, draw: Draw, random: np.random.Generator, units: int
) -> tuple[NDArray[np.float64], float | None]:
    """Of so many units of 1 to 4 records each; and how many of them the task clipped, where it clips."""
    members = np.repeat(np.arange(units), random.integers(1, _MOST_RECORDS + 1, size=units))
    row = site_cells(task, release, *draw(random, len(members)), members, units)
    width = task.num_cells(release)
    return row[:width], float(row[width]) if len(row) > width else None


def _root_mean_square(values: Sequence[float]) -> float | None:
    return math.sqrt(sum(value**2 for value in values) / len(values)) if values else None


def write(found: MetricsBench, folder: Path) -> list[Path]:
    """metrics.json and metrics.png in `folder`. Raises: RunError; ConfigError where matplotlib is missing."""
    drawn = picture(found)
    paths = [folder / "metrics.json", folder / "metrics.png"]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        paths[0].write_text(json.dumps(found.to_json(), indent=2, allow_nan=False) + "\n", encoding="utf-8")
        paths[1].write_bytes(drawn)
    except OSError as error:
        raise RunError(f"cannot be written ({error.strerror}).", where=str(folder), mend="name another.") from None
    return paths
