"""Does the federation help a site? Beside it: every site alone at its own epsilon, and all data pooled at one site.

Alone is the plan with one site: the same batch, rounds, steps and noise for its own budget. Pooled is the plan with one
site that holds every site's training units and takes as large a batch as a whole cohort takes: at the same epsilon (of
several budgets the smallest), and without privacy. A person who is at two sites counts as two units there.

Where the plan keeps units for evaluation (training.train_fraction < 1), each model is also measured, without noise, on
the held-out units of the site itself, which none of them was trained on. Only a simulation can know these figures.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from privet.client.evaluation import exact_cells
from privet.common.config import Plan, SimulationSpec
from privet.common.errors import RunError
from privet.common.examples import Examples
from privet.common.live import Event, Listener
from privet.common.tasks.score import ACCURACY, scored_as
from privet.server.checkpoint import write_durably
from privet.simulations.baselines_words import SEEN_BY_SIMULATION, html_table, site_words, terminal_table
from privet.simulations.data import Records, SimulationData
from privet.simulations.engines.engine import Engine
from privet.simulations.one_site import (
    POOLED,
    OneSite,
    Trained,
    one_site_plan,
    pooled_batch,
    pooled_records,
    site_batch,
)
from privet.simulations.result import Simulation
from privet.simulations.simulator import Simulator

if TYPE_CHECKING:
    from rich.table import Table

NUM_ALONE = 20
FEWEST_HELD_OUT = 10  # units: fewer tell nothing of a gain


class Score(NamedTuple):
    """The task's score of one model; None where there is nothing to measure it on."""

    public: float | None
    own: float | None = None  # on a site's held-out units, without noise


@dataclass(frozen=True)
class SiteRow:
    """One site: what it reaches alone, and with each of the others."""

    site: str
    units: int
    epsilon: float | None  # None: without privacy
    alone: Score | None  # None: the plan's batch is more than its training units
    federation: Score
    pooled: Score
    no_privacy: Score
    held_out: int = 0  # units of its own that the models were measured on
    measured_on: str | None = None  # what `gain` is taken from: "own" held-out units if enough, else the "public" test
    gain: float | None = None  # score of the federation less that alone
    error: float | None = None  # standard error of `gain` by the size of the test set; not by the runs' randomness
    words: str = ""


@dataclass(frozen=True)
class Baselines:
    """Rows of the sites that were also simulated alone, `num_sites` being there; and the models of all."""

    rows: Sequence[SiteRow]
    num_sites: int
    seed: int
    num_public: int
    federation: float | None  # scores on the public test set
    pooled: float | None
    pooled_epsilon: float | None  # None: without privacy
    num_budgets: int
    no_privacy: float | None
    score_name: str = ACCURACY  # what all scores are, for people

    def to_json(self) -> dict[str, Any]:
        """Of JSON's types; an epsilon of None is none at all."""
        rows = [asdict(row) | {k: _scores(getattr(row, k)) for k in _MODELS} for row in self.rows]
        return asdict(self) | {"format": 1, "simulated": True, "note": SEEN_BY_SIMULATION, "rows": rows}

    def table(self) -> "Table":
        """For a terminal."""
        return terminal_table(self)

    def to_html(self) -> str:
        """A table for a notebook."""
        return html_table(self)


_MODELS = ("alone", "federation", "pooled", "no_privacy")


def _scores(score: Score | None) -> dict[str, float | None] | None:
    return None if score is None else score._asdict()


def compare(
    plan: Plan,
    data: SimulationData,
    ran: Simulation,
    records: Mapping[str, Records],
    *,
    epsilon: float | Sequence[float],
    spec: SimulationSpec,
    most: int = NUM_ALONE,
    on_event: Listener | None = None,
    engine: Engine | None = None,
    start: Mapping[str, Any] | None = None,
) -> Baselines:
    """Hold a finished simulation against its baselines; written to baselines.json in its run folder if it has one.

    records: of all sites, as they were simulated. most: sites that are also simulated alone; of more, some are drawn by
    the simulation's seed. start: `init` and `init_labels` of `Simulator`.
    """
    tell: Listener = on_event or (lambda _event: None)
    budgets = [epsilon] if isinstance(epsilon, int | float) else list(epsilon)
    budget_of = {name: budgets[index % len(budgets)] for index, name in enumerate(records)}
    names = _drawn(list(records), most, spec.seed)
    single = Simulator(one_site_plan(plan), data, engine, spec=spec, **(start or {}))
    shown = {name: records[name] for name in names}
    least, union = min(budgets), pooled_records(records)
    train: OneSite = Trained(single, spec, {POOLED: union, **shown})
    judge = _Judge(single, shown)
    batch = pooled_batch(plan, spec, union, len(ran.statements) or len(records))
    pooled = train(POOLED, least, batch)

    def told(run: Simulation | None) -> Event:
        return scored_as(ran.score_name, _score(run))

    tell({"event": "baseline", "kind": "pooled", "epsilon": _finite(least), **told(pooled)})
    bare = pooled if math.isinf(least) else train(POOLED, math.inf, batch)
    tell({"event": "baseline", "kind": "no_privacy", "epsilon": None, **told(bare)})
    if pooled is None or bare is None:
        raise RunError("all data pooled are too few for the plan's batch.", mend="bring more data.")
    rows = []
    for name in names:
        own = budget_of[name]
        alone = train(name, own, site_batch(plan, spec, records[name]))
        tell({"event": "baseline", "kind": "alone", "site": name, "epsilon": _finite(own), **told(alone)})
        rows.append(judge.row(name, records[name].num_units, _finite(own), alone, ran, pooled, bare))
    found = Baselines(
        rows=rows,
        num_sites=len(records),
        seed=spec.seed,
        num_public=len(data.test_texts),
        federation=_score(ran),
        pooled=_score(pooled),
        pooled_epsilon=_finite(least),
        num_budgets=len(set(budgets)),
        no_privacy=_score(bare),
        score_name=ran.score_name,
    )
    if ran.folder is not None:
        _write(ran.folder, found)
    tell({"event": "baselines", **found.to_json()})
    return found


