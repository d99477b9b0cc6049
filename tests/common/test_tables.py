"""Reading columns: formats, encodings, faulty rows by number, and nothing shown that a cell holds."""

import codecs
import json
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from privet.common.decoding import MARK, MARKING, text_codec
from privet.common.delimited import MAX_FIELD
from privet.common.errors import DataError
from privet.common.tables import Table, read_columns

SECRET = "Zebrafinch77"


def _read(path: Path, content: bytes | str, *columns: str, **options: str) -> Table:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_columns(path, columns or ("text", "label"), **options)


def _rows(table: Table) -> list[tuple[int, str | None, str | None]]:
    return list(zip(table.rows, table.columns["text"], table.columns["label"], strict=True))


# --- formats ---------------------------------------------------------------------------------------------------------


def test_csv_reads_quotes_line_breaks_and_blank_lines(tmp_path: Path) -> None:
    content = 'label,text,other\na,"one, two",x\n\nb,"line\nbreak ""quoted""",x\r\n   \na,last,x'
    table = _read(tmp_path / "f.csv", content)
    assert _rows(table) == [(2, "one, two", "a"), (4, 'line\nbreak "quoted"', "b"), (7, "last", "a")]
    assert table.unreadable == []


def test_tsv_by_suffix_and_csv_by_format(tmp_path: Path) -> None:
    assert _rows(_read(tmp_path / "f.TSV", "text\tlabel\na, b\t1\n")) == [(2, "a, b", "1")]
    assert _rows(_read(tmp_path / "f.txt", "text,label\na,1\n", format="csv")) == [(2, "a", "1")]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_of_every_kind(tmp_path: Path, end: str) -> None:
    table = _read(tmp_path / "f.csv", end.join(["text,label", "one,a", "two,b", ""]))
    assert _rows(table) == [(2, "one", "a"), (3, "two", "b")]


@pytest.mark.parametrize("suffix", ["jsonl", "ndjson"])
def test_json_lines_scalars_become_text(tmp_path: Path, suffix: str) -> None:
    values = ["s", True, False, 7, 10**20, 3.0, -0.0, 2.5, 1e300, None, float("nan"), float("inf")]
    content = "\n".join(json.dumps({"text": "t", "label": value}) for value in values)
    table = _read(tmp_path / f"f.{suffix}", content + '\n{"text": "t"}\n')
    assert table.columns["label"] == [
        *("s", "true", "false", "7", "1" + "0" * 20, "3", "0", "2.5", "1e+300"),
        *(None, None, None, None),
    ]
    assert table.unreadable == []


def test_json_lines_break_only_at_newlines(tmp_path: Path) -> None:
    content = '{"text": "a\u2028b\x85c", "label": "x"}\r\n\n{"text": "d", "label": "y"}'
    assert _rows(_read(tmp_path / "f.jsonl", content)) == [(1, "a\u2028b\x85c", "x"), (3, "d", "y")]


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
    table = _read(tmp_path / "f.jsonl", f"{good}\n{row}\n{good}\n")
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


# --- encodings -------------------------------------------------------------------------------------------------------

ENCODINGS = [
    *(("latin-1", "Größe"), ("cp1252", "Größe – “ja”"), ("utf-8", "Größe 🙂"), ("utf-8-sig", "Größe 🙂")),
    *(("utf-16", "Größe 🙂"), ("utf-16-le", "Größe 🙂"), ("utf-16-be", "Größe"), ("utf-32", "Größe 🙂")),
    *(("big5", "病人頭痛"), ("gb18030", "病人头痛🙂"), ("shift_jis", "患者は頭痛"), ("koi8-r", "боль")),
]


@pytest.mark.parametrize(("encoding", "word"), ENCODINGS)
@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
def test_stated_encodings(tmp_path: Path, encoding: str, word: str, kind: str) -> None:
    if kind == "jsonl":
        content = f'{{"text": "{word}", "label": "a"}}\n{{"text": "b", "label": "{word}"}}\n'
        start = 1
    else:
        mark = {"csv": ",", "tsv": "\t"}[kind]
        content = f"text{mark}label\n{word}{mark}a\nb{mark}{word}\n"
        start = 2
    table = _read(tmp_path / f"f.{kind}", content.encode(encoding), encoding=encoding)
    assert _rows(table) == [(start, word, "a"), (start + 1, "b", word)]


