"""Virtual sites on an engine, by the trainer, methods and strategy of a deployment."""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from privet.common.adapter import AdapterSpec, Arrays, Floats
from privet.common.base import checked_base
from privet.common.config import Plan, ServerSpec, SimulationSpec
from privet.common.initial import initial_adapter
from privet.common.live import Listener
from privet.common.methods import method_for
from privet.common.tasks.base import Public, record_width, task_of
from privet.server.public_metrics import judge_public
from privet.server.start_arrays import Start
from privet.server.strategy import PrivetStrategy
from privet.simulations.absence import Absence
from privet.simulations.data import Records, SimulationData
from privet.simulations.engines.cells import clips
from privet.simulations.engines.engine import Built, Engine, InProcess, Job, Shard, most_state_bytes
from privet.simulations.engines.store import Store
from privet.simulations.engines.work import Recipe, Run, Work
from privet.simulations.filling import fill
from privet.simulations.grid import SimulationGrid
from privet.simulations.listening import Listening
from privet.simulations.result import Simulation
from privet.simulations.resume import Begun, Place, data_digest
from privet.simulations.shards import even_shards
from privet.simulations.sites import Sites
from privet.simulations.terms import NO_GUARANTEE, Agreed, Kind, Spent, Terms, agree

if TYPE_CHECKING:
    from privet.client.training import RoundTrainer
    from privet.common.model import Classifier

_FEW = 2  # rates that are calibrated here, while the workers still load


