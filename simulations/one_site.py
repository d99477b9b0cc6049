"""The plan at a single site: one site's records, or all sites' put together."""

import math
from collections.abc import Mapping
from typing import Protocol

import numpy as np

from privet.common.config import Plan, SimulationSpec
from privet.simulations.data import Records
from privet.simulations.result import Simulation
from privet.simulations.simulator import Simulator

POOLED = "all data pooled"  # no site's name: these have no blanks


class OneSite(Protocol):
    """Trains the plan at a single site: the one thing that a baseline asks of the simulator."""

    def __call__(self, name: str, epsilon: float, batch: float) -> Simulation | None:
        """name: of one of the parts that it was made for; batch: units of a step on average. None where that is more
        than the part trains on."""


def one_site_plan(plan: Plan) -> Plan:
    """The plan with a single site, which says its own batch."""
    cohort = plan.cohort.model_copy(update={"min_sites": 1, "fraction": 1.0})
    training = plan.training.model_copy(update={"expected_batch": "site"})
    return plan.model_copy(update={"cohort": cohort, "training": training})


def pooled_records(records: Mapping[str, Records]) -> Records:
    """All sites' records as one site's: a unit trains, or is held out, where it is so at its own site."""
    parts = list(records.values())
    starts = np.cumsum([0, *(part.num_units for part in parts)])
    return Records(
        [text for part in parts for text in part.texts],
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.units + start for part, start in zip(parts, starts, strict=False)]),
        int(starts[-1]),
        np.concatenate([part.points for part in parts]),
        [row for part in parts for row in part.tags],
    )


class Trained:
    """Parts of the data, each as a site of its own, by a simulator of `one_site_plan`; prepared once."""

    def __init__(self, simulator: Simulator, spec: SimulationSpec, parts: Mapping[str, Records]) -> None:
        self._simulator, self._spec = simulator, spec
        self._sites, self._num_units = simulator.prepare(parts), {name: part.num_units for name, part in parts.items()}

    def __call__(self, name: str, epsilon: float, batch: float) -> Simulation | None:
        rate = batch / max(1.0, self._num_units[name] * self._simulator.plan.training.train_fraction)
        if rate > 1:  # it would refuse, as in the federation
            return None
        spec = self._spec.model_copy(update={"sample_rate": rate, "dropout": 0.0, "straggler": 0.0})
        return self._simulator.run(self._sites.only(name), epsilon=epsilon, spec=spec)


def site_batch(plan: Plan, spec: SimulationSpec, records: Records) -> float:
    """What the site takes in a step of the federation."""
    batch = plan.training.expected_batch
    return max(1, round(spec.sample_rate * _training(plan, records))) if batch == "site" else batch


def pooled_batch(plan: Plan, spec: SimulationSpec, union: Records, num_sites: int) -> float:
    """What a cohort takes in a step, all its sites together; at most all of the training units."""
    size = min(num_sites, max(plan.cohort.min_sites, round(plan.cohort.fraction * num_sites)))
    batch, units = plan.training.expected_batch, _training(plan, union)
    wanted = spec.sample_rate * units * size / num_sites if batch == "site" else float(batch * size)
    return min(max(1.0, wanted), max(1.0, math.floor(units)))


def _training(plan: Plan, records: Records) -> float:
    return records.num_units * plan.training.train_fraction
