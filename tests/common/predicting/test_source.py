"""The rows of an input, one by one."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from privet.common.delimited import MAX_FIELD
from privet.common.errors import ConfigError, DataError
from privet.common.predicting.source import _WITHOUT_COLUMN, Source


def rows_of(path: Path | str, **options: Any) -> list[tuple[int, str | None, str | None]]:
    with Source(str(path), **options) as source:
        return [(row.number, row.text, row.id) for row in source.rows()]


def written(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_lines_of_text(tmp_path: Path) -> None:
    path = written(tmp_path / "a.txt", "\ufeffa fever\r\n\n  \nno\x0cpain\nlast".encode())
    assert [text for _, text, _ in rows_of(path)] == ["a fever", "", "  ", "no\x0cpain", "last"]


def test_undecodable_lines_leave_their_neighbours(tmp_path: Path) -> None:
    path = written(tmp_path / "a.txt", b"one\n\xff\xfe two\nth\0ree\nfour \xc3")  # the last stops within a character
    assert [text for _, text, _ in rows_of(path)] == ["one", None, None, None]
    assert [text for _, text, _ in rows_of(path, encoding="latin-1")] == ["one", "ÿþ two", None, "four Ã"]


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "utf-16", "utf-16-le", "gb18030"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    path = written(tmp_path / "a.csv", "id,text\n1,für heute\n2,\n".encode(encoding))
    assert rows_of(path, encoding=encoding, id_column="id") == [(2, "für heute", "1"), (3, "", "2")]


def test_tables_stop_in_the_middle_of_a_row(tmp_path: Path) -> None:
    csv = written(tmp_path / "a.csv", 'id,text\n1,"a, b"\n2,c,d\n3,e\n4,"f and no end')
    assert rows_of(csv, id_column="id") == [(2, "a, b", "1"), (3, None, None), (4, "e", "3"), (5, None, None)]
    lines = written(tmp_path / "a.jsonl", '{"text": "a", "id": 1}\n[]\n\n{"text": null}\n{"text": "no en')
    assert rows_of(lines, id_column="id") == [(1, "a", "1"), (2, None, None), (4, "", None), (5, None, None)]


def test_the_format_may_be_told(tmp_path: Path) -> None:
    path = written(tmp_path / "notes.dat", "note\tx\nrash\t1\n")
    assert rows_of(path, format="tsv", column="note") == [(2, "rash", None)]
    with pytest.raises(DataError, match=r"format is unknown.*--format"):
        rows_of(path)
    with pytest.raises(DataError, match="'xlsx' is unknown"):
        rows_of(path, format="xlsx")
    with pytest.raises(ConfigError, match="Parquet is read from its end"):
        rows_of("-", format="parquet")


def test_parquet(tmp_path: Path) -> None:
    texts = [f"text {i}" for i in range(2500)]
    texts[7] = ""
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"text": texts, "id": list(range(2500))}), path, row_group_size=700)
    with Source(str(path), id_column="id") as source:
        found = [(row.number, row.text, row.id) for row in source.rows()]
        assert (source.done, source.size) == (2500, 2500)
    assert found == [(i + 1, text, str(i)) for i, text in enumerate(texts)]
    written(path, path.read_bytes()[:-20])
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        rows_of(path)


def test_an_absent_column_is_told_soon(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", '{"note": "rash"}\n' * (3 * _WITHOUT_COLUMN))
    with Source(str(path)) as source:
        with pytest.raises(DataError, match=r"no column 'text'.*'note'"):
            next(source.rows())
        assert source.done < path.stat().st_size  # not at its end
    late = written(tmp_path / "b.jsonl", '{"note": "x"}\n' * 3 + '{"text": "rash"}\n')
    assert [text for _, text, _ in rows_of(late)] == ["", "", "", "rash"]
    with pytest.raises(DataError, match=r"no column 'text'.*'note'"):
        rows_of(written(tmp_path / "a.csv", "id,note\n1,rash\n"))
    with pytest.raises(ConfigError, match="--id"):
        rows_of(written(tmp_path / "a.txt", "rash\n"), id_column="id")


def test_nothing_is_an_error_and_a_header_alone_is_not(tmp_path: Path) -> None:
    for name in ("a.txt", "a.csv", "a.jsonl"):
        with pytest.raises(DataError, match="empty"):
            rows_of(written(tmp_path / name, ""))
    assert rows_of(written(tmp_path / "a.csv", "id,text\n")) == []
    with pytest.raises(DataError, match="no such file"):
        rows_of(tmp_path / "none.txt")
    with pytest.raises(DataError, match="folder"):
        rows_of(tmp_path, format="txt")
    with pytest.raises(DataError, match="decoded as 'klingon'"):
        rows_of(tmp_path / "a.csv", encoding="klingon")


def test_a_line_without_end_is_not_held(tmp_path: Path) -> None:
    path = written(tmp_path / "a.txt", "x" * (2 * MAX_FIELD) + "\nrash\n")
    assert [(number, text) for number, text, _ in rows_of(path)] == [(1, None), (2, "rash")]


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The end to write to of a pipe that is standard input."""
    read, write = os.pipe()
    with os.fdopen(read, "r") as file:
        monkeypatch.setattr("sys.stdin", file)
        yield write


def test_a_row_of_a_stream_comes_before_the_next_is_written(stream: int) -> None:
    with Source("-") as source:
        rows = source.rows()
        for text in ("one", "two"):
            os.write(stream, f"{text}\n".encode())
            assert next(rows).text == text
        os.close(stream)
        assert list(rows) == []


def test_an_empty_stream(stream: int) -> None:
    os.close(stream)
    with pytest.raises(DataError, match="standard input: it is empty"):
        rows_of("-")


def test_a_stream_that_waits_is_given_up_at_once(stream: int) -> None:
    with Source("-") as source:
        found: list[object] = []
        reading = threading.Thread(target=lambda: found.extend(source.rows()))
        reading.start()
        source.cancel()
        reading.join(20)
        assert not reading.is_alive()
    assert found == []
    os.close(stream)


def test_a_producer_that_is_killed_in_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    script = "import sys, time\nprint('id,text\\n1,rash\\n2,\"it ends wi', end='', flush=True)\ntime.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as producer:
        monkeypatch.setattr("sys.stdin", producer.stdout)
        with Source("-", format="csv") as source:
            rows = source.rows()
            assert next(rows).text == "rash"
            producer.kill()
            assert [(row.number, row.text) for row in rows] == [(3, None)]
