"""The form of each task's results, and the sinks that take them."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import parquet

from privet.common.config.task import TaskSpec
from privet.common.errors import ConfigError, RunError
from privet.common.outputs import Answer, Output, Scores, output_of
from privet.common.outputs.base import softmax
from privet.common.predicting.sinks import FORMATS, output_format, sink_to
from privet.common.predicting.source import Row

LOGITS = np.array([[2.0, 0.0, -2.0], [-1e4, 1e4, 0.0]], np.float32)


def spec(kind: str = "classification", **more: Any) -> TaskSpec:
    return TaskSpec.model_validate({"kind": kind, "labels": ["calm", "very\turgent", "other"]} | more)


def test_a_label_with_its_probability() -> None:
    first, second = output_of(spec()).answers(["a", "b"], Scores(LOGITS))
    assert first.line() == "calm\t0.8668"
    assert second.line() == "very urgent\t1.0000"  # a label breaks no line
    assert first.members() == {"label": "calm", "probability": 0.866813}
    every = output_of(spec(), every=True)
    first, _ = every.answers(["a", "b"], Scores(LOGITS))
    assert first.members()["probabilities"] == {"calm": 0.866813, "very\turgent": 0.11731, "other": 0.015876}
    assert [column.name for column in every.columns][2:] == ["p:calm", "p:very\turgent", "p:other"]
    assert len(first.table()[0]) == len(every.columns)


def test_several_labels_by_the_plan_s_thresholds() -> None:
    thresholds = {"calm": 0.9, "other": 0.1}
    first, second = output_of(spec("multilabel", thresholds=thresholds)).answers(["a", "b"], Scores(LOGITS))
    assert first.members() == {
        "labels": ["very\turgent", "other"],  # calm has .88 and needs .9; urgent is at .5 itself
        "probabilities": {"calm": 0.880797, "very\turgent": 0.5, "other": 0.119203},
    }
    assert first.line() == "very urgent;other\t0.5000;0.1192"
    assert second.members()["labels"] == ["very\turgent", "other"]
    (none,) = output_of(spec("multilabel", thresholds=0.99)).answers(["a"], Scores(LOGITS[:1]))
    assert none.line() == "\t"
    assert none.table() == [("", 0.880797, 0.5, 0.119203)]


TEXT, SPANS = "the  Öl rash\there", [[0, 3], [5, 7], [8, 12], [13, 17]]


def tagged(tags: list[int]) -> tuple[Output, Answer]:
    task = spec("tokens", labels=["sign", "drug"])
    logits = np.full((len(tags), 5), -3.0, np.float32)
    logits[np.arange(len(tags)), tags] = 3 + np.arange(len(tags))
    output = output_of(task)
    scores = Scores(logits, np.array([0, 0, len(tags)]), np.array(SPANS))
    nothing, answer = output.answers(["", TEXT], scores)
    assert nothing.members() == {"entities": []}
    return output, answer


def test_entities_with_their_characters() -> None:
    output, answer = tagged([0, 1, 2, 3])
    first, second = answer.members()["entities"]
    assert (first["type"], first["start"], first["end"], first["text"]) == ("sign", 5, 12, "Öl rash")
    assert TEXT[second["start"] : second["end"]] == second["text"] == "here"
    chances = [softmax(np.array([3.0 + i, -3, -3, -3, -3]))[0] for i in range(4)]
    assert first["probability"] == pytest.approx((chances[1] + chances[2]) / 2, abs=1e-6)
    assert answer.line() == "sign 5 12 0.9975 Öl rash\tdrug 13 17 0.9995 here"
    assert all(len(row) == len(output.columns) for row in answer.table())


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ([2, 2, 0, 4], [("sign", 0, 7), ("drug", 13, 17)]),  # what continues nothing begins
        ([1, 1, 2, 4], [("sign", 0, 3), ("sign", 5, 12), ("drug", 13, 17)]),
        ([0, 0, 0, 0], []),
    ],
)
def test_entities_of_odd_tags(tags: list[int], found: list[tuple[str, int, int]]) -> None:
    _, answer = tagged(tags)
    assert [(each["type"], each["start"], each["end"]) for each in answer.members()["entities"]] == found


def put(path: Path, format: str, output: Output, answer: Answer, *, with_id: bool = False) -> None:
    with sink_to(path, format, output, with_id=with_id) as sink:
        sink.write(Row(2, "a", 'x,"y'), answer)
        sink.write(Row(3, None), None)
        sink.flush()
        sink.finish({"num_rows": 2})


def test_every_file_holds_the_same(tmp_path: Path) -> None:
    output, answer = tagged([0, 1, 2, 3])
    for format in FORMATS:
        put(tmp_path / f"out.{format}", format, output, answer, with_id=True)
    rows = [(2, 'x,"y', *row) for row in answer.table()]
    names = ["row", "id", "type", "start", "end", "text", "probability"]
    assert parquet.read_table(tmp_path / "out.parquet").to_pylist() == [
        dict(zip(names, row, strict=True)) for row in rows
    ]
    for format, delimiter in (("csv", ","), ("tsv", "\t")):
        with (tmp_path / f"out.{format}").open(encoding="utf-8", newline="") as file:
            found = list(csv.reader(file, delimiter=delimiter))
        assert found == [names, *[list(map(str, row)) for row in rows]]
    lines = (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()
    expected = {"row": 2, "id": 'x,"y', **answer.members()}
    assert [json.loads(line) for line in lines] == [expected]
    whole = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert whole == {"predictions": [expected], "num_rows": 2}
    assert (tmp_path / "out.lines").read_text(encoding="utf-8") == f'x,"y\t{answer.line()}\n\t\n'


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_is_never_half_written_under_its_name(tmp_path: Path, format: str) -> None:
    output, answer = tagged([0, 1, 2, 3])
    path = tmp_path / "out"
    path.write_bytes(b"the one before")

    def stop() -> None:
        with sink_to(path, format, output, with_id=False) as sink:
            sink.write(Row(1, "a"), answer)
            sink.flush()
            assert path.read_bytes() == b"the one before"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    assert path.read_bytes() == b"the one before"
    assert list(tmp_path.iterdir()) == [path]
    put(path, format, output, answer)
    assert path.read_bytes() != b"the one before"
    assert list(tmp_path.iterdir()) == [path]


def test_an_empty_document_is_one(tmp_path: Path) -> None:
    with sink_to(tmp_path / "a.json", "json", output_of(spec()), with_id=False) as sink:
        sink.finish({"num_rows": 0})
    assert json.loads((tmp_path / "a.json").read_text()) == {"predictions": [], "num_rows": 0}


def test_formats_by_suffix_and_by_name() -> None:
    assert output_format(None, None) == "lines"
    assert output_format(Path("a.CSV"), None) == "csv"
    assert output_format(Path("a.csv"), "jsonl") == "jsonl"
    for path, format in ((Path("a.xlsx"), None), (None, "parquet"), (None, "xml")):
        with pytest.raises(ConfigError, match="Mend:"):
            output_format(path, format)


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    output, answer = tagged([0, 1, 2, 3])
    (tmp_path / "out.csv").mkdir()
    with pytest.raises(RunError, match="cannot be written"):
        put(tmp_path / "out.csv", "csv", output, answer)
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]
