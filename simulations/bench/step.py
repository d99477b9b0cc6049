"""`privet bench step`: what one private step of training costs beside the same step without privacy.

Each arm is a process of its own with one thread; arms take turns within every repeat, and ratios are taken repeat by
repeat: a busy machine slows all of them alike.
"""

import contextlib
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from privet.common.base import base_digest, resolve_base
from privet.common.config import Plan
from privet.common.errors import ConfigError
from privet.simulations.bench.job import Job, Rows, Text, tokenised
from privet.simulations.bench.machine import load, machine
from privet.simulations.bench.presets import Preset, Texts, base_of, preset_of, read_texts
from privet.simulations.bench.process import ArmProcess, Turn
from privet.simulations.bench.spread import Spread, ratios, rotated
from privet.simulations.bench.step_arms import STEP_ARMS

ARMS: dict[Text, tuple[str, ...]] = {
    "fixed": tuple(name for name in STEP_ARMS if name != "opacus-padded"),  # there is nothing to pad
    "ragged": tuple(STEP_ARMS),
}
_TEXTS = 4096  # that are drawn from, at most
REFERENCE: dict[Text, str] = {"fixed": "peft", "ragged": "opacus-padded"}


@dataclass(frozen=True)
class StepFigures:
    """Of one arm. Speeds are beside the reference arm's, by processor time and by the clock: 2 is twice as fast."""

    arm: str
    parameters: int
    steps_per_second: Spread
    examples_per_second: Spread
    cpu_seconds_per_step: Spread
    cpu_speed: Spread
    wall_speed: Spread
    peak_pss_bytes: int


@dataclass(frozen=True)
class StepBench:
    """The machine, the work, and what was measured of each arm."""

    bench: str
    machine: dict[str, Any]
    preset: str
    text: Text
    max_length: int
    mean_length: float
    labels: int
    batch: int
    steps: int
    repeats: int
    reference: str
    arms: list[StepFigures]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> list[str]:
        """For people."""
        machine = self.machine
        return [
            f"{machine['processor']}, {machine['cores']} cores, one thread a process, torch {machine['torch']}, load "
            f"{machine['load_before']:.1f} to {machine['load_after']:.1f}",
            f"{self.preset}, {self.text} text of at most {self.max_length} tokens (mean {self.mean_length:.0f}), "
            f"{self.batch} examples a step, {self.labels} labels; {self.repeats} turns of {self.steps} steps: median "
            f"(lowest..highest); speed beside {self.reference}",
            *(
                f"  {arm.arm:<14} {arm.cpu_seconds_per_step} s cpu a step, speed {arm.cpu_speed}, by the clock "
                f"{arm.wall_speed}; {arm.steps_per_second} steps/s, {arm.examples_per_second.median:.4g} examples/s; "
                f"{arm.peak_pss_bytes / 2**20:.0f} MiB PSS"
                for arm in self.arms
            ),
        ]


