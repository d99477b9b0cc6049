"""`privet predict` as a whole: adapters, runs and exports; what people are told; what ends it early."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from privet.common import adapter as adapters
from privet.common.cli.predict import predict
from privet.common.config import load_federation
from privet.common.errors import ConfigError, DataError, ModelError, RunError
from privet.common.exported import MARKER, write_marker
from privet.common.predicting import stream
from privet.common.predicting.pieces import Splitter
from privet.common.predicting.progress import Progress
from privet.common.predicting.reader import load_reader
from privet.common.prediction import Predictor, probabilities
from privet.server.export import export_adapter
from privet.server.exporting.run import export
from tests.tiny_models import Kind, tiny_base, tiny_plan, trained

TEXTS = ["the patient has a fever", "no", "my card was charged twice, please refund today!", "zebra " * 60, "rash"]


def made(folder: Path, kind: Kind = "bert", pooling: str = "mean") -> Path:
    """A base in `folder`/base and an adapter on it in `folder`/adapter."""
    base = tiny_base(folder / "base", kind)
    plan = tiny_plan(
        base, model={"pooling": pooling}, method={"kind": "fedavg"}, task={"max_length": 16, "windows": 3, "stride": 4}
    )
    export_adapter(trained(plan, base), base, folder / "adapter")
    return folder / "adapter"


def merged(adapter: Path, folder: Path) -> Path:
    """What `privet export --to merged` writes."""
    export(adapter, "merged", folder, texts=TEXTS[:2])
    return folder


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("cli"))


def expected(adapter: Path, texts: list[str]) -> list[str]:
    predictor = Predictor.load(adapter)
    chances = probabilities(predictor.predict(texts))
    return [f"{predictor.labels[row.argmax()]}\t{row.max():.4f}" for row in chances]


@pytest.mark.parametrize(
    ("kind", "pooling"),
    [("bert", "mean"), ("bert", "cls"), ("roberta", "mean"), ("roberta", "cls"), ("distilbert", "cls")],
)
def test_merged_weights_give_the_logits_of_the_adapter(tmp_path: Path, kind: Kind, pooling: str) -> None:
    folder = made(tmp_path, kind, pooling)
    wanted = Predictor.load(folder).predict(TEXTS)  # LoRA beside the frozen weights
    for path in (folder, tmp_path, merged(folder, tmp_path / "merged")):  # an adapter, a run, an export
        reader = load_reader(path)
        tokenizer = Splitter(reader.tokenizer, reader.plan.task, reader.vocabulary)
        scores, sound, cut = stream.predict_texts(TEXTS, tokenizer, reader)
        assert sound.all()
        assert cut.tolist() == [False, False, kind == "roberta", True, False]
        assert np.abs(scores.logits - wanted).max() <= 2e-5
    assert np.ptp(wanted, axis=0).max() > 0.01
    assert not any("lora" in name for name, _ in reader.encoder.named_modules())


def test_a_damaged_export_is_refused(adapter: Path, tmp_path: Path) -> None:
    whole = merged(adapter, tmp_path / "whole")
    copy = tmp_path / "copy"

    def damaged() -> Path:
        shutil.rmtree(copy, ignore_errors=True)
        return Path(shutil.copytree(whole, copy))

    mark = json.loads((whole / MARKER).read_text(encoding="utf-8"))
    (damaged() / MARKER).write_text(json.dumps(mark | {"kind": "onnx"}), encoding="utf-8")
    with pytest.raises(ModelError, match=r"kind 'onnx'.*merged"):
        load_reader(copy)
    (damaged() / MARKER).write_text('{"format": 1, ', encoding="utf-8")
    with pytest.raises(ModelError, match="cannot be read"):
        load_reader(copy)
    (damaged() / MARKER).write_text(json.dumps(mark | {"plan_digest": 64 * "0"}), encoding="utf-8")
    with pytest.raises(ModelError, match="not the plan that it was exported from"):
        load_reader(copy)
    for name in ("plan.toml", "head.safetensors", "model.safetensors"):
        (damaged() / name).unlink()
        with pytest.raises(ModelError, match="Mend:"):
            load_reader(copy)
    arrays = adapters.load(whole / "model.safetensors")
    first = next(name for name in sorted(arrays) if "query" in name)
    damaged()
    adapters.save({k: v for k, v in arrays.items() if k != first}, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"model\.safetensors: it is not as it was written"):
        load_reader(copy)
    write_marker(copy, "merged", mark["plan_digest"])  # whole by its mark, and still not a model
    with pytest.raises(ModelError, match="weights lack"):
        load_reader(copy)
    with pytest.raises(ModelError, match="holds its base"):
        load_reader(whole, str(adapter.parent / "base"))


def test_lines_of_a_text_file(adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "texts.txt").write_bytes("\ufeffa fever\r\n\r\n  \nno pain\x0c today\n\xff\n".encode("utf-8"))
    predict(adapter.parent, str(tmp_path / "texts.txt"))
    out, err = capsys.readouterr()
    found = expected(adapter, ["a fever", "no pain\x0c today", "ÿ"])
    assert out.split("\n") == [found[0], "", "", *found[1:], ""]  # line n is the n-th text's
    assert err == "Skipped 2 rows without text (2, 3).\n"


def test_standard_input(adapter: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    text = "Ärztin: das Fieber\nno"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode("latin-1"))))
    predict(adapter, "-", encoding="latin-1")
    out, err = capsys.readouterr()
    assert out.splitlines() == expected(adapter, text.splitlines())
    assert err == ""


@pytest.mark.parametrize("name", ["notes.csv", "notes.jsonl"])
def test_a_table_as_json(adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    path = tmp_path / name
    if name.endswith("csv"):
        path.write_text('id,note\n1,"a fever, no cough"\n2,\n3,broken,row\n4,rash\n', encoding="utf-8")
        rows, err = [2, 5], "Skipped 1 row without text (3).\nSkipped 1 row that cannot be read (4).\n"
    else:
        path.write_text('{"note": "a fever, no cough"}\n{"note": null}\n[]\n{"note": "rash"}\n', encoding="utf-8")
        rows, err = [1, 4], "Skipped 1 row without text (2).\nSkipped 1 row that cannot be read (3).\n"
    predict(adapter, str(path), text="note", as_json=True)
    captured = capsys.readouterr()
    assert captured.err == err
    document = json.loads(captured.out)
    predictions = document.pop("predictions")
    assert [one["row"] for one in predictions] == rows
    found = [f"{one['label']}\t{one['probability']:.4f}" for one in predictions]
    assert found == expected(adapter, ["a fever, no cough", "rash"])
    assert (document["num_predicted"], document["num_unreadable"]) == (2, 1)
    for one in predictions:
        assert sum(one["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        assert one["probability"] == max(one["probabilities"].values()) == one["probabilities"][one["label"]]


def test_several_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = tiny_base(tmp_path / "base")
    thresholds = {"calm": 0.9, "other": 0.01}
    plan = tiny_plan(base, method={"kind": "fedavg"}, task={"kind": "multilabel", "thresholds": thresholds})
    export_adapter(trained(plan, base), base, tmp_path / "adapter")
    (tmp_path / "a.txt").write_text("".join(text + "\n" for text in TEXTS), encoding="utf-8")
    predict(tmp_path, str(tmp_path / "a.txt"), output_format="jsonl")
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    logits = Predictor.load(tmp_path / "adapter").predict(TEXTS)
    for row, values in zip(found, 1 / (1 + np.exp(-logits.astype(np.float64))), strict=True):
        assert list(row["probabilities"].values()) == pytest.approx(values, abs=1e-5)
        named = zip(plan.task.labels, values, strict=True)
        assert row["labels"] == [label for label, chance in named if chance >= thresholds.get(label, 0.5)]
    assert len({tuple(row["labels"]) for row in found}) > 1


def test_a_file_with_ids(adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.csv").write_text("who,text\nx,rash\ny,\nz,no\n", encoding="utf-8")
    predict(adapter, str(tmp_path / "a.csv"), id_column="who", output=tmp_path / "out.jsonl", every=True)
    assert capsys.readouterr().out == ""
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(row["row"], row["id"]) for row in rows] == [(2, "x"), (4, "z")]
    assert all(set(row["probabilities"]) == {"calm", "urgent", "other"} for row in rows)


def test_input_errors_come_with_a_mend(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.csv").write_text("id,note\n1,rash\n", encoding="utf-8")
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\xff\n\xff")
    (tmp_path / "empty.txt").write_bytes(b"")
    with monkeypatch.context() as patch:  # told before the model is loaded
        patch.setattr("privet.common.predicting.reader.load_reader", lambda *_: pytest.fail("loaded"))
        with pytest.raises(DataError, match=r"no column 'text'.*'note'"):
            predict(adapter, str(tmp_path / "a.csv"))
        with pytest.raises(ConfigError, match="--text"):
            predict(adapter, str(tmp_path / "a.txt"), text="note")
        with pytest.raises(DataError, match="empty"):
            predict(adapter, str(tmp_path / "empty.txt"))
        with pytest.raises(DataError, match="decoded as 'klingon'"):
            predict(adapter, str(tmp_path / "a.txt"), encoding="klingon")
        with pytest.raises(ConfigError, match="folder does not exist"):
            predict(adapter, str(tmp_path / "a.txt"), output=tmp_path / "none" / "a.csv")
        with pytest.raises(ConfigError, match=r"--device.*'gpu'"):
            predict(adapter, str(tmp_path / "a.txt"), device="gpu")
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"")))
        with pytest.raises(ModelError, match="no such folder"):
            predict(tmp_path / "none", "-")
    with pytest.raises(DataError, match=r"no row can be read: 2 rows.*--encoding"):
        predict(adapter, str(tmp_path / "a.txt"), output=tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()
    with pytest.raises(DataError, match="standard input: it is empty"):
        predict(adapter, "-")
    other = tiny_base(tmp_path / "other", seed=1)
    with pytest.raises(ModelError, match=r"digest.*Mend: put the very same files"):
        predict(adapter, str(tmp_path / "a.txt"), base=str(other))


def test_as_a_command(adapter: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("rash\n", encoding="utf-8")
    app = typer.Typer()
    app.command()(predict)
    done = CliRunner().invoke(app, [str(adapter), str(tmp_path / "a.txt")])
    assert done.exit_code == 0
    assert done.stdout.splitlines() == expected(adapter, ["rash"])
    piped = CliRunner().invoke(app, [str(adapter), "-", "--json"], input="rash\n")
    assert json.loads(piped.stdout)["predictions"][0]["row"] == 1


def test_a_pipe_whose_reader_is_gone_ends_quietly(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_text("rash\n\n" * 300, encoding="utf-8")
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as gone:
        monkeypatch.setattr("sys.stdout", gone)
        predict(adapter, str(tmp_path / "a.txt"))
        gone.write("what is flushed at the very end")
    assert capsys.readouterr().err == ""


def test_ctrl_c_says_how_far_it_got(adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("rash\n" * 500, encoding="utf-8")
    before = Progress.rows

    def interrupted(self: Progress, number: int) -> None:
        before(self, number)
        if number > 64:  # in the second chunk
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Progress, "rows", interrupted)
    with pytest.raises(
        RunError, match=r"a\.txt: stopped after 64 rows, the last of them row 64.*out\.csv was not written"
    ):
        predict(adapter, str(tmp_path / "a.txt"), output=tmp_path / "out.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_progress_without_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = iter([0.0, 0.0, 5.0, 11.0, 12.0, 31.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    with Progress(quiet=False, fraction=lambda rows: rows / 1000) as progress:
        for rows in (50, 110, 120, 310):
            progress.rows(rows)
    assert capsys.readouterr().err.splitlines() == [
        "110 rows, 10 rows/s, 11%, 1 min 29 s left",
        "310 rows, 10 rows/s, 31%, 1 min 9 s left",
    ]
    monkeypatch.setattr(time, "monotonic", lambda: 1e9)
    with Progress(quiet=True, fraction=lambda _rows: None) as progress:
        progress.rows(10)
    assert capsys.readouterr().err == ""


def test_bfloat16_only_where_there_is_hardware(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for there, kind in ((None, torch.float32), ("AMX", torch.bfloat16)):
        monkeypatch.setattr("privet.common.precision.bfloat16_hardware", lambda _device, there=there: there)
        reader = load_reader(adapter, precision="bfloat16")
        assert {parameter.dtype for parameter in reader.encoder.parameters()} == {kind}
        assert reader.head is not None
        assert reader.head.weight.dtype == torch.float32
        ((_, logits),) = reader([np.array([2, 5, 3], np.int32)])
        assert np.isfinite(logits).all()
        assert logits.dtype == np.float32


def test_the_plan_of_a_run_is_its_adapter_s(adapter: Path) -> None:
    assert load_reader(adapter.parent).plan == load_federation(adapter / "plan.toml").plan


@pytest.fixture
def command(adapter: Path) -> list[str]:
    return [sys.executable, "-m", "privet.common.cli", "predict", str(adapter), "-"]


@pytest.mark.slow
def test_a_process_answers_at_once_and_ends_by_signal_or_without_reader(command: list[str]) -> None:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:  # type: ignore[call-overload]
        for text in ("rash", "no"):  # an answer before the next row is written
            process.stdin.write(text + "\n")
            process.stdin.flush()
            assert "\t" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
        assert process.returncode == 1
        assert re.search(r"stopped after (1 row|2 rows), the last of them row [12]\.", err)  # 1 where it came at once
        assert "Traceback" not in err
    with subprocess.Popen(command, text=True, **pipes) as process:  # type: ignore[call-overload]
        process.stdin.write("rash\n")
        process.stdin.flush()
        process.stdout.readline()
        process.stdout.close()  # `| head -n 1`
        process.stdin.write("no\n" * 10)
        process.stdin.flush()  # and the producer goes on
        assert process.wait(60) == 0
        assert process.stderr.read() == ""
        process.stdin.close()
