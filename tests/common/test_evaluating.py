"""Evaluation of labelled files: metrics against scikit-learn and fairlearn, rows that are left out, groups."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fairlearn import metrics as fairlearn
from sklearn import metrics

from privet.common.errors import ConfigError, DataError, ModelError
from privet.common.evaluating.document import document
from privet.common.evaluating.groups import MIN_UNITS
from privet.common.evaluating.judge import Asked, Evaluation, evaluate
from privet.common.evaluating.words import group_words, left_words
from tests.common.evaluating_cases import LABELS, Echo, plan_of, records, write


@pytest.fixture(autouse=True)
def _fewer_shuffles(monkeypatch: pytest.MonkeyPatch) -> None:
    for room in ("groups", "fairness"):
        monkeypatch.setattr(f"privet.common.evaluating.{room}.NUM_SHUFFLES", 300)


def _judged(rows: Sequence[dict[str, str]], folder: Path, model: Echo | None = None, **asked: Any) -> Evaluation:
    return evaluate(model or Echo(), Asked(write(folder / "rows.csv", rows), **asked))


def _truth(rows: Sequence[dict[str, str]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True labels, given labels and probabilities [N, L] of rows."""
    logits = Echo().predict([row["text"] for row in rows]).astype(float)
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return np.array([LABELS.index(row["label"]) for row in rows]), logits.argmax(1), chances


def test_metrics_are_scikit_learns(tmp_path: Path) -> None:
    rows = [row for row in records(300) if row["label"] != "none"]  # a label that is given, never true
    found = _judged(rows, tmp_path)
    truth, given, chances = _truth(rows)
    report = metrics.classification_report(truth, given, target_names=LABELS, output_dict=True, zero_division=0.0)
    assert found.scores.accuracy.value == pytest.approx(report["accuracy"])
    assert found.scores.macro_f1.value == pytest.approx(report["macro avg"]["f1-score"])
    for part in found.scores.labels:
        expected = report[part.label]
        assert part.f1 is not None
        assert part.f1.value == pytest.approx(expected["f1-score"])
        assert part.precision is not None
        assert part.precision.value == pytest.approx(expected["precision"])
        assert part.num_true == expected["support"]
        assert (part.recall is None) == (part.label == "none")
    assert found.confusion == metrics.confusion_matrix(truth, given).tolist()
    loss = metrics.log_loss(truth, chances, labels=[0, 1, 2, 3])
    brier = metrics.brier_score_loss(truth, chances, labels=[0, 1, 2, 3], scale_by_half=False)
    assert found.calibration is not None
    assert found.calibration.log_loss.value == pytest.approx(loss)
    assert found.calibration.brier.value == pytest.approx(brier)
    top, right = chances.max(1), truth == given
    places = np.digitize(top, np.arange(0.1, 1, 0.1), right=True)
    error = sum(abs(right[places == i].sum() - top[places == i].sum()) for i in range(10)) / len(rows)
    assert found.calibration.expected_error.value == pytest.approx(error)
    assert sum(part.num for part in found.calibration.bins) == len(rows)


def test_every_interval_holds_its_value_and_the_seed_decides(tmp_path: Path) -> None:
    found = _judged(records(80), tmp_path)
    again = evaluate(Echo(), found.asked)
    assert document(again) == document(found)
    other = evaluate(Echo(), replace(found.asked, seed=1))
    assert other.scores.macro_f1 != found.scores.macro_f1
    wide = evaluate(Echo(), replace(found.asked, confidence=0.99))
    for of in (found, other):
        assert of.calibration is not None
        parts = [of.scores.accuracy, of.scores.macro_f1, of.calibration.log_loss, of.calibration.expected_error]
        for part in parts + [label.f1 for label in of.scores.labels if label.f1]:
            assert part.low <= part.value <= part.high
            assert part.low < part.high
    assert wide.scores.accuracy.high - wide.scores.accuracy.low > found.scores.accuracy.high - found.scores.accuracy.low


def test_nothing_wrong_is_no_certainty(tmp_path: Path) -> None:
    found = _judged(records(12, right=1.0), tmp_path).scores
    for part in (found.accuracy, found.macro_f1, found.micro_f1, *(label.f1 for label in found.labels)):
        assert part is not None
        assert part.value == part.high == 1
        assert part.low < 0.9


