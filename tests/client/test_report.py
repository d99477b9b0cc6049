"""The data report: its words, tables and JSON."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from privet.client.report import DataReport, RowNumbers, Spread, lines, render, to_json, warnings
from privet.common.config import Site

NONE = RowNumbers(0, ())
REPORT = DataReport(
    rows=1234,
    unreadable=NONE,
    no_unit=NONE,
    excluded=NONE,
    no_text=NONE,
    records=1234,
    unknown_label=NONE,
    duplicates=NONE,
    label_counts={"a": 1000, "b": 234},
    units=617,
    records_per_unit=Spread.of([1, 2, 3]),
    over_max_records=0.25,
    words=Spread.of([10, 20, 33]),
    characters=Spread.of([50, 100]),
    exclude_ids=0,
    exclude_unmatched=0,
    declared_units_off=False,
)


def make_site() -> Site:
    membership = {"address": "h:1", "ca": Path("c"), "key": Path("k"), "epsilon": 1.0, "delta": 1e-9}
    data = {"id": "0" * 32, "source": Path("d.csv"), "text": "t", "label": "l", "unit": "patient"}
    budget = {"epsilon": 1.0, "delta": 1e-9, "declared_units": 600}
    raw = {"format": 1, "name": "n", "data": data, "budget": budget, "federation": {"f": membership}}
    return Site.model_validate(raw)


def shown(report: DataReport, **options: Any) -> str:
    console = Console(file=io.StringIO(), width=160, force_terminal=False)
    console.print(render(report, **options))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_lines_say_each_fact_once() -> None:
    found = lines(REPORT, make_site())
    assert found[0] == 'd.csv (unit = "patient", max_records = 4)'
    assert "Rows: rows: 1,234" in found
    assert "Units: records per unit: min 1, 5 % 1.1, median 2, mean 2, 95 % 2.9, max 3" in found
    assert "Units: units with more than max_records: 25.0%" in found
    assert "Labels: a: 1,000" in found
    assert not [line for line in found if line.startswith("Warning")]
    assert len(found) == len(set(found))


def test_the_tables_show_what_the_lines_say() -> None:
    report = replace(REPORT, unreadable=RowNumbers(2, (3, 7)), declared_units_off=True)
    table = shown(report)
    for line in lines(report, make_site())[1:]:
        assert all(part in table.replace("\n", " ") or line.startswith("Warning") for part in line.split(": ", 2))
    assert table.count("Warning") == len(warnings(report)) == 2


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"label_counts": {"a": 5, "b": 0}}, "one and the same"),
        ({"label_counts": {"a": 0, "b": 0}}, "No record has a label of the plan"),
        ({"records": 0}, "No row is usable"),
        ({"unreadable": RowNumbers(1, (2,))}, "unreadable"),
        ({"no_unit": RowNumbers(1, (2,))}, "no unit"),
        ({"unknown_label": RowNumbers(1, (2,))}, "label_map"),
        ({"exclude_ids": 3, "exclude_unmatched": 1}, "1 of 3 ids"),
        ({"units": 1}, "belong to one unit"),
        ({"declared_units_off": True}, "factor of two"),
    ],
)
def test_each_fault_has_one_warning(change: dict[str, Any], word: str) -> None:
    report = replace(REPORT, **change)
    assert len(warnings(report)) == 1
    assert word in warnings(report)[0]
    assert lines(report, make_site())[-1] == f"Warning: {warnings(report)[0]}"
    assert not warnings(REPORT)


def test_the_warning_on_declared_units_proposes_no_count() -> None:
    (warning,) = warnings(replace(REPORT, declared_units_off=True))
    assert not any(character.isdigit() for character in warning)
    assert "too few" not in warning
    assert "too many" not in warning


def test_rows_are_told_by_the_first_twenty_numbers() -> None:
    assert str(RowNumbers.of([])) == "0"
    assert str(RowNumbers.of([4])) == "1 (row 4)"
    assert str(RowNumbers.of(range(2, 22))).endswith("20, 21)")
    many = RowNumbers.of(range(2, 2000))
    assert (many.count, many.first) == (1998, tuple(range(2, 22)))
    assert str(many).startswith("1,998 (rows 2, 3,")
    assert str(many).endswith("21, …)")


def test_spread_of_nothing_and_of_one() -> None:
    assert Spread.of([]) == Spread(0, 0, 0, 0, 0, 0)
    assert Spread.of([5]) == Spread(5, 5, 5, 5, 5, 5)


def test_json_is_plain_and_whole() -> None:
    report = replace(REPORT, unreadable=RowNumbers(1, (3,)), declared_units_off=True)
    document = json.loads(json.dumps(to_json(report), allow_nan=False))
    assert document["unreadable"] == {"count": 1, "first": [3]}
    assert document["readable"] == 1233
    assert document["one_class"] is False
    assert document["label_counts"] == {"a": 1000, "b": 234}
    assert document["warnings"] == warnings(report)
    assert "tokens" not in document


def test_token_lengths_fall_into_the_smallest_bucket_that_holds_them() -> None:
    lengths = np.array([3, 16, 17, 32, 33, 500])
    options: dict[str, Any] = {"token_lengths": lengths, "buckets": (16, 32)}
    document = json.loads(json.dumps(to_json(REPORT, **options)))
    assert document["tokens"]["buckets"] == {"up to 16": 2, "up to 32": 2, "over 32": 2}
    assert document["tokens"]["maximum"] == 500
    assert "Tokens: up to 16: 2" in lines(REPORT, make_site(), **options)
    assert "over 32" in shown(REPORT, **options)
    assert to_json(REPORT, token_lengths=lengths)["tokens"]["buckets"] == {"any": 6}


def test_many_labels_are_summed_up() -> None:
    counts = {f"label {number}": number for number in range(100)}
    found = [line for line in lines(replace(REPORT, label_counts=counts), make_site()) if line.startswith("Labels")]
    assert found[0] == "Labels: label 99: 99"
    assert found[20] == "Labels: 80 further labels: 3,160"
    assert len(found) == 22


def test_a_plans_labels_cannot_steer_the_terminal() -> None:
    report = replace(REPORT, label_counts={"\x1b[31mred\n": 1, "[bold]b[/bold]": 2})
    for text in ("\n".join(lines(report, make_site())), shown(report)):
        assert "\x1b" not in text
        assert "[bold]b[/bold]" in text
