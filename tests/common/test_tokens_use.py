"""What is done with an adapter that finds entities: predicting, judging and exporting it."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from seqeval.metrics import f1_score, precision_score, recall_score

from privet.common.cli.evaluate import evaluate
from privet.common.cli.predict import predict
from privet.common.errors import ConfigError, DataError, InputError
from privet.common.evaluating import shuffling
from privet.common.prediction import Predictor
from privet.common.tasks.tags import entities, tag_names
from privet.server.export import export_adapter
from privet.server.exporting import check
from privet.server.exporting.run import export
from privet.server.exporting.snippets import adapter_snippet
from privet.simulations.corpus.tagged import tagged_notes, write_conll, write_json_lines
from tests.client.token_cases import TEXTS, TYPES, token_plan
from tests.server.export_cases import run_snippet, snippet_of
from tests.server.test_report import check_harmless
from tests.tiny_models import tiny_base, trained

NOTES = tagged_notes(num_sites=2, num_patients=30)
MAP = ["condition=sign", "drug=card", "test=O"]
LINES = ["the patient has a fever", "  Chest-pain, (no) rash!", "my card was charged twice", "a" * 40]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "_SECONDS", 0.0)
    monkeypatch.setattr("privet.common.evaluating.entity_groups.NUM_SHUFFLES", 99)
    assert shuffling.NUM_SHUFFLES > 99


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokens")
    base = tiny_base(folder / "base")
    plan = token_plan(base, method="fedavg", task={"max_length": 16, "buckets": [16], "windows": 3, "stride": 4})
    export_adapter(trained(plan, base), base, folder / "adapter")
    return folder / "adapter"


def said(adapter: Path, texts: list[str]) -> list[list[str]]:
    """Names of the tags of each text's words."""
    names = tag_names(TYPES)
    found = Predictor.load(adapter).tags(texts, [len(text.split(" ")) for text in texts])
    return [[names[tag] for tag in tags] for tags in found if tags is not None]


