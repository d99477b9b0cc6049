"""`simulate`: a plan over N virtual sites in this process, by the trainer, methods and strategy of a deployment."""

import math
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from privet.client.training import RoundTrainer
from privet.common.adapter import Floats
from privet.common.base import checked_base
from privet.common.config import Federation, Plan, SimulationSpec
from privet.common.errors import ConfigError
from privet.common.examples import Examples
from privet.common.model import initial_arrays
from privet.common.privacy.calibration import noise_multiplier
from privet.common.privacy.events import TrainEvent
from privet.common.privacy.statement import Statement, statement
from privet.server.evaluation import PublicEvaluator
from privet.server.roster import Event, Listener
from privet.server.run_folder import RunFolder
from privet.server.strategy import PrivetStrategy
from privet.simulations.data import Records, SimulationData, load_data
from privet.simulations.grid import LocalGrid
from privet.simulations.sites import VirtualSite

NO_GUARANTEE = "A simulation: noise and draws are seeded, and one process saw every site's text."


@dataclass(frozen=True)
class Simulation:
    """A finished simulation. `history` has one row a round; `final` the last public metrics, or None."""

    plan: Plan
    arrays: Mapping[str, Floats]
    history: Sequence[Event]
    statements: Mapping[str, Statement]
    folder: Path | None

    @property
    def final(self) -> Mapping[str, object] | None:
        judged = [row["public"] for row in self.history if isinstance(row["public"], dict)]
        return judged[-1] if judged else None

    @property
    def accuracy(self) -> float:
        """Public accuracy after the last round; nan where nothing was judged."""
        value = (self.final or {}).get("accuracy", math.nan)
        return float(value) if isinstance(value, int | float) else math.nan


class Simulator:
    """A plan's model and data, kept for several simulations of it: features are computed once.

    Raises: ModelError, DataError, ConfigError.
    """

    def __init__(self, plan: Plan, data: SimulationData) -> None:
        self.plan, self.data = plan, data
        self.base = checked_base(plan.model.base, plan.model.sha256)
        self.trainer = RoundTrainer(plan, self.base)
        self._evaluate: PublicEvaluator | None = None
        if len(data.test_texts):
            truth = [plan.task.labels.index(label) for label in data.test_labels]
            self._evaluate = PublicEvaluator(
                plan,
                self.trainer.classifier,
                self.trainer.tokenizer,
                list(data.test_texts),
                truth,
                self.trainer.frozen_features,
            )

    def prepare(self, records: Mapping[str, Records]) -> dict[str, tuple[Examples, int]]:
        """Every site's examples and number of units, ready for any number of runs.

        Frozen features of several sites are computed side by side, one thread a core: a site's own do not depend on it.
        """
        num_threads = 1
        if self.trainer.frozen_features and self.plan.model.pooling == "mean":
            num_threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        with ThreadPoolExecutor(num_threads) as pool:
            examples = list(pool.map(self.trainer.prepare, records.values()))
        return {name: (part, records[name].num_units) for name, part in zip(records, examples, strict=True)}

    def run(
        self,
        sites: Mapping[str, tuple[Examples, int]],
        *,
        epsilon: float | Sequence[float],
        spec: SimulationSpec,
        on_event: Listener | None = None,
        runs: Path | None = None,
        command: str = "",
    ) -> Simulation:
        """One simulation. sites: examples and number of units by name; epsilon: one for all, or given out in turn."""
        budgets = [epsilon] if isinstance(epsilon, int | float) else list(epsilon)
        if not budgets or not all(value > 0 for value in budgets):
            raise ConfigError(f"got {epsilon}.", where="epsilon", mend="give numbers above zero, or inf.")
        events: dict[str, TrainEvent | None] = {}
        statements: dict[str, Statement | None] = {}
        for index, (name, (_, num_units)) in enumerate(sites.items()):
            events[name] = self._event(num_units, budgets[index % len(budgets)], spec)
            statements[name] = self._statement(events[name], spec)
        nodes = {
            number: VirtualSite(name, self.trainer, sites[name][0], events[name], statements[name], spec.seed)
            for number, name in enumerate(sites, start=1)
        }
        folder = RunFolder.new(runs, self.plan) if runs is not None else None
        tell = on_event or (lambda _event: None)

        def listen(event: Event) -> None:
            if folder is not None:
                folder.record({"simulated": True, **event})
            tell(event)

        strategy = PrivetStrategy(
            self.plan,
            self.trainer.spec,
            initial_arrays(self.trainer.classifier),
            name_of=lambda node: nodes[node].name,
            pause=lambda _seconds: None,
            wait=0.0,
            on_event=listen,
            evaluate=self._evaluate,
            keep=folder.keep if folder is not None else None,
        )
        grid = LocalGrid({number: site.answer for number, site in nodes.items()})
        grid.on_reply = lambda message: tell({"event": "reply", "site": nodes[message.metadata.src_node_id].name})
        try:
            strategy.start(grid)
            if folder is not None:
                folder.finish(
                    self.trainer.classifier,
                    self.base,
                    strategy.state.arrays,
                    statements=strategy.roster.statements,
                    history=strategy.history,
                    simulated=True,
                    reason=NO_GUARANTEE,
                    command=command,
                    merged=False,
                )
                listen({"event": "finished", "run": str(folder.path.resolve()), "rounds": strategy.completed})
        finally:
            if folder is not None:
                folder.close()
        path = folder.path if folder is not None else None
        return Simulation(self.plan, strategy.state.arrays, strategy.history, strategy.roster.statements, path)

    def _event(self, num_units: int, epsilon: float, spec: SimulationSpec) -> TrainEvent | None:
        training = self.plan.training
        own = max(1, round(spec.sample_rate * num_units))
        batch = own if training.expected_batch == "site" else training.expected_batch
        rate = batch / max(1, num_units)
        if rate > 1:  # a real site refuses such a plan too, and nothing is capped
            return None
        steps = training.horizon * training.local_steps
        sigma = 0.0
        if math.isfinite(epsilon):
            sigma = _sigma(rate, steps, epsilon, spec.delta)
        return TrainEvent(
            sample_rate=rate,
            noise_multiplier=sigma,
            steps=training.local_steps,
            max_grad_norm=training.max_grad_norm,
            expected_batch=batch,
            unit="record" if self.data.by_record else "unit",
            max_records=spec.max_records,
        )

    def _statement(self, event: TrainEvent | None, spec: SimulationSpec) -> Statement | None:
        if event is None:
            return None
        return _statement(event, self.plan.training.horizon, spec.delta)