def test_equal_records_of_a_unit_widen_the_intervals(tmp_path: Path) -> None:
    rows = [row | {"who": str(i)} for i, row in enumerate(records(60)) for _ in range(6)]
    alone = _judged(rows, tmp_path)
    by_person = evaluate(Echo(), replace(alone.asked, unit="who"))
    assert (alone.num_units, by_person.num_units) == (360, 60)
    for kind in ("accuracy", "macro_f1"):
        first, second = getattr(alone.scores, kind), getattr(by_person.scores, kind)
        assert second.value == first.value
        assert second.high - second.low > 1.8 * (first.high - first.low)


def test_what_cannot_be_judged_is_counted_and_told(tmp_path: Path) -> None:
    rows = [row | {"who": "p"} for row in records(5)]
    rows[1]["text"], rows[2]["label"], rows[3]["label"], rows[4]["who"] = "  ", "", "Ünheard", ""
    rows.append({"text": "9", "label": "calm", "who": "p"})
    path = write(tmp_path / "rows.csv", rows)
    path.write_bytes(path.read_bytes() + b"broken,row\n\xff\xfe,calm,p\n")

    class Unsound(Echo):
        def predict(self, texts: Sequence[str]) -> Any:
            return np.array([[np.nan] * 4 if text == "9" else [1.0, 0, 0, 0] for text in texts], np.float32)

    found = evaluate(Unsound(), Asked(path, unit="who"))
    assert found.num_records == 1
    left = found.left
    told = {
        name: getattr(left, name).rows for name in ("no_text", "no_label", "unknown", "no_unit", "unfit", "unreadable")
    }
    assert told == {"no_text": [3], "no_label": [4], "unknown": [5], "no_unit": [6], "unfit": [7], "unreadable": [8, 9]}
    assert "'Ünheard' (1)" in " ".join(left_words(found))
    assert "row 5" in " ".join(left_words(found))
    json.dumps(document(found), allow_nan=False)


def test_labels_go_by_the_map_in_nfc(tmp_path: Path) -> None:
    rows = [
        row | {"label": {"calm": "ruhig", "urgent": "dra\u0308ngend"}.get(row["label"], row["label"])}
        for row in records(40)
    ]
    found = _judged(rows, tmp_path, label_map={"ruhig": "calm", "dr\u00e4ngend": "urgent"})
    assert found.num_records == 40
    assert not found.left.unknown.num
    with pytest.raises(ConfigError, match=r"which is none of the adapter's labels\. Mend: they are 'calm', 'urgent'"):
        _judged(rows, tmp_path, label_map={"ruhig": "quiet"})


def test_nothing_left_is_the_user_s_input(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"one of the adapter's labels .*it has 'x'") as raised:
        _judged([{"text": "1 1", "label": "x"}], tmp_path)
    assert raised.value.exit_code == 2
    with pytest.raises(DataError, match=r"no row with text and label \(1 without text"):
        _judged([{"text": "", "label": "calm"}], tmp_path)
    with pytest.raises(DataError, match="no column 'label'"):
        _judged([{"text": "1 1", "x": "calm"}], tmp_path)
    (tmp_path / "empty.csv").touch()
    for name, what in (("empty.csv", "is empty"), ("no.csv", "no such file"), ("a.doc", "format is unknown")):
        with pytest.raises(DataError, match=what):
            Asked(tmp_path / name).check_source()
    with pytest.raises(DataError, match="encoding 'nonsense' is unknown"):
        _judged(records(3), tmp_path, encoding="nonsense")
    with pytest.raises(ConfigError, match="--confidence"):
        Asked(tmp_path / "rows.csv", confidence=1.0)


def test_json_lines_and_parquet_say_the_same(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    rows = records(50)
    expected = _judged(rows, tmp_path)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "{broken\n")
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    (tmp_path / "utf16.csv").write_bytes((tmp_path / "rows.csv").read_text().encode("utf-16"))
    for name, encoding in (("rows.jsonl", "utf-8"), ("rows.parquet", "utf-8"), ("utf16.csv", "utf-16")):
        found = evaluate(Echo(), Asked(tmp_path / name, encoding=encoding))
        assert found.scores == expected.scores
        assert found.left.unreadable.rows == ([51] if name.endswith("jsonl") else [])
    with pytest.raises(DataError, match=r"no column 'note'.*choose one of its columns: 'text', 'label'"):
        evaluate(Echo(), Asked(tmp_path / "rows.jsonl", text="note"))


