"""Public metrics against scikit-learn, and what of a public file is judged."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics

from privet.common.config import PublicData
from privet.common.errors import DataError
from privet.common.model import load_tokenizer
from privet.common.tasks.classification import public_metrics
from privet.common.tasks.loss import per_example_loss
from privet.server.evaluation import PublicEvaluator, load_public
from tests.tiny_models import tiny_base, tiny_plan, trained


def f32(values: object) -> NDArray[np.float32]:
    return np.array(values, np.float32)


LABELS = ("calm", "urgent", "other")


def test_metrics_are_scikit_learns() -> None:
    random = np.random.default_rng(0)
    logits = (3 * random.normal(size=(200, 4))).astype(np.float32)
    truth = random.integers(0, 3, 200)  # no record of the last label
    found = public_metrics(logits, truth, ["a", "b", "c", "d"])
    predicted = logits.argmax(1)
    p = np.exp(logits.astype(np.float64))
    p /= p.sum(1, keepdims=True)
    report = metrics.classification_report(
        truth, predicted, labels=[0, 1, 2, 3], target_names=["a", "b", "c", "d"], output_dict=True, zero_division=0.0
    )
    assert found.accuracy == pytest.approx(metrics.accuracy_score(truth, predicted))
    assert found.macro_f1 == pytest.approx(report["macro avg"]["f1-score"])
    assert found.loss == pytest.approx(metrics.log_loss(truth, p, labels=[0, 1, 2, 3]), rel=1e-5)
    assert found.recall == pytest.approx({label: report[label]["recall"] for label in "abcd"})
    assert found.confusion == metrics.confusion_matrix(truth, predicted, labels=[0, 1, 2, 3]).tolist()
    assert found.num_records == 200


@given(
    rows=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30),
    num_labels=st.integers(4, 6),
)
def test_metrics_of_any_answers_are_scikit_learns(rows: list[tuple[int, int]], num_labels: int) -> None:
    """Also where labels are never true, never said, or neither."""
    truth, predicted = (np.array(column) for column in zip(*rows, strict=True))
    labels = [f"label {i}" for i in range(num_labels)]
    found = public_metrics(np.eye(num_labels, dtype=np.float32)[predicted], truth, labels)
    every: Any = {"labels": list(range(num_labels)), "zero_division": 0.0}
    assert found.accuracy == metrics.accuracy_score(truth, predicted)
    assert found.macro_f1 == pytest.approx(metrics.f1_score(truth, predicted, average="macro", **every), abs=1e-15)
    assert list(found.recall.values()) == metrics.recall_score(truth, predicted, average=None, **every).tolist()
    assert found.confusion == metrics.confusion_matrix(truth, predicted, labels=every["labels"]).tolist()
    assert list(found.recall) == labels


def test_metrics_by_hand() -> None:
    logits = f32([[2, 0, 0], [2, 0, 0], [0, 2, 0], [0, 0, 2]])
    found = public_metrics(logits, np.array([0, 1, 1, 1]), LABELS)
    assert found.accuracy == 0.5
    assert found.recall == {"calm": 1.0, "urgent": pytest.approx(1 / 3), "other": 0.0}
    assert found.confusion == [[1, 0, 0], [1, 1, 1], [0, 0, 0]]
    assert found.macro_f1 == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)  # 2PR / (P + R) of each
    hit, miss = np.log(np.exp(2) + 2) - 2, np.log(np.exp(2) + 2)
    assert found.loss == pytest.approx((2 * hit + 2 * miss) / 4, rel=1e-6)
    assert set(found.to_json()) == {"accuracy", "macro_f1", "loss", "num_records", "recall", "confusion"}


def test_large_logits_have_a_finite_loss() -> None:
    found = public_metrics(f32([[3e4, -3e4], [-3e4, 3e4]]), np.array([0, 0]), ["a", "b"])
    assert found.loss == pytest.approx(3e4)


def test_the_loss_of_a_row_is_its_own() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [torch.nan, torch.inf]])
    labels, weights = torch.tensor([0, 0, 0]), torch.tensor([1.0, 1.0, 0.0])
    losses = per_example_loss(logits, labels, weights)
    expected = [np.log(1 + np.exp(-2)), np.log(1 + np.exp(1)), 0.0]
    torch.testing.assert_close(losses, torch.tensor(expected, dtype=torch.float32))
    torch.testing.assert_close(per_example_loss(logits[:1], labels[:1], weights[:1]), losses[:1])  # no mean over rows


def _file(folder: Path, rows: list[str], header: str = "text,label") -> Path:
    path = folder / "public.csv"
    path.write_text("\n".join([header, *rows, ""]), encoding="utf-8")
    return path


def test_rows_without_text_or_with_another_label_are_left_out(tmp_path: Path) -> None:
    path = _file(tmp_path, ["one,calm", "two,unheard", ",calm", "  ,urgent", "three, urgent ", "four,", "five,other"])
    texts, truth = load_public(PublicData(source=path), LABELS)
    assert texts == ["one", "three", "five"]
    assert truth.tolist() == [0, 1, 2]


def test_labels_are_mapped_and_columns_are_named(tmp_path: Path) -> None:
    path = _file(tmp_path, ["C,one", "U,two", "other,three", "X,four"], header="class,note")
    data = PublicData(source=path, text="note", label="class", label_map={"C": "calm", "U": "urgent"})
    texts, truth = load_public(data, LABELS)
    assert (texts, truth.tolist()) == (["one", "two", "three"], [0, 1, 2])


def test_the_limit_counts_rows_that_are_judged(tmp_path: Path) -> None:
    path = _file(tmp_path, ["x,unheard"] * 5 + [f"t{index},calm" for index in range(5)])
    assert load_public(PublicData(source=path, limit=2), LABELS)[0] == ["t0", "t1"]


@pytest.mark.parametrize("rows", [["one,unheard", "two,"], [",calm"], []])
def test_a_file_without_a_usable_row_is_told(tmp_path: Path, rows: list[str]) -> None:
    path = _file(tmp_path, rows)
    with pytest.raises(DataError) as caught:
        load_public(PublicData(source=path), LABELS)
    assert str(path) in caught.value.where
    assert "label" in caught.value.mend


def test_a_missing_file_or_column_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        load_public(PublicData(source=tmp_path / "none.csv"), LABELS)
    with pytest.raises(DataError, match="no column 'note'"):
        load_public(PublicData(source=_file(tmp_path, ["one,calm"]), text="note"), LABELS)


TEXTS = ["a rash", "the patient has a fever and cough and no pain in the chest today", "card", "please refund", "fever"]
TRUTH = [0, 1, 2, 2, 1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base"))


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("kind", ["head", "fedavg"])
def test_the_evaluator_judges_the_arrays_it_is_given(folder: Path, pooling: str, kind: str) -> None:
    """In whichever order and length texts come; frozen features give what the whole model gives."""
    plan = tiny_plan(folder, method={"kind": kind}, model={"pooling": pooling})
    classifier, tokenizer = trained(plan, folder), load_tokenizer(folder)
    evaluate = PublicEvaluator(plan, classifier, tokenizer, TEXTS, np.array(TRUTH), kind == "head")
    for seed in (1, 2):
        arrays = trained(plan, folder, seed).read()
        found: Any = evaluate(arrays)
        classifier.write(arrays)
        logits: list[Any] = []
        for text in TEXTS:
            tokens = tokenizer([text], return_tensors="pt")
            with torch.inference_mode():
                logits.append(classifier(tokens["input_ids"], tokens["attention_mask"])[0].numpy())
        expected = public_metrics(np.stack(logits), np.array(TRUTH), plan.task.labels)
        assert found.accuracy == expected.accuracy
        assert found.loss == pytest.approx(expected.loss, rel=1e-4)
        assert found.confusion == expected.confusion


@pytest.mark.parametrize("frozen", [True, False])
def test_a_long_public_text_is_judged_on_the_mean_over_its_windows(tmp_path: Path, frozen: bool) -> None:
    base = tiny_base(tmp_path)
    plan = tiny_plan(base, task={"max_length": 16, "windows": 3, "stride": 2}, method={"kind": "fedavg"})
    classifier, tokenizer = trained(plan, base), load_tokenizer(base)
    texts = ["no pain", "my card was charged twice today " * 6, "please refund my account transfer " * 9]
    evaluator = PublicEvaluator(plan, classifier, tokenizer, texts, np.array([0, 1, 2]), frozen)
    expected = []
    for text in texts:
        windows = tokenizer(text, truncation=True, max_length=16, stride=2, return_overflowing_tokens=True)["input_ids"]
        with torch.no_grad():
            each = [classifier(torch.tensor([ids]), torch.ones(1, len(ids)))[0].numpy() for ids in windows[:3]]
        expected.append(np.mean(each, axis=0))
    judged = public_metrics(np.stack(expected), np.arange(3), LABELS)
    assert evaluator(classifier.read()).loss == pytest.approx(judged.loss, abs=1e-5)
