"""Reading columns: formats, and faulty rows by number."""

import json
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from privet.common.delimited import MAX_FIELD
from privet.common.errors import DataError
from privet.common.tables import Table, read_columns

SECRET = "Zebrafinch77"


def read(path: Path, content: bytes | str, *columns: str, **options: Any) -> Table:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_columns(path, columns or ("text", "label"), **options)


def rows_of(table: Table) -> list[tuple[int, str | None, str | None]]:
    return list(zip(table.rows, table.columns["text"], table.columns["label"], strict=True))


# --- formats ---------------------------------------------------------------------------------------------------------


def test_csv_reads_quotes_line_breaks_and_blank_lines(tmp_path: Path) -> None:
    content = 'label,text,other\na,"one, two",x\n\nb,"line\nbreak ""quoted""",x\r\n   \na,last,x'
    table = read(tmp_path / "f.csv", content)
    assert rows_of(table) == [(2, "one, two", "a"), (4, 'line\nbreak "quoted"', "b"), (7, "last", "a")]
    assert table.unreadable == []


def test_tsv_by_suffix_and_csv_by_format(tmp_path: Path) -> None:
    assert rows_of(read(tmp_path / "f.TSV", "text\tlabel\na, b\t1\n")) == [(2, "a, b", "1")]
    assert rows_of(read(tmp_path / "f.txt", "text,label\na,1\n", format="csv")) == [(2, "a", "1")]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_of_every_kind(tmp_path: Path, end: str) -> None:
    table = read(tmp_path / "f.csv", end.join(["text,label", "one,a", "two,b", ""]))
    assert rows_of(table) == [(2, "one", "a"), (3, "two", "b")]


@pytest.mark.parametrize("suffix", ["jsonl", "ndjson"])
def test_json_lines_scalars_become_text(tmp_path: Path, suffix: str) -> None:
    values = ["s", True, False, 7, 10**20, 3.0, -0.0, 2.5, 1e300, None, float("nan"), float("inf")]
    content = "\n".join(json.dumps({"text": "t", "label": value}) for value in values)
    table = read(tmp_path / f"f.{suffix}", content + '\n{"text": "t"}\n')
    assert table.columns["label"] == [
        *("s", "true", "false", "7", "1" + "0" * 20, "3", "0", "2.5", "1e+300"),
        *(None, None, None, None),
    ]
    assert table.unreadable == []


def test_json_lines_break_only_at_newlines(tmp_path: Path) -> None:
    content = '{"text": "a\u2028b\x85c", "label": "x"}\r\n\n{"text": "d", "label": "y"}'
    assert rows_of(read(tmp_path / "f.jsonl", content)) == [(1, "a\u2028b\x85c", "x"), (3, "d", "y")]


@pytest.mark.parametrize(
    "row",
    [
        '{"text": "a", "label": "x"',
        '["a", "x"]',
        "7",
        '{"text": ["a"], "label": "x"}',
        '{"text": {"b": 1}, "label": "x"}',
        '{"text": "a", "label": "x", "label": "y"}',
        '{"text": "a\\u0000", "label": "x"}',
        '{"text": "a\\ud800", "label": "x"}',
        '{"text": "a", "label": ' + "9" * 5000 + "}",
        '{"text": ' + "[" * 100_000 + "}",
        '{"text": "a\0", "label": "x"}',
    ],
)
def test_a_faulty_json_line_is_one_unreadable_row(tmp_path: Path, row: str) -> None:
    good = '{"text": "a", "label": "x"}'
    table = read(tmp_path / "f.jsonl", f"{good}\n{row}\n{good}\n")
    assert (table.rows, table.unreadable) == ([1, 3], [2])


def test_parquet_types_become_text(tmp_path: Path) -> None:
    columns = {
        "text": pa.array(["a", None, "ü"]),
        "large": pa.array(["a", None, "ü"], pa.large_string()),
        "dictionary": pa.array(["a", None, "a"]).dictionary_encode(),
        "binary": pa.array([b"a", None, "ü".encode()]),
        "integer": pa.array([1, None, -3]),
        "float": pa.array([1.0, None, 2.5]),
        "boolean": pa.array([True, None, False]),
        "date": pa.array([0, None, 1], pa.date32()),
        "time": pa.array([0, None, 1], pa.timestamp("ms")),
        "null": pa.array([None, None, None], pa.null()),
        "a.b": pa.array(["x", "y", "z"]),
        "nested": pa.array([{"x": 1}, None, {"x": 2}]),
    }
    path = tmp_path / "f.parquet"
    parquet.write_table(pa.table(columns), path, row_group_size=2)
    names = [name for name in columns if name != "nested"]
    table = read_columns(path, names)
    assert table.rows == [1, 2, 3]
    assert table.unreadable == []
    first = {name: (table.columns[name][0], table.columns[name][1], table.columns[name][2]) for name in names}
    assert first == {
        **dict.fromkeys(("text", "large", "binary"), ("a", None, "ü")),
        "dictionary": ("a", None, "a"),
        "integer": ("1", None, "-3"),
        "float": ("1", None, "2.5"),
        "boolean": ("true", None, "false"),
        "date": ("1970-01-01", None, "1970-01-02"),
        "time": ("1970-01-01 00:00:00.000", None, "1970-01-01 00:00:00.001"),
        "null": (None, None, None),
        "a.b": ("x", "y", "z"),
    }
    with pytest.raises(DataError, match="as Parquet"):
        read_columns(path, ["nested"])


