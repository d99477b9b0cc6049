"""`simulate`: a plan over N virtual sites in this process, by the trainer, methods and strategy of a deployment."""

import math
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

from privet.client.training import RoundTrainer
from privet.common.adapter import Floats
from privet.common.base import checked_base
from privet.common.config import Federation, Plan, SimulationSpec
from privet.common.errors import ConfigError
from privet.common.examples import Examples
from privet.common.live import Event, Listener
from privet.common.model import initial_arrays
from privet.common.privacy.calibration import noise_multiplier
from privet.common.privacy.events import EvaluateEvent, TrainEvent
from privet.common.privacy.statement import Statement, statement
from privet.server.evaluation import PublicEvaluator
from privet.server.judgement import kept_round
from privet.server.run_folder import RunFolder
from privet.server.strategy import PrivetStrategy
from privet.simulations.data import Records, SimulationData, load_data
from privet.simulations.grid import LocalGrid
from privet.simulations.sites import VirtualSite, sites_truth

NO_GUARANTEE = "A simulation: noise and draws are seeded, and one process saw every site's text."


@dataclass(frozen=True)
class Simulation:
    """A finished simulation. `history` has one row a round; `final` the public metrics of the kept round, or None.

    truth: by evaluated round, the sites' accuracy without noise, which only a simulation can know; in no file.
    """

    plan: Plan
    arrays: Mapping[str, Floats]
    history: Sequence[Event]
    statements: Mapping[str, Statement]
    folder: Path | None
    truth: Mapping[int, float] = field(default_factory=dict)

    @property
    def final(self) -> Mapping[str, object] | None:
        kept = kept_round(self.history, self.plan.evaluation)
        return kept["public"] if kept is not None else None

    @property
    def accuracy(self) -> float:
        """Public accuracy of the round that is kept, the last or the best; nan where nothing was judged."""
        value = (self.final or {}).get("accuracy", math.nan)
        return float(value) if isinstance(value, int | float) else math.nan


class SiteExamples(NamedTuple):
    """One virtual site, ready to run: what it trains on and validates on, and its units, of both together."""

    train: Examples
    validation: Examples
    num_units: int


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

    def prepare(self, records: Mapping[str, Records]) -> dict[str, SiteExamples]:
        """Every site's examples, split into training and validation as the plan says, ready for any number of runs.

        Frozen features of several sites are computed side by side, one thread a core: a site's own do not depend on it.
        """
        num_threads = 1
        if self.trainer.frozen_features and self.plan.model.pooling == "mean":
            num_threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        with ThreadPoolExecutor(num_threads) as pool:
            prepared = list(pool.map(self._prepare, records.values()))
        return dict(zip(records, prepared, strict=True))

    def _prepare(self, records: Records) -> SiteExamples:
        train, validation = records.split(self.plan.training.train_fraction)
        if self.plan.evaluation.release == "none":  # then nobody measures on the others
            validation = records.split(1.0)[1]
        return SiteExamples(self.trainer.prepare(train), self.trainer.prepare(validation), records.num_units)

    def run(
        self,
        sites: Mapping[str, SiteExamples],
        *,
        epsilon: float | Sequence[float],
        spec: SimulationSpec,
        on_event: Listener | None = None,
        runs: Path | None = None,
        command: str = "",
    ) -> Simulation:
        """One simulation. sites: by name, as `prepare` gave them; epsilon: one for all, or given out in turn."""
        budgets = [epsilon] if isinstance(epsilon, int | float) else list(epsilon)
        if not budgets or not all(value > 0 for value in budgets):
            raise ConfigError(f"got {epsilon}.", where="epsilon", mend="give numbers above zero, or inf.")
        nodes: dict[int, VirtualSite] = {}
        for index, (name, site) in enumerate(sites.items()):
            budget = budgets[index % len(budgets)]
            event, evaluation = self._event(site.num_units, budget, spec), self._evaluation(budget, spec)
            nodes[index + 1] = VirtualSite(
                name,
                self.trainer,
                site.train,
                event,
                self._statement(event, evaluation, spec),
                spec.seed,
                validation=site.validation,
                evaluation=evaluation,
            )
        truth: dict[int, float] = {}
        folder = RunFolder.new(runs, self.plan) if runs is not None else None
        tell = on_event or (lambda _event: None)

        def listen(event: Event) -> None:
            if folder is not None:
                folder.record({"simulated": True, **event})
            evaluation = event.get("evaluation")
            if isinstance(evaluation, dict):  # told here alone: it stands in no file
                exact = sites_truth(self.plan, nodes.values(), evaluation["number"])
                truth[int(str(event["round"]))] = exact
                event = event | {"sites_truth": exact, "simulated": True}
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
        return Simulation(self.plan, strategy.state.arrays, strategy.history, strategy.roster.statements, path, truth)

    def _event(self, num_units: int, epsilon: float, spec: SimulationSpec) -> TrainEvent | None:
        training = self.plan.training
        num_training = num_units * training.train_fraction  # as a real site states it: not the split's own count
        own = max(1, round(spec.sample_rate * num_training))
        batch = own if training.expected_batch == "site" else training.expected_batch
        rate = batch / max(1.0, num_training)
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

    def _evaluation(self, epsilon: float, spec: SimulationSpec) -> EvaluateEvent | None:
        """One evaluation, under the whole share once more: no unit is in both parts. None where the plan asks none."""
        release = self.plan.evaluation.release
        if release == "none":
            return None
        sigma = _sigma(1.0, self.plan.num_evaluations, epsilon, spec.delta) if math.isfinite(epsilon) else 0.0
        unit: Literal["record", "unit"] = "record" if self.data.by_record else "unit"
        return EvaluateEvent(noise_multiplier=sigma, release=release, unit=unit)

    def _statement(
        self, event: TrainEvent | None, evaluation: EvaluateEvent | None, spec: SimulationSpec
    ) -> Statement | None:
        if event is None:
            return None
        training = self.plan.training
        number = 0 if evaluation is None else self.plan.num_evaluations
        return _statement(event, training.horizon, evaluation, number, training.train_fraction, spec.delta)


@lru_cache(maxsize=4096)
def _sigma(rate: float, steps: int, epsilon: float, delta: float) -> float:
    return noise_multiplier(sample_rate=rate, steps=steps, epsilon=epsilon, delta=delta)


@lru_cache(maxsize=4096)
def _statement(
    event: TrainEvent,
    horizon: int,
    evaluation: EvaluateEvent | None,
    num_evaluations: int,
    train_fraction: float,
    delta: float,
) -> Statement:
    return statement(
        event,
        horizon,
        delta,
        released=("update",) if evaluation is None else ("update", evaluation.release),
        evaluation=evaluation,
        num_evaluations=num_evaluations,
        train_fraction=train_fraction,
        guarantee=False,
        reason=NO_GUARANTEE,
    )


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
