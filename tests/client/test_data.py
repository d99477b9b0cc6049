"""A site's records: units, labels, exclusion, what is dropped, and that nothing shows a text."""

import json
import logging
import time
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from privet.client import report as words
from privet.client.data import UNKNOWN, Records, load_records, read_exclude
from privet.common.config import Site
from privet.common.errors import DataError

LABELS = ("cardiology", "neurology", "other")
SECRET = "Zebrafinch77"
ROWS = [("p1", "chest pain", "cardiology"), ("p2", "dizzy spells", "neurology"), ("p1", "short breath", "cardiology")]


def make_site(source: Path | str, *, declared_units: int = 2, **data: Any) -> Site:
    table = {"id": "0" * 31 + "1", "source": source, "text": "text", "label": "label", "unit": "unit"} | data
    membership = {"address": "localhost:9092", "ca": Path("ca.crt"), "key": Path("site.key"), "epsilon": 1.0}
    return Site.model_validate(
        {
            "format": 1,
            "name": "north",
            "data": table,
            "budget": {"epsilon": 1.0, "delta": 1e-9, "declared_units": declared_units},
            "federation": {"wards": membership | {"delta": 1e-9}},
        }
    )


def write_csv(path: Path, rows: list[tuple[str, str, str]]) -> Path:
    cells = [",".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in rows]
    path.write_text("\n".join(["unit,text,label", *cells, ""]), encoding="utf-8", newline="")
    return path


def load(tmp_path: Path, rows: list[tuple[str, str, str]], *, allow_empty: bool = False, **data: Any) -> Records:
    site = make_site(write_csv(tmp_path / "data.csv", rows), **data)
    return load_records(site, LABELS, allow_empty=allow_empty)


def grouping(records: Records) -> list[list[int]]:
    """Record numbers by unit."""
    return [np.flatnonzero(records.units == unit).tolist() for unit in range(records.num_units)]


# --- units -----------------------------------------------------------------------------------------------------------


def test_records_are_grouped_by_unit(tmp_path: Path) -> None:
    records = load(tmp_path, ROWS)
    assert records.texts == ["chest pain", "dizzy spells", "short breath"]
    assert records.labels.tolist() == [0, 1, 0]
    assert grouping(records) == [[0, 2], [1]]
    assert records.labels.dtype == records.units.dtype == np.int64
    with pytest.raises(ValueError, match="read-only"):
        records.labels[0] = 1


def test_unit_ids_are_nfc_and_trimmed(tmp_path: Path) -> None:
    composed, decomposed = "Andr\u00e9", "Andre\u0301"
    assert composed != decomposed
    records = load(tmp_path, [(composed, "a", "other"), (decomposed, "b", "other"), (f" {composed}\t", "c", "other")])
    assert records.num_units == 1
    assert load(tmp_path, [("andre", "a", "other"), ("Andre", "b", "other")]).num_units == 2