def test_entities_of_running_text_stand_where_they_say(
    adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_text("".join(line + "\n" for line in LINES), encoding="utf-8")
    export(adapter, "merged", tmp_path / "merged", texts=LINES)
    told = []
    for model in (adapter, tmp_path / "merged"):
        predict(model, str(tmp_path / "a.txt"), as_json=True)
        told.append(json.loads(capsys.readouterr().out)["predictions"])
    for line, own, merged in zip(LINES, *told, strict=True):
        places = [(part["type"], part["start"], part["end"], part["text"]) for part in own["entities"]]
        assert places == [(part["type"], part["start"], part["end"], part["text"]) for part in merged["entities"]]
        for part in own["entities"]:
            assert part["text"] == line[part["start"] : part["end"]] == part["text"].strip() != ""
            assert 0 < part["probability"] <= 1
    assert sum(len(own["entities"]) for own in told[0]) > 2


def test_predicted_are_the_entities_that_are_judged(
    adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Words between spaces that the tokenizer does not split are the words of both, in one window and in several."""
    texts = [*TEXTS[:4], " ".join(TEXTS[:4])]
    (tmp_path / "a.txt").write_text("".join(line + "\n" for line in texts), encoding="utf-8")
    predict(adapter, str(tmp_path / "a.txt"), output_format="jsonl")
    found = [json.loads(line)["entities"] for line in capsys.readouterr().out.splitlines()]
    for text, own in zip(texts, found, strict=True):
        words = text.split(" ")
        starts = np.cumsum([0, *(len(word) + 1 for word in words)])
        (tags,) = Predictor.load(adapter).tags([text], [len(words)])
        assert tags is not None
        expected = [(TYPES[e.type], starts[e.start], starts[e.end] - 1) for e in entities(tags)]
        assert [(part["type"], part["start"], part["end"]) for part in own] == expected
    assert any(found)


def judged(adapter: Path, source: Path, folder: Path, capsys: pytest.CaptureFixture[str], **asked: Any) -> Any:
    evaluate(adapter, source, output=folder, label_map=MAP, as_json=True, **asked)
    out, err = capsys.readouterr()
    assert err == ""
    return json.loads(out)


def test_figures_are_seqevals_of_both_formats(
    adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_json_lines(NOTES, None, tmp_path / "a.jsonl")
    write_conll(NOTES, None, tmp_path / "a.conll")
    found = judged(adapter, tmp_path / "a.jsonl", tmp_path / "found", capsys, unit="patient")
    columns = judged(adapter, tmp_path / "a.conll", tmp_path / "columns", capsys, unit="patient")
    for key in ("metrics", "labels", "num_records", "num_units"):
        assert found[key] == columns[key]
    renamed = {"condition": "sign", "drug": "card"}
    truth = [
        [
            tag if tag == "O" else f"{tag[:2]}{renamed[tag[2:]]}" if tag[2:] in renamed else "O"
            for tag in cell.split(" ")
        ]
        for cell in NOTES.label
    ]
    given = said(adapter, list(NOTES.text))
    metrics = found["metrics"]
    for name, average in (("micro_f1", "micro"), ("macro_f1", "macro")):
        assert metrics[name]["value"] == pytest.approx(f1_score(truth, given, average=average))
        assert metrics[name]["low"] <= metrics[name]["value"] <= metrics[name]["high"]
        assert metrics[name]["low"] < metrics[name]["high"]
    assert metrics["micro_precision"]["value"] == pytest.approx(precision_score(truth, given))
    assert metrics["micro_recall"]["value"] == pytest.approx(recall_score(truth, given))
    each = {part["label"]: part for part in found["labels"]}
    for label, value in zip(sorted(TYPES), f1_score(truth, given, average=None), strict=True):
        assert each[label]["f1"]["value"] == pytest.approx(value)
    assert metrics["micro_f1"]["value"] > 0
    assert found["calibration"] is None
    assert (found["num_records"], found["num_units"]) == (len(NOTES.text), len(set(NOTES.unit)))
    page = (tmp_path / "found" / "evaluation.html").read_text(encoding="utf-8")
    read = check_harmless(page)
    assert "Micro F1" in read.text
    assert "Precision" in read.text
    assert "calibration" not in read.text.lower()
    assert NOTES.text[0] not in page + json.dumps(found)


def test_a_group_whose_entities_are_missed_is_named(
    adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The truth is what the adapter says; of one ward every second text's is something else."""
    texts = list(NOTES.text)
    with (tmp_path / "a.jsonl").open("w", encoding="utf-8") as file:
        for number, (text, tags) in enumerate(zip(texts, said(adapter, texts), strict=True)):
            ward = "abc"[number % 3]
            wrong = ward == "b" and number % 2
            row = {"tokens": text.split(" "), "tags": ["O" for _ in tags] if wrong else tags, "ward": ward}
            file.write(json.dumps(row) + "\n")
    evaluate(adapter, tmp_path / "a.jsonl", by="ward", output=tmp_path / "found")
    told = capsys.readouterr().err
    found = json.loads((tmp_path / "found" / "evaluation.json").read_text(encoding="utf-8"))
    groups = {group["name"]: group for group in found["groups"]["groups"]}
    assert groups["a"]["accuracy"]["value"] == groups["c"]["accuracy"]["value"] == 1
    assert groups["a"]["accuracy"]["low"] < 1  # nothing wrong is no certainty
    assert groups["b"]["accuracy"]["value"] < 0.9
    assert groups["b"]["gap"]["high"] < 0
    assert groups["b"]["p_value"] == 0.01  # of 99 shuffles none
    assert "Group 'b': micro F1" in told
    assert "label by label" not in told


def test_tagged_files_that_cannot_be_judged(adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"tokens": ["a", "rash"], "tags": ["O", "B-sign"]},
        {"tokens": ["a", "rash"], "tags": ["O", "B-Strange"]},
        {"tokens": ["a"], "tags": ["O", "O"]},
        {"tokens": ["a"], "tags": ["Q-sign"]},
        {"tokens": [], "tags": []},
    ]
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    evaluate(adapter, file, output=tmp_path / "found", as_json=True)
    left = json.loads(capsys.readouterr().out)["left_out"]
    assert {key: left[key]["rows"] for key in ("unknown", "unreadable", "no_text")} == {
        "unknown": [2],
        "unreadable": [3, 4],
        "no_text": [5],
    }
    assert left["unknown_labels"] == {"Strange": 1}
    file.write_text('{"tokens": ["a"], "tags": ["O"]}\n')
    with pytest.raises(DataError, match="none of its 1 texts has an entity"):
        evaluate(adapter, file, output=tmp_path / "other")
    with pytest.raises(DataError, match="no column 'words'"):
        evaluate(adapter, file, text="words", output=tmp_path / "other")
    with pytest.raises(ConfigError, match="none of the adapter's labels"):
        evaluate(adapter, file, label_map=["sign=Nothing"], output=tmp_path / "other")


@pytest.mark.parametrize("kind", ["merged", pytest.param("onnx", marks=pytest.mark.slow)])
def test_a_form_tags_as_the_adapter_does(adapter: Path, tmp_path: Path, kind: Any) -> None:
    found = export(adapter, kind, tmp_path / "out", texts=LINES)
    assert not found.blind
    assert found.agreement == 1
    assert found.difference <= 2e-5
    config = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    assert list(config["id2label"].values()) == list(tag_names(TYPES))


def test_there_is_no_sentence_transformers_form_of_tags(adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Mend"):
        export(adapter, "sentence-transformers", tmp_path / "out", texts=LINES)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_every_form_s_snippet_tags_without_privet(adapter: Path, tmp_path: Path) -> None:
    text = "no pain in the heart and a fever"
    programs = [adapter_snippet(Predictor.load(adapter).plan).replace('adapter = "."', f"adapter = {str(adapter)!r}")]
    kinds: Any = ("merged", "onnx", "onnx-int8")
    for kind in kinds:
        export(adapter, kind, tmp_path / kind, texts=[*NOTES.text[:60], text])
        snippet = snippet_of((tmp_path / kind / "README.md").read_text(encoding="utf-8"))
        programs.append(snippet.replace('folder = "."', f"folder = {str(tmp_path / kind)!r}"))
    (tags,) = said(adapter, [text])
    expected = [f"{word} {tag}" for word, tag in zip(text.split(" "), tags, strict=True) if tag != "O"]
    assert expected
    shown = run_snippet([program.replace("Put a text here.", text) for program in programs], tmp_path)
    assert shown[:3] == [expected] * 3
    assert len(set(shown[3]) & set(expected)) >= len(expected) - 1
    shutil.rmtree(tmp_path / "merged")
