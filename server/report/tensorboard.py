"""A run as TensorBoard's scalars: live, event by event, or from the folder of a run that is over.

TensorBoard is an extra: `pip install "privet[tensorboard]"`. Importing this needs neither it nor torch.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from privet.common.errors import ConfigError
from privet.common.live import Event
from privet.common.tasks.score import score_key, score_name, score_of
from privet.server.report.folder import Run
from privet.server.report.losses import losses

_PUBLIC = ("macro_f1", "subset_accuracy", "loss")


class TensorBoard:
    """A listener that writes each round's numbers under `folder`; a context manager, or `close` it.

    Tags: public/accuracy, public/macro_f1, public/loss; sites/accuracy and sites/accuracy_error (of noised counts), of
    other tasks public/micro_f1 or public/entity_f1, sites/micro_f1, sites/entity_f1;
    cohort/answered, cohort/missing, cohort/failed; cost/seconds, cost/bytes_down, cost/bytes_up. The step is the round.
    A number that is none (a loss that diverged) is left out.

    Raises: ConfigError where TensorBoard is not installed or the folder cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ConfigError(
                "TensorBoard is not installed.", where="--tensorboard", mend='pip install "privet[tensorboard]"'
            ) from None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._writer: Any = SummaryWriter(str(folder))
        except OSError as error:
            raise ConfigError(
                f"cannot be made ({error.strerror or error}).", where=str(folder), mend="give a writable folder."
            ) from None

    def __call__(self, event: Event) -> None:
        """Take one event of a run; those that have no numbers are passed over."""
        time = event.get("time")
        when = float(time) if isinstance(time, int | float) else None
        if event["event"] == "initial":
            self._public(event.get("public"), 0, when)
        elif event["event"] == "round":
            self._round(event, when)

    def scalar(self, tag: str, value: object, step: int, when: float | None = None) -> None:
        """One number; anything else is left out. when: seconds since 1970, None for now."""
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            self._writer.add_scalar(tag, value, step, when)

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _public(self, public: object, step: int, when: float | None) -> None:
        if isinstance(public, Mapping):
            told = {name: public.get(name) for name in _PUBLIC} | {score_key(score_name(public)): score_of(public)}
            for name, value in told.items():
                self.scalar(f"public/{name}", value, step, when)

    def _round(self, event: Event, when: float | None) -> None:
        step = event["round"]
        if not isinstance(step, int):
            return
        self._public(event.get("public"), step, when)
        sites = event.get("sites")
        if isinstance(sites, Mapping):
            name = score_key(score_name(sites))
            self.scalar(f"sites/{name}", score_of(sites), step, when)
            self.scalar(f"sites/{name}_error", sites.get("error"), step, when)
        for name in ("answered", "missing", "failed"):
            named = event.get(name)
            if isinstance(named, list | tuple | dict):
                self.scalar(f"cohort/{name}", len(named), step, when)
        for name in ("seconds", "bytes_down", "bytes_up"):
            self.scalar(f"cost/{name}", event.get(name), step, when)
        self._writer.flush()


def write_run(run: Run, folder: Path) -> None:
    """All rounds of a run, and the largest epsilon of a site after those that the report looks at (epsilon/largest).

    Where a site has no finite epsilon there is no largest. Of very many unlike sites a sample is composed.

    Raises: ConfigError as TensorBoard does.
    """
    with TensorBoard(folder) as board:
        if run.initial is not None:
            board({"event": "initial", "public": run.initial.model_dump()})
        for row in run.history:
            board({"event": "round", **row.model_dump()})
        found = losses(run.history, run.statements)
        if found is not None and not found.unbounded:
            for number, value in zip(found.rounds, found.largest, strict=True):
                board.scalar("epsilon/largest", value, number)