def test_numeric_unit_ids_agree_across_formats(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    lines = [{"unit": unit, "text": f"t{number}", "label": "other"} for number, unit in enumerate([7, "7", 7.0, 8])]
    path.write_text("\n".join(map(json.dumps, lines)))
    assert grouping(load_records(make_site(path), LABELS)) == [[0, 1, 2], [3]]


def test_rows_without_a_unit_or_text_are_dropped_and_told_by_number(tmp_path: Path) -> None:
    rows = [
        *ROWS,
        ("", "x", "other"),
        (" ", "x", "other"),
        ("p4", "", "other"),
        ("p4", " \t", "other"),
        ("p4", "y", ""),
    ]
    records = load(tmp_path, rows)
    assert records.texts == ["chest pain", "dizzy spells", "short breath", "y"]
    assert records.report.no_unit == words.RowNumbers(2, (5, 6))
    assert records.report.no_text == words.RowNumbers(2, (7, 8))
    assert records.report.unknown_label == words.RowNumbers(1, (9,))


def test_in_record_mode_duplicates_are_one_unit(tmp_path: Path) -> None:
    rows = [
        ("", "a", "other"),
        ("", "b", "other"),
        (SECRET, "a", "other"),
        ("", "a", "neurology"),
        ("", " a ", "other"),
    ]
    records = load(tmp_path, rows, unit="record")
    assert grouping(records) == [[0, 2, 4], [1], [3]]
    assert records.report.no_unit.count == 0
    assert records.report.duplicates == words.RowNumbers(2, (4, 6))


def test_in_record_mode_text_and_label_stay_apart(tmp_path: Path) -> None:
    assert load(tmp_path, [("", "ab", "c"), ("", "a", "bc")], unit="record").num_units == 2


# --- labels ----------------------------------------------------------------------------------------------------------


def test_the_label_map_comes_first_then_the_label_itself(tmp_path: Path) -> None:
    rows = [("p", str(i), label) for i, label in enumerate(["I21", " other\t", "neurology", "Cardiology", "", "I2"])]
    records = load(tmp_path, rows, label_map={"I21 ": "cardiology", "neurology": "other"})
    assert records.labels.tolist() == [0, 2, 2, UNKNOWN, UNKNOWN, UNKNOWN]
    assert records.num_units == 1
    assert records.report.label_counts == {"cardiology": 1, "neurology": 0, "other": 2}
    assert records.report.unknown_label == words.RowNumbers(3, (5, 6, 7))


def test_labels_are_compared_in_nfc(tmp_path: Path) -> None:
    write_csv(tmp_path / "data.csv", [("p", "a", "ge\u0301ne\u0301rale")])
    assert load_records(make_site(tmp_path / "data.csv"), ["x", "générale"]).labels.tolist() == [1]
    site = make_site(tmp_path / "data.csv", label_map={"générale": "ge\u0301ne\u0301rale"})
    assert load_records(site, ["x", "générale"]).labels.tolist() == [1]


def test_a_label_map_that_does_not_fit_the_plan_is_refused_before_a_row_is_read(tmp_path: Path) -> None:
    site = make_site(tmp_path / "absent.csv", label_map={"I21": "cardio"})
    with pytest.raises(DataError, match=r"data\.label_map: names 'cardio', which the plan does not have.*'cardiology'"):
        load_records(site, LABELS)
    site = make_site(tmp_path / "absent.csv", label_map={"I21": "other", "I21 ": "neurology"})
    with pytest.raises(DataError, match="one label twice"):
        load_records(site, LABELS)


# --- exclusion -------------------------------------------------------------------------------------------------------


def test_excluded_units_are_never_loaded(tmp_path: Path) -> None:
    exclude = tmp_path / "exclude.txt"
    exclude.write_bytes(b"\xef\xbb\xbf# withdrew consent\r\n\r\n  p1 \r\nAndre\xcc\x81\r\n\\#5\r\nnobody\r\n#p2\r\n")
    rows = [*ROWS, ("André", "x", "other"), ("#5", "y", "other"), ("p2", "z", "other")]
    records = load(tmp_path, rows, exclude=exclude)
    assert records.texts == ["dizzy spells", "z"]
    assert records.report.excluded == words.RowNumbers(4, (2, 4, 5, 6))
    assert (records.report.exclude_ids, records.report.exclude_unmatched) == (4, 1)


def test_the_exclude_file_fails_closed(tmp_path: Path) -> None:
    path = tmp_path / "exclude.txt"
    for content, problem in [(None, "no such file"), ("p1\n".encode("utf-16"), "UTF-8"), (b"p\0\n\0", "NUL")]:
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(DataError, match=problem):
            load(tmp_path, ROWS, exclude=path)
    with pytest.raises(DataError, match="cannot be read"):
        read_exclude(tmp_path)
    path.write_text("p1")
    with pytest.raises(DataError, match="no record has an id to exclude"):
        load(tmp_path, ROWS, exclude=path, unit="record")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_the_exclude_file_may_have_any_line_ends(tmp_path: Path, end: str) -> None:
    (tmp_path / "exclude.txt").write_bytes(end.join(["a", "b", "c"]).encode())
    assert read_exclude(tmp_path / "exclude.txt") == {"a", "b", "c"}


# --- nothing usable --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [[], [("", "a", "other"), ("p", "", "other")]])
def test_no_usable_row_is_an_error_unless_allowed(tmp_path: Path, rows: list[tuple[str, str, str]]) -> None:
    with pytest.raises(DataError, match=f"no usable row: of {len(rows)},"):
        load(tmp_path, rows)
    records = load(tmp_path, rows, allow_empty=True)
    assert (records.texts, records.num_units, len(records.labels), len(records.units)) == ([], 0, 0, 0)
    assert records.labels.dtype == records.units.dtype == np.int64
    assert words.lines(records.report, make_site(tmp_path / "data.csv"))


def test_one_class_and_unknown_labels_are_no_errors(tmp_path: Path) -> None:
    assert load(tmp_path, [("p", "a", "other"), ("q", "b", "other")]).report.one_class
    assert load(tmp_path, [("p", "a", "?")]).report.one_class
    assert not load(tmp_path, ROWS).report.one_class


def test_faults_of_the_file_are_data_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        load_records(make_site(tmp_path / "absent.csv"), LABELS)
    write_csv(tmp_path / "data.csv", ROWS)
    with pytest.raises(DataError, match="no column 'patient'"):
        load_records(make_site(tmp_path / "data.csv", unit="patient"), LABELS)
    with pytest.raises(DataError, match="encoding"):
        load_records(make_site(tmp_path / "data.csv", encoding="utf-99"), LABELS)


# --- the report's numbers --------------------------------------------------------------------------------------------


def test_the_report_counts(tmp_path: Path) -> None:
    path = write_csv(
        tmp_path / "data.csv", [*ROWS, ("p1", "three more words", "other"), ("p3", "chest pain", "cardiology")]
    )
    path.write_bytes(path.read_bytes() + b'"p4","\xff","other"\n')
    report = load_records(make_site(path, max_records=2), LABELS).report
    assert (report.rows, report.readable, report.records, report.units) == (6, 5, 5, 3)
    assert report.unreadable == words.RowNumbers(1, (7,))
    assert report.duplicates == words.RowNumbers(1, (6,))
    assert report.records_per_unit == words.Spread.of([3, 1, 1])
    assert report.records_per_unit.maximum == 3
    assert report.over_max_records == pytest.approx(1 / 3)
    assert report.words == words.Spread.of([2, 2, 2, 3, 2])
    assert report.characters.maximum == len("three more words")


@pytest.mark.parametrize(("declared", "off"), [(2, True), (3, False), (6, False), (12, False), (13, True)])
def test_declared_units_may_be_off_by_a_factor_of_two(tmp_path: Path, declared: int, off: bool) -> None:
    rows = [(f"p{i}", f"t{i}", "other") for i in range(6)]
    assert load(tmp_path, rows, declared_units=declared).report.declared_units_off is off


# --- privacy ---------------------------------------------------------------------------------------------------------

CELL = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6)
UNIT = st.sampled_from(["p1", "p2", "p3", "e\u0301", "\u00e9 ", ""])
LABEL = st.sampled_from([*LABELS, "?", ""])


