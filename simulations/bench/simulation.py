"""`privet bench simulation`: what a virtual client's update costs, whole system, beside a bare Opacus loop.

privet's arms are real `privet simulate` commands, each run in a fresh process; the loop is a warm process that is told
how many updates to make. Arms take turns within every repeat.
"""

import contextlib
import csv
import math
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tomli_w

from privet.common.errors import ConfigError
from privet.simulations.bench.loop_arms import LOOP_ARMS
from privet.simulations.bench.machine import load, machine
from privet.simulations.bench.presets import Texts, preset_of, read_texts
from privet.simulations.bench.process import ArmProcess, Turn
from privet.simulations.bench.run_process import Run, timed_run
from privet.simulations.bench.spread import Spread, ratios, rotated
from privet.simulations.bench.step import plan_tables, prepare

LOOP = "opacus-loop"
# What each of privet's arms adds to the command `privet simulate`.
SIMULATED: Mapping[str, tuple[str, ...]] = {
    "cohort": (),  # as it comes: the fused engine, bfloat16 where the machine has it
    "cohort-fp32": ("--set", 'simulation.precision="float32"'),
    "sequential": ("--set", 'simulation.engine="opacus"', "--set", 'simulation.precision="float32"'),
}
ARMS = (*LOOP_ARMS, *SIMULATED)


@dataclass(frozen=True)
class SimulationFigures:
    """Of one arm. `speed`: updates per second of processor time beside the bare loop's, 2 is twice as fast. What only a
    whole simulation has is None for the loop."""

    arm: str
    cpu_seconds_per_update: Spread
    updates_per_second: Spread
    speed: Spread
    rounds_per_second: Spread | None
    start_seconds: Spread | None  # of a fresh process, until its first round is over
    whole_seconds: Spread | None
    peak_pss_bytes: Spread  # of the whole tree of processes


@dataclass(frozen=True)
class SimulationBench:
    """The machine, the work, and what was measured of each arm."""

    bench: str
    machine: dict[str, Any]
    preset: str
    sites: int
    cohort: int
    local_steps: int
    expected_batch: int
    max_length: int
    mean_length: float
    labels: int
    epsilon: float | None  # None: without privacy
    rounds: int
    repeats: int
    reference: str
    arms: list[SimulationFigures]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> list[str]:
        """For people."""
        machine = self.machine
        said = [
            f"{machine['processor']}, {machine['cores']} cores, torch {machine['torch']}, load "
            f"{machine['load_before']:.1f} to {machine['load_after']:.1f}",
            f"{self.preset}: {self.sites} sites, {self.cohort} a round, {self.local_steps} steps of "
            f"{self.expected_batch} examples expected, of at most {self.max_length} tokens (mean "
            f"{self.mean_length:.0f}), {self.labels} labels, ε "
            f"{math.inf if self.epsilon is None else self.epsilon:g}; {self.rounds} rounds, {self.repeats} "
            "repeats: median (lowest..highest)",
        ]
        for arm in self.arms:
            said.append(
                f"  {arm.arm:<12} {arm.cpu_seconds_per_update} s cpu an update, speed {arm.speed} beside "
                f"{self.reference}; {arm.updates_per_second} updates/s"
            )
            memory = f"{arm.peak_pss_bytes.median / 2**20:.0f} MiB PSS at most"
            if arm.start_seconds is not None and arm.rounds_per_second is not None:
                memory += f", first round done after {arm.start_seconds} s, then {arm.rounds_per_second} rounds/s"
            said.append(f"  {'':<12} {memory}")
        return said


