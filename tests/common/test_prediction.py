"""Prediction by an exported adapter."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from privet.common import adapter as adapters
from privet.common.errors import ModelError
from privet.common.prediction import Predictor, probabilities
from privet.server.export import export_adapter
from tests.tiny_models import Kind, tiny_base, tiny_plan, trained

TEXTS = ["the patient has a fever", "no", "my card was charged twice, please refund today!", "zebra " * 60, "rash"]


def _adapter(folder: Path, kind: Kind = "bert", pooling: str = "mean") -> Path:
    """A base in `folder`/base and an adapter on it in `folder`/adapter."""
    base = tiny_base(folder / "base", kind)
    plan = tiny_plan(base, model={"pooling": pooling}, method={"kind": "fedavg"})
    export_adapter(trained(plan, base), base, folder / "adapter")
    return folder / "adapter"


@pytest.mark.parametrize(
    ("kind", "pooling"),
    [("bert", "mean"), ("bert", "cls"), ("roberta", "mean"), ("roberta", "cls"), ("distilbert", "cls")],
)
def test_predictions_are_the_trained_classifier_s(tmp_path: Path, kind: Kind, pooling: str) -> None:
    folder = _adapter(tmp_path, kind, pooling)
    live = trained(Predictor.load(folder).plan, tmp_path / "base")
    predictor = Predictor.load(folder)
    with torch.no_grad():  # one text at a time: no padding, no batch
        expected = np.concatenate([_one(predictor, live, text) for text in TEXTS])
    assert np.abs(predictor.predict(TEXTS) - expected).max() <= 1e-5
    assert np.ptp(expected, axis=0).max() > 0.01


def _one(predictor: Predictor, live: torch.nn.Module, text: str) -> np.ndarray:
    ids = predictor._tokenizer([text], truncation=True, max_length=32, return_tensors="pt")
    logits: np.ndarray = live(ids["input_ids"], ids["attention_mask"]).numpy()
    return logits


def test_order_and_size_of_batches_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = Predictor.load(_adapter(tmp_path))
    texts = [text for text in TEXTS for _ in range(7)]
    expected = predictor.predict(texts)
    shuffled = np.random.default_rng(0).permutation(len(texts))
    assert np.abs(predictor.predict([texts[i] for i in shuffled]) - expected[shuffled]).max() <= 1e-5
    monkeypatch.setattr("privet.common.prediction._TOKENS_PER_BATCH", 40)
    monkeypatch.setattr("privet.common.prediction._TEXTS_PER_PASS", 3)
    assert np.abs(predictor.predict(texts) - expected).max() <= 1e-5
    assert predictor.predict([]).shape == (0, 3)


@pytest.mark.parametrize("per_pass", [1, 3, 4096])
def test_a_long_text_is_read_in_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, per_pass: int) -> None:
    texts = [*TEXTS, "the patient has a fever and no rash " * 2 + "please refund my card " * 3]
    base = tiny_base(tmp_path / "base")
    plan = tiny_plan(base, task={"max_length": 16, "windows": 3, "stride": 4}, method={"kind": "fedavg"})
    export_adapter(trained(plan, base), base, tmp_path / "adapter")
    predictor = Predictor.load(tmp_path / "adapter")
    monkeypatch.setattr("privet.common.prediction._TEXTS_PER_PASS", per_pass)
    settings = {"truncation": True, "max_length": 16, "stride": 4, "return_overflowing_tokens": True}
    found = predictor.predict(texts)
    assert found.shape == (len(texts), 3)
    for text, row in zip(texts, found, strict=True):
        windows = predictor._tokenizer(text, **settings)["input_ids"][:3]
        with torch.no_grad():
            each = [predictor.classifier(torch.tensor([ids]), torch.ones(1, len(ids)))[0].numpy() for ids in windows]
        assert np.abs(row - np.mean(each, axis=0)).max() <= 1e-5
    assert np.abs(found - _adapter_of_one_window(tmp_path, base).predict(texts))[-1].max() > 1e-4


def _adapter_of_one_window(folder: Path, base: Path) -> Predictor:
    plan = tiny_plan(base, task={"max_length": 16}, method={"kind": "fedavg"})
    export_adapter(trained(plan, base), base, folder / "single")
    return Predictor.load(folder / "single")


def test_probabilities_sum_to_one_without_overflow() -> None:
    chances = probabilities(np.array([[1e4, 0.0, -1e4], [1.0, 1.0, 1.0]], np.float32))
    assert np.allclose(chances, np.array([[1.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3]]))


def test_another_base_is_refused(tmp_path: Path) -> None:
    folder = _adapter(tmp_path)
    other = tiny_base(tmp_path / "other", seed=1)
    with pytest.raises(ModelError, match=r"digest.*Mend: put the very same files"):
        Predictor.load(folder, str(other))
    shutil.move(tmp_path / "base", tmp_path / "moved")
    with pytest.raises(ModelError, match="Mend:"):
        Predictor.load(folder)
    assert Predictor.load(folder, str(tmp_path / "moved")).predict(["no"]).shape == (1, 3)


def test_what_is_no_adapter_is_refused_with_a_mend(tmp_path: Path) -> None:
    folder = _adapter(tmp_path / "run")
    with pytest.raises(ModelError, match="no such folder"):
        Predictor.load(tmp_path / "nothing")
    (tmp_path / "run" / "plan.toml").write_text("", encoding="utf-8")
    with pytest.raises(ModelError, match=r"not a privet adapter.*Mend: give .*run/adapter"):
        Predictor.load(tmp_path / "run")
    with pytest.raises(ModelError, match=r"it has no plan\.toml"):
        Predictor.load(tmp_path / "run" / "base")
    (folder / "adapter_model.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(ModelError, match="safetensors"):
        Predictor.load(folder)


def test_weights_of_another_plan_are_refused(tmp_path: Path) -> None:
    folder = _adapter(tmp_path)
    stored = adapters.load(folder / "adapter_model.safetensors")
    first = sorted(stored)[0]
    for change in ({first: stored[first][:1]}, {first: stored[first] * np.float32(np.nan)}):
        adapters.save(stored | change, folder / "adapter_model.safetensors")
        with pytest.raises(ModelError, match="not those of its plan"):
            Predictor.load(folder)
    adapters.save(
        {name: array for name, array in stored.items() if name != first}, folder / "adapter_model.safetensors"
    )
    with pytest.raises(ModelError, match="not those of its plan"):
        Predictor.load(folder)
    adapters.save(stored, folder / "adapter_model.safetensors")
    Predictor.load(folder)
    text = (folder / "plan.toml").read_text(encoding="utf-8")
    for old, new in (('"calm"', '"quiet"'), ("feature_scale = 10.0", "feature_scale = 9.0")):
        assert old in text
        (folder / "plan.toml").write_text(text.replace(old, new), encoding="utf-8")
        with pytest.raises(ModelError, match="labels or feature scale"):
            Predictor.load(folder)
    (folder / "plan.toml").write_text(text, encoding="utf-8")
    (folder / "head.safetensors").unlink()
    with pytest.raises(ModelError, match="no such file"):
        Predictor.load(folder)
