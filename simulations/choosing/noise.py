"""How the noise of a plan follows ε, rounds and batch: the accountant's own numbers. Nothing is trained."""

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from privet.common.errors import InputError
from privet.common.privacy.accountant import advantage, true_positive_bound
from privet.common.privacy.calibration import noise_multiplier
from privet.common.privacy.events import TrainEvent
from privet.simulations.choosing.drawing import Chart, Series, draw

T = TypeVar("T")
Lines = tuple[Series, ...]

EPSILONS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
ROUNDS = (5, 10, 20, 40, 80, 160, 320)
BATCHES = (16, 32, 64, 128, 256, 512, 1024)


@dataclass(frozen=True, kw_only=True)
class Terms:
    """One site and one plan, from which each chart departs in one number. Units train at all (train_fraction 1)."""

    units: int = 2000
    batch: int = 64
    rounds: int = 40
    local_steps: int = 5
    epsilon: float = 8.0
    delta: float = 1e-5

    def sigma(self, **changed: Any) -> float | None:
        """The noise multiplier that a site fixes, in clip norms; None where none will do or the batch is too large."""
        terms = Terms(**(asdict(self) | changed))
        if terms.batch > terms.units:
            return None
        try:
            return _sigma(terms.batch / terms.units, terms.rounds * terms.local_steps, terms.epsilon, terms.delta)
        except InputError:
            return None


@lru_cache(maxsize=1024)
def _sigma(sample_rate: float, steps: int, epsilon: float, delta: float) -> float:
    return noise_multiplier(sample_rate=sample_rate, steps=steps, epsilon=epsilon, delta=delta)


def charts(terms: Terms) -> list[Chart]:
    """Noise against ε, rounds, batch; and what of it is left in the mean of a batch."""
    delta = f"{terms.delta:g}".replace("e-0", "e-")
    at = f"{terms.units:,} units, δ {delta}, {terms.local_steps} steps a round"

    def lines(name: str, each: Sequence[T], values: Sequence[float], of: Callable[[T, float], float | None]) -> Lines:
        """A line for each value of one number, over values of another, where there is noise that will do."""
        found = [(one, [(value, of(one, value)) for value in values]) for one in each]
        return tuple(
            Series(name.format(one), tuple((value, y) for value, y in points if y is not None)) for one, points in found
        )

    def part(units: int, batch: float) -> float | None:
        sigma = terms.sigma(batch=int(batch), units=units)
        return None if sigma is None else sigma / batch

    sizes = sorted({terms.units // 4, terms.units, terms.units * 4})
    return [
        Chart(
            key="noise-epsilon",
            title="Noise against ε",
            note=f"{at}, B {terms.batch}",
            x="ε of the site for the whole plan",
            y="noise multiplier σ",
            lines=lines("{} rounds", (10, 40, 160), EPSILONS, lambda n, e: terms.sigma(rounds=n, epsilon=e)),
        ),
        Chart(
            key="noise-rounds",
            title="Noise against rounds",
            note=f"{at}, B {terms.batch}",
            x="rounds of the plan",
            y="noise multiplier σ",
            lines=lines("ε {:g}", (1.0, 4.0, 8.0), ROUNDS, lambda e, n: terms.sigma(rounds=int(n), epsilon=e)),
        ),
        Chart(
            key="noise-batch",
            title="Noise in the mean of a batch",
            note=f"ε {terms.epsilon:g}, δ {delta}, {terms.rounds} rounds of {terms.local_steps} steps",
            x="expected batch B, in units",
            y="σ / B: noise beside the signal",
            lines=lines("{:,} units at the site", sizes, BATCHES, part),
        ),
    ]


def meanings(terms: Terms) -> list[dict[str, float]]:
    """At several ε: σ, and bounds on any test whether one unit took part, from the composed losses themselves,
    rounded up.

    advantage: true minus false positive rate; true_positives: their rate at one false positive in a hundred.
    """
    rows = []
    for epsilon in EPSILONS:
        sigma = terms.sigma(epsilon=epsilon)
        if sigma is None:
            continue
        event = TrainEvent(
            sample_rate=terms.batch / terms.units,
            noise_multiplier=sigma,
            steps=terms.rounds * terms.local_steps,
            max_grad_norm=1.0,
            expected_batch=terms.batch,
            unit="unit",
            max_records=1,
        )
        found = {"advantage": advantage([event]), "true_positives": true_positive_bound([event], 0.01)}
        bounds = {name: math.ceil(1000 * value) / 1000 for name, value in found.items()}
        rows.append({"epsilon": epsilon, "sigma": sigma} | bounds)
    return rows


def document(terms: Terms, drawn: Sequence[Chart]) -> dict[str, Any]:
    """The numbers behind the plots."""
    return {"terms": asdict(terms), "means": meanings(terms), "charts": {chart.key: chart.to_json() for chart in drawn}}


def mark_of(chart: Chart) -> str:
    """What a chart's PNG carries: the SHA-256 of its numbers."""
    return hashlib.sha256(json.dumps(chart.to_json(), sort_keys=True).encode()).hexdigest()


def write_noise(folder: Path, terms: Terms) -> list[Path]:
    """noise.json and a PNG for each chart. Raises: ConfigError where matplotlib is missing, OSError."""
    drawn = charts(terms)
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / f"{chart.key}.png" for chart in drawn]
    for chart, path in zip(drawn, written, strict=True):
        draw(chart, path, mark_of(chart))
    numbers = folder / "noise.json"
    numbers.write_text(json.dumps(document(terms, drawn), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return [*written, numbers]