def bench_simulation(
    preset: str,
    data: Path | None = None,
    *,
    sites: int = 0,
    cohort: int = 0,
    local_steps: int = 4,
    batch: int = 8,
    max_length: int = 64,
    epsilon: float = 8.0,
    rounds: int = 4,
    repeats: int = 3,
    arms: Sequence[str] = (),
    on_step: Callable[[str], None] = lambda _text: None,
) -> SimulationBench:
    """data: a file with the columns text and label; None measures on generated notes. sites, cohort: 0 for the
    preset's. batch: expected, of one step. rounds: of each run, of which the first is not timed. arms: besides the bare
    loop; none for all.

    Raises: ConfigError, DataError, ModelError; RunError where an arm fails.
    """
    known = preset_of(preset)
    sites, cohort = sites or known.sites, cohort or known.cohort
    names = _chosen(arms)
    texts = read_texts(data)
    if not 1 <= cohort <= sites:
        mend = "give a cohort of at most the sites."
        raise ConfigError(f"got {sites} sites and a cohort of {cohort}.", where="--sites, --cohort", mend=mend)
    if len(texts.texts) // sites < batch:
        what = f"{len(texts.texts)} rows give {sites} sites fewer than the {batch} that each is to draw."
        raise ConfigError(what, where="--sites, --batch", mend="give fewer sites, a smaller batch or more data.")
    before = load()
    with tempfile.TemporaryDirectory(prefix="privet-bench-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        on_step("Preparing the texts and the base model.")
        further = {"local_steps": local_steps, "sites": sites}
        job, rows = prepare(known, texts, folder, text="ragged", max_length=max_length, batch=batch, **further)
        tables = plan_tables(
            job.base, texts.known, max_length=max_length, batch=batch, rounds=rounds, local_steps=local_steps
        )
        tables["cohort"] = {"min_sites": cohort, "fraction": cohort / sites, "weight": "uniform"}
        command = _command(folder, texts, tables, sites=sites, epsilon=epsilon)
        loop = stack.enter_context(ArmProcess(folder, LOOP))
        loop.wait_until_ready()
        loop.turn(1)
        turns: list[Turn] = []
        runs: dict[str, list[Run]] = {arm: [] for arm in names if arm != LOOP}
        for repeat in range(repeats):
            for arm in rotated(names, repeat):
                on_step(f"Repeat {repeat + 1} of {repeats}: {arm}.")
                if arm == LOOP:
                    turns.append(loop.turn(cohort))
                else:
                    runs[arm].append(timed_run([*command, *SIMULATED[arm]], folder / f"{arm}.log", rounds=rounds))
        peak = float(loop.peak_pss)
    import torch

    return SimulationBench(
        "simulation",
        machine() | {"torch": torch.__version__, "load_before": before, "load_after": load()},
        preset,
        sites,
        cohort,
        local_steps,
        batch,
        max_length,
        rows.mean_length,
        len(texts.known),
        epsilon if math.isfinite(epsilon) else None,
        rounds,
        repeats,
        LOOP,
        [_loop_figures(turns, peak), *(_figures(arm, made, turns) for arm, made in runs.items())],
    )


def _command(folder: Path, texts: Texts, tables: Mapping[str, Any], *, sites: int, epsilon: float) -> list[str]:
    """`privet simulate` on files that it writes into `folder`. No row is public: nothing is evaluated."""
    with (folder / "data.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label", "split"])
        writer.writerows([text, label, "train"] for text, label in zip(texts.texts, texts.labels, strict=True))
    simulation = {"data": "data.csv", "split": "split"}
    content = {**tables, "simulation": simulation}
    (folder / "federation.toml").write_text(tomli_w.dumps(content), encoding="utf-8")
    command = [sys.executable, "-m", "privet.common.cli", "simulate", str(folder / "federation.toml")]
    return [*command, "--sites", str(sites), "--epsilon", str(epsilon), "--json"]


def _chosen(arms: Sequence[str]) -> list[str]:
    unknown = [arm for arm in arms if arm not in ARMS]
    if unknown:
        raise ConfigError(f"no arm {unknown[0]!r}.", where="--arm", mend=f"there are {', '.join(ARMS)}.")
    return [arm for arm in ARMS if not arms or arm in arms or arm == LOOP]


def _loop_figures(turns: Sequence[Turn], peak: float) -> SimulationFigures:
    cpu = [turn.cpu / turn.count for turn in turns]
    return SimulationFigures(
        LOOP,
        Spread.of(cpu),
        Spread.of([turn.count / turn.wall for turn in turns]),
        ratios(cpu, cpu),
        None,
        None,
        None,
        Spread.of([peak]),
    )


def _figures(arm: str, runs: Sequence[Run], loop: Sequence[Turn]) -> SimulationFigures:
    cpu = [run.cpu_per_update for run in runs]
    return SimulationFigures(
        arm,
        Spread.of(cpu),
        Spread.of([run.updates_per_second for run in runs]),
        ratios([turn.cpu / turn.count for turn in loop], cpu),
        Spread.of([run.rounds_per_second for run in runs]),
        Spread.of([run.start_seconds for run in runs]),
        Spread.of([run.whole_seconds for run in runs]),
        Spread.of([float(run.peak_pss) for run in runs]),
    )
