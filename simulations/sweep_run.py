"""`sweep`: simulate many settings of one plan, keep what is finished, rank the trials."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from privet.common.config import Plan, SimulationSpec
from privet.common.errors import ConfigError, InputError, RunError
from privet.common.live import Listener
from privet.common.privacy.statement import Statement
from privet.common.tasks.base import task_of
from privet.common.tasks.score import key_words
from privet.simulations.history import pandas_library
from privet.simulations.inputs import PlanLike, changed, read_plan, resolve, start_of
from privet.simulations.repeat import Spread, final_metrics, spread
from privet.simulations.result import Simulation
from privet.simulations.run import simulate
from privet.simulations.sweep_cost import NOT_FREE, Cost, cost_of
from privet.simulations.sweep_metric import metric_of, metrics_of, renamed
from privet.simulations.sweep_space import Axis, Settings, grid_axis, parse_range, plan_with, setting_text, settings_of
from privet.simulations.sweep_store import Store, data_digest, folder_name, json_text, run_key

if TYPE_CHECKING:
    import pandas

    from privet.simulations.data import SimulationData

_PAUSE = 2.0  # seconds between two writings of sweep.json


@dataclass
class Trial:
    """One setting. `runs`: the results by seed, finished ones; `error`: why a run could not be."""

    number: int  # from 1, in the order in which they were asked for
    settings: Settings
    plan: Plan
    runs: list[dict[str, Any]] = field(default_factory=list)
    error: str = ""

    def spread(self, metric: str) -> Spread | None:
        """Over the seeds."""
        return spread(run["final"].get(metric) for run in self.runs)

    @property
    def metrics(self) -> tuple[str, ...]:
        """As `metrics_of` names them."""
        return metrics_of(self.plan)

    @property
    def statement(self) -> Statement | None:
        """Of the site that pays most."""
        return Statement.from_json(self.runs[0]["statement"]) if self.runs else None

    @property
    def seconds(self) -> float:
        return float(sum(run["seconds"] for run in self.runs))

    def to_json(self) -> dict[str, Any]:
        """Of JSON's types."""
        found = {metric: self.spread(metric) for metric in self.metrics}
        stated = self.statement
        return {
            "trial": self.number,
            "settings": self.settings,
            "plan": self.plan.digest,
            **{metric: None if s is None else {"mean": s.mean, "sd": s.sd, "n": s.n} for metric, s in found.items()},
            "epsilon": None if stated is None else stated.epsilon,
            "seconds": round(self.seconds, 3),
            "error": self.error,
            "runs": [{"seed": run["seed"], "key": run["key"], "final": run["final"]} for run in self.runs],
        }


@dataclass(frozen=True, repr=False)
class Sweep:
    """All trials, the best by `metric` first, then those without it."""

    plan: Plan
    axes: Sequence[Axis]
    trials: Sequence[Trial]
    metric: str  # one of `metrics`
    seeds: Sequence[int]
    cost: Cost | None
    folder: Path | None
    command: str = ""

    @property
    def metrics(self) -> tuple[str, ...]:
        """As `metrics_of` names them."""
        return metrics_of(self.plan)

    @property
    def best(self) -> Trial | None:
        return self.trials[0] if self.trials and self.trials[0].spread(self.metric) is not None else None

    def rows(self) -> list[dict[str, Any]]:
        """One a trial, for a table: its settings, then METRIC_mean and METRIC_sd, n, epsilon, seconds, error."""
        rows = []
        for rank, trial in enumerate(self.trials, start=1):
            row: dict[str, Any] = {"rank": rank, "trial": trial.number}
            row |= {axis.key: setting_text(trial.settings[axis.key]) for axis in self.axes}
            for metric in self.metrics:
                found = trial.spread(metric)
                row |= {f"{metric}_mean": found and found.mean, f"{metric}_sd": found and found.sd}
            stated = trial.statement
            row |= {"n": len(trial.runs), "epsilon": stated and stated.epsilon}
            rows.append(row | {"seconds": round(trial.seconds, 3), "error": trial.error})
        return rows

    @property
    def frame(self) -> "pandas.DataFrame":
        """`rows` as a DataFrame."""
        return pandas_library().DataFrame(self.rows())

    def to_json(self) -> dict[str, Any]:
        """Of JSON's types."""
        return {
            "format": 1,
            "simulated": True,
            "federation": self.plan.name,
            "plan": self.plan.digest,
            "axes": [str(axis) for axis in self.axes],
            "metric": self.metric,
            "seeds": list(self.seeds),
            "not_free": NOT_FREE,
            "cost": None if self.cost is None else self.cost.to_json() | {"words": self.cost.words},
            "trials": [trial.to_json() for trial in self.trials],
            "folder": None if self.folder is None else str(self.folder.resolve()),
            "command": self.command,
        }

    def __repr__(self) -> str:
        best, name = self.best, key_words(self.metric)
        words = "none finished" if best is None else f"best {best.settings}: {name} {best.spread(self.metric)}"
        return f"<Sweep of {self.plan.name}: {len(self.trials)} trials; {words}>"

    def _repr_html_(self) -> str:
        cost = "" if self.cost is None else f"<p>{self.cost.words}</p>"
        return f"{self.frame.to_html(index=False, na_rep='–')}<p>{NOT_FREE}</p>{cost}"


