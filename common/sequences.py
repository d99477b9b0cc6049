"""Texts of which every word has a tag: JSON lines with a list of words and one of tags, or columns as CoNLL's.

What is read becomes the columns of a table as any other file's: a text is its words joined by single spaces, its label
the tags joined so (`words_of` takes them apart; white space within a word or tag becomes a space that does not break).
A text that cannot be read is told by its number and leaves its neighbours untouched; nothing here shows a word.
"""

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from privet.common.columns import Rows, Table, as_text, plain
from privet.common.decoding import MARK, MARKING, text_codec
from privet.common.errors import DataError
from privet.common.json_lines import Columns, objects
from privet.common.tables import check_file, read_columns

__all__ = [
    "DOCUMENT",
    "SEQUENCE_FORMATS",
    "is_tagged",
    "read_sequences",
    "read_tagged",
    "sequence_format",
    "spelled",
    "types_of",
    "words_of",
]

SEQUENCE_FORMATS = ("tokens", "conll")
DOCUMENT = "document"  # as a CoNLL file's column: what its -DOCSTART- lines, or "# newdoc id =", name
_SUFFIXES = {".jsonl": "tokens", ".ndjson": "tokens", ".conll": "conll", ".iob": "conll", ".bio": "conll"}
_SUFFIXES |= {".conllu": "conll", ".tsv": "conll", ".txt": "conll"}
_OWN_SUFFIXES = frozenset({".conll", ".conllu", ".iob", ".bio"})
_DOCSTART = "-DOCSTART-"
_NAMELESS = frozenset({"-X-", "-", "O", "_"})  # what stands beside -DOCSTART- where it names nothing
_HARD_SPACE = "\u00a0"
_NUMBERS = "a text's tags are numbers, which mean nothing without the list that they count."


def words_of(cell: str) -> list[str]:
    """The words of a text, or the tags of a label, as `read_sequences` joined them; none of an empty one.

    >>> words_of("the  cat"), words_of("")
    (['the', '', 'cat'], [])
    """
    return cell.split(" ") if cell else []


def types_of(known: Mapping[str, int]) -> dict[str, int]:
    """Types of entities as tags spell them: in tags read here no white space breaks."""
    return {spelled(name): number for name, number in known.items()}


def spelled(name: str) -> str:
    """A type of entities as tags that are read here spell it."""
    return _joined([name])


def sequence_format(path: Path, format: str | None = None) -> str | None:
    """ "tokens" or "conll" for a file of tagged texts, as stated or by its suffix; None where neither says so."""
    return format if format in SEQUENCE_FORMATS else _SUFFIXES.get(path.suffix.lower()) if format is None else None


def is_tagged(path: Path, format: str | None) -> bool:
    """Whether a site's file holds tagged texts: as stated, or by a suffix that no other format has."""
    return format in SEQUENCE_FORMATS or (format is None and path.suffix.lower() in _OWN_SUFFIXES)


def read_tagged(path: Path, words: str, tags: str, columns: Sequence[str] = (), *, encoding: str = "utf-8") -> Table:
    """As `read_sequences`, the format by the suffix; or as any table, in which words, and tags, stand in one cell
    between single spaces. Raises: DataError."""
    if sequence_format(path) is None:
        return read_columns(path, [words, tags, *columns], encoding=encoding)
    return read_sequences(path, words, tags, columns, encoding=encoding)


