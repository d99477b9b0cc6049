"""Tagged texts from files: what is read, what is left out and told by its number, what the operator must mend."""

import json
from pathlib import Path

import pytest

from privet.common.columns import Table
from privet.common.errors import DataError
from privet.common.sequences import read_sequences, words_of


def _json_lines(path: Path, *rows: object) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), "utf-8")
    return path


def _conll(path: Path, text: str, **settings: str) -> Table:
    path.write_text(text, "utf-8")
    return read_sequences(path, "1", "-1", ["patient"] if "patient" in text else [], **settings)


def test_json_lines(tmp_path: Path) -> None:
    rows = {"tokens": ["New York", "is", ""], "tags": ["B-Place", "O", "O"], "patient": 7}
    table = read_sequences(_json_lines(tmp_path / "a.jsonl", rows), "tokens", "tags", ["patient"])
    assert table.columns == {
        "tokens": ["New\u00a0York is "],
        "tags": ["B-Place O O"],
        "patient": ["7"],
    }
    assert words_of(table.columns["tokens"][0] or "") == ["New\u00a0York", "is", ""]


BAD = [
    {"tokens": ["a", "b"], "tags": ["O"]},  # unequal
    {"tokens": "a b", "tags": ["O", "O"]},
    {"tokens": ["a"], "tags": [""]},
    {"tokens": ["a"], "tags": [1]},
    {"tokens": ["a", None], "tags": ["O", "O"]},
    {"tokens": ["a\0"], "tags": ["O"]},
    {"tokens": ["\ud800"], "tags": ["O"]},
    {"tokens": ["a"], "tags": ["O"], "patient": [1]},
    '{"tokens": ["a"], "tags": ["O"], "tags": ["O"]}',
    "{",
    "[1]",
]


@pytest.mark.parametrize("bad", BAD, ids=range(len(BAD)))
def test_a_text_that_cannot_be_read_is_counted_and_leaves_its_neighbours(tmp_path: Path, bad: object) -> None:
    good = {"tokens": ["a"], "tags": ["O"], "patient": "p"}
    table = read_sequences(_json_lines(tmp_path / "a.jsonl", good, bad, good), "tokens", "tags", ["patient"])
    assert (table.rows, table.unreadable) == ([1, 3], [2])


def test_numbers_for_tags_are_refused_with_a_mend(tmp_path: Path) -> None:
    path = _json_lines(tmp_path / "a.jsonl", {"tokens": ["a"], "tags": [0]})
    with pytest.raises(DataError, match="write names"):
        read_sequences(path, "tokens", "tags")
    with pytest.raises(DataError, match="write names"):
        _conll(tmp_path / "a.conll", "a 0\nb 1\n")


def test_columns(tmp_path: Path) -> None:
    text = (
        "-DOCSTART- -X- -X- O\n\n# patient = p1\nThe\tDT\tO\nfever\tNN\tB-Sign\n\n"
        "# patient = p2\n# sent_id = 4\n#\tNN\tO\n= = O\n\n\n-DOCSTART- (7)\nend NN O\n"
    )
    path = tmp_path / "a.conll"
    path.write_text(text, "utf-8")
    table = read_sequences(path, "1", "-1", ["patient", "document"])
    assert table.columns["1"] == ["The fever", "# =", "end"]
    assert table.columns["-1"] == ["O B-Sign", "O O", "O"]
    assert table.columns["patient"] == ["p1", "p2", None]
    assert table.columns["document"] == [None, None, "7"]
    assert table.rows == [4, 9, 14]


def test_a_line_without_its_columns_spoils_its_own_text_only(tmp_path: Path) -> None:
    table = _conll(tmp_path / "a.conll", "a O\nb\n\nc O\n\nd\t\n\ne O\n")
    assert table.columns["1"] == ["c", "e"]
    assert table.unreadable == [1, 6]


def test_other_encodings(tmp_path: Path) -> None:
    path = tmp_path / "a.conll"
    path.write_bytes("für O\r\n\r\nda O\r\n".encode("cp1252"))
    assert read_sequences(path, "1", "2", encoding="cp1252").columns["1"] == ["für", "da"]
    table = read_sequences(path, "1", "2")
    assert (table.columns["1"], table.unreadable) == (["da"], [1])


@pytest.mark.parametrize(
    ("name", "content", "words", "match"),
    [
        ("a.conll", "", "1", "empty"),
        ("a.conll", "a O\n", "tokens", "number"),
        ("a.conll", "a O\n", "0", "number"),
        ("a.jsonl", '{"words": ["a"], "tags": ["O"]}\n', "tokens", "no column 'tokens'"),
        ("a.csv", "a,b\n", "1", "format"),
    ],
)
def test_what_the_operator_must_mend(tmp_path: Path, name: str, content: str, words: str, match: str) -> None:
    (tmp_path / name).write_text(content, "utf-8")
    with pytest.raises(DataError, match=match):
        read_sequences(tmp_path / name, words, "-1" if name.endswith("conll") else "tags")
    with pytest.raises(DataError, match="encoding"):
        read_sequences(tmp_path / "a.conll", "1", "2", encoding="klingon")


def test_no_error_quotes_a_word(tmp_path: Path) -> None:
    path = _json_lines(tmp_path / "a.jsonl", {"Secretname is not very well today": 1})
    with pytest.raises(DataError) as caught:
        read_sequences(path, "tokens", "tags")
    assert "Secretname" not in str(caught.value)


def test_a_word_says_nothing_of_whose_the_next_texts_are(tmp_path: Path) -> None:
    """Of one patient's texts none becomes another's by what stands in it."""
    text = (
        "# patient = p1\na O\n\n#patient=p9\tO\nb\tO\n\n#patient=p9 O\n\n-DOCSTART-x O\n\nc O\n\n"
        "#\tx=1\tO\n\n# patient = p2\nd O\n\n#patient=p3\ne O\n"
    )
    table = _conll(tmp_path / "a.conll", text)
    assert table.columns["patient"] == ["p1"] * 6 + ["p2", "p3"]
    assert table.columns["1"][1:4] == ["#patient=p9 b", "#patient=p9", "-DOCSTART-x"]


@pytest.mark.parametrize("damaged", [b"# patient = p\xff2", b"# pat\xffient = p2", b"# patient = p\x002"])
def test_texts_below_a_comment_that_cannot_be_read_are_nobodys(tmp_path: Path, damaged: bytes) -> None:
    """They are p2's, and would else be counted as those of p1."""
    path = tmp_path / "a.conll"
    path.write_bytes(b"# patient = p1\na O\n\n" + damaged + b"\nb O\n\nc O\n\n# patient = p3\nd O\n\n#\xff\tO\n\ne O\n")
    table = read_sequences(path, "1", "-1", ["patient"])
    assert dict(zip(table.columns["1"], table.columns["patient"], strict=True)) == {"a": "p1", "d": "p3", "e": "p3"}
    assert table.unreadable == [5, 7, 12]


def test_a_comment_of_spaces_takes_no_time(tmp_path: Path) -> None:
    """A line is looked at once: none decides by its length whether a site is there in time."""
    text = "# patient = p1\n#" + " a" * 3 + " " * 200_000 + "b= 1\na O\n"
    assert _conll(tmp_path / "a.conll", text).columns["patient"] == ["p1"]
