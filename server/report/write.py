"""A page on the disk, and the PNGs beside it."""

from dataclasses import dataclass
from pathlib import Path

from privet.common.errors import ConfigError
from privet.server.checkpoint import write_durably
from privet.server.report.confusion import HeatMap
from privet.server.report.figure import Figure
from privet.server.report.folder import Run, read_run
from privet.server.report.page import figures, report_html
from privet.server.report.png import can_draw, write_pngs

PAGE = "report.html"  # in a run folder


@dataclass(frozen=True)
class Written:
    """What was made: the page, and its figures as PNGs; none where matplotlib is not installed."""

    page: Path
    pngs: tuple[Path, ...]


def write_report(run: Run, page: Path) -> Written:
    """The page of one run. Raises: ConfigError where it cannot be written."""
    drawn = figures(run)
    return write_page(report_html(run, drawn), drawn.plots, drawn.heat, page)


def write_figures(folder: Path) -> tuple[Path, ...]:
    """The PNGs of a run's page, beside it; none where matplotlib is not installed. Raises: ConfigError, RunError."""
    if not can_draw():
        return ()
    drawn = figures(read_run(folder))
    return tuple(write_pngs(drawn.plots, drawn.heat, _beside(folder / PAGE)))


def write_page(text: str, plots: list[Figure], heat: HeatMap | None, page: Path) -> Written:
    """A page's text, and its figures in the folder NAME-figures beside it. Raises: ConfigError, RunError."""
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        write_durably(page, text.encode())
    except OSError as error:
        raise ConfigError(
            f"cannot be written ({error.strerror or error}).", where=str(page), mend="give a writable place."
        ) from None
    return Written(page, tuple(write_pngs(plots, heat, _beside(page))) if can_draw() else ())


def _beside(page: Path) -> Path:
    return page.with_name(f"{page.stem}-figures")
