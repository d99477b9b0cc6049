"""Which simulation goes on, and that it is the same one: `simulation.json` in its run folder.

That file says all that the numbers of a run depend on beside its plan. It is written, durably, before the first round
and held locked by the process that computes, so that nobody goes on with a run that goes on already.
"""

import fcntl
import hashlib
import json
import os
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from privet.common.config import Plan, SimulationSpec
from privet.common.errors import ConfigError, RunError
from privet.common.live import Event
from privet.server.checkpoint import load_checkpoint, write_durably, writing
from privet.server.progress import Progress
from privet.server.resume import simulated_run
from privet.server.run_folder import RunFolder
from privet.simulations.engines.store import Store

_FILE = "simulation.json"
_DECIDES = ("seed", "partition", "dropout", "straggler", "delta", "sample_rate", "max_records")  # and the data's digest


@dataclass(frozen=True)
class Begun:
    """What a simulation was begun with.

    sites: how many; epsilon: of each, given out in turn; data: digest of what is prepared, "" where it is not yet;
    gradients: how they are computed, in words; command: what was typed.
    """

    plan: str
    sites: int
    epsilon: tuple[float, ...]
    spec: Mapping[str, Any]
    data: str = ""
    gradients: str = ""
    command: str = ""

    @classmethod
    def of(
        cls, plan: Plan, sites: int, epsilon: float | Sequence[float], spec: SimulationSpec, **further: str
    ) -> "Begun":
        budgets = [epsilon] if isinstance(epsilon, int | float) else epsilon
        return cls(plan.digest, sites, tuple(map(float, budgets)), spec.model_dump(mode="json"), **further)

    @property
    def assignments(self) -> list[str]:
        """Keys of [simulation] for `--set`, so that flags need not be repeated: which data, and how it is parted."""
        given = {name: self.spec.get(name) for name in ("data", "partition")}
        return [f"simulation.{name}={json.dumps(value, ensure_ascii=False)}" for name, value in given.items() if value]

    def check(self, now: "Begun", where: Path) -> None:
        """Raises: ConfigError that names what differs; of data only where nothing else explains it."""
        pairs = [("--sites", self.sites, now.sites), ("--epsilon", _listed(self.epsilon), _listed(now.epsilon))]
        pairs += [(f"simulation.{name}", self.spec.get(name), now.spec.get(name)) for name in _DECIDES]
        told = [f"{name} {before} (now {after})" for name, before, after in pairs if before != after]
        if not told and now.data and self.data != now.data:
            told = ["other data"]
        if told:
            mend = f"repeat what was typed then: {self.command}" if self.command else "repeat what it was begun with."
            raise ConfigError(f"the simulation was begun with {', '.join(told)}.", where=str(where), mend=mend)


def read_begun(folder: Path) -> Begun:
    """What the simulation in this run folder was begun with. Raises: ConfigError."""
    try:
        raw = json.loads((folder / _FILE).read_text(encoding="utf-8"))
        found = Begun(**raw | {"epsilon": tuple(map(float, raw["epsilon"]))})
        SimulationSpec.model_validate(found.spec)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise ConfigError(
            "not the run folder of a simulation that began its rounds.", where=str(folder), mend="start it anew."
        ) from None
    return found


def check_begun(folder: Path, plan: Plan, now: Begun) -> None:
    """Whether `now` can go on with the simulation in `folder`, before anything is loaded. Raises: ConfigError."""
    begun = read_begun(folder)
    simulated_run(folder, plan)
    begun.check(now, folder)


class Place:
    """Where a simulation is written: a new run folder, one that goes on, or nowhere."""

    def __init__(self, runs: Path | None, resume: Path | None, plan: Plan, begun: Begun, *, new: bool = True) -> None:
        """runs: where to make a folder, or, if not `new`, the folder itself; resume: the folder to go on in.

        Raises: ConfigError, RunError.
        """
        self.folder: RunFolder | None = None
        self.progress: Progress | None = None
        self.warnings: list[str] = []
        self.command = begun.command
        self._lock = -1
        if resume is not None:
            first = read_begun(resume)
            self._lock = _locked(resume)
            try:
                going = simulated_run(resume, plan)
                first.check(begun, resume)
                self.folder = RunFolder(resume, plan, again=True, resume=resuming(first.command, resume))
            except BaseException:
                self.close()
                raise
            self.progress, self.command = going.progress, first.command
            if going.fault:
                self.warnings.append(going.fault)
            if first.gradients != begun.gradients:
                text = f"gradients were computed as {first.gradients!r} before, and are now as {begun.gradients!r}"
                self.warnings.append(f"{text}: the numbers can differ in their last digits from an undisturbed run's.")
        elif runs is not None:
            self.folder = RunFolder.new(runs, plan) if new else RunFolder(runs, plan)
            try:
                with writing(self.folder.path / _FILE, "start again"):
                    write_durably(self.folder.path / _FILE, (json.dumps(asdict(begun), indent=2) + "\n").encode())
            except RunError:
                self.close()
                raise
            self.folder.resume = resuming(begun.command, self.folder.path)
            self._lock = _locked(self.folder.path)

    @property
    def kept(self) -> Mapping[str, Any]:
        """What `Listening.keep` put into the checkpoint beside the strategy's own."""
        return {} if self.progress is None else self.progress.checkpoint.simulation

    def finished(self) -> None:
        """The run is over: what only a simulation can know stays in no file."""
        if self.folder is not None:
            for path in sorted((self.folder.path / "checkpoints").glob("round-*.safetensors")):
                self.folder.keep(replace(load_checkpoint(path), simulation={}))

    def close(self) -> None:
        if self.folder is not None:
            self.folder.close()
        if self._lock >= 0:
            os.close(self._lock)
        self.folder, self._lock = None, -1


def data_digest(store: Store) -> str:
    """Of everything that the workers read of the data, the sites' names and splits included."""
    found = hashlib.sha256()
    for name, array in sorted(store.arrays().items()):
        found.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        found.update(array.tobytes() if not array.flags.c_contiguous else array.reshape(-1).view("u1").data)
    return found.hexdigest()


@contextmanager
def resumable(command: str, *, again: bool = False) -> Iterator[Callable[[Event], None]]:
    """A listener that learns of the run folder. again: `command` itself goes on with one.

    Raises: RunError that says how to go on, where the operator stops a run within.
    """
    places: list[str] = []

    def hear(event: Event) -> None:
        if event["event"] == "run_folder":
            places[:] = [str(event["run"])]
        elif event["event"] == "finished":
            places.clear()

    try:
        yield hear
    except KeyboardInterrupt:
        if not places:
            raise
        go_on = command if again else resuming(command, places[0])
        raise RunError("stopped by the operator.", mend=f"go on with `{go_on}`.") from None


def resuming(command: str, folder: Path | str) -> str:
    """The command that goes on with the run in `folder`, which `command` began."""
    return f"{command} --resume {shlex.quote(str(folder))}"


def _listed(values: Sequence[float]) -> str:
    return ",".join(f"{value:g}" for value in values)


def _locked(folder: Path) -> int:
    """Let go by the system, however this process ends. Raises: ConfigError where another one holds it."""
    descriptor = os.open(folder / _FILE, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise ConfigError(
            "the simulation is running in another process.", where=str(folder), mend="wait for it, or stop it first."
        ) from None
    return descriptor