def test_utf8_tolerates_a_byte_order_mark_before_a_quoted_header(tmp_path: Path) -> None:
    assert _rows(_read(tmp_path / "f.csv", codecs.BOM_UTF8 + b'"text",label\na,b\n')) == [(2, "a", "b")]
    table = _read(
        tmp_path / "g.csv", codecs.BOM_UTF16_LE + "text,label\na,b\n".encode("utf-16-le"), encoding="utf-16-le"
    )
    assert _rows(table) == [(2, "a", "b")]


@pytest.mark.parametrize(
    ("encoding", "bad"),
    [
        *(("utf-8", b"\xff"), ("utf-8", b"\xe9"), ("utf-8", b"\xf0\x9f"), ("cp1252", b"\x81"), ("ascii", b"\xe9")),
        *(("iso2022_jp", b"\x1b$"), ("big5", b"\xff"), ("big5", b"\xa4"), ("gb18030", b"\x81"), ("shift_jis", b"\x81")),
        *(("utf-16-le", b"\x00\xd8"), ("utf-16", b"\x00\xdc"), ("utf-32", b"\x00\x00\xff\xff")),
    ],
)
def test_undecodable_bytes_cost_their_own_row_only(tmp_path: Path, encoding: str, bad: bytes) -> None:
    """Also where the bad bytes stand right before a delimiter or the line's end."""
    plain = encoding if encoding not in ("utf-16", "utf-32") else f"{encoding}-{sys.byteorder[:1]}e"
    parts = ["text,label,rest\na,1,\nb", ",2,\nc,3,x", "\nd,4,\n"]
    content = bad.join(part.encode(plain) for part in parts)
    if plain != encoding:
        content = "\ufeff".encode(plain) + content
    table = _read(tmp_path / "f.csv", content, encoding=encoding)
    assert (_rows(table), table.unreadable) == ([(2, "a", "1"), (5, "d", "4")], [3, 4])


def test_undecodable_bytes_beyond_the_first_read_buffer(tmp_path: Path) -> None:
    good = "word " * 3000 + ",a\n"
    content = b"text,label\n" + good.encode() + b"\xff,b\n" + good.encode()
    table = _read(tmp_path / "f.csv", content)
    assert (table.rows, table.unreadable) == ([2, 4], [3])


@pytest.mark.parametrize("encoding", ["utf-9", "rot13", "base64", "", "a\0b", "ünknown"])
def test_an_unknown_encoding_is_told_with_a_mend(tmp_path: Path, encoding: str) -> None:
    with pytest.raises(DataError, match=r"encoding .* is unknown.*Mend: state a known one"):
        _read(tmp_path / "f.csv", "text,label\na,b\n", encoding=encoding)


def test_utf16_without_a_byte_order_mark_asks_for_the_byte_order(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="utf-16-le"):
        _read(tmp_path / "f.csv", "text,label\na,b\n".encode("utf-16-le"), encoding="utf-16")


def test_the_mark_is_no_text_of_any_codec() -> None:
    assert b"a\xffb".decode("utf-8", MARKING) == f"a{MARK}b"
    assert text_codec("UTF8") == "utf-8-sig"
    with pytest.raises(UnicodeEncodeError):
        "\ud800".encode("utf-8", MARKING)


# --- faulty rows of CSV ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", ["one", "one,two,three", '"a"b,c', "a\0,b", 'x,"open'])
@pytest.mark.parametrize("last", [False, True])
def test_a_faulty_csv_row_is_one_unreadable_row(tmp_path: Path, row: str, last: bool) -> None:
    content = f"text,label\na,1\n{row}\n" + ("" if last else "b,2\nc,3\n")
    table = _read(tmp_path / "f.csv", content)
    assert table.unreadable == [3]
    assert table.rows == ([2] if last else [2, 4, 5])


