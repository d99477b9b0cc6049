"""One DP step of a plan on generated records, in a process of its own: what it takes of time and memory here.

It reads no record, writes nothing and spends nothing: the records are random token ids of the plan's longest length,
and what is computed on them is thrown away. Every unit is given the most records that the site allows, each as long as
the plan reads: the figures are upper bounds. A fresh interpreter, so that the peak is that of the step alone.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from privet.client.engines import EngineName
from privet.client.preflight.results import Status, Step
from privet.common.config import Plan, Site, parse_plan
from privet.common.precision import AskedPrecision, usable_precision

if TYPE_CHECKING:
    from privet.client.training import RoundTrainer
    from privet.common.examples import Examples, TokenExamples

MAX_WINDOWS = 32  # that are computed in one trial; more are counted in proportion
TRIAL_SECONDS = 900.0


@dataclass(frozen=True)
class Trial:
    """What one step took, scaled to the plan's expected batch."""

    seconds_per_step: float
    seconds_per_round: float  # local_steps of it
    peak_bytes: int  # of the process: interpreter, libraries, model and step
    seconds_to_build: float  # the model, once
    windows: int  # of max_length tokens that were computed
    windows_per_step: int  # of the plan: expected batch times records of a unit times windows of a record


@dataclass(frozen=True)
class Task:
    """What the child process is told."""

    plan: str  # canonical JSON
    base: str
    threads: int
    expected_batch: int
    max_records: int  # of one unit, in one step
    engine: EngineName = "opacus"
    precision: AskedPrecision = "float32"


def task_of(plan: Plan, site: Site, base: Path) -> Task:
    """The trial of a plan at a site; base: the folder of the checked base."""
    batch = plan.training.expected_batch
    if batch == "site":
        membership = site.federation.get(plan.name)
        batch = (membership.expected_batch if membership else None) or site.budget.declared_units
    records = 1 if site.data.unit == "record" else site.data.max_records
    given = site.resources
    units = min(batch, site.budget.declared_units)
    return Task(plan.canonical(), str(base), given.threads, units, records, given.engine, given.precision)


def step_step(task: Task, seconds: float = TRIAL_SECONDS) -> tuple[Step, Trial | None]:
    """The trial, told against the plan's time-out of a round; None where it did not come to an end."""
    plan = parse_plan(task.plan)
    try:
        trial = run(task, seconds)
    except subprocess.TimeoutExpired:
        what = f"did not end within {seconds:g} s."
        return Step("one step", Status.FAILED, what, "use a faster machine, or ask for a smaller plan."), None
    except subprocess.CalledProcessError as error:
        return _failed(error), None
    what = (
        f"{_seconds(trial.seconds_per_step)} a step, {_seconds(trial.seconds_per_round)} a round of "
        f"{plan.training.local_steps} steps, {trial.peak_bytes / 10**9:.1f} GB at the peak, with {task.threads} "
        f"{'threads' if task.threads > 1 else 'thread'}: at most, with {task.expected_batch:,} units of "
        f"{task.max_records} generated records of {plan.task.max_length} tokens"
    )
    if trial.windows < trial.windows_per_step:
        what += f" (reckoned from {trial.windows} of {trial.windows_per_step:,} texts)"
    numbers = asdict(trial) | {"threads": task.threads, "timeout": plan.cohort.timeout}
    if trial.seconds_per_round > plan.cohort.timeout:
        mend = (
            "more [resources] threads, or a faster machine; or ask the server's operator for a longer cohort.timeout."
        )
        what += f": more than the {plan.cohort.timeout:g} s that the plan gives a round."
        return Step("one step", Status.WARNING, what, mend, numbers=numbers), trial
    return Step("one step", Status.PASSED, f"{what}.", numbers=numbers), trial


