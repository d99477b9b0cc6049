"""A site's tagged texts: read from each format, grouped by unit, and told to the operator by counts alone."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privet.client import report as words
from privet.client.data import UNKNOWN, load_records
from privet.common.config import TaskSpec
from privet.common.errors import DataError
from privet.simulations.corpus.tagged import TYPES, tagged_notes, write_conll, write_json_lines
from tests.client.test_data import make_site

TASK = TaskSpec(kind="tokens", labels=("Disease", "Drug"))
SECRET = "Zebrafinch77"
ROWS = [
    {"tokens": [SECRET, "has", "a", "fever"], "tags": ["O", "O", "O", "B-Disease"], "patient": "p1"},
    {"tokens": ["on", "insulin"], "tags": ["O", "S-Drug"], "patient": "p2"},
    {"tokens": ["a", "scan"], "tags": ["O", "B-Test"], "patient": "p1"},
    {"tokens": ["a"], "tags": ["O", "O"], "patient": "p1"},
    {"tokens": ["a"], "tags": ["X-Drug"], "patient": "p3"},
    {"tokens": [], "tags": [], "patient": "p4"},
]


def _site(folder: Path, rows: list[dict[str, Any]] = ROWS, **data: Any) -> Any:
    path = folder / "notes.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return make_site(path, format="tokens", text="tokens", label="tags", unit="patient", **data)


def test_texts_tags_and_units(tmp_path: Path) -> None:
    records = load_records(_site(tmp_path), TASK)
    assert records.texts[1] == "on insulin"
    assert records.labels.tolist() == [0, 0, UNKNOWN, UNKNOWN]
    assert records.tags is not None
    assert [None if row is None else row.tolist() for row in records.tags] == [[0, 0, 0, 1], [0, 3], None, None]
    assert records.units.tolist() == [0, 1, 0, 2]
    chosen, rest = records.split(0.5)
    assert len(chosen.tags or []) == len(chosen.texts)
    assert len(chosen.texts) + len(rest.texts) == 4


def test_the_report_counts_entities_and_what_is_left_out(tmp_path: Path) -> None:
    site = _site(tmp_path)
    records = load_records(site, TASK)
    report = records.report
    assert report.label_counts == {"Disease": 1, "Drug": 1}
    assert (report.unreadable.first, report.unknown_label.first, report.no_text.first) == ((4,), (3, 5), (6,))
    told = "\n".join(words.lines(report, site))
    assert "Entities: Disease: 1" in told
    assert 'to "O"' in told
    assert "one answer" not in told
    for text in (told, json.dumps(words.to_json(report)), repr(records)):
        assert SECRET not in text
        assert "Test" not in text


def test_a_label_map_renames_types_or_leaves_them_out(tmp_path: Path) -> None:
    site = _site(tmp_path, label_map={"Test": "O", "Drug": "Disease"})
    records = load_records(site, TaskSpec(kind="tokens", labels=("Disease",)))
    assert records.tags is not None
    assert [None if row is None else row.tolist() for row in records.tags] == [[0, 0, 0, 1], [0, 1], [0, 0], None]
    with pytest.raises(DataError, match="which the plan does not have"):
        load_records(_site(tmp_path, label_map={"Test": "Procedure"}), TASK)


def test_records_read_before_a_plan_was_known_are_the_same(tmp_path: Path) -> None:
    site = _site(tmp_path)
    early = load_records(site, None)
    assert early.tags is None
    assert (early.labels == UNKNOWN).all()
    later = early.relabel(TASK, {})
    at_once = load_records(site, TASK)
    assert later.labels.tolist() == at_once.labels.tolist()
    assert str(later.tags) == str(at_once.tags)
    assert early.relabel(["a", "b"], {}).tags is None


def test_all_formats_hold_the_same(tmp_path: Path) -> None:
    corpus = tagged_notes(num_patients=20)
    write_json_lines(corpus, "north", tmp_path / "a.jsonl")
    write_conll(corpus, "north", tmp_path / "a.conll")
    part = corpus.at("north")
    rows = [f'"{text}",{label},{unit}' for text, label, unit in zip(part.text, part.label, part.unit, strict=True)]
    (tmp_path / "a.csv").write_text("\n".join(["text,label,patient", *rows]) + "\n", "utf-8")
    task = TaskSpec(kind="tokens", labels=TYPES)
    cases: Any = (
        ("a.jsonl", {"format": "tokens", "text": "tokens", "label": "tags"}),
        ("a.conll", {"text": "1", "label": "-1"}),
        ("a.csv", {}),
    )
    found = [load_records(make_site(tmp_path / name, unit="patient", **settings), task) for name, settings in cases]
    for other in found[1:]:
        assert other.texts == found[0].texts
        assert str(other.tags) == str(found[0].tags)
        np.testing.assert_array_equal(other.units, found[0].units)
        np.testing.assert_array_equal(other.points, found[0].points)
    assert (found[0].labels == 0).all()


def test_a_table_with_another_number_of_tags_contributes_zero(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label,unit\na fever,O B-Disease,p\na  fever,O B-Disease,p\n", "utf-8")
    records = load_records(make_site(tmp_path / "a.csv"), TASK)
    assert records.labels.tolist() == [0, UNKNOWN]
    assert records.report.unknown_label.first == (3,)