def sweep(
    plan: PlanLike,
    data: "SimulationData | pandas.DataFrame | Path | str | None" = None,
    *,
    grid: Mapping[str, Sequence[Any]] | None = None,
    ranges: Mapping[str, str] | None = None,
    axes: Sequence[Axis] = (),
    random: int | None = None,
    repeat: int = 1,
    seed: int | None = None,
    sites: int = 10,
    epsilon: float | Sequence[float] = 8.0,
    partition: str | None = None,
    text: str | None = None,
    label: str | None = None,
    unit: str | None = None,
    spec: SimulationSpec | None = None,
    metric: str = "score",
    runs: Path | None = None,
    folder: Path | None = None,
    on_event: Listener | None = None,
    command: str = "",
    **settings: Any,
) -> Sweep:
    """Simulate every setting, under `repeat` seeds each, and rank them.

    grid: values by key of the plan, as {"training.learning_rate": [0.1, 0.3]}; ranges: as {"training.learning_rate":
    "1e-4..1e-1:log"}, which need `random`, the number of draws; axes: either, ready-made. metric: "score" (the task's:
    accuracy, micro F1, entity F1), "macro_f1", "loss", "sites_score", or the name that the task gives it, as
    "micro_f1". folder: of the results; else one under `runs` that the same arguments find again; without both nothing
    is written. A run that is finished there is not run again. The other arguments, `settings` among them, are those of
    `simulate`.
    Raises: ConfigError before anything runs where a key, a value or a trial's plan is not valid; as `simulate`, but for
    what concerns a single trial, which is told in its `error`.
    """
    settings = start_of(plan) | settings
    plan, spec = read_plan(plan, spec)
    spec = changed(spec, {"seed": seed, "partition": partition, "text": text, "label": label, "unit": unit})
    axes = [*axes, *(grid_axis(key, values) for key, values in (grid or {}).items())]
    axes += [parse_range(f"{key}={ends}") for key, ends in (ranges or {}).items()]
    if repeat < 1:
        raise ConfigError(f"got {repeat}.", where="--repeat", mend="give a number of runs.")
    found = settings_of(axes, random, spec.seed)
    trials = [Trial(i, settings, plan_with(plan, settings)) for i, settings in enumerate(found, start=1)]
    metric = metric_of([plan, *(trial.plan for trial in trials)], metric)
    budgets = [float(epsilon)] if isinstance(epsilon, int | float) else [float(value) for value in epsilon]
    if folder is None and runs is not None:
        kind = "random" if random is not None else "grid"
        asked = [sorted(map(str, axes)), kind, spec.model_dump(mode="json"), sites, [str(value) for value in budgets]]
        folder = runs / folder_name(plan, asked)
    store = Store(folder)
    seeds = range(spec.seed, spec.seed + repeat)
    running = _Running(store, data, spec, sites, budgets, plan, on_event or (lambda _event: None), settings)
    written = time.monotonic()
    with store.open():
        for trial in trials:
            for number in seeds:
                running.run(trial, len(trials), number)
            if time.monotonic() - written > _PAUSE:  # what a sweep that is killed leaves for people
                store.write("sweep.json", json_text(_ranked(plan, axes, trials, metric, seeds, folder).to_json()))
                written = time.monotonic()
        done = _ranked(plan, axes, trials, metric, seeds, folder)
        statements = [stated for trial in trials if (stated := trial.statement) is not None]
        done = replace(done, cost=cost_of(statements), command=command)
        if folder is not None:
            from privet.simulations.sweep_page import write_all

            write_all(done, store)
    return done


