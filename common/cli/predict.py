"""`privet predict`: labels or entities for texts, by a trained model, as a stream."""

from pathlib import Path
from typing import Annotated

import typer


def predict(
    adapter: Annotated[
        Path, typer.Argument(metavar="ADAPTER", help="A run's folder, its adapter/, or a merged export.")
    ],
    source: Annotated[
        str, typer.Argument(metavar="INPUT|-", help="A txt (a text a line), csv, tsv, jsonl or parquet; - : a stream.")
    ],
    text: Annotated[str | None, typer.Option(help='Column with the text of a table; "text" unless told.')] = None,
    id_column: Annotated[str | None, typer.Option("--id", help="Column of a table that is copied through.")] = None,
    format: Annotated[str | None, typer.Option(help="txt, csv, tsv, jsonl or parquet, if not by the suffix.")] = None,
    encoding: Annotated[str, typer.Option(help="Of the file or of standard input.")] = "utf-8",
    base: Annotated[str | None, typer.Option(help="Where the base model lies, if not where the plan says.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="A csv, tsv, jsonl, parquet, json or txt, written whole or not at all.")
    ] = None,
    output_format: Annotated[str | None, typer.Option(help="lines, tsv, csv, jsonl, json; of files, parquet.")] = None,
    every: Annotated[bool, typer.Option("--all", help="The probabilities of all labels.")] = False,
    whole: Annotated[
        bool, typer.Option("--whole", help="Read long texts to their end, in more windows than the plan's.")
    ] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "cpu",
    precision: Annotated[str, typer.Option(help="float32, or bfloat16 on hardware that has it.")] = "float32",
    quiet: Annotated[bool, typer.Option("--quiet", help="Tell no progress.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document, with all probabilities.")] = False,
) -> None:
    """Label texts, or find their entities. Line n is the n-th row's, and empty where it has no text.

    Entities: a text is parted into words by the rule of the base's tokenizer, BERT's at white space and at every
    punctuation mark. Training and `privet evaluate` take the words as the file has them. Where it parts them otherwise
    ("b.i.d." as one word), this command judges parts of words that training never tagged: expect worse there.
    """
    from privet.common.predicting.job import Job, run_job

    run_job(
        Job(
            model=adapter,
            source=source,
            column=text,
            id_column=id_column,
            format=format,
            encoding=encoding,
            base=base,
            output=output,
            output_format="json" if as_json and output_format is None else output_format,
            every=every,
            whole=whole,
            device=device,
            precision=precision,
            quiet=quiet,
        )
    )
