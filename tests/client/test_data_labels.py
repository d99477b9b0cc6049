"""A site's records with several labels each: from cells to targets, and what `check` tells of them."""

import json
from pathlib import Path

import pytest

from privet.client.data import load_records
from privet.client.report import lines, warnings
from privet.common.config import TaskSpec
from privet.common.errors import DataError
from privet.common.tasks.targets import UNKNOWN
from tests.client.test_data import make_site

TASK = TaskSpec(kind="multilabel", labels=("heart", "lung", "skin"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    rows = [["heart", "SKIN"], [], ["liver", "heart"], ["lung"]]
    file = tmp_path / "notes.jsonl"
    file.write_text("".join(json.dumps({"text": f"t{i}", "label": row}) + "\n" for i, row in enumerate(rows)))
    return file


def test_each_code_goes_through_the_map_and_an_unknown_one_makes_the_record_contribute_nothing(path: Path) -> None:
    site = make_site(path, unit="record", label_map={"SKIN": "skin"})
    records = load_records(site, TASK)
    expected = [[1, 0, 1], [0, 0, 0], [UNKNOWN] * 3, [0, 1, 0]]
    assert records.labels.tolist() == expected
    assert records.report.label_counts == {"heart": 1, "lung": 1, "skin": 1}
    assert (records.report.unknown_label.count, records.report.unknown_label.first) == (1, (3,))
    assert any("contribute zero" in warning for warning in warnings(records.report))
    told = "\n".join(lines(records.report, site))
    assert "liver" not in told
    later = load_records(site, None).relabel(TASK, {"SKIN": "skin"}, site.data.label_separator)
    assert later.labels.tolist() == expected
    train, validation = records.split(0.5)
    assert len(train.labels) + len(validation.labels) == 4
    assert train.labels.shape[1] == 3
    assert not records.labels.flags.writeable


def test_another_separator_and_a_map_that_does_not_fit(tmp_path: Path) -> None:
    file = tmp_path / "notes.csv"
    file.write_text("text,label\na,heart|lung\nb,heart;lung\n")
    site = make_site(file, unit="record", label_separator="|")
    assert load_records(site, TASK).labels.tolist() == [[1, 1, 0], [UNKNOWN] * 3]
    with pytest.raises(DataError, match="does not have"):
        load_records(make_site(file, unit="record", label_map={"x": "liver"}), TASK)
