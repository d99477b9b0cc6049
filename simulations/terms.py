"""What each virtual site's rounds are and cost: sampling rate, noise, statement. Sites of one size and budget share it.

Calibrating takes the accountant about half a second for each different rate. Where unequal sites bring many rates, it
is asked at NODES of them, spread evenly over their logarithms, and what lies between is interpolated: the noise
multiplier (rounded up) by a monotone cubic, the statement's figures by straight lines, each raised by a margin. Rates
in the middle of the widest gaps are put to the accountant all the same; where one shows an interpolated value to be no
bound, every rate is calibrated on its own. A few rates are always calibrated as real sites would.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from privet.common.config import Plan, SimulationSpec
from privet.common.errors import ConfigError
from privet.common.privacy.calibration import noise_multiplier
from privet.common.privacy.events import EvaluateEvent, TrainEvent
from privet.common.privacy.horizon import Horizon, horizon_epsilon
from privet.common.privacy.statement import Statement, TradeOff, statement

NO_GUARANTEE = "A simulation: noise and draws are seeded, and one process saw every site's text."
BETWEEN = " Its figures are interpolated between those of sites of other sizes."
MOST_EXACT = 16  # different rates of one budget that are all calibrated on their own
NODES = 8
_CHECKED = 2  # rates between nodes that are calibrated as well
_SIGMA_MARGIN, _FIGURE_MARGIN = 1.001, 1.01
Call = Callable[[Callable[["Kind"], "Terms"], Sequence["Kind"]], list["Terms"]]


@dataclass(frozen=True, eq=False)
class Kind:
    """All that decides a site's terms; pickled for a worker."""

    plan: Plan
    spec: SimulationSpec
    by_record: bool
    epsilon: float
    rate: float
    batch: int


@dataclass(frozen=True)
class Terms:
    """One round, one evaluation and the statement of the whole horizon."""

    event: TrainEvent
    evaluation: EvaluateEvent | None
    statement: Statement

    def spent(self, rounds: int, evaluations: int) -> float:
        """Epsilon of so many rounds and evaluations, had they been fixed in advance; inf without noise."""
        part = self.evaluation if evaluations else None
        done = Horizon(
            train=self.event,
            rounds=rounds,
            evaluation=part,
            num_evaluations=evaluations if part else 0,
            train_fraction=self.statement.train_fraction,
        )
        return horizon_epsilon([done], self.statement.delta)


@dataclass(frozen=True, eq=False)
class Agreed:
    """The terms of all sites: kinds[i] says which of `terms` are site i's, -1 that it refuses the plan."""

    terms: Sequence[Terms]
    kinds: NDArray[np.int32]

    def of(self, index: int) -> Terms | None:
        kind = int(self.kinds[index])
        return None if kind < 0 else self.terms[kind]


class Spent:
    """What each site of a simulation really spent, as far as it took part."""

    def __init__(
        self, names: Sequence[str], agreed: Agreed, trained: NDArray[np.int32], measured: NDArray[np.int32]
    ) -> None:
        """trained, measured: rounds and evaluations that each site ran, its reply in time or not."""
        self.names, self.agreed, self.trained, self.measured = names, agreed, trained, measured
        self._known: dict[tuple[int, int, int], float] = {}

    def epsilon(self, name: str) -> float:
        """Of one site at the simulation's delta, had its events been fixed in advance: 0 where it never trained, inf
        without noise. Takes a part of a second; sites of equal terms and rounds share it."""
        return self._epsilon(self.names.index(name))

    def epsilons(self) -> dict[str, float]:
        """Of every site, by name."""
        return {name: self._epsilon(index) for index, name in enumerate(self.names)}

    def _epsilon(self, index: int) -> float:
        found = self.agreed.of(index)
        key = int(self.agreed.kinds[index]), int(self.trained[index]), int(self.measured[index])
        if found is not None and key not in self._known:
            self._known[key] = found.spent(*key[1:])
        return self._known.get(key, 0.0)