def content_by_unit(records: Records) -> list[list[tuple[str, int]]]:
    """What each unit holds, in an order that does not depend on the units' numbers."""
    pairs = list(zip(records.texts, records.labels.tolist(), strict=True))
    return sorted([pairs[index] for index in members] for members in grouping(records))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100, deadline=None)
@given(rows=st.lists(st.tuples(UNIT, CELL, LABEL), max_size=12), gone=UNIT)
def test_removing_a_unit_changes_no_other(tmp_path: Path, rows: list[tuple[str, str, str]], gone: str) -> None:
    def name(unit: str) -> str:
        return unicodedata.normalize("NFC", unit).strip()

    whole = load(tmp_path, rows, allow_empty=True)
    fewer = load(tmp_path, [row for row in rows if name(row[0]) != name(gone)], allow_empty=True)
    kept = [row for row in rows if row[0] and row[1].strip()]
    assert whole.texts == [row[1] for row in kept]
    others = [index for index, row in enumerate(kept) if name(row[0]) != name(gone)]
    assert fewer.texts == [whole.texts[index] for index in others]
    assert fewer.labels.tolist() == whole.labels[others].tolist()
    removed = [unit for unit in content_by_unit(whole) if unit not in content_by_unit(fewer)]
    assert len(removed) <= 1
    assert whole.num_units - fewer.num_units in (0, 1)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
@given(rows=st.lists(st.tuples(UNIT, CELL, LABEL), max_size=10), data=st.data())
def test_the_order_of_rows_does_not_matter(
    tmp_path: Path, rows: list[tuple[str, str, str]], data: st.DataObject
) -> None:
    shuffled = data.draw(st.permutations(rows))

    def units(rows: list[tuple[str, str, str]]) -> list[list[tuple[str, int]]]:
        return sorted(sorted(unit) for unit in content_by_unit(load(tmp_path, rows, allow_empty=True)))

    assert units(rows) == units(shuffled)


