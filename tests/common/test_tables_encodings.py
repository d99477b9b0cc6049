"""Reading columns: text encodings, and bytes that cannot be decoded."""

import codecs
import sys
from pathlib import Path

import pytest

from privet.common.decoding import MARK, MARKING, text_codec
from privet.common.errors import DataError
from tests.common.test_tables import read, rows_of

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
    table = read(tmp_path / f"f.{kind}", content.encode(encoding), encoding=encoding)
    assert rows_of(table) == [(start, word, "a"), (start + 1, "b", word)]


def test_utf8_tolerates_a_byte_order_mark_before_a_quoted_header(tmp_path: Path) -> None:
    assert rows_of(read(tmp_path / "f.csv", codecs.BOM_UTF8 + b'"text",label\na,b\n')) == [(2, "a", "b")]
    table = read(
        tmp_path / "g.csv", codecs.BOM_UTF16_LE + "text,label\na,b\n".encode("utf-16-le"), encoding="utf-16-le"
    )
    assert rows_of(table) == [(2, "a", "b")]


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
    table = read(tmp_path / "f.csv", content, encoding=encoding)
    assert (rows_of(table), table.unreadable) == ([(2, "a", "1"), (5, "d", "4")], [3, 4])


def test_undecodable_bytes_beyond_the_first_read_buffer(tmp_path: Path) -> None:
    good = "word " * 3000 + ",a\n"
    content = b"text,label\n" + good.encode() + b"\xff,b\n" + good.encode()
    table = read(tmp_path / "f.csv", content)
    assert (table.rows, table.unreadable) == ([2, 4], [3])


@pytest.mark.parametrize("encoding", ["utf-9", "rot13", "base64", "", "a\0b", "ünknown"])
def test_an_unknown_encoding_is_told_with_a_mend(tmp_path: Path, encoding: str) -> None:
    with pytest.raises(DataError, match=r"encoding .* is unknown.*Mend: state a known one"):
        read(tmp_path / "f.csv", "text,label\na,b\n", encoding=encoding)


def test_utf16_without_a_byte_order_mark_asks_for_the_byte_order(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="utf-16-le"):
        read(tmp_path / "f.csv", "text,label\na,b\n".encode("utf-16-le"), encoding="utf-16")


def test_the_mark_is_no_text_of_any_codec() -> None:
    assert b"a\xffb".decode("utf-8", MARKING) == f"a{MARK}b"
    assert text_codec("UTF8") == "utf-8-sig"
    with pytest.raises(UnicodeEncodeError):
        "\ud800".encode("utf-8", MARKING)
