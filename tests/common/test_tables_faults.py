"""Reading columns: files that are not what they should be, and nothing shown that a cell holds."""

import json
import time
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from privet.common.errors import DataError
from privet.common.tables import Table, read_columns
from tests.common.test_tables import SECRET, read


def test_missing_folder_and_empty_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_columns(tmp_path / "absent.csv", ["text"])
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(DataError, match="a folder"):
        read_columns(tmp_path / "folder.csv", ["text"])
    for suffix in ("csv", "tsv", "jsonl", "parquet"):
        with pytest.raises(DataError, match="empty"):
            read(tmp_path / f"empty.{suffix}", "")
    with pytest.raises(DataError, match=r"format is unknown.*Mend: state format = one of csv"):
        read(tmp_path / "f.xlsx", "text,label\n")
    with pytest.raises(DataError, match="header cannot be read"):
        read(tmp_path / "blank.csv", "\n\n \n")
    with pytest.raises(DataError, match="as Parquet"):
        read(tmp_path / "f.parquet", "text,label\n")


def test_a_header_without_rows_is_an_empty_table(tmp_path: Path) -> None:
    table = read(tmp_path / "f.csv", "text,label\n")
    assert table == Table({"text": [], "label": []}, [], [])


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_an_absent_column_lists_near_matches_and_what_is_there(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"f.{kind}"
    if kind == "parquet":
        parquet.write_table(pa.table({"Texte": ["a"], "code": ["b"]}), path)
    else:
        path.write_text({"csv": "Texte,code\na,b\n", "jsonl": '{"Texte": "a", "code": "b"}\n'}[kind])
    with pytest.raises(
        DataError, match=r"no column 'text'\. Mend: did you mean 'Texte'\? choose one of its columns: 'Texte', 'code'\."
    ):
        read_columns(path, ["text"])


def test_column_names_are_compared_in_nfc_and_trimmed(tmp_path: Path) -> None:
    assert read(tmp_path / "f.csv", " re\u0301sume\u0301 ,label\na,b\n", "résumé").columns == {"résumé": ["a"]}
    assert read(tmp_path / "f.jsonl", '{"re\u0301sume\u0301": "a"}\n', "résumé").columns == {"résumé": ["a"]}


def test_a_wanted_column_that_stands_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'text' twice"):
        read(tmp_path / "f.csv", "text,label,text\na,b,c\n")


def test_another_delimiter_is_guessed_in_the_mend(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="seems to be separated by ';'"):
        read(tmp_path / "f.csv", "text;label\na;b\n")


@pytest.mark.parametrize("line", ["17,{},x", "u1,{} had pain in the left knee,x", "u1,{}" + "x" * 60 + ",x"])
def test_a_first_line_that_is_a_record_is_not_shown(tmp_path: Path, line: str) -> None:
    with pytest.raises(DataError, match="does not look like names") as caught:
        read(tmp_path / "f.csv", line.format(SECRET) + "\n")
    assert SECRET not in str(caught.value)


def test_json_names_that_only_some_rows_have_are_not_shown(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="choose one of its columns: 'code'") as caught:
        read(tmp_path / "f.jsonl", f'{{"code": 1, "{SECRET}": 2}}\n{{"code": 1}}\n')
    assert SECRET not in str(caught.value)


CELL = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(CELL, CELL), max_size=8))
@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_what_is_written_isread(tmp_path: Path, rows: list[tuple[str, str]], kind: str) -> None:
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
        table = read(tmp_path / f"f.{kind}", content, encoding=encoding)
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