@lru_cache(maxsize=4096)
def _sigma(rate: float, steps: int, epsilon: float, delta: float) -> float:
    return noise_multiplier(sample_rate=rate, steps=steps, epsilon=epsilon, delta=delta)


@lru_cache(maxsize=4096)
def _statement(event: TrainEvent, horizon: int, delta: float) -> Statement:
    return statement(event, horizon, delta, released=("update",), guarantee=False, reason=NO_GUARANTEE)


def simulate(
    plan: Plan,
    data: SimulationData | None = None,
    *,
    sites: int = 10,
    partition: str | None = None,
    epsilon: float | Sequence[float] = 8.0,
    spec: SimulationSpec | None = None,
    on_event: Listener | None = None,
    runs: Path | None = None,
    command: str = "",
) -> Simulation:
    """Run `plan` over virtual sites.

    plan: a Plan, or a Federation, whose [simulation] table is then the default of `spec`. data: None reads what
    `spec` says, or generates text. epsilon: of each site, one number or several given out in turn; inf is no privacy.
    runs: where to write a run folder; None writes nothing.
    Raises: ConfigError, DataError, ModelError; RunError where too few sites can take part.
    """
    if spec is None:
        spec = plan.simulation if isinstance(plan, Federation) else SimulationSpec()
    if isinstance(plan, Federation):
        plan = plan.plan
    if partition is not None:
        spec = spec.model_copy(update={"partition": partition})
    if data is None:
        data = load_data(spec, plan.task.labels)
    records = data.sites(spec.partition, plan.task.labels, num_sites=sites, seed=spec.seed)
    simulator = Simulator(plan, data)
    return simulator.run(
        simulator.prepare(records),
        epsilon=epsilon,
        spec=spec,
        on_event=on_event,
        runs=runs,
        command=command or shlex.join(sys.argv),
    )