def test_parquet_is_read_beside_hive_folders_without_their_keys(tmp_path: Path) -> None:
    folder = tmp_path / "label=wrong"
    folder.mkdir()
    parquet.write_table(pa.table({"text": ["a"], "label": ["right"]}), folder / "f.parquet")
    assert read_columns(folder / "f.parquet", ["label"]).columns == {"label": ["right"]}


def test_parquet_undecodable_text_is_one_unreadable_row(tmp_path: Path) -> None:
    bad = pa.Array.from_buffers(pa.utf8(), 3, pa.array([b"ok", b"\xff\xfe", b"ok"]).buffers())
    parquet.write_table(pa.table({"text": bad, "label": ["a", "a", "a\0"]}), tmp_path / "f.parquet")
    table = read_columns(tmp_path / "f.parquet", ["text", "label"])
    assert (table.rows, table.unreadable) == ([1], [2, 3])


def test_parquet_binary_columns_follow_the_stated_encoding(tmp_path: Path) -> None:
    table = pa.table({"text": ["é".encode("latin-1")], "string": ["é"]})
    parquet.write_table(table, tmp_path / "f.parquet")
    found = read_columns(tmp_path / "f.parquet", ["text", "string"], encoding="latin-1")
    assert found.columns == {"text": ["é"], "string": ["é"]}
    assert read_columns(tmp_path / "f.parquet", ["text"]).unreadable == [1]


# --- faulty rows of CSV ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", ["one", "one,two,three", '"a"b,c', "a\0,b", 'x,"open'])
@pytest.mark.parametrize("last", [False, True])
def test_a_faulty_csv_row_is_one_unreadable_row(tmp_path: Path, row: str, last: bool) -> None:
    content = f"text,label\na,1\n{row}\n" + ("" if last else "b,2\nc,3\n")
    table = read(tmp_path / "f.csv", content)
    assert table.unreadable == [3]
    assert table.rows == ([2] if last else [2, 4, 5])


def test_a_stray_quote_does_not_swallow_the_rows_of_others(tmp_path: Path) -> None:
    rows = [f'{i},"t {i}",a' for i in range(50)]
    whole = read(tmp_path / "f.csv", "unit,text,label\n" + "\n".join(rows))
    rows[10] = '10,"t 10,a'
    broken = read(tmp_path / "g.csv", "unit,text,label\n" + "\n".join(rows))
    kept = [row for row in rows_of(whole) if row[0] != 12]
    assert (rows_of(broken), broken.unreadable) == (kept, [12])


def test_the_end_of_a_broken_row_is_not_taken_for_a_row(tmp_path: Path) -> None:
    """A two-line record with one field too many: its second line alone would have three fields."""
    content = 'unit,text,label\nu1,"first\nu2"", second",a,extra\nu3,third,a\n'
    table = read(tmp_path / "f.csv", content)
    assert (rows_of(table), table.unreadable) == ([(4, "third", "a")], [2, 3])
    content = 'unit,text,label\nu1,"first\nsecond",private,a\nu3,third,a\n'
    table = read(tmp_path / "g.csv", content)
    assert (rows_of(table), table.unreadable) == ([(4, "third", "a")], [2, 3])


@pytest.mark.parametrize("quoted", [False, True])
def test_fields_up_to_the_limit_are_read_and_longer_ones_are_not(tmp_path: Path, quoted: bool) -> None:
    edge = '"' if quoted else ""
    fits, long = "x" * MAX_FIELD, "x" * (MAX_FIELD + 1)
    table = read(tmp_path / "f.csv", f"text,label\n{edge}{fits}{edge},a\n{edge}{long}{edge},a\nb,a\n")
    assert (table.rows, table.unreadable) == ([2, 4], [3])
    assert table.columns["text"][0] == fits


def test_a_json_field_over_the_limit_is_unreadable(tmp_path: Path) -> None:
    content = json.dumps({"text": "x" * (MAX_FIELD + 1), "label": "a"}) + '\n{"text": "b", "label": "a"}'
    table = read(tmp_path / "f.jsonl", content)
    assert (table.rows, table.unreadable) == ([2], [1])


def test_many_unbalanced_quotes_take_linear_time(tmp_path: Path) -> None:
    start = time.process_time()
    for row in ['"a', 'a,"', '"""a,b', 'a,""b', '"a""']:
        read(tmp_path / "f.csv", "text,label\n" + f"{row}\n" * 20_000)
    assert time.process_time() - start < 5
