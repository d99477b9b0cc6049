"""One run of `privet predict`: the input, the model and the sink together, and what ends it early."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from privet.common.errors import ConfigError, DataError, RunError
from privet.common.outputs import output_of
from privet.common.precision import AskedDevice, Precision
from privet.common.predicting.feed import Feed
from privet.common.predicting.folder import model_folder, read_plan
from privet.common.predicting.progress import Progress
from privet.common.predicting.sinks import output_format, sink_to
from privet.common.predicting.source import Source

if TYPE_CHECKING:
    from privet.common.predicting.stream import Tally

__all__ = ["Job", "run_job"]

_AHEAD = 4096  # rows that are read ahead


@dataclass(frozen=True, kw_only=True)
class Job:
    """As the command's arguments. model: an adapter, a run's folder or a merged export; source: a file, or -."""

    model: Path
    source: str
    column: str | None = None
    id_column: str | None = None
    format: str | None = None
    encoding: str = "utf-8"
    base: str | None = None
    output: Path | None = None
    output_format: str | None = None
    every: bool = False
    whole: bool = False
    device: str = "cpu"
    precision: str = "float32"
    quiet: bool = False


def run_job(job: Job) -> "Tally":
    """Predict every row of the input, and tell on standard error what was skipped.

    A reader of standard output that goes away ends it without a word.
    Raises: ConfigError, DataError, ModelError; RunError where it was stopped, or a file cannot be written.
    """
    device: Any = _one_of("--device", job.device, get_args(AskedDevice))
    precision: Any = _one_of("--precision", job.precision, get_args(Precision))
    written = output_format(job.output, job.output_format)
    if job.output is not None and not job.output.absolute().parent.is_dir():
        raise ConfigError("its folder does not exist.", where="--output", mend="make the folder, or correct the path.")
    plan = read_plan(model_folder(job.model)[0])
    output = output_of(plan.task, every=job.every or written == "json")
    with (
        Source(
            job.source,
            format=job.format,
            column=job.column,
            id_column=job.id_column,
            encoding=job.encoding,
        ) as source,
        _interruptible(job) as told,
        Feed(source.rows(), _AHEAD, source.cancel) as feed,
    ):
        if not source.live:
            feed.ready()  # before the model: its errors come at once
        from privet.common.predicting.reader import load_reader
        from privet.common.predicting.stream import PATIENCE, Tally, predict_rows

        tally = Tally()
        told(tally)
        reader = load_reader(job.model, job.base, device=device, precision=precision)
        if precision != reader.precision:
            print("Computing in float32: this machine has no bfloat16 hardware.", file=sys.stderr)
        with (
            _ends_quietly_without_reader() as ended,
            Progress(quiet=job.quiet, fraction=_fraction(source, feed)) as progress,
            sink_to(job.output, written, output, with_id=job.id_column is not None) as sink,
        ):
            predict_rows(
                feed,
                reader,
                output,
                sink,
                whole=job.whole,
                patience=PATIENCE if source.live else None,
                tally=tally,
                on_rows=progress.rows,
            )
            if tally.unreadable.count and not tally.predicted:
                raise DataError(
                    f"no row can be read: {tally.unreadable.words('that cannot be read')}.",
                    where=source.where,
                    mend="check its format and its --encoding.",
                )
    if not ended:
        for note in [*tally.notes(), *([progress.summary(tally.rows)] if progress.was_told else [])]:
            print(note, file=sys.stderr)
    return tally


def _one_of(flag: str, given: str, known: tuple[str, ...]) -> str:
    if given not in known:
        raise ConfigError(f"got {given!r}.", where=flag, mend=f"give one of {', '.join(known)}.")
    return given


def _fraction(source: Source, feed: Feed) -> Callable[[int], float | None]:
    """How much of the input is done when so many rows are: what was read, less what still waits."""

    def fraction(rows: int) -> float | None:
        size, read = source.size, feed.num_read
        return min(1.0, source.done / size * rows / read) if size and read else None

    return fraction


@contextmanager
def _interruptible(job: Job) -> Iterator[Callable[["Tally"], None]]:
    """Ctrl-C and SIGTERM unwind, and it is said how far it got. Raises: RunError where one came."""
    tallies: list[Tally] = []

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    try:
        previous = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not the main thread
        yield tallies.append
        return
    try:
        yield tallies.append
    except KeyboardInterrupt:
        rows, last = (tallies[0].rows, tallies[0].last) if tallies else (0, 0)
        what = (
            f"stopped after {rows:,} row{'s' * (rows > 1)}, the last of them row {last}."
            if rows
            else "stopped before the first row."
        )
        mend = "start it again."
        if job.output is not None:
            mend = f"start it again; {job.output} was not written."
        raise RunError(what, where=job.source if job.source != "-" else "standard input", mend=mend) from None
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextmanager
def _ends_quietly_without_reader() -> Iterator[list[bool]]:
    """Whoever reads standard output may go away: `| head`. True is added then."""
    ended: list[bool] = []
    try:
        yield ended
    except BrokenPipeError:
        ended.append(True)
        try:  # what is still in its buffer must not fail at the very end
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)
        except (OSError, AttributeError):
            pass