PLACES = [
    *("text", "unit", "label", "before bad bytes", "after a NUL", "quotes", "extra field", "short row", "long"),
    *("bad json", "json list", "json name", "unpaired surrogate", "excluded", "no text", "no unit", "duplicate"),
]


def planted(folder: Path, place: str, secret: str, copies: int) -> Site:
    """A file with the secret in the named place, among two sound rows."""
    path = folder / ("data.jsonl" if "json" in place or "surrogate" in place else "data.csv")
    faulty = {
        "text": f"p9,{secret},other",
        "unit": f"{secret},sound text,other",
        "label": f"p9,sound text,{secret}",
        "before bad bytes": f"p9,{secret}\udcff,{secret}",
        "after a NUL": f"p9,\0{secret},other",
        "quotes": f'p9,"{secret}"{secret},other',
        "extra field": f"p9,{secret},other,{secret}",
        "short row": secret,
        "long": f"p9,{secret * 300_000},other" if copies == 1 else f"p9,{secret * 100},other",
        "bad json": f'{{"unit": "p9", "text": "{secret}"',
        "json list": f'{{"unit": "p9", "text": ["{secret}"], "label": "other"}}',
        "json name": f'{{"unit": "p9", "{secret}": 1, "label": "other"}}',
        "unpaired surrogate": f'{{"unit": "p9", "text": "{secret}\\ud800", "label": "other"}}',
        "excluded": f"p9,{secret},other",
        "no text": f"{secret},,{secret}",
        "no unit": f",{secret},{secret}",
        "duplicate": f"p9,{secret},other\np9,{secret},other",
    }[place]
    if path.suffix == ".jsonl":
        sound = ['{"unit": "p1", "text": "a", "label": "other"}', '{"unit": "p2", "text": "b", "label": "neurology"}']
    else:
        sound = ["unit,text,label", "p1,a,other", "p2,b,neurology"]
    path.write_bytes("\n".join([*sound, *[faulty] * copies, ""]).encode("utf-8", "surrogateescape"))
    exclude = folder / "exclude.txt"
    exclude.write_text(f"p9\nextra{secret}\n")
    return make_site(path, exclude=exclude if place == "excluded" else None)


@pytest.mark.parametrize("place", PLACES)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=8, deadline=None)
@given(
    secret=st.text("abcdefgXYZßéЖ", min_size=8, max_size=16).map("Qz".__add__),
    copies=st.integers(1, 30),
    column=st.sampled_from(["text", "texxt"]),
)
def test_a_planted_secret_is_never_shown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, place: str, secret: str, copies: int, column: str
) -> None:
    caplog.set_level(logging.DEBUG)
    site = planted(tmp_path, place, secret, copies)
    site = site.model_copy(update={"data": site.data.model_copy(update={"text": column})})
    records: Records | None
    try:
        records = load_records(site, LABELS)
    except DataError as error:
        records, shown = None, [str(error), repr(error), repr(error.__context__), repr(error.__cause__)]
    assert (records is None) == (column == "texxt")
    if records is not None:
        report = records.report
        shown = [repr(records), str(records), repr(report), str(words.to_json(report)), *words.lines(report, site)]
        faults = (report.unreadable, report.no_text, report.no_unit, report.excluded, report.unknown_label)
        assert report.records > 2 or sum(rows.count for rows in faults) >= copies
    assert not any(secret in text for text in [*shown, caplog.text])


def test_nothing_is_written_beside_the_data(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"unit": ["p"], "text": ["a"], "label": ["other"]}), tmp_path / "data.parquet")
    assert load_records(make_site(tmp_path / "data.parquet"), LABELS).texts == ["a"]
    assert [path.name for path in tmp_path.iterdir()] == ["data.parquet"]


def test_a_large_file_is_loaded_in_time(tmp_path: Path) -> None:
    rows = [(f"p{i % 30_000}", f"patient {i} came and {'waited ' * 15}", LABELS[i % 3]) for i in range(100_000)]
    site = make_site(write_csv(tmp_path / "data.csv", rows))
    start = time.process_time()
    records = load_records(site, LABELS)
    assert (len(records.texts), records.num_units) == (100_000, 30_000)
    assert time.process_time() - start < 3
