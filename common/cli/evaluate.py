"""`privet evaluate`: how good a finished run's adapter is on a labelled file, and whether it serves groups alike."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from privet.common.cli.options import AsJson


def evaluate(
    adapter: Annotated[Path, typer.Argument(metavar="ADAPTER", help="A finished run's folder adapter/.")],
    source: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="csv, tsv, jsonl or parquet, with text and label; of entities a jsonl with lists, or a CoNLL file.",
        ),
    ],
    by: Annotated[
        str | None, typer.Option("--by", metavar="COLUMN", help="Compare the groups that this column names.")
    ] = None,
    unit: Annotated[
        str, typer.Option("--unit", metavar="COLUMN", help='Whose record a row is; "record": each its own.')
    ] = "record",
    text: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help='With the text: "text"; words of entities: "tokens", or of CoNLL "1".'),
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help='With the true label: "label"; tags of entities: "tags", of CoNLL "-1".'),
    ] = None,
    label_map: Annotated[
        list[str] | None,
        typer.Option("--label-map", metavar="LOCAL=LABEL", help="The file's name of one of the adapter's labels."),
    ] = None,
    separator: Annotated[
        str, typer.Option("--label-separator", help="Between several labels of one cell (multilabel adapters).")
    ] = ";",
    encoding: Annotated[str, typer.Option(help="Of the file.")] = "utf-8",
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="FOLDER", help="For page, JSON and figures; else evaluation-NAME-TIME here."),
    ] = None,
    confidence: Annotated[float, typer.Option(help="That the intervals hold.")] = 0.95,
    seed: Annotated[int, typer.Option(min=0, help="Of the resampling.")] = 0,
    base: Annotated[str | None, typer.Option(help="Where the base model lies, if not where the plan says.")] = None,
    as_json: AsJson = False,
) -> None:
    """Judge an adapter on a labelled file. Metrics with intervals, calibration, groups; the result stays here."""
    from privet.common.cli.output import emit
    from privet.common.evaluating.document import document
    from privet.common.evaluating.judge import Asked
    from privet.common.evaluating.judge import evaluate as judge
    from privet.common.evaluating.tagged import evaluate_tagged
    from privet.common.evaluating.words import NOT_COVERED, calibration_words, group_words, left_words, number, percent
    from privet.server.report.evaluation import write_evaluation

    tagged = _is_tagged(adapter)
    text, label = _columns(source, text, label, tagged)
    asked = Asked(source, text, label, encoding, _map(label_map or ()), unit, by, confidence, seed, separator)
    if tagged:
        from privet.common.sequences import read_tagged

        read_tagged(source, text, label, asked.further, encoding=encoding)
    else:
        asked.check_source()  # before the model: its errors come at once
    from privet.common.prediction import Predictor

    model = Predictor.load(adapter, base)
    asked.places(model.labels, outside=tagged)
    folder = _folder(output, source)
    found = (evaluate_tagged if tagged else judge)(model, asked, _progress(as_json))
    told = document(found)
    written = write_evaluation(found, told, folder)
    scores = found.scores
    units = "" if unit == "record" else f" of {found.num_units:,} units"
    lines = [
        f"{found.num_records:,} records{units}; intervals hold with {100 * confidence:g} % confidence.",
        f"{found.accuracy_name}  {percent(scores.accuracy)}",
        f"macro F1  {number(scores.macro_f1)}",
    ]
    if found.calibration is None:
        for name, part in (("precision", scores.micro_precision), ("recall", scores.micro_recall)):
            lines += [f"{name}  {number(part)}"] if part is not None else []
        lines += [f"{part.label}: F1 {number(part.f1)}" for part in scores.labels if part.f1 is not None]
    else:
        lines += [
            *([f"micro F1  {number(scores.micro_f1)}"] if found.confusion is None else []),
            f"log loss  {number(found.calibration.log_loss)}",
            f"Brier     {number(found.calibration.brier)}",
            calibration_words(found.calibration),
        ]
    if found.comparison is not None:
        lines += group_words(found.comparison, found.accuracy_name, by_label=not tagged)
    lines += left_words(found)
    lines.append(
        f"wrote {written.page}, evaluation.json and {len(written.pngs)} figures beside it, for your eyes only."
    )
    if not written.pngs and not tagged:
        lines.append('no PNGs: they need matplotlib (pip install "privet[evaluation]")')
    lines.append(NOT_COVERED)
    emit(told | {"report": str(written.page), "figures": [str(path) for path in written.pngs]}, lines, as_json)


def _is_tagged(adapter: Path) -> bool:
    """Whether its plan's task is to find entities; what is wrong with the folder is told by whoever loads it."""
    from privet.common.config import load_federation

    path = adapter / "plan.toml"
    return path.is_file() and load_federation(path).plan.task.kind == "tokens"


def _columns(source: Path, text: str | None, label: str | None, tagged: bool) -> tuple[str, str]:
    """Those of text and label: as told, or as a file of its kind calls them."""
    from privet.common.sequences import sequence_format

    if not tagged:
        return text or "text", label or "label"
    usual = {"tokens": ("tokens", "tags"), "conll": ("1", "-1"), None: ("text", "label")}[sequence_format(source)]
    return text or usual[0], label or usual[1]


def _map(given: Sequence[str]) -> dict[str, str]:
    from privet.common.errors import ConfigError

    found: dict[str, str] = {}
    for pair in given:
        local, sign, label = (part.strip() for part in pair.rpartition("="))
        if not sign or not local or not label or local in found:
            raise ConfigError(f"got {pair!r}.", where="--label-map", mend="give LOCAL=LABEL, each LOCAL once.")
        found[local] = label
    return found


def _folder(output: Path | None, source: Path) -> Path:
    """Made now, for its owner alone: what cannot be written is told before an hour of predicting."""
    from datetime import UTC, datetime

    from privet.common.errors import ConfigError

    folder = output or Path(f"evaluation-{source.stem}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"cannot be made ({error.strerror or error}).", where=str(folder), mend="give a writable --output."
        ) from None
    return folder


def _progress(as_json: bool) -> Callable[[int], None]:
    """Tells how far it is, on a terminal; and nothing elsewhere."""
    import sys

    if as_json or not sys.stderr.isatty():
        return lambda _: None
    return lambda num: print(f"\r{num:,} records read", end="", file=sys.stderr, flush=True)
