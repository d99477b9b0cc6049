"""`privet bench step`: all arms do the same work, and a process that is told to takes its turns."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from privet.common.base import resolve_base
from privet.common.cli.bench import app
from privet.common.errors import ConfigError, DataError, RunError
from privet.common.model import load_tokenizer
from privet.simulations.bench import presets, step, step_arms
from privet.simulations.bench import process as bench_process
from privet.simulations.bench.job import Draws, Job, tokenised
from privet.simulations.bench.loop_arms import opacus_loop
from privet.simulations.bench.presets import PRESETS, Texts, read_texts
from privet.simulations.bench.process import ArmProcess, Turn

WORDS = ("heart", "chest", "pain", "fever", "card", "refund", "the", "patient", "has", "was")


def _texts(count: int = 60) -> Texts:
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(WORDS, int(random.integers(1, 40)))) for _ in range(count)]
    return Texts(texts, [f"label {index % 3}" for index in range(count)], [f"label {index}" for index in range(3)])


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    folder = tmp_path_factory.mktemp("job")
    return step.prepare(PRESETS["tiny"], _texts(), folder, text="ragged", max_length=32, batch=8)[0]


def test_fixed_text_fills_every_row(job: Job) -> None:
    tokenizer = load_tokenizer(resolve_base(job.base))
    labels = np.arange(60) % 3
    rows = tokenised(tokenizer, _texts().texts, labels, "fixed", 32, None)
    assert {len(row) for row in rows.ids} == {32}
    assert {(int(row[0]), int(row[-1])) for row in rows.ids} == {(tokenizer.cls_token_id, tokenizer.sep_token_id)}
    assert len(rows.labels) == len(rows.ids)


def test_ragged_text_keeps_its_lengths(job: Job) -> None:
    rows = job.rows()
    tokenizer = load_tokenizer(resolve_base(job.base))
    expected = sorted(min(32, len(tokenizer(text)["input_ids"])) for text in _texts().texts)
    assert sorted(len(row) for row in rows.ids) == expected
    assert expected[0] < 16 < expected[-1]


@pytest.mark.slow
def test_every_arm_trains_as_many_parameters_on_as_many_examples(job: Job) -> None:
    made = {name: arm(job) for name, arm in step_arms.STEP_ARMS.items()}
    assert len({arm.num_parameters for arm in made.values()}) == 1
    assert {name: arm.work(2) for name, arm in made.items()} == dict.fromkeys(made, 16)


def test_privets_arms_draw_the_same_rows(job: Job) -> None:
    noise, draws = step_arms._EqualDraws(job, 60), Draws(job.seed, 60, job.batch)
    for _ in range(3):
        np.testing.assert_array_equal(np.flatnonzero(noise.mask(60, 0.1)), draws.next())


def test_padding_changes_nothing(job: Job) -> None:
    silent = replace(job, noise_multiplier=0.0)
    found = []
    for padded in (True, False):
        torch.manual_seed(0)
        model, optimizer = step_arms.private_model(silent)
        start = [parameter.detach().clone() for parameter in step_arms._trained(model)]
        step_arms._written_out(silent, model, optimizer, padded=padded).work(2)
        found.append([(p.detach() - s) for p, s in zip(step_arms._trained(model), start, strict=True)])
    assert max(float(change.abs().max()) for change in found[0]) > 1e-4
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), atol=2e-5)


def test_the_loop_takes_empty_draws(job: Job) -> None:
    arm = opacus_loop(replace(job, batch=1, local_steps=6, sites=4))  # each of 15 rows with probability 1/15
    assert arm.num_parameters == step_arms.peft(job).num_parameters
    examples = [arm.work(1) for _ in range(4)]
    assert sum(examples) < 4 * 6 * 3
    assert sum(examples) > 0


def test_a_tokenizer_is_made_where_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presets, "MINILM", "package:not_installed_anywhere")
    made, rows = step.prepare(PRESETS["tiny"], _texts(), tmp_path, text="ragged", max_length=32, batch=4)
    assert len(load_tokenizer(resolve_base(made.base))) < 300
    unknown = load_tokenizer(resolve_base(made.base)).unk_token_id
    assert not any(unknown in row for row in rows.ids)


def test_public_rows_are_left_out(tmp_path: Path) -> None:
    file = tmp_path / "data.csv"
    file.write_text("text,label,split\none,a,train\ntwo,b,test\nthree,b,train\n,a,train\n", encoding="utf-8")
    assert read_texts(file) == Texts(["one", "three"], ["a", "b"], ["a", "b"])
    file.write_text("text,label\none,a\ntwo,b\n", encoding="utf-8")
    assert read_texts(file).texts == ["one", "two"]
    file.write_text("text,label\none,a\n", encoding="utf-8")
    with pytest.raises(DataError, match="two labels"):
        read_texts(file)


def test_speed_is_beside_the_reference_of_the_same_repeat() -> None:
    class Process:
        name, num_parameters, peak_pss = "fused", 7, 1 << 20

    reference = [Turn(2, cpu=4.0, wall=6.0, examples=8), Turn(2, cpu=40.0, wall=60.0, examples=8)]
    turns = [Turn(4, cpu=4.0, wall=3.0, examples=16), Turn(4, cpu=40.0, wall=30.0, examples=16)]
    found = step._figures(cast(ArmProcess, Process()), turns, reference)
    assert (found.cpu_speed.low, found.cpu_speed.high) == (2.0, 2.0)
    assert (found.wall_speed.low, found.wall_speed.high) == (4.0, 4.0)
    assert found.cpu_seconds_per_step.values == (1.0, 10.0)
    assert found.examples_per_second.values == pytest.approx((16 / 3, 16 / 30))


@pytest.mark.parametrize(("text", "arms"), [("woven", ()), ("fixed", ("opacus-padded",))])
def test_what_cannot_be_measured_is_refused(text: str, arms: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match=r"woven|opacus-padded"):
        step.bench_step("tiny", text=text, arms=arms)
    with pytest.raises(ConfigError, match="preset"):
        step.bench_step("huge")


def test_an_arm_that_ends_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    genuine, broken = bench_process.start, [sys.executable, "-c", "import sys; sys.exit('it has no model')"]
    monkeypatch.setattr(bench_process, "start", lambda _command, log: genuine(broken, log))
    with ArmProcess(tmp_path, "peft") as process, pytest.raises(RunError, match="it has no model"):
        process.wait_until_ready()


@pytest.mark.slow
def test_the_command_tells_the_figures_in_json(tmp_path: Path) -> None:
    file = tmp_path / "data.jsonl"
    texts = _texts()
    rows = [{"text": text, "label": label} for text, label in zip(texts.texts, texts.labels, strict=True)]
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    given = ["step", "--data", str(file), "--text", "ragged", "--arm", "privet-opacus", "--repeats", "2"]
    ended = CliRunner().invoke(app, [*given, "--steps", "1", "--batch", "4", "--max-length", "32", "--json"])
    assert ended.exit_code == 0, ended.output
    found: dict[str, Any] = json.loads(ended.stdout)
    assert set(found) == {
        *("bench", "machine", "preset", "text", "max_length", "mean_length", "labels", "batch", "steps", "repeats"),
        *("reference", "arms"),
    }
    assert [arm["arm"] for arm in found["arms"]] == ["opacus-padded", "privet-opacus"]
    assert found["arms"][0]["cpu_speed"] == {"median": 1.0, "low": 1.0, "high": 1.0, "values": [1.0, 1.0]}
    for arm in found["arms"]:
        assert arm["parameters"] == found["arms"][0]["parameters"]
        assert arm["peak_pss_bytes"] > 50 << 20
        assert len(arm["cpu_seconds_per_step"]["values"]) == 2
        assert 0 < arm["cpu_seconds_per_step"]["low"] <= arm["cpu_seconds_per_step"]["median"]
