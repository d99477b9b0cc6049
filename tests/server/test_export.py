"""The exported folders: equal logits in stock libraries, no path of this machine, whole or not at all."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from privet.common.config import load_federation
from privet.common.errors import ModelError, RunError
from privet.common.model import Classifier, load_tokenizer
from privet.server.export import export_adapter, export_sentence_transformers
from privet.server.exporting import draft
from tests.tiny_models import Kind, tiny_base, tiny_plan, trained

TEXTS = ["The patient has a fever", "no", "my card was charged twice, please refund today!", "zebra " * 60]


def _inputs(tokenizer: Any, max_length: int) -> dict[str, torch.Tensor]:
    encoded = tokenizer(TEXTS, truncation=True, max_length=max_length, padding=True, return_tensors="pt")
    return {name: encoded[name] for name in ("input_ids", "attention_mask")}


def _logits(classifier: Classifier, folder: Path) -> NDArray[np.float32]:
    with torch.no_grad():
        inputs = _inputs(load_tokenizer(folder), classifier.plan.task.max_length)
        logits: torch.Tensor = classifier(**inputs)
    return logits.numpy()


@pytest.mark.parametrize("method", ["fedavg", "head"])
@pytest.mark.parametrize(
    ("kind", "pooler"), [("bert", True), ("bert", False), ("roberta", True), ("roberta", False), ("distilbert", True)]
)
def test_cls_adapter_in_stock_peft(tmp_path: Path, kind: Kind, pooler: bool, method: str) -> None:
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    base = tiny_base(tmp_path / "base", kind, pooler=pooler)
    classifier = trained(tiny_plan(base, model={"pooling": "cls"}, method={"kind": method}), base)
    expected = _logits(classifier, base)
    export_adapter(classifier, base, tmp_path / "adapter")

    torch.manual_seed(1)  # another state than at export: what stock code initialises anew must all be overwritten
    stock = AutoModelForSequenceClassification.from_pretrained(base, num_labels=3)
    model = PeftModel.from_pretrained(stock, tmp_path / "adapter").eval()
    with torch.no_grad():
        found = model(**_inputs(AutoTokenizer.from_pretrained(tmp_path / "adapter"), 32)).logits.numpy()
    assert np.ptp(expected, axis=0).max() > 0.01  # texts differ, or the comparison would say nothing
    assert np.abs(found - expected).max() == 0.0


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert"])
def test_adapter_of_the_upper_layers_in_stock_peft(tmp_path: Path, kind: Kind) -> None:
    from peft import PeftModel
    from safetensors.numpy import load_file
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    base = tiny_base(tmp_path / "base", kind)
    plan = tiny_plan(base, model={"pooling": "cls"}, method={"kind": "fedavg"}, lora={"first_layer": 1})
    classifier = trained(plan, base)
    export_adapter(classifier, base, tmp_path / "adapter")
    assert load_federation(tmp_path / "adapter" / "plan.toml").plan.digest == plan.digest
    assert not any(".layer.0." in name for name in load_file(tmp_path / "adapter" / "adapter_model.safetensors"))

    torch.manual_seed(1)
    stock = AutoModelForSequenceClassification.from_pretrained(base, num_labels=3)
    model = PeftModel.from_pretrained(stock, tmp_path / "adapter").eval()
    with torch.no_grad():
        found = model(**_inputs(AutoTokenizer.from_pretrained(tmp_path / "adapter"), 32)).logits.numpy()
    expected = _logits(classifier, base)
    assert np.ptp(expected, axis=0).max() > 0.01
    assert np.abs(found - expected).max() == 0.0


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert"])
def test_mean_adapter_in_stock_peft(tmp_path: Path, kind: Kind) -> None:
    from peft import PeftModel
    from safetensors import safe_open
    from transformers import AutoModel, AutoTokenizer

    base = tiny_base(tmp_path / "base", kind)
    classifier = trained(tiny_plan(base, method={"kind": "fedavg"}), base)
    expected = _logits(classifier, base)
    export_adapter(classifier, base, tmp_path / "adapter")

    model = PeftModel.from_pretrained(AutoModel.from_pretrained(base), tmp_path / "adapter").eval()
    inputs = _inputs(AutoTokenizer.from_pretrained(tmp_path / "adapter"), 32)
    with safe_open(tmp_path / "adapter" / "head.safetensors", framework="pt") as file, torch.no_grad():
        hidden = model(**inputs).last_hidden_state
        mask = inputs["attention_mask"].unsqueeze(-1)
        features = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)
        scale = float(file.metadata()["feature_scale"])
        found = scale * features @ file.get_tensor("weight").T + file.get_tensor("bias")
        assert json.loads(file.metadata()["labels"]) == ["calm", "urgent", "other"]
    assert np.ptp(expected, axis=0).max() > 0.01
    assert np.abs(found.numpy() - expected).max() <= 1e-5


@pytest.mark.parametrize(("kind", "pooler"), [("bert", True), ("bert", False), ("roberta", True), ("distilbert", True)])
def test_sentence_transformers_encode_gives_the_logits(tmp_path: Path, kind: Kind, pooler: bool) -> None:
    from sentence_transformers import SentenceTransformer

    base = tiny_base(tmp_path / "base", kind, pooler=pooler)
    plan = tiny_plan(base, method={"kind": "fedavg"}, model={"feature_scale": 7.0})
    classifier = trained(plan, base)
    expected = _logits(classifier, base)
    export_sentence_transformers(classifier, base, tmp_path / "sentence")

    model = SentenceTransformer(str(tmp_path / "sentence"), device="cpu")
    assert model.max_seq_length == 32
    found = model.encode(TEXTS, show_progress_bar=False)
    assert np.abs(found - expected).max() <= 1e-4
    config = json.loads((tmp_path / "sentence" / "config.json").read_text(encoding="utf-8"))
    assert config["id2label"] == {"0": "calm", "1": "urgent", "2": "other"}
    assert np.array_equal(_logits(classifier, base), expected)  # the live classifier is unharmed
    assert any(".lora_A." in name for name, _ in classifier.named_parameters())


def test_sentence_transformers_export_is_a_function_of_the_classifier(tmp_path: Path) -> None:
    """A pooler that the base's file lacks is random in memory; nothing random is written."""
    base = tiny_base(tmp_path / "base", pooler=False)
    for seed in (1, 2):
        torch.manual_seed(seed)
        classifier = trained(tiny_plan(base), base)
        export_sentence_transformers(classifier, base, tmp_path / str(seed))
    assert (tmp_path / "1/model.safetensors").read_bytes() == (tmp_path / "2/model.safetensors").read_bytes()