def _ranked(
    plan: Plan,
    axes: Sequence[Axis],
    trials: Sequence[Trial],
    metric: str,
    seeds: Sequence[int],
    folder: Path | None,
) -> Sweep:
    sign = 1 if metric == "loss" else -1

    def place(trial: Trial) -> tuple[bool, float, int]:
        found = trial.spread(metric)
        return (True, 0.0, trial.number) if found is None else (False, sign * found.mean, trial.number)

    return Sweep(plan, axes, sorted(trials, key=place), metric, list(seeds), None, folder)


class _Running:
    """Runs one setting under one seed, or finds it done."""

    def __init__(
        self,
        store: Store,
        data: "SimulationData | pandas.DataFrame | Path | str | None",
        spec: SimulationSpec,
        sites: int,
        budgets: list[float],
        plan: Plan,
        tell: Listener,
        settings: Mapping[str, Any],
    ) -> None:
        self._settings = settings  # on which no result depends
        self._store, self._sites, self._budgets, self._tell = store, sites, budgets, tell
        self._given, self._spec, self._plan = data, spec, plan
        self._data: dict[int, tuple[SimulationData, SimulationSpec, str]] = {}

    def run(self, trial: Trial, of: int, seed: int) -> None:
        """The result goes to the trial and to the store."""
        data, spec, digest = self._of(seed)
        key = run_key(trial.plan, spec, self._sites, self._budgets, digest)
        result, known = self._store.get(key), True
        if result is None:
            known, started = False, time.monotonic()
            try:
                given: dict[str, Any] = {"sites": self._sites, "epsilon": self._budgets, "spec": spec}
                ran = simulate(trial.plan, data, **given, **self._settings)
            except (InputError, RunError) as error:  # of this trial; the next command tries it again
                trial.error = str(error)
                self._told(trial, of, seed, None, known)
                return
            self._store.put(key, _result(ran, trial, seed, time.monotonic() - started))
            result = self._store.get(key)
            assert result is not None
        result = result | {"final": renamed(result["final"], trial.metrics)}
        trial.runs.append(result)
        self._told(trial, of, seed, result, known)

    def _of(self, seed: int) -> "tuple[SimulationData, SimulationSpec, str]":
        if seed not in self._data:
            _, data, spec = resolve(self._plan, self._given, self._spec, seed=seed)
            if not self._data:  # what no trial could do is told before the first
                data.sites(spec.partition, self._plan.task, num_sites=self._sites, seed=seed)
            self._data[seed] = data, spec, data_digest(data)
        return self._data[seed]

    def _told(self, trial: Trial, of: int, seed: int, result: Mapping[str, Any] | None, known: bool) -> None:
        final = {} if result is None else result["final"]
        told = {"trial": trial.number, "of": of, "seed": seed, "settings": trial.settings, "final": final}
        told |= {"done_before": known, "error": trial.error, "score_name": task_of(trial.plan.task).score_name}
        self._tell({"event": "trial", **told})


def _result(ran: Simulation, trial: Trial, seed: int, seconds: float) -> dict[str, Any]:
    site, stated = max(
        ran.statements.items(), key=lambda item: math.inf if item[1].epsilon is None else item[1].epsilon
    )
    final = final_metrics(ran)
    return {
        "settings": trial.settings,
        "plan": trial.plan.digest,
        "seed": seed,
        "final": {metric: final.get(metric) for metric in trial.metrics},
        "site": site,
        "statement": stated.to_json(),
        "seconds": round(seconds, 3),
    }