def test_a_stray_quote_does_not_swallow_the_rows_of_others(tmp_path: Path) -> None:
    rows = [f'{i},"t {i}",a' for i in range(50)]
    whole = _read(tmp_path / "f.csv", "unit,text,label\n" + "\n".join(rows))
    rows[10] = '10,"t 10,a'
    broken = _read(tmp_path / "g.csv", "unit,text,label\n" + "\n".join(rows))
    kept = [row for row in _rows(whole) if row[0] != 12]
    assert (_rows(broken), broken.unreadable) == (kept, [12])


def test_the_end_of_a_broken_row_is_not_taken_for_a_row(tmp_path: Path) -> None:
    """A two-line record with one field too many: its second line alone would have three fields."""
    content = 'unit,text,label\nu1,"first\nu2"", second",a,extra\nu3,third,a\n'
    table = _read(tmp_path / "f.csv", content)
    assert (_rows(table), table.unreadable) == ([(4, "third", "a")], [2, 3])
    content = 'unit,text,label\nu1,"first\nsecond",private,a\nu3,third,a\n'
    table = _read(tmp_path / "g.csv", content)
    assert (_rows(table), table.unreadable) == ([(4, "third", "a")], [2, 3])


@pytest.mark.parametrize("quoted", [False, True])
def test_fields_up_to_the_limit_are_read_and_longer_ones_are_not(tmp_path: Path, quoted: bool) -> None:
    edge = '"' if quoted else ""
    fits, long = "x" * MAX_FIELD, "x" * (MAX_FIELD + 1)
    table = _read(tmp_path / "f.csv", f"text,label\n{edge}{fits}{edge},a\n{edge}{long}{edge},a\nb,a\n")
    assert (table.rows, table.unreadable) == ([2, 4], [3])
    assert table.columns["text"][0] == fits


def test_a_json_field_over_the_limit_is_unreadable(tmp_path: Path) -> None:
    content = json.dumps({"text": "x" * (MAX_FIELD + 1), "label": "a"}) + '\n{"text": "b", "label": "a"}'
    table = _read(tmp_path / "f.jsonl", content)
    assert (table.rows, table.unreadable) == ([2], [1])


def test_many_unbalanced_quotes_take_linear_time(tmp_path: Path) -> None:
    start = time.process_time()
    for row in ['"a', 'a,"', '"""a,b', 'a,""b', '"a""']:
        _read(tmp_path / "f.csv", "text,label\n" + f"{row}\n" * 20_000)
    assert time.process_time() - start < 5


# --- files that are not what they should be --------------------------------------------------------------------------


def test_missing_folder_and_empty_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_columns(tmp_path / "absent.csv", ["text"])
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(DataError, match="a folder"):
        read_columns(tmp_path / "folder.csv", ["text"])
    for suffix in ("csv", "tsv", "jsonl", "parquet"):
        with pytest.raises(DataError, match="empty"):
            _read(tmp_path / f"empty.{suffix}", "")
    with pytest.raises(DataError, match=r"format is unknown.*Mend: state format = one of csv"):
        _read(tmp_path / "f.xlsx", "text,label\n")
    with pytest.raises(DataError, match="header cannot be read"):
        _read(tmp_path / "blank.csv", "\n\n \n")
    with pytest.raises(DataError, match="as Parquet"):
        _read(tmp_path / "f.parquet", "text,label\n")


