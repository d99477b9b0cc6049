"""`privet report`: the page of a run made anew, or several runs on one page."""

from pathlib import Path
from typing import Annotated

import typer

from privet.common.cli.options import AsJson


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders: runs/NAME-TIME.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="The page; else RUN/report.html, or comparison.html for several."),
    ] = None,
    tensorboard: Annotated[
        Path | None,
        typer.Option("--tensorboard", metavar="DIR", help="Write the rounds' numbers for TensorBoard, too."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make the page of a run, or one that compares several. Its figures stand beside it as PNGs."""
    from privet.common.cli.output import emit
    from privet.common.errors import ConfigError
    from privet.server.report import read_run
    from privet.server.report.comparison import comparison_html, names_of, overlays, summary
    from privet.server.report.write import PAGE, write_page, write_report

    if out is not None and out.is_dir():
        raise ConfigError("this is a folder.", where=str(out), mend="give the path of a file: --out page.html.")
    read = [read_run(path) for path in runs]
    names = names_of(read)
    if tensorboard is not None:
        from privet.server.report.tensorboard import write_run

        for run, name in zip(read, names, strict=True):
            write_run(run, tensorboard / name.replace(":", "") if len(read) > 1 else tensorboard)
    if len(read) == 1:
        written = write_report(read[0], out or runs[0] / PAGE)
    else:
        drawn = overlays(read)
        written = write_page(comparison_html(read, drawn), drawn, None, out or Path("comparison.html"))
    document = {
        "report": str(written.page),
        "figures": [str(path) for path in written.pngs],
        "tensorboard": None if tensorboard is None else str(tensorboard),
        "runs": [summary(run, name).to_json() for run, name in zip(read, names, strict=True)],
        "notes": {name: list(run.notes) for run, name in zip(read, names, strict=True) if run.notes},
    }
    told = [f"{name}: {note}" for run, name in zip(read, names, strict=True) for note in run.notes]
    lines = [f"wrote {written.page}"]
    if written.pngs:
        lines.append(f"wrote {len(written.pngs)} figures beside it, in {written.pngs[0].parent}")
    else:
        lines.append('no PNGs: they need matplotlib (pip install "privet[simulation]")')
    if tensorboard is not None:
        lines.append(f"wrote scalars: tensorboard --logdir {tensorboard}")
    emit(document, lines + told, as_json)