def test_texts_are_read_and_forgotten_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = records(50)
    whole = _judged(rows, tmp_path)
    monkeypatch.setattr("privet.common.evaluating.judge._ROWS_AT_ONCE", 7)
    model, told = Echo(), list[int]()
    assert document(evaluate(model, whole.asked, told.append)) == document(whole)
    assert model.sizes == [7] * 7 + [1]
    assert told == [7, 14, 21, 28, 35, 42, 49, 50]
    monkeypatch.setattr("privet.common.evaluating.judge._CHARACTERS_AT_ONCE", 14)
    model = Echo()
    evaluate(model, whole.asked)
    assert set(model.sizes) == {2}  # of seven characters each


def _grouped(worse: float, seed: int = 0, num: int = 300) -> list[dict[str, str]]:
    """Three groups, in the last of which the model is right in the share `worse`."""
    parts = [("north", 0.85, seed), ("south", 0.85, seed + 1), ("west", worse, seed + 2)]
    return [row | {"site": name} for name, right, s in parts for row in records(num, right=right, seed=s)]


def test_a_planted_gap_is_found_and_the_right_group_is_named(tmp_path: Path) -> None:
    found = _judged(_grouped(0.65), tmp_path, by="site").comparison
    assert found is not None
    assert [group.name for group in found.groups if group.significant and group.gap.value < 0] == ["west"]
    west = found.groups[2]
    assert west.p_value < 0.01
    assert west.gap.high < -0.05
    words = group_words(found, "accuracy")
    assert any("'west'" in line and "below" in line and "is significant" in line for line in words)
    assert found.odds is not None
    assert found.odds.p_value < 0.05
    assert min(found.odds.rates["recall"], key=lambda name: found.odds.rates["recall"][name]) == "west"  # type: ignore[union-attr]


def test_alike_groups_are_called_different_as_rarely_as_promised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("privet.common.evaluating.groups.NUM_SHUFFLES", 200)
    from privet.common.evaluating.groups import _chances
    from privet.common.evaluating.tally import Tally

    def tally(right: Any) -> Tally:
        return Tally(None, None, None, right, np.repeat(np.arange(60), 3))

    random, wrong = np.random.default_rng(5), 0
    for trial in range(60):
        right = (random.random(180) < np.repeat(random.beta(4, 1, 60), 3)).astype(float)  # a unit's records are alike
        groups = np.repeat(random.integers(0, 4, 60), 3)
        wrong += _chances(groups, 4, tally(right), trial).min() <= 0.05
    assert wrong <= 8  # of 60, expected 3: P(more) < 1 %


def test_a_null_gap_is_not_significant_and_is_not_called_equality(tmp_path: Path) -> None:
    found = _judged(_grouped(0.85, seed=4, num=100), tmp_path, by="site").comparison
    assert found is not None
    assert not any(group.significant for group in found.groups)
    words = " ".join(group_words(found, "accuracy"))
    assert "No group's accuracy differs significantly" in words
    assert "does not show that they are alike" in words


def test_rates_and_gaps_are_fairlearns(tmp_path: Path) -> None:
    rows = _grouped(0.6, num=150)
    found = _judged(rows, tmp_path, by="site").comparison
    assert found is not None
    assert found.parity is not None
    assert found.odds is not None
    truth, given, _ = _truth(rows)
    sites = np.array([row["site"] for row in rows])
    parity = [
        fairlearn.demographic_parity_difference(truth == i, given == i, sensitive_features=sites) for i in range(4)
    ]
    odds = [fairlearn.equalized_odds_difference(truth == i, given == i, sensitive_features=sites) for i in range(4)]
    assert found.parity.label == LABELS[np.argmax(parity)]
    assert found.parity.gap.value == pytest.approx(max(parity))
    assert found.odds.label == LABELS[np.argmax(odds)]
    assert found.odds.gap.value == pytest.approx(max(odds))
    frame = fairlearn.MetricFrame(metrics=metrics.accuracy_score, y_true=truth, y_pred=given, sensitive_features=sites)
    assert {group.name: group.accuracy.value for group in found.groups} == pytest.approx(frame.by_group.to_dict())
    assert found.accuracy_gap == pytest.approx(frame.difference())