class _Judge:
    """Measures models on the held-out units of the sites that have a row."""

    def __init__(self, simulator: Simulator, records: Mapping[str, Records]) -> None:
        plan, self._simulator = simulator.plan, simulator
        self._held: dict[str, Examples] = {}
        if plan.training.train_fraction < 1:
            for name, part in records.items():
                _, held = part.split(plan.training.train_fraction)
                if held.num_units:
                    self._held[name] = simulator.trainer.prepare(held)
        self._num_public = len(simulator.data.test_texts)

    def row(
        self,
        name: str,
        units: int,
        epsilon: float | None,
        alone: Simulation | None,
        federation: Simulation,
        pooled: Simulation,
        bare: Simulation,
    ) -> SiteRow:
        """The line of one site."""
        joined, size = self._score(name, federation)
        row = SiteRow(
            site=name,
            units=units,
            epsilon=epsilon,
            alone=None if alone is None else self._score(name, alone)[0],
            federation=joined,
            pooled=self._score(name, pooled)[0],
            no_privacy=self._score(name, bare)[0],
        )
        row = self._gain(row, size)
        return replace(row, words=site_words(row, takes_part=name in federation.statements))

    def _gain(self, row: SiteRow, size: float) -> SiteRow:
        """With what the site gains by joining: on its own `size` held-out units, or else on the public test set."""
        row = replace(row, held_out=round(size))
        if row.alone is None:
            return row
        tests = (
            ("own", row.alone.own, row.federation.own, size if size >= FEWEST_HELD_OUT else 0),
            ("public", row.alone.public, row.federation.public, float(self._num_public)),
        )
        for name, before, after, num in tests:
            if num and before is not None and after is not None:
                error = difference_error(before, after, num)
                return replace(row, measured_on=name, gain=after - before, error=error)
        return row

    def _score(self, name: str, run: Simulation) -> tuple[Score, float]:
        """Its scores, and how many held-out units of the site they were measured on."""
        held = self._held.get(name)
        if held is None:
            return Score(_score(run)), 0.0
        task = self._simulator.trainer.task
        cells = exact_cells(self._simulator.trainer, run.arrays, held, "accuracy")
        own = task.exact_score("accuracy", cells)
        size = float(held.units.num_units) if task.per_token else float(cells.sum())  # cells of entities count these
        return Score(_score(run), None if math.isnan(own) else own), size


def difference_error(before: float, after: float, num: float) -> float:
    """The standard error of after - before, two shares of `num` records each, taken as if drawn apart; not 0 for shares
    of 0 or 1 (Agresti and Caffo 2000: one more of each kind)."""
    shares = [(share * num + 1) / (num + 2) for share in (before, after)]
    return math.sqrt(sum(share * (1 - share) / (num + 2) for share in shares))


def _drawn(names: list[str], most: int, seed: int) -> list[str]:
    if len(names) <= most:
        return names
    chosen = np.random.Generator(np.random.Philox(seed)).choice(len(names), size=most, replace=False)
    return [names[index] for index in sorted(chosen.tolist())]


def _score(run: Simulation | None) -> float | None:
    return None if run is None or math.isnan(run.score) else run.score


def _finite(epsilon: float) -> float | None:
    return epsilon if math.isfinite(epsilon) else None


def _write(folder: Path, found: Baselines) -> None:
    document = json.dumps(found.to_json(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    try:
        write_durably(folder / "baselines.json", document.encode())
    except OSError as error:
        raise RunError(f"cannot be written ({error}).", where=str(folder), mend="free space.") from None