def read_sequences(
    path: Path,
    words: str,
    tags: str,
    columns: Sequence[str] = (),
    *,
    format: str | None = None,
    encoding: str = "utf-8",
) -> Table:
    """Read tagged texts: the columns `words` and `tags`, and further ones as they are; a row is a text.

    "tokens": JSON lines; `words` and `tags` name lists of strings, of one length. "conll": a line is a word and its
    tags, between tabs, or white space where there is no tab; a blank line ends a text. `words` and `tags` are numbers
    of columns, 1 the first and -1 the last. Of a further column the value is what the nearest comment `# name = value`
    above the text says, up to the next -DOCSTART-; DOCUMENT is what stands beside -DOCSTART-. Rows are told by the line
    on which they begin.
    A text is unreadable when it holds undecodable bytes, a NUL, or another number of tags than of words; when a tag is
    empty or no string; when a line lacks one of the columns.

    Raises: DataError when the file is missing, empty or not of its format, a column is absent, the format or encoding
    is unknown; where no text is readable and tags are numbers.
    """
    kind = sequence_format(path, format)
    if kind is None:
        mend = f'state format = "tokens" (JSON lines) or "conll", or use a suffix of {", ".join(_SUFFIXES)}.'
        raise DataError("its format of tagged texts is unknown.", where=str(path), mend=mend)
    wanted = tuple(dict.fromkeys([words, tags, *columns]))
    if kind == "tokens":
        with _opened(path, encoding) as file:
            return _read_json_lines(file, path, words, tags, wanted)
    places = _place(words, "text", path), _place(tags, "label", path)
    with _opened(path, encoding) as file:
        return _read_columns(file, path, words, tags, places, wanted)


@contextlib.contextmanager
def _opened(path: Path, encoding: str) -> Iterator[TextIO]:
    """The file's text; bytes that are none of the encoding stay in their lines, as MARK. Raises: DataError."""
    codec = text_codec(encoding)
    if codec is None:
        mend = 'state a known one, for example "utf-8", "cp1252", "latin-1", "utf-16" or "gb18030".'
        raise DataError(f"the encoding {encoding!r} is unknown.", where=str(path), mend=mend)
    problem = ""
    try:
        check_file(path)
        with path.open(encoding=codec, errors=MARKING, newline="\n") as file:
            yield file
    except OSError as error:
        problem = f"cannot be read ({error.strerror or 'input or output failed'})."
    except UnicodeError:  # a codec that gives up as a whole, such as utf-16 without a byte order mark
        problem = f"cannot be decoded as {encoding}."
    if problem:
        mend = "check the file's permissions and its encoding (utf-16 needs a byte order mark: else utf-16-le, -be)."
        raise DataError(problem, where=str(path), mend=mend)


def _read_json_lines(file: TextIO, path: Path, words: str, tags: str, wanted: Sequence[str]) -> Table:
    found, columns, numbered = Rows(wanted), Columns(wanted, str(path)), False
    text, label = wanted.index(words), wanted.index(tags)
    for number, record in objects(file):
        values: list[str | None] | None = None
        if record is not None:
            cells = columns.of(record)
            numbered = numbered or _are_numbers(cells[label])
            with contextlib.suppress(ValueError, TypeError):
                values = _values(cells, text, label)
        if values is None:
            found.unreadable.append(number)
        else:
            found.add(number, values)
    columns.check()
    if numbered and not found.rows:
        raise DataError(_NUMBERS, where=str(path), mend='write names instead: "O", "B-Disease", "I-Disease".')
    return found.table()


def _values(cells: Sequence[object], text: int, label: int) -> list[str | None]:
    """The cells as text. text, label: the places of words and tags.

    Raises: ValueError, TypeError for a text that cannot be read.
    """
    words, tags = _strings(cells[text]), _strings(cells[label])
    if not all(tag.strip() for tag in tags):
        raise ValueError("an empty tag")
    if len(words) != len(tags):
        raise ValueError("another number of tags than of words")
    lists = {text: words, label: tags}
    return [_joined(lists[place]) if place in lists else as_text(cell) for place, cell in enumerate(cells)]


