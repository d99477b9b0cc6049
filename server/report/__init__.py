"""What a run tells, for people: report.html, the same figures as PNGs, several runs compared, TensorBoard."""

from privet.server.report.folder import Run, environment_event, read_run
from privet.server.report.page import report_html
from privet.server.report.words import duration_text, size_text
from privet.server.report.write import write_figures

__all__ = [
    "Run",
    "duration_text",
    "environment_event",
    "read_run",
    "report_html",
    "size_text",
    "write_figures",
]
