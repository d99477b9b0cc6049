"""`privet predict`: labels for texts, by a finished run's adapter."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from privet.common.cli.output import emit

_LINES = "-"


def predict(
    adapter: Annotated[Path, typer.Argument(metavar="ADAPTER", help="A finished run's folder adapter/.")],
    source: Annotated[
        str, typer.Argument(metavar="FILE|-", help="csv, tsv, jsonl, parquet; txt or - : a text a line.")
    ],
    text: Annotated[str | None, typer.Option(help='Column with the text of a table; "text" unless told.')] = None,
    encoding: Annotated[str, typer.Option(help="Of the file or of standard input.")] = "utf-8",
    base: Annotated[str | None, typer.Option(help="Where the base model lies, if not where the plan says.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False,
) -> None:
    """Write label and probability, tab separated: line n is the n-th text's. A row without text gives an empty line."""
    from privet.common.prediction import Predictor, probabilities

    rows, texts, num_unreadable = _read(source, text, encoding)  # before the model: its errors come at once
    predictor = Predictor.load(adapter, base)
    given = [i for i, value in enumerate(texts) if value.strip()]
    chances = probabilities(predictor.predict([texts[i] for i in given]))
    labels = predictor.labels
    best = chances.argmax(1)
    if as_json:
        predictions = [
            {
                "row": rows[i],
                "label": labels[top],
                "probability": round(float(chance[top]), 6),
                "probabilities": {label: round(float(p), 6) for label, p in zip(labels, chance, strict=True)},
            }
            for i, top, chance in zip(given, best, chances, strict=True)
        ]
        emit({"predictions": predictions}, (), as_json)
    else:
        lines = [""] * len(texts)
        for i, top, chance in zip(given, best, chances, strict=True):
            lines[i] = f"{' '.join(labels[top].split())}\t{chance[top]:.4f}"
        sys.stdout.write("".join(line + "\n" for line in lines))
    notes = []
    if skipped := len(texts) - len(given):
        notes.append(f"Skipped {skipped} row{'s' * (skipped > 1)} without text.")
    if num_unreadable:
        notes.append(f"Skipped {num_unreadable} unreadable row{'s' * (num_unreadable > 1)}.")
    emit({}, notes, False)


def _read(source: str, column: str | None, encoding: str) -> tuple[list[int], list[str], int]:
    """Row numbers from 1, their texts ("" where there is none), and how many rows could not be read."""
    from privet.common.errors import ConfigError
    from privet.common.tables import read_columns

    if source == _LINES or source.lower().endswith(".txt"):
        if column is not None:
            raise ConfigError("lines of text have no columns.", where="--text", mend="leave it out, or give a table.")
        lines = _lines(source, encoding)
        return list(range(1, len(lines) + 1)), lines, 0
    name = column or "text"
    table = read_columns(Path(source), [name], encoding=encoding)
    return table.rows, [value or "" for value in table.columns[name]], len(table.unreadable)


def _lines(source: str, encoding: str) -> list[str]:
    """One text a line, of a file or of standard input."""
    from privet.common.errors import DataError

    where = "standard input" if source == _LINES else source
    problem = ""
    try:
        raw = sys.stdin.buffer.read() if source == _LINES else Path(source).read_bytes()
        content = raw.decode(encoding).removeprefix("\ufeff")
    except OSError as error:
        problem = f"cannot be read ({error.strerror})."
    except (LookupError, UnicodeError):
        problem = f"cannot be decoded as {encoding!r}."
    if problem:
        raise DataError(problem, where=where, mend="correct the path, or name the text's --encoding.")
    lines = content.replace("\r\n", "\n").split("\n")  # splitlines would also break at a form feed within a text
    return lines[:-1] if lines[-1] == "" else lines