def _strings(value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
        raise TypeError("no list of strings")
    return value


def _joined(parts: Sequence[str]) -> str:
    """Words as one text. What breaks within a word would break it in two, and its tag would be another's."""
    return " ".join(part if part.isalnum() else _HARD_SPACE.join(part.split()) for part in parts)


def _are_numbers(value: object) -> bool:
    return isinstance(value, list) and any(isinstance(part, int) for part in value)


# Columns


def _place(column: str, key: str, path: Path) -> int:
    """The index of a column by its number: 1 is the first, -1 the last."""
    if re.fullmatch(r"-?[1-9]\d{0,2}", column) is None:
        mend = f'columns of this format have no names: set {key} to a number, "1" for the first or "-1" for the last.'
        raise DataError(f"no column is called {column!r}.", where=str(path), mend=mend)
    number = int(column)
    return number - 1 if number > 0 else number


def _read_columns(
    file: TextIO, path: Path, words: str, tags: str, places: tuple[int, int], wanted: Sequence[str]
) -> Table:
    found, seen, numbered = Rows(wanted), {words, tags}, False
    for number, lines, said in _sentences(file):
        seen.update(said)
        parts = [_fields(line, places) for line in lines]
        if MARK in "".join(lines) or "\0" in "".join(lines) or any(part is None or not part[1] for part in parts):
            found.unreadable.append(number)
            continue
        text, label = ([part[side] for part in parts if part is not None] for side in (0, 1))
        numbered = numbered or any(tag.isdigit() for tag in label)
        cells: dict[str, str | None] = {**said, words: _joined(text), tags: _joined(label)}
        found.add(number, [cells.get(column) for column in wanted])
    absent = [column for column in wanted if column not in seen]
    if absent and found.rows:
        mend = f'write a line "# {absent[0]} = …" above each text, or "-DOCSTART- …" for "{DOCUMENT}".'
        raise DataError(f"no text has a comment {absent[0]!r}.", where=str(path), mend=mend)
    if numbered and not any(label and not label.isdigit() for label in _some(found, wanted.index(tags))):
        raise DataError(_NUMBERS, where=str(path), mend='write names instead: "O", "B-Disease", "I-Disease".')
    return found.table()


def _some(found: Rows, place: int) -> Iterator[str]:
    for cell in found.values[place]:
        yield from words_of(cell or "")


def _fields(line: str, places: tuple[int, int]) -> tuple[str, str] | None:
    """Word and tag of a line; None where it lacks a column, or both are the same one."""
    parts = line.split("\t") if "\t" in line else line.split()
    picked: list[int] = []
    for place in places:
        index = place if place >= 0 else len(parts) + place
        if not 0 <= index < len(parts):
            return None
        picked.append(index)
    if picked[0] == picked[1]:
        return None
    return parts[picked[0]].strip(), parts[picked[1]].strip()


def _sentences(file: TextIO) -> Iterator[tuple[int, list[str], Mapping[str, str]]]:
    """The line on which a text begins, its lines, and what the comments above it say."""
    said: dict[str, str] = {}
    lines: list[str] = []
    first = 0
    for number, line in enumerate(file, start=1):
        line = line.removeprefix("\ufeff") if number == 1 else line
        line = line.rstrip("\r\n")
        start = line.startswith(_DOCSTART) and not line[len(_DOCSTART) :][:1].strip()  # no word that begins so
        if not line.strip() or start:
            if lines:
                yield first, lines, dict(said)
            lines = []
            if start:
                name = line.removeprefix(_DOCSTART).strip().strip("()").strip()
                said = {} if set(name.split()) <= _NAMELESS else {DOCUMENT: name}
            continue
        if not lines and line.startswith("#") and "\t" not in line and (MARK in line or "\0" in line):
            said = dict.fromkeys(said, MARK)  # what it says is lost: no text below goes to whom another comment names
            continue
        comment = _comment(line) if not lines else None
        if comment is not None:
            name = plain(comment[0])
            said[DOCUMENT if name == "newdoc id" else name] = comment[1]
            continue
        first = first if lines else number
        lines.append(line)
    if lines:
        yield first, lines, dict(said)


def _comment(line: str) -> tuple[str, str] | None:
    """Name and value of a line "# name = value"; None for the line of a word: one with tabs, or whose first word holds
    the sign itself. What a text says is not to say whose the texts after it are."""
    if not line.startswith("#") or "\t" in line or ("=" in line.split(maxsplit=1)[0] and len(line.split()) > 1):
        return None
    name, sign, value = (part.strip() for part in line[1:].partition("="))
    return (name, value) if sign and name else None