def run(task: Task, seconds: float = TRIAL_SECONDS) -> Trial:
    """Raises: subprocess.TimeoutExpired; subprocess.CalledProcessError."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "privet.client.preflight.step"],
        input=json.dumps(asdict(task)),
        capture_output=True,
        text=True,
        timeout=seconds,
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": str(task.threads), "HF_HUB_OFFLINE": "1"},
    )
    return Trial(**json.loads(done.stdout.splitlines()[-1]))


def synthetic(trainer: "RoundTrainer", num_units: int, records: int) -> "TokenExamples":
    """`num_units` units of `records` random records each, every window of the plan's longest length."""
    import numpy as np

    from privet.common.examples import TokenExamples
    from privet.common.grouping import Units, Windows

    task, generator = trainer.plan.task, np.random.default_rng()
    count = num_units * records
    shape = (count * task.windows, task.buckets[-1])
    ids = generator.integers(0, trainer.classifier.vocabulary, shape, dtype=np.int32)
    labels, tags = trainer.task.nobody(count, task.max_length), None
    if trainer.task.per_token:
        labels, tags = np.zeros(count, np.int64), list(trainer.task.nobody(len(ids), task.max_length).astype(np.int32))
    units = Units(np.repeat(np.arange(num_units), records), num_units)
    pad = int(trainer.tokenizer.pad_token_id or 0)
    return TokenExamples(list(ids), labels, units, task.buckets, pad, Windows(np.full(count, task.windows)), tags)


def measure(task: Task) -> Trial:
    """Build the plan's model and train one step, in this process."""
    import torch

    from privet.client.training import RoundTrainer
    from privet.common.privacy.events import TrainEvent
    from privet.common.privacy.noise import SecureNoise

    torch.set_num_threads(task.threads)
    plan, began = parse_plan(task.plan), time.perf_counter()
    precision = usable_precision(task.precision)[0]
    trainer = RoundTrainer(plan, Path(task.base), engine=task.engine, precision=precision)
    built = time.perf_counter() - began
    wanted = task.expected_batch * task.max_records * plan.task.windows
    records = min(task.max_records, max(1, MAX_WINDOWS // plan.task.windows))
    num_units = min(task.expected_batch, max(1, MAX_WINDOWS // (records * plan.task.windows)))
    tokens = synthetic(trainer, num_units, records)
    examples: Examples = tokens
    computed = num_units * records * plan.task.windows
    if trainer.frozen_features:  # the base runs once over all records, before the first round
        examples = _features(trainer, tokens, task.expected_batch, task.max_records)
        computed = wanted
    event = TrainEvent(
        sample_rate=1.0, noise_multiplier=1.0, steps=1, max_grad_norm=plan.training.max_grad_norm,
        expected_batch=task.expected_batch, unit="unit", max_records=task.max_records,
    )  # fmt: skip
    began = time.perf_counter()
    trainer.update(trainer.classifier.read(), examples, 1, event, SecureNoise())
    seconds = (time.perf_counter() - began) * max(1.0, wanted / computed)
    engine = trainer.engine(1)
    unheld = max(0, min(engine.max_windows, wanted) - computed) * engine.spec.size * 4  # gradients of the full step
    return Trial(seconds, seconds * plan.training.local_steps, peak_bytes() + unheld, built, computed, wanted)


def _features(trainer: "RoundTrainer", tokens: "TokenExamples", num_units: int, records: int) -> "Examples":
    """Features of so many units, the computed ones over and over."""
    import numpy as np
    import torch

    from privet.common.examples import FeatureExamples
    from privet.common.grouping import Units, Windows
    from privet.common.inference import frozen_features

    found, windows, count = frozen_features(trainer.classifier, tokens), trainer.plan.task.windows, num_units * records
    table = found.features[torch.arange(count * windows) % len(found.features)]
    labels = trainer.task.nobody(count, 1)
    units = Units(np.repeat(np.arange(num_units), records), num_units)
    return FeatureExamples(table, labels, units, Windows(np.full(count, windows)))


def peak_bytes() -> int:
    """Most memory that this process has held. ru_maxrss would count the parent's too where the system forked it."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration, ValueError):
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024


def _failed(error: subprocess.CalledProcessError) -> Step:
    if error.returncode == -signal.SIGKILL:
        what = "the process was killed by the system, most likely for want of memory."
        mend = "free memory, or ask for a plan with shorter texts or a smaller base."
        return Step("one step", Status.FAILED, what, mend)
    lines = str(error.stderr).strip().splitlines()
    what = f"the plan's model cannot be trained here: {lines[-1] if lines else f'exit code {error.returncode}'}"
    return Step("one step", Status.FAILED, what, "see that the versions are those that privet pins.")


def _seconds(value: float) -> str:
    return f"{value / 3600:.1f} h" if value >= 7200 else f"{value:.1f} s" if value >= 1 else f"{1000 * value:.0f} ms"


if __name__ == "__main__":
    from privet.common import quiet as _quiet

    _quiet.hush()
    given = json.load(sys.stdin)
    print(json.dumps(asdict(measure(Task(**given)))))