class Simulator:
    """A plan's data in an engine's workers, for several simulations of it.

    engine: opened and closed by the caller; None computes in this process, by the agent's own trainer. spec: whose keys
    `engine`, `precision` and `device` say how it is computed. init, init_labels: as the keys of [server], where the
    plan starts from a trained adapter.
    Raises: ModelError, DataError, ConfigError.
    """

    def __init__(
        self,
        plan: Plan,
        data: SimulationData,
        engine: Engine | None = None,
        *,
        spec: SimulationSpec | None = None,
        init: Path | None = None,
        init_labels: Mapping[str, str] | None = None,
    ) -> None:
        self.plan, self.data, self._task = plan, data, task_of(plan.task)
        self._from = ServerSpec(init=init, init_labels=dict(init_labels or {}))
        self.base = checked_base(plan.model.base, plan.model.sha256)
        make = None if engine is not None else self._in_process
        spec = spec or SimulationSpec()
        self._recipe = Recipe(plan, self.base, spec.device, make, spec.engine, spec.precision)
        self._engine = InProcess() if engine is None else engine
        self._store: Store | None = None  # until its features are computed, where there are any
        self._start: Start | None = None  # where it is a trained one
        self._kept = ""  # of what was computed once
        self._digest = ""  # of the data that was prepared
        self._truth = data.truth(plan.task)

    @cached_property
    def trainer(self) -> "RoundTrainer":
        """The plan's trainer in this process."""
        from privet.client.training import RoundTrainer

        return RoundTrainer(self.plan, self.base)

    def prepare(self, records: Mapping[str, Records]) -> Sites:
        """Put these sites' data into the workers, split into training and validation as the plan says.

        The sites that were prepared before are gone.
        """
        store = fill(self.plan, self.base, records, self.data)
        self._engine.start(self._recipe, store)
        self._store, self._digest = store, data_digest(store)
        return Sites.of(store, records)

    def run(
        self,
        sites: Sites,
        *,
        epsilon: float | Sequence[float],
        spec: SimulationSpec,
        on_event: Listener | None = None,
        runs: Path | None = None,
        at: Path | None = None,
        command: str = "",
        last: bool = False,
        resume: Path | None = None,
    ) -> Simulation:
        """One simulation. sites: as `prepare` gave them, or some of these; epsilon: one for all, or given out in turn;
        last: nothing is to run on the engine after this: it is closed before the run folder is finished. at: the run
        folder, else one is made in `runs`; resume: that of one that was stopped, to go on with."""
        by_record = self.data.by_record
        agreed = agree(self.plan, spec, sites.num_units.tolist(), epsilon, by_record=by_record, call=self._call)
        engine, built = self._engine, self._engine.built()
        kept = self._compute_features(built)
        run = _run(agreed, sites, spec, by_record)
        engine.begin(run)
        start = self.start(built.spec)
        initial = start.arrays
        absence = Absence(spec.seed, spec.dropout, spec.straggler)
        load = sites.load(run.rates[sites.numbers])
        grid = SimulationGrid(self.plan, built.spec, initial, engine, sites.names, sites.numbers, load, agreed, absence)
        origin = {"data": _digest(self._digest, sites, by_record), "gradients": built.words, "command": command}
        place = Place(
            at if at is not None else runs,
            resume,
            self.plan,
            Begun.of(self.plan, len(sites.names), epsilon, spec, **origin),
            new=at is None,
        )
        folder, progress = place.folder, place.progress
        listening = Listening(on_event, folder, len(sites.names), lambda number: self._exact(grid, number))
        grid.on_reply = listening.replied
        listening.restore(place.kept, grid)

        def evaluate(arrays: Arrays) -> Public:
            return judge_public(self._task, self._logits(built.spec.flatten(arrays)), self._truth)

        try:
            if folder is not None and on_event is not None:
                on_event({"event": "run_folder", "run": str(folder.path)})
            listening({"event": "engine", "engine": engine.words, "gradients": built.words + kept})
            for text in place.warnings:
                listening({"event": "warning", "text": text})
            strategy = PrivetStrategy(
                self.plan,
                built.spec,
                initial,
                name_of=grid.name_of,
                pause=lambda _seconds: None,
                wait=0.0,
                on_event=listening,
                evaluate=evaluate if len(self._truth) else None,
                keep=None if folder is None else lambda checkpoint: listening.keep(checkpoint, grid),
                progress=progress,
                seed=spec.seed,
                further=grid.measured_error,
            )
            strategy.start(grid)
            if last:
                engine.close()
            if folder is not None:
                folder.finish(
                    self._classifier,
                    self.base,
                    strategy.state.arrays,
                    statements=strategy.roster.statements,
                    history=strategy.history,
                    simulated=True,
                    reason=NO_GUARANTEE,
                    command=place.command,
                    merged=False,
                    earlier=start.earlier,
                )
                listening({"event": "finished", "run": str(folder.path.resolve()), "rounds": strategy.completed})
                place.finished()
        finally:
            place.close()
        return Simulation(
            self.plan,
            strategy.state.arrays,
            strategy.history,
            strategy.roster.statements,
            folder.path if folder is not None else None,
            listening.truth,
            Spent(sites.names, agreed, grid.trained, grid.measured),
            clipped=listening.clipped if clips(self._task) else None,
        )

    def start(self, spec: AdapterSpec) -> Start:
        """The adapter before the first round, derived or trained; spec: of the whole adapter. Raises: ConfigError."""
        if self.plan.method.init is None:
            return Start(initial_adapter(spec, self.plan.method.seed))
        if self._start is None:
            from privet.server.start import load_start

            self._start = load_start(self.plan, self._from, self._classifier, self.base)
        return self._start

    @property
    def _classifier(self) -> "Classifier":
        """For the export: the libraries that build it are loaded now, not before."""
        if "trainer" in self.__dict__:
            return self.trainer.classifier
        from privet.common.model import build_classifier

        return build_classifier(self.plan, self.base)

    def _in_process(self, recipe: Recipe, store: Store) -> Work:
        from privet.simulations.engines.sequential import SequentialWork

        return SequentialWork(recipe, store, self.trainer)

    def _call(self, function: Callable[[Kind], Terms], items: Sequence[Kind]) -> list[Terms]:
        if len(items) <= _FEW:
            return [function(item) for item in items]
        return self._engine.call(function, items)

    def _compute_features(self, built: Built) -> str:
        """Once: what the last layer reads of every window, where it alone is trained; or what the first layer with LoRA
        reads of every token, where there is room. Words to add to what is told of the gradients."""
        store, self._store = self._store, None
        if store is None:
            return self._kept
        self._kept = ""
        starts: Sequence[int] | NDArray[np.int64] = range(store.num_windows + 1)
        kind: Literal["features", "states"] = "features"
        if not method_for(self.plan).frozen_features(built.spec) or self._task.per_token:
            if not built.state_bytes or built.state_bytes * len(store.ids) > most_state_bytes():
                return ""
            kind, starts = "states", store.window_start
            self._kept = f"; layers below {self.plan.lora.first_layer} once for a text"
        parts = even_shards(store.num_windows)
        found: Floats | None = None
        for index, rows in self._engine.map(Job(kind), [Shard(part) for part in parts]):
            if found is None:
                found = np.empty((int(starts[-1]), rows.shape[1]), np.float32)
            found[starts[parts[index].start] : starts[parts[index].stop]] = rows
        self._engine.attach(np.zeros((0, 1), np.float32) if found is None else found)
        return self._kept

    def _logits(self, arrays: Floats) -> Floats:
        """Of the public test texts, float32 [N, L]."""
        table = np.empty((len(self._truth), record_width(self._task)), np.float32)
        parts = even_shards(len(table))
        for index, rows in self._engine.map(Job("logits", arrays=arrays), [Shard(part) for part in parts]):
            table[parts[index].start : parts[index].stop] = rows
        return table

    def _exact(self, grid: SimulationGrid, number: int) -> tuple[float, float | None]:
        """The score without noise, in evaluation `number`, over all validation units of the sites that measured it;
        nan where there are none. And the share of those whose counts were clipped, where the task clips any. Only a
        simulation can know either."""
        release = self.plan.evaluation.release
        if release == "none" or grid.exact is None or grid.exact[0] != number:
            return math.nan, None
        clipped = grid.clipped[1] if grid.clipped is not None and grid.clipped[0] == number else None
        return self._task.exact_score(release, grid.exact[1]), clipped


def _digest(data: str, sites: Sites, by_record: bool) -> str:
    """Of the data that were prepared, what a unit of it is, and which of its sites take part."""
    return hashlib.sha256(f"{data} {by_record} ".encode() + np.asarray(sites.numbers, np.int64).tobytes()).hexdigest()


def _run(agreed: Agreed, sites: Sites, spec: SimulationSpec, by_record: bool) -> Run:
    """What the workers are told; of sites in the store that do not take part, zeros."""
    size = int(sites.numbers.max()) + 1 if len(sites.numbers) else 0
    rates, sigmas, batches = np.zeros(size), np.zeros(size), np.zeros(size, np.int64)
    for kind, found in enumerate(agreed.terms):
        mine = sites.numbers[agreed.kinds == kind]
        rates[mine], sigmas[mine] = found.event.sample_rate, found.event.noise_multiplier
        batches[mine] = found.event.expected_batch
    unit: Literal["record", "unit"] = "record" if by_record else "unit"
    return Run(spec.seed, unit, spec.max_records, rates, sigmas, batches)
