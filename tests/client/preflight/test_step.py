"""The synthetic step: time and memory of a plan on generated records, in a process of its own."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privet.client.preflight import step as module
from privet.client.preflight.results import Status
from privet.client.preflight.step import Task, Trial, measure, run, step_step, synthetic, task_of
from privet.client.training import RoundTrainer
from privet.common.config import Site
from tests.client.test_report import make_site
from tests.tiny_models import tiny_plan


def task(base: Path, kind: str = "head", batch: int = 64, records: int = 4, **tables: Any) -> Task:
    return Task(tiny_plan(base, method={"kind": kind}, **tables).canonical(), str(base), 1, batch, records)


def test_generated_records_are_of_the_longest_length_and_of_every_unit(base: Path) -> None:
    plan = tiny_plan(base, task={"max_length": 32, "windows": 2, "labels": ["a", "b"]})
    examples = synthetic(RoundTrainer(plan, base), 3, 4)
    assert [len(examples.units.records(unit)) for unit in range(3)] == [4, 4, 4]
    assert set(examples.windows.counts.tolist()) == {2}
    assert set(examples.bucket_of.tolist()) == {len(plan.task.buckets) - 1}
    assert set(examples.labels.tolist()) <= {0, 1}
    again = synthetic(RoundTrainer(plan, base), 3, 4)
    assert not np.array_equal(examples._ids[-1], again._ids[-1])  # of no file and no seed


@pytest.mark.parametrize(("kind", "computed"), [("head", 256), ("ffa", 32)])
def test_a_step_is_measured_and_scaled_to_the_plans_batch(base: Path, kind: str, computed: int) -> None:
    trial = measure(task(base, kind))
    assert (trial.windows, trial.windows_per_step) == (computed, 256)
    assert trial.seconds_per_step > 0
    assert trial.seconds_per_round == pytest.approx(5 * trial.seconds_per_step)
    assert trial.peak_bytes > 50_000_000


def test_a_plan_that_starts_from_a_trained_adapter_is_measured_as_any(base: Path) -> None:
    plan = tiny_plan(base, method={"kind": "head", "init": "ab" * 32})
    assert measure(Task(plan.canonical(), str(base), 1, 4, 2)).seconds_per_step > 0


def test_the_step_draws_secure_noise_for_every_unit(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from privet.common.privacy.noise import SecureNoise

    seen = []
    update = RoundTrainer.update

    def watched(self: Any, arrays: Any, examples: Any, round: int, event: Any, noise: Any) -> Any:
        seen.append((type(noise), event.sample_rate, event.steps, event.expected_batch, event.max_records))
        return update(self, arrays, examples, round, event, noise)

    monkeypatch.setattr(RoundTrainer, "update", watched)
    measure(task(base))
    assert seen == [(SecureNoise, 1.0, 1, 64, 4)]


@pytest.mark.slow
def test_the_child_tells_its_own_peak_and_not_its_parents(base: Path) -> None:
    hog = bytearray(1_200_000_000)
    hog[::4096] = b"x" * len(hog[::4096])
    trial = run(task(base, batch=4, records=1))
    del hog
    assert trial.windows == trial.windows_per_step == 4
    assert 50_000_000 < trial.peak_bytes < 1_100_000_000


def test_what_the_site_says_decides_the_size_of_the_step(base: Path) -> None:
    raw = make_site().model_dump()
    raw["federation"]["tiny"] = raw["federation"].pop("f") | {"expected_batch": 7}
    site = Site.model_validate(raw)
    plan = tiny_plan(base)
    assert (task_of(plan, site, base).expected_batch, task_of(plan, site, base).max_records) == (4, 4)
    own = tiny_plan(base, training={"expected_batch": "site"})
    assert task_of(own, site, base).expected_batch == 7
    raw["data"]["unit"] = "record"
    assert task_of(plan, Site.model_validate(raw), base).max_records == 1
    assert "d.csv" not in str(task_of(plan, site, base))  # the child is told of no data


# What may go wrong


def _with(monkeypatch: pytest.MonkeyPatch, trial: Trial) -> None:
    monkeypatch.setattr(module, "run", lambda *_: trial)


def test_a_round_longer_than_the_plans_timeout_is_warned_of(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seconds, status in ((599.0, Status.PASSED), (601.0, Status.WARNING)):
        _with(monkeypatch, Trial(seconds / 5, seconds, 10**9, 1.0, 32, 256))
        step, trial = step_step(task(base))
        assert step.status is status
        assert trial is not None
        assert "reckoned from 32 of 256 texts" in step.what
        assert step.numbers["seconds_per_round"] == seconds


def test_a_child_that_is_killed_fails_or_hangs_is_a_failed_step(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for script, words in (
        ("kill -9 $$", "want of memory"),
        ("echo some words >&2; echo 'ModelError: no such layer' >&2; exit 1", "no such layer"),
        ("exec sleep 30", "did not end within"),
    ):
        child = tmp_path / "child"
        child.write_text(f"#!/bin/sh\n{script}\n")
        child.chmod(0o700)
        monkeypatch.setattr(sys, "executable", str(child))
        step, trial = step_step(task(base), seconds=0.5)
        assert step.status is Status.FAILED
        assert trial is None
        assert words in step.what
        assert step.mend