def agree(
    plan: Plan,
    spec: SimulationSpec,
    num_units: Sequence[int],
    epsilon: float | Sequence[float],
    *,
    by_record: bool,
    call: Call,
) -> Agreed:
    """Terms of sites that hold `num_units` units each; epsilon: one for all, or given out in turn. call: as an
    engine's, for what takes time.

    Raises: ConfigError.
    """
    budgets = [float(epsilon)] if isinstance(epsilon, int | float) else list(epsilon)
    if not budgets or not all(value > 0 for value in budgets):
        raise ConfigError(f"got {epsilon}.", where="epsilon", mend="give numbers above zero, or inf.")
    kinds: dict[tuple[float, float, int], int] = {}
    numbers = np.empty(len(num_units), np.int32)
    for index, size in enumerate(num_units):
        batch, rate = sampling(plan, spec, size)
        known = budgets[index % len(budgets)], rate, batch
        # At a rate above 1 a real site refuses the plan, and nothing is capped.
        numbers[index] = -1 if rate > 1 else kinds.setdefault(known, len(kinds))
    wanted = [Kind(plan, spec, by_record, *known) for known in kinds]
    found: dict[Kind, Terms] = {}
    for budget in sorted({kind.epsilon for kind in wanted}):
        found |= _calibrated([kind for kind in wanted if kind.epsilon == budget], call)
    return Agreed([found[kind] for kind in wanted], numbers)


def sampling(plan: Plan, spec: SimulationSpec, num_units: int) -> tuple[int, float]:
    """Expected batch and sampling rate of a site, as a real one states them: not by the split's own count."""
    num_training = num_units * plan.training.train_fraction
    own = max(1, round(spec.sample_rate * num_training))
    batch = own if plan.training.expected_batch == "site" else plan.training.expected_batch
    return batch, batch / max(1.0, num_training)


def terms(kind: Kind) -> Terms:
    """Calibrated as a real site does it."""
    plan, spec, epsilon = kind.plan, kind.spec, kind.epsilon
    training, release = plan.training, plan.evaluation.release
    private = math.isfinite(epsilon)
    unit: Literal["record", "unit"] = "record" if kind.by_record else "unit"
    evaluation = None
    if release != "none":  # under the whole share once more: no unit is in both parts
        sigma = _least(1.0, plan.num_evaluations, epsilon, spec.delta) if private else 0.0
        evaluation = EvaluateEvent(noise_multiplier=sigma, release=release, unit=unit)
    steps = training.horizon * training.local_steps
    event = TrainEvent(
        sample_rate=kind.rate,
        noise_multiplier=_least(kind.rate, steps, epsilon, spec.delta) if private else 0.0,
        steps=training.local_steps,
        max_grad_norm=training.max_grad_norm,
        expected_batch=kind.batch,
        unit=unit,
        max_records=spec.max_records,
    )
    stated = statement(
        event,
        training.horizon,
        spec.delta,
        released=("update",) if evaluation is None else ("update", evaluation.release),
        evaluation=evaluation,
        num_evaluations=0 if evaluation is None else plan.num_evaluations,
        train_fraction=training.train_fraction,
        guarantee=False,
        reason=NO_GUARANTEE,
    )
    return Terms(event, evaluation, stated)


def _least(rate: float, steps: int, epsilon: float, delta: float) -> float:
    return noise_multiplier(sample_rate=rate, steps=steps, epsilon=epsilon, delta=delta)


def _calibrated(kinds: Sequence[Kind], call: Call) -> dict[Kind, Terms]:
    """The terms of kinds of one budget."""
    rates = sorted({kind.rate for kind in kinds})
    if len(rates) <= MOST_EXACT or math.isinf(kinds[0].epsilon):
        return _exactly(kinds, call)
    by_rate = {kind.rate: kind for kind in kinds}
    nodes = _spread(rates, NODES)
    checks = _between(rates, nodes)
    known = _exactly([by_rate[rate] for rate in (*nodes, *checks)], call)
    between = _Between([known[by_rate[rate]] for rate in nodes])
    if not all(between.bounds(by_rate[rate], known[by_rate[rate]]) for rate in checks):
        return _exactly(kinds, call)
    exact = {kind.rate: found for kind, found in known.items()}
    return {kind: _as_stated(exact[kind.rate], kind) if kind.rate in exact else between.of(kind) for kind in kinds}