def test_sentence_transformers_export_needs_mean_pooling(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    classifier = trained(tiny_plan(base, model={"pooling": "cls"}), base)
    with pytest.raises(ModelError, match="mean"):
        export_sentence_transformers(classifier, base, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_folder_names_the_plan_and_no_path(tmp_path: Path, pooling: str) -> None:
    base = tiny_base(tmp_path / "base")
    labels = ["a \"quoted\" 'label'", "zwei\nZeilen\t", "třetí ✓"]
    plan = tiny_plan(base, base="example/tiny", model={"pooling": pooling}, task={"labels": labels})
    classifier = trained(plan, base)
    export_adapter(classifier, base, tmp_path / "out" / "adapter", documents={"README.md": "# card\n"})
    if pooling == "mean":
        export_sentence_transformers(classifier, base, tmp_path / "out" / "sentence")

    adapter = tmp_path / "out" / "adapter"
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == "example/tiny"
    assert load_federation(adapter / "plan.toml").plan.digest == plan.digest
    assert (adapter / "README.md").read_text(encoding="utf-8") == "# card\n"
    assert (adapter / "head.safetensors").exists() == (pooling == "mean")
    for path in (tmp_path / "out").rglob("*"):
        assert path.is_dir() or str(tmp_path).encode() not in path.read_bytes(), path
        assert path.is_dir() or path.stat().st_mode == (adapter / "plan.toml").stat().st_mode, path


def test_tokenizer_class_is_written_where_only_the_base_config_tells_it(tmp_path: Path) -> None:
    """As in bert-base-uncased's first files: vocab.txt, and a tokenizer_config.json that names no class."""
    from transformers import AutoTokenizer

    base = tiny_base(tmp_path / "base")
    vocabulary = load_tokenizer(base).get_vocab()
    (base / "tokenizer.json").unlink()
    (base / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.__getitem__)), encoding="utf-8")
    (base / "tokenizer_config.json").write_text('{"do_lower_case": true}', encoding="utf-8")
    expected = load_tokenizer(base)(TEXTS)["input_ids"]
    export_adapter(trained(tiny_plan(base), base), base, tmp_path / "adapter")
    assert AutoTokenizer.from_pretrained(tmp_path / "adapter")(TEXTS)["input_ids"] == expected


def test_export_replaces_a_folder_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_base(tmp_path / "base")
    classifier = trained(tiny_plan(base), base)
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "stale").touch()
    export_adapter(classifier, base, folder)
    assert not (folder / "stale").exists()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    classifier.write({"head.bias": np.ones(3, np.float32)})
    for name in ("copyfile", "rename"):
        with monkeypatch.context() as patch:
            if name == "copyfile":
                patch.setattr(shutil, "copyfile", fail)
            else:  # the second renaming, when the old folder is already aside
                real = os.rename
                calls: list[Any] = []
                patch.setattr(
                    os,
                    "rename",
                    lambda a, b, real=real, calls=calls: fail() if calls.append(a) or len(calls) == 2 else real(a, b),
                )
            with pytest.raises(RunError, match="No space left"):
                export_adapter(classifier, base, folder)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
        assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "base"]


def test_every_file_reaches_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_base(tmp_path / "base")
    flushed: list[str] = []
    monkeypatch.setattr(draft, "flush", lambda path: flushed.append(path.name))
    export_adapter(trained(tiny_plan(base), base), base, tmp_path / "adapter")
    assert {path.name for path in (tmp_path / "adapter").iterdir()} | {tmp_path.name} <= set(flushed)


def test_the_folder_that_reads_one_window_says_so(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    for windows in (1, 3):
        plan = tiny_plan(base, task={"max_length": 16, "windows": windows})
        folder = tmp_path / str(windows)
        export_sentence_transformers(trained(plan, base), base, folder)
        assert (folder / "WINDOWS.txt").is_file() == (windows > 1)
    assert "first 16 tokens" in (tmp_path / "3" / "WINDOWS.txt").read_text(encoding="utf-8")