def test_small_groups_and_none_are_told_and_not_compared(tmp_path: Path) -> None:
    rows = _grouped(0.85, num=60)
    rows += [row | {"site": "tiny"} for row in records(MIN_UNITS - 1, right=0.0)]
    rows += [row | {"site": " "} for row in records(3)]
    # Many records of few people are few.
    rows = [row | {"who": str(i)} for i, row in enumerate(rows)]
    rows += [row | {"site": "clan", "who": f"c{i % 5}"} for i, row in enumerate(records(90, right=0.0))]
    found = _judged(rows, tmp_path, by="site", unit="who").comparison
    assert found is not None
    assert [group.name for group in found.groups] == ["north", "south", "west"]
    assert found.small == (("tiny", MIN_UNITS - 1), ("clan", 5))
    assert found.num_without == 3
    words = " ".join(group_words(found, "accuracy"))
    assert "Too small to say anything about" in words
    assert "'tiny' (19)" in words
    alone = _judged([row | {"site": "one"} for row in records(30)], tmp_path, by="site").comparison
    assert alone is not None
    assert alone.groups == ()
    assert "Nothing can be said" in group_words(alone, "accuracy")[0]


def test_too_many_groups_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("privet.common.evaluating.groups.MAX_GROUPS", 2)
    with pytest.raises(ConfigError, match=r"--by: the column 'site' has 3 groups"):
        _judged(_grouped(0.8, num=25), tmp_path, by="site")


def test_several_labels_a_record_are_scikit_learns(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    stands = random.random((200, 3)) < [0.5, 0.3, 0.1]
    logits = np.round(np.where(stands, 1.0, -1.0) + random.normal(0, 1.2, (200, 3)), 3)
    names = np.array(["I10", "E11", "J45"])
    rows: list[dict[str, Any]] = [
        {"text": " ".join(f"{i} {value}" for i, value in enumerate(row)), "label": " | ".join(names[true])}
        for row, true in zip(logits, stands, strict=True)
    ]
    model = Echo(plan_of(names.tolist(), kind="multilabel", thresholds={"E11": 0.7}))
    found = _judged(rows, tmp_path, model, separator="|")
    chances = 1 / (1 + np.exp(-logits))
    said = chances >= [0.5, 0.7, 0.5]
    assert found.accuracy_name == "subset accuracy"
    assert found.scores.accuracy.value == pytest.approx(metrics.accuracy_score(stands, said))
    assert found.scores.micro_f1.value == pytest.approx(metrics.f1_score(stands, said, average="micro"))
    assert found.scores.macro_f1.value == pytest.approx(metrics.f1_score(stands, said, average="macro"))
    each = metrics.f1_score(stands, said, average=None)
    assert [part.f1.value for part in found.scores.labels if part.f1] == pytest.approx(each.tolist())
    assert found.calibration is not None
    assert found.calibration.log_loss.value == pytest.approx(
        metrics.log_loss(stands.ravel(), chances.ravel()), rel=1e-5
    )
    assert found.calibration.brier.value == pytest.approx(((chances - stands) ** 2).mean(), rel=1e-5)
    assert set(found.label_errors) == set(names)
    assert found.confusion is None
    (tmp_path / "rows.jsonl").write_text(
        "".join(
            json.dumps({"text": row["text"], "label": names[true].tolist()}) + "\n"
            for row, true in zip(rows, stands, strict=True)
        )
    )
    assert evaluate(model, Asked(tmp_path / "rows.jsonl")).scores == found.scores


def test_a_task_without_evaluation_is_refused() -> None:
    plan = plan_of()
    model = Echo(plan.model_copy(update={"task": plan.task.model_copy(update={"kind": "tokens"})}))
    with pytest.raises(ModelError, match="no adapters for tokens"):
        evaluate(model, Asked(Path("never.csv")))