def _exactly(kinds: Sequence[Kind], call: Call) -> dict[Kind, Terms]:
    """Each rate calibrated once, whatever batches go with it."""
    first: dict[float, Kind] = {}
    for kind in kinds:
        first.setdefault(kind.rate, kind)
    found = dict(zip(first, call(terms, list(first.values())), strict=True))
    return {kind: _as_stated(found[kind.rate], kind) for kind in kinds}


def _as_stated(found: Terms, kind: Kind) -> Terms:
    """The same for another batch: it scales the noise in the update, and costs nothing."""
    if found.event.expected_batch == kind.batch:
        return found
    stated = found.statement.model_copy(update={"expected_batch": kind.batch})
    return replace(found, event=replace(found.event, expected_batch=kind.batch), statement=stated)


def _spread(rates: Sequence[float], count: int) -> list[float]:
    """So many of ascending rates, the ends among them, about evenly by their logarithms."""
    logs = np.log(rates)
    wanted = np.linspace(logs[0], logs[-1], count)
    return [rates[index] for index in sorted({int(np.abs(logs - value).argmin()) for value in wanted})]


def _between(rates: Sequence[float], nodes: Sequence[float]) -> list[float]:
    """Rates near the middle of the widest gaps between nodes."""
    gaps = sorted(itertools.pairwise(nodes), key=lambda gap: gap[0] / gap[1])
    found = []
    for low, high in gaps[:_CHECKED]:
        inside = [rate for rate in rates if low < rate < high]
        if inside:
            found.append(min(inside, key=lambda rate: abs(math.log(rate * rate / low / high))))
    return found


_FIGURES = ("epsilon", "epsilon_replace", "advantage", "true_positive_bound", "mu")


class _Between:
    """Terms at rates between those of `nodes`, which ascend."""

    def __init__(self, nodes: Sequence[Terms]) -> None:
        from scipy.interpolate import PchipInterpolator

        self._nodes = nodes
        self._logs = np.log([node.event.sample_rate for node in nodes])
        self._sigma = PchipInterpolator(self._logs, np.log([node.event.noise_multiplier for node in nodes]))

    def of(self, kind: Kind) -> Terms:
        rate = kind.rate
        at = int(np.searchsorted(self._logs, math.log(rate)))
        low, high = self._nodes[at - 1], self._nodes[at]
        share = (math.log(rate) - self._logs[at - 1]) / (self._logs[at] - self._logs[at - 1])
        sigma = math.ceil(1000 * _SIGMA_MARGIN * math.exp(float(self._sigma(math.log(rate))))) / 1000
        changed = {
            name: _mixed(getattr(low.statement, name), getattr(high.statement, name), share) for name in _FIGURES
        }
        changed["epsilon"] = kind.epsilon  # for which the noise was chosen
        changed["trade_off"] = tuple(
            TradeOff(
                false_positive_rate=one.false_positive_rate,
                true_positive_bound=min(1.0, _mixed(one.true_positive_bound, other.true_positive_bound, share)),
            )
            for one, other in zip(low.statement.trade_off, high.statement.trade_off, strict=True)
        )
        for name in ("advantage", "true_positive_bound"):
            changed[name] = min(1.0, changed[name])
        changed |= {"noise_multiplier": sigma, "sample_rate": rate, "expected_batch": kind.batch}
        return Terms(
            replace(low.event, sample_rate=rate, noise_multiplier=sigma, expected_batch=kind.batch),
            low.evaluation,
            low.statement.model_copy(update={**changed, "reason": NO_GUARANTEE + BETWEEN}),
        )

    def bounds(self, kind: Kind, exact: Terms) -> bool:
        """Whether what is interpolated for a calibrated kind is no less than what it should be."""
        found = self.of(kind)
        if found.event.noise_multiplier < exact.event.noise_multiplier:
            return False
        pairs = [(getattr(found.statement, name), getattr(exact.statement, name)) for name in _FIGURES]
        return all(stated is None or true is None or stated >= true for stated, true in pairs)


def _mixed(low: Any, high: Any, share: float) -> Any:
    """Between two figures and a little above; None where one is."""
    return None if low is None or high is None else float(_FIGURE_MARGIN * ((1 - share) * low + share * high))
