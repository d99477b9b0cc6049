"""`privet export`: an adapter as files that load without privet, checked against it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from privet.common.cli.options import AsJson

if TYPE_CHECKING:
    from collections.abc import Sequence

_NUM_GENERATED = 96  # of each of the two kinds of text


def export(
    adapter: Annotated[Path, typer.Argument(metavar="ADAPTER", help="A finished run's folder adapter/.")],
    to: Annotated[str, typer.Option(help="merged, onnx, onnx-int8 or sentence-transformers.")],
    out: Annotated[
        Path | None, typer.Option(help="The folder to write; beside ADAPTER, named as --to, unless told.")
    ] = None,
    sample: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Texts to check it on (txt: a text a line, or a table).")
    ] = None,
    text: Annotated[str, typer.Option(help="Column with the text of a sample that is a table.")] = "text",
    encoding: Annotated[str, typer.Option(help="Of the sample.")] = "utf-8",
    base: Annotated[str | None, typer.Option(help="Where the base model lies, if not where the plan says.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier export.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write an adapter in another form. Logits, size and speed are held against PyTorch's before it is done."""
    from privet.common.cli.output import emit
    from privet.common.errors import ConfigError
    from privet.common.exported import KINDS

    kind = next((kind for kind in KINDS if kind == to), None)
    if kind is None:
        raise ConfigError(f"got {to!r}.", where="--to", mend=f"one of {', '.join(KINDS)}.")
    texts = generated_texts() if sample is None else _read(sample, text, encoding)
    folder = out or adapter.absolute().parent / kind

    from privet.server.exporting.run import export as run

    notes: list[str] = []
    check = run(adapter, kind, folder, texts=texts, base=base, force=force, tell=notes.append)
    if check.blind:
        notes.append("the adapter says nearly the same of every text: the comparison could find little")
    told = "text that privet generates" if sample is None else str(sample)
    document = {"export": str(folder), "sample": told, "notes": notes, **check.to_json()}
    emit(document, [*notes, f"wrote {folder}, checked on {told}:", *(f"  {x}" for x in check.in_words())], as_json)


def generated_texts() -> "Sequence[str]":
    """Notes and complaints of nobody, and what ordinary text lacks: one letter, other scripts, more than fits."""
    from privet.simulations.corpus import public_sample

    notes = public_sample("hospital", num_records=_NUM_GENERATED).text
    complaints = public_sample("bank", num_records=_NUM_GENERATED).text
    odd = ("a", "?!", "Ärztliche Notiz: 38,5 °C – kein Husten", "病人发烧三天", "\U0001f642", " ".join(notes[:12]))
    return [*odd, *(text for pair in zip(notes, complaints, strict=True) for text in pair)]


def _read(path: Path, column: str, encoding: str) -> "Sequence[str]":
    """The sample's texts, without empty ones.

    Raises: DataError.
    """
    from privet.common.errors import DataError
    from privet.common.tables import read_columns

    if path.suffix.lower() != ".txt":
        return [value for value in read_columns(path, [column], encoding=encoding).columns[column] if value]
    try:
        return path.read_bytes().decode(encoding).removeprefix("\ufeff").splitlines()
    except OSError as error:
        problem = f"cannot be read ({error.strerror})."
    except (LookupError, UnicodeError):
        problem = f"cannot be decoded as {encoding!r}."
    raise DataError(problem, where=str(path), mend="correct the path, or name the text's --encoding.")