def test_a_header_without_rows_is_an_empty_table(tmp_path: Path) -> None:
    table = _read(tmp_path / "f.csv", "text,label\n")
    assert table == Table({"text": [], "label": []}, [], [])


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_an_absent_column_lists_near_matches_and_what_is_there(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"f.{kind}"
    if kind == "parquet":
        parquet.write_table(pa.table({"Texte": ["a"], "code": ["b"]}), path)
    else:
        path.write_text({"csv": "Texte,code\na,b\n", "jsonl": '{"Texte": "a", "code": "b"}\n'}[kind])
    with pytest.raises(
        DataError, match=r"no column 'text'\. Mend: did you mean 'Texte'\? Its columns: 'Texte', 'code'\."
    ):
        read_columns(path, ["text"])


def test_column_names_are_compared_in_nfc_and_trimmed(tmp_path: Path) -> None:
    assert _read(tmp_path / "f.csv", " re\u0301sume\u0301 ,label\na,b\n", "résumé").columns == {"résumé": ["a"]}
    assert _read(tmp_path / "f.jsonl", '{"re\u0301sume\u0301": "a"}\n', "résumé").columns == {"résumé": ["a"]}


def test_a_wanted_column_that_stands_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'text' twice"):
        _read(tmp_path / "f.csv", "text,label,text\na,b,c\n")


def test_another_delimiter_is_guessed_in_the_mend(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="seems to be separated by ';'"):
        _read(tmp_path / "f.csv", "text;label\na;b\n")


@pytest.mark.parametrize("line", ["17,{},x", "u1,{} had pain in the left knee,x", "u1,{}" + "x" * 60 + ",x"])
def test_a_first_line_that_is_a_record_is_not_shown(tmp_path: Path, line: str) -> None:
    with pytest.raises(DataError, match="does not look like names") as caught:
        _read(tmp_path / "f.csv", line.format(SECRET) + "\n")
    assert SECRET not in str(caught.value)


def test_json_names_that_only_some_rows_have_are_not_shown(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Its columns: 'code'") as caught:
        _read(tmp_path / "f.jsonl", f'{{"code": 1, "{SECRET}": 2}}\n{{"code": 1}}\n')
    assert SECRET not in str(caught.value)


# --- properties ------------------------------------------------------------------------------------------------------

CELL = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(CELL, CELL), max_size=8))
@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_what_is_written_is_read(tmp_path: Path, rows: list[tuple[str, str]], kind: str) -> None:
    path = tmp_path / f"f.{kind}"
    if kind == "jsonl":
        content = "\n".join(json.dumps({"text": a, "label": b}, ensure_ascii=False) for a, b in rows) + "\n"
        path.write_bytes(content.encode())
    elif kind == "parquet":
        parquet.write_table(pa.table({"text": [a for a, _ in rows], "label": [b for _, b in rows]}), path)
    else:
        mark = "," if kind == "csv" else "\t"
        lines = [mark.join('"' + cell.replace('"', '""') + '"' for cell in row) for row in [("text", "label"), *rows]]
        path.write_bytes("\r\n".join(lines).encode())
    table = read_columns(path, ["text", "label"])
    assert list(zip(table.columns["text"], table.columns["label"], strict=True)) == rows
    assert table.unreadable == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(
    noise=st.lists(st.binary(max_size=20), min_size=1, max_size=6),
    encoding=st.sampled_from(["utf-8", "latin-1", "utf-16", "utf-16-le", "big5", "gb18030", "shift_jis", "cp1252"]),
    kind=st.sampled_from(["csv", "tsv", "jsonl", "parquet"]),
)
def test_any_bytes_give_a_table_or_a_data_error(tmp_path: Path, noise: list[bytes], encoding: str, kind: str) -> None:
    header = {
        "csv": "text,label\n",
        "tsv": "text\tlabel\n",
        "jsonl": '{"text": "a", "label": "b"}\n',
        "parquet": "PAR1",
    }
    content = header[kind].encode(encoding) + SECRET.encode(encoding).join(noise)
    shown = ""
    try:
        table = _read(tmp_path / f"f.{kind}", content, encoding=encoding)
    except DataError as error:
        shown = f"{error} {error!r} {error.__cause__!r} {error.__context__!r}"
    else:
        shown = repr(table)
        assert not set(table.rows) & set(table.unreadable)
        assert table.unreadable == sorted(table.unreadable)
    assert SECRET not in shown


def test_a_large_file_is_read_in_time(tmp_path: Path) -> None:
    body = "".join(f'u{i},"the patient number {i} came, and {"waited " * 15}",a\n' for i in range(100_000))
    path = tmp_path / "f.csv"
    path.write_text("unit,text,label\n" + body)
    start = time.process_time()
    table = read_columns(path, ["unit", "text", "label"])
    assert len(table.rows) == 100_000
    assert time.process_time() - start < 3
