"""Which run a server starts with: a new one, or one of this very plan that did not come to its end.

A run is over when the event "finished" stands in its metrics.jsonl: it is written, durably, after everything else.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from privet.common.config import Plan
from privet.common.errors import ConfigError, ModelError, RunError, StoppedError
from privet.server.asked import load_asked
from privet.server.checkpoint import Checkpoint, load_checkpoint
from privet.server.progress import Progress

_FOLDER = "-????????T??????Z"  # after the plan's name; sorted by name is sorted by time
_DIGEST = re.compile(r"# plan ([0-9a-f]{64})$")


@dataclass(frozen=True)
class Going:
    """A run that goes on. progress: None where nothing was asked yet; fault: what was found damaged, in words."""

    path: Path
    progress: Progress | None
    fault: str = ""


@dataclass(frozen=True)
class _Run:
    """One run folder of a server, of whatever plan."""

    path: Path
    digest: str

    @cached_property
    def events(self) -> list[dict[str, Any]]:
        """Of metrics.jsonl; a torn last line is none."""
        found = []
        try:
            lines = (self.path / "metrics.jsonl").read_bytes().split(b"\n")[:-1]
        except FileNotFoundError:
            return []
        for line in lines:
            try:
                event = json.loads(line)
                event["event"]
            except (ValueError, KeyError, TypeError, RecursionError):
                continue
            found.append(event)
        return found

    @property
    def simulated(self) -> bool:
        return any(event.get("simulated") for event in self.events[:1])

    @property
    def finished(self) -> bool:
        return any(event["event"] == "finished" for event in self.events)

    @property
    def begun(self) -> bool:
        """Whether a site may have been asked anything of it."""
        folder = self.path / "checkpoints"
        later = [path for path in folder.glob("round-*.safetensors") if path.stem != "round-00000"]
        told = any(event["event"] in ("round_started", "round") for event in self.events)
        return told or bool(later) or any(folder.glob("asked-*.json"))

    def history(self, last: int) -> list[dict[str, Any]]:
        """The rounds told, in order, up to `last`; of a round that was run twice the second."""
        rows: dict[int, dict[str, Any]] = {}
        for event in self.events:
            if event["event"] == "round" and event["round"] <= last:
                rows[event["round"]] = {key: value for key, value in event.items() if key != "time"}
                rows[event["round"]].pop("simulated", None)
            elif event["event"] == "resumed":
                rows = {number: row for number, row in rows.items() if number <= event["round"]}
        return [rows[number] for number in sorted(rows)]


def unattended(runs: Path, plan: Plan) -> bool | Path:
    """For a server that nobody watches: whether to resume, or the folder in which the plan was run to its end."""
    own = [run for run in _runs(runs, plan.name) if not run.simulated and run.digest == plan.digest]
    if any(not run.finished for run in own):
        return True
    return own[0].path if own else False


def choose_run(runs: Path, plan: Plan, *, resume: bool, command: str) -> Going | None:
    """The run that goes on, or None where a new one may start.

    Raises: ConfigError where there is none to resume or a new one makes no sense; RunError where no checkpoint of the
    run can be read.
    """
    found = [run for run in _runs(runs, plan.name) if not run.simulated]
    own = [run for run in found if run.digest == plan.digest]
    open_ = [run for run in own if not run.finished]
    over = [run for run in own if run.finished]
    if resume:
        if open_:
            return _going(open_[0], plan)
        others = [run for run in found if run.digest != plan.digest and run.begun and not run.finished]
        if others:
            raise ConfigError(
                f"the newest unfinished run is of plan {others[0].digest}, and the file now says plan {plan.digest}.",
                where=str(others[0].path),
                mend="undo the change (plan.toml in that folder has the old values), or start the changed plan without "
                "--resume: to the sites it is a new one.",
            )
        raise ConfigError(
            f"nothing to resume: {'the run of this plan is finished' if over else 'no run of this plan was begun'}.",
            where=str(over[0].path if over else runs),
            mend="see to its adapter/." if over else "start the server without --resume.",
        )
    begun = [run for run in open_ if run.begun]
    if begun:
        raise ConfigError(
            "an unfinished run of this very plan exists.",
            where=str(begun[0].path),
            mend=f"go on with it by `{command}`, or move the folder away: what its rounds spent stays spent, and sites "
            "answer a round again with the same content only.",
        )
    if over:
        raise ConfigError(
            "this very plan was run to its end: its sites have no round left to answer.",
            where=str(over[0].path),
            mend="change the plan for another run (the sites approve it anew), or move the folder away: then the sites "
            "send what they stored, as far as they are asked the same.",
        )
    return None


def simulated_run(path: Path, plan: Plan) -> Going:
    """The simulation of `plan` in this very folder, which goes on.

    Raises: ConfigError where there is none, of another plan or at its end; RunError where no checkpoint can be read.
    """
    run = _read(path)
    if run is None or (run.events and not run.simulated):
        raise ConfigError("not the run folder of a simulation.", where=str(path), mend="give that of one.")
    if run.digest != plan.digest:
        what = f"the simulation is of plan {run.digest}, and the file now says plan {plan.digest}."
        mend = "undo the change (plan.toml in that folder has the old values), or start the changed plan anew."
        raise ConfigError(what, where=str(path), mend=mend)
    if run.finished:
        raise ConfigError("nothing to resume: the run is finished.", where=str(path), mend="see to its adapter/.")
    return _going(run, plan)


@contextmanager
def resumable(command: str) -> Iterator[None]:
    """Raises: StoppedError that names the command to go on with where the operator stops the server within."""
    try:
        yield
    except KeyboardInterrupt:
        raise StoppedError("stopped by the operator.", mend=f"continue with `{command}`.") from None


def _runs(runs: Path, name: str) -> list[_Run]:
    """The newest first."""
    found = [_read(path) for path in sorted(runs.glob(name + _FOLDER), reverse=True)]
    return [run for run in found if run is not None]


def _read(path: Path) -> _Run | None:
    """None where it was cut off while it was made: nothing was asked before plan.toml stood."""
    try:
        with (path / "plan.toml").open(encoding="utf-8") as file:
            match = _DIGEST.fullmatch(file.readline().strip())
    except (OSError, UnicodeDecodeError):
        return None
    return None if match is None else _Run(path, match[1])


def _going(run: _Run, plan: Plan) -> Going:
    folder = run.path / "checkpoints"
    checkpoint, fault = _newest(sorted(folder.glob("round-*.safetensors"), reverse=True), plan)
    if checkpoint is None:
        if run.begun:
            raise RunError(
                "no checkpoint can be read, and rounds were begun.",
                where=str(folder),
                mend="restore the folder from a backup, or move the run away and start anew.",
            )
        return Going(run.path, None)
    told = any(event["event"] == "sites_told" for event in run.events)
    history = run.history(checkpoint.round - (checkpoint.due is not None))
    return Going(run.path, Progress(checkpoint, history, load_asked(folder), told), fault)


def _newest(paths: list[Path], plan: Plan) -> tuple[Checkpoint | None, str]:
    """The newest checkpoint that can be read, and what was passed over for it.

    Going back by a round is no danger to what has gone out since: the round is asked again with the same bytes, which
    its sites answer from their stores. Where that does not give the very adapter that was lost (a site is away now, or
    answers now), the rounds asked from it are lost: the strategy sees their digests differ, and passes over them.
    """
    fault = ""
    for path in paths:
        try:
            checkpoint = load_checkpoint(path)
        except ModelError as error:
            fault = f"{error.where}: {error.what} Going on from the checkpoint before it."
            continue
        if checkpoint.plan_digest == plan.digest:
            return checkpoint, fault
        fault = f"{path}: the checkpoint of another plan. Going on from the one before it."
    return None, fault
