"""`privet bench privacy`: what a step costs with each protection added, as ratios to a plain baseline.

Arms take turns within every repetition, and medians are compared: a busy machine slows all of them alike.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from privet.client.training import RoundTrainer
from privet.common.base import base_digest, resolve_base
from privet.common.config import Plan
from privet.common.privacy.noise import SecureNoise
from privet.simulations.bench.arms import Arm, arms
from privet.simulations.bench.machine import load, machine
from privet.simulations.corpus import hospital_notes

LENGTH = 64
_NUM_VALUES = 300_000  # of noise


@dataclass(frozen=True)
class Timing:
    """Medians of one arm: seconds a step, and their ratios to the first arm's."""

    method: str
    arm: str
    cpu: float
    wall: float
    cpu_ratio: float
    wall_ratio: float


@dataclass(frozen=True)
class NoiseTiming:
    """Medians, nanoseconds of processor time a value."""

    secure: float
    randn: float


@dataclass(frozen=True)
class PrivacyBench:
    """The machine, and what was measured on it."""

    machine: dict[str, Any]
    repetitions: dict[str, int]
    timings: list[Timing]
    noise: NoiseTiming

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> list[str]:
        """For people."""
        machine = self.machine
        said = [
            f"{machine['processor']}, {machine['threads']} of {machine['cores']} cores, torch {machine['torch']}, load "
            f"{machine['load_before']:.1f} to {machine['load_after']:.1f}"
        ]
        for method in dict.fromkeys(timing.method for timing in self.timings):
            rows = [timing for timing in self.timings if timing.method == method]
            said.append(f"{method}, medians of {self.repetitions[method]} steps")
            said += [
                f"  {row.arm:<42} {row.cpu * 1e3:9.1f} ms cpu x{row.cpu_ratio:.2f}   "
                f"{row.wall * 1e3:9.1f} ms wall x{row.wall_ratio:.2f}"
                for row in rows
            ]
        said.append(f"noise: {self.noise.secure:.1f} ns a value; torch.randn {self.noise.randn:.1f} ns")
        return said


def bench_privacy(
    base: str, *, repetitions: int = 5, num_texts: int = 200, on_arm: Callable[[str], None] | None = None
) -> PrivacyBench:
    """One thread, generated notes, the methods `ffa` (rank 8 on query and value) and `head`.

    base: as in a plan. Raises: ModelError.
    """
    folder = resolve_base(base)
    notes = hospital_notes(num_sites=1, num_patients=num_texts)
    texts = list(notes.text[:num_texts])
    labels = np.array([notes.labels.index(label) for label in notes.label[:num_texts]], np.int64)
    before, threads = load(), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        timings: list[Timing] = []
        counts = {"ffa": repetitions, "head": 10 * repetitions}
        for method, count in counts.items():
            if on_arm is not None:
                on_arm(method)
            plan = _plan(base, base_digest(folder), method, notes.labels)
            timings += _timings(method, arms(RoundTrainer(plan, folder), texts, labels), count)
        noise = _noise(repetitions)
    finally:
        torch.set_num_threads(threads)
    told = machine() | {"threads": 1, "torch": torch.__version__, "load_before": before, "load_after": load()}
    return PrivacyBench(told, counts, timings, noise)


def _plan(base: str, digest: str, method: str, labels: Sequence[str]) -> Plan:
    return Plan.model_validate(
        {
            "format": 1,
            "name": "bench",
            "task": {"labels": list(labels), "max_length": LENGTH},
            "model": {"base": base, "sha256": digest},
            "method": {"kind": method},
            "lora": {"rank": 8, "targets": ["query", "value"]},
            "training": {"rounds": 1, "expected_batch": 32, "learning_rate": 0.01},
        }
    )


def _timings(method: str, all_arms: Sequence[Arm], repetitions: int) -> list[Timing]:
    cpu: list[list[float]] = [[] for _ in all_arms]
    wall: list[list[float]] = [[] for _ in all_arms]
    for number in range(repetitions + 1):
        for index, arm in enumerate(all_arms):
            started = time.process_time(), time.perf_counter()
            arm.step(number)
            ended = time.process_time(), time.perf_counter()
            if number:  # the first turn warms up
                cpu[index].append(ended[0] - started[0])
                wall[index].append(ended[1] - started[1])
    medians = [(statistics.median(c), statistics.median(w)) for c, w in zip(cpu, wall, strict=True)]
    plain_cpu, plain_wall = medians[0]
    return [
        Timing(method, arm.name, c, w, c / plain_cpu, w / plain_wall)
        for arm, (c, w) in zip(all_arms, medians, strict=True)
    ]


def _noise(repetitions: int) -> NoiseTiming:
    source = SecureNoise()
    sides: list[Callable[[], object]] = [lambda: source.normal(_NUM_VALUES), lambda: torch.randn(_NUM_VALUES)]
    spent: list[list[float]] = [[], []]
    for _ in range(repetitions):
        for index, draw in enumerate(sides):
            started = time.process_time()
            draw()
            spent[index].append(time.process_time() - started)
    secure, randn = (statistics.median(times) * 1e9 / _NUM_VALUES for times in spent)
    return NoiseTiming(secure, randn)