def bench_step(
    preset: str,
    data: Path | None = None,
    *,
    text: str = "fixed",
    max_length: int = 64,
    batch: int = 32,
    repeats: int = 5,
    steps: int = 0,
    arms: Sequence[str] = (),
    on_step: Callable[[str], None] = lambda _text: None,
) -> StepBench:
    """data: a file with the columns text and label; None measures on generated notes. steps: of a turn, 0 for the
    preset's. arms: besides the reference; none for all.

    Raises: ConfigError, DataError, ModelError; RunError where an arm fails.
    """
    known, kind = preset_of(preset), _kind(text)
    names = _chosen(kind, arms)
    before = load()
    with tempfile.TemporaryDirectory(prefix="privet-bench-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        on_step("Preparing the texts and the base model.")
        job, rows = prepare(
            known, read_texts(data), folder, text=kind, max_length=max_length, batch=batch, limit=_TEXTS
        )
        on_step(f"Starting {', '.join(names)}.")
        processes = {arm: stack.enter_context(ArmProcess(folder, arm)) for arm in names}
        for process in processes.values():
            process.wait_until_ready()
        turns: dict[str, list[Turn]] = {arm: [] for arm in names}
        for repeat in range(repeats + 1):
            on_step(f"Turn {repeat} of {repeats}." if repeat else "Warming up.")
            for arm in rotated(names, repeat):
                turn = processes[arm].turn(steps or known.steps)
                if repeat:
                    turns[arm].append(turn)
    import torch

    told = machine() | {"torch": torch.__version__, "load_before": before, "load_after": load()}
    return StepBench(
        "step",
        told,
        preset,
        kind,
        max_length,
        rows.mean_length,
        len(job.plan["task"]["labels"]),
        batch,
        steps or known.steps,
        repeats,
        REFERENCE[kind],
        [_figures(processes[arm], turns[arm], turns[REFERENCE[kind]]) for arm in names],
    )


def prepare(
    preset: Preset,
    texts: Texts,
    folder: Path,
    *,
    text: Text,
    max_length: int,
    batch: int,
    limit: int | None = None,
    **further: int,
) -> tuple[Job, Rows]:
    """Write what the arms work on, of at most `limit` texts, into `folder`. further: fields of Job."""
    from privet.common.model import load_tokenizer

    base = base_of(preset, folder / "base", texts.texts)
    labels = np.array([texts.known.index(label) for label in texts.labels], np.int64)
    rows = tokenised(load_tokenizer(resolve_base(base)), texts.texts, labels, text, max_length, limit)
    tables = plan_tables(base, texts.known, max_length=max_length, batch=batch)
    if text == "fixed":
        tables["task"]["buckets"] = [max_length]
    plan = Plan.model_validate(tables)
    job = Job(str(folder), base, plan.model_dump(mode="json"), batch=batch, **further)
    job.write(rows)
    return job, rows


def plan_tables(base: str, labels: Sequence[str], *, max_length: int, batch: int, **training: Any) -> dict[str, Any]:
    """A plan's tables: LoRA of rank 8 on query and value under the stock classifier, factors and head trained."""
    return {
        "format": 1,
        "name": "bench",
        "task": {"labels": list(labels), "max_length": max_length, "buckets": _buckets(max_length)},
        "model": {"base": base, "sha256": base_digest(resolve_base(base)), "pooling": "cls"},
        "method": {"kind": "fedavg"},
        "lora": {"rank": 8, "alpha": 16.0, "targets": ["query", "value"]},
        "training": {"rounds": 1, "expected_batch": batch, "learning_rate": 0.001} | training,
    }


def _buckets(max_length: int) -> list[int]:
    """Padded lengths close enough for short texts: a researcher's choice, public as the plan is."""
    shorter = (8, 12, 16, 20, 24, 32, 48, 64, 96, 128, 192, 256)
    return [length for length in shorter if length < max_length] + [max_length]


def _kind(text: str) -> Text:
    for kind in get_args(Text):
        if text == kind:
            return kind  # type: ignore[no-any-return]
    raise ConfigError(f"got {text!r}.", where="--text", mend="give fixed or ragged.")


def _chosen(kind: Text, arms: Sequence[str]) -> list[str]:
    unknown = [arm for arm in arms if arm not in ARMS[kind]]
    if unknown:
        mend = f"with {kind} text there are {', '.join(ARMS[kind])}."
        raise ConfigError(f"no arm {unknown[0]!r}.", where="--arm", mend=mend)
    return [arm for arm in ARMS[kind] if not arms or arm in arms or arm == REFERENCE[kind]]


def _figures(process: ArmProcess, turns: Sequence[Turn], reference: Sequence[Turn]) -> StepFigures:
    cpu, wall = [turn.cpu / turn.count for turn in turns], [turn.wall / turn.count for turn in turns]
    return StepFigures(
        process.name,
        process.num_parameters,
        Spread.of([1 / seconds for seconds in wall]),
        Spread.of([turn.examples / turn.wall for turn in turns]),
        Spread.of(cpu),
        ratios([turn.cpu / turn.count for turn in reference], cpu),
        ratios([turn.wall / turn.count for turn in reference], wall),
        process.peak_pss,
    )
