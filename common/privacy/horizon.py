"""What plans cost a site whose units are parted into training and validation by a keyed hash of their ids."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from privet.common.privacy.accountant import Profile, epsilon_of, step
from privet.common.privacy.distribution import Groups, Step, collect
from privet.common.privacy.events import Adjacency, EvaluateEvent, Event, TrainEvent

_MAX_DIVISIONS = 8  # of a person's records into training and validation that are looked at on their own
FALSE_POSITIVE_RATES = (0.001, 0.01, 0.1)  # at which a membership test is judged


@dataclass(frozen=True, kw_only=True)
class Horizon:
    """One plan at one site, or what was executed of it: equal rounds, equal evaluations, and how units are parted.

    A unit trains where the hash of its id, a number in [0, 1) that is the same for all plans, lies under
    `train_fraction`; otherwise it is measured: with 0 all are, at a site that only evaluates.
    Raises ValueError where a number is out of range.
    """

    train: TrainEvent
    rounds: int
    evaluation: EvaluateEvent | None = None
    num_evaluations: int = 0
    train_fraction: float = 1.0

    def __post_init__(self) -> None:
        if self.rounds < 0 or self.num_evaluations < 0:
            raise ValueError("Expected rounds >= 0 and num_evaluations >= 0.")
        if self.evaluation is None and self.num_evaluations:
            raise ValueError("Expected no evaluations without their event.")
        if not (0 < self.train_fraction <= 1 or (self.train_fraction == 0 and not self.rounds)):
            raise ValueError(
                f"Expected 0 < train_fraction <= 1, or 0 where nothing is trained, got {self.train_fraction!r}."
            )
        if self.evaluation is not None and self.evaluation.unit != self.train.unit:
            raise ValueError("Expected training and evaluation to have one unit.")

    def steps(self, trains: bool, *, replace: bool = False, records: int = 1) -> tuple[Step, int]:
        """The mechanism that the units of one part meet, and how often."""
        event: Event | None = self.train if trains else self.evaluation
        if event is None:
            return Step(1.0, 0.0), 0
        mechanism, count = step(event, replace=replace, records=records)
        return mechanism, count * (self.rounds if trains else self.num_evaluations)


class Figures(NamedTuple):
    """What one plan costs, in every way in which it is stated; each a bound, inf where none is finite."""

    epsilon: float  # a whole unit, add or remove
    epsilon_replace: float  # any change within one
    epsilon_person: float | None  # in record mode, all records of a person; None: not asked
    advantage: float  # of a membership test: true minus false positive rate
    true_positives: tuple[float, ...]  # of a membership test, at FALSE_POSITIVE_RATES
    mu: float | None  # of the Gaussian profile that dominates, down to delta; approximate


@lru_cache(maxsize=256)
def figures(horizon: Horizon, delta: float, max_per_person: int | None = None) -> Figures:
    """All figures of one plan at `delta`. Raises ValueError as `horizon_epsilon` and `person_epsilon` do."""
    profile = horizon_profile([horizon])
    person = None
    if max_per_person is not None:
        evaluate = [horizon.evaluation] * horizon.num_evaluations if horizon.evaluation is not None else []
        person = person_epsilon([horizon.train] * horizon.rounds, evaluate, delta, max_per_person)
    return Figures(
        epsilon=horizon_epsilon([horizon], delta),
        epsilon_replace=horizon_epsilon([horizon], delta, Adjacency.REPLACE),
        epsilon_person=person,
        advantage=profile.delta(0.0),
        true_positives=tuple(profile.true_positive_bound(alpha) for alpha in FALSE_POSITIVE_RATES),
        mu=profile.mu(delta),
    )


def horizon_epsilon(horizons: Sequence[Horizon], delta: float, adjacency: Adjacency = Adjacency.ADD_OR_REMOVE) -> float:
    """The epsilon at `delta` of all plans together, had they been fixed in advance.

    Add or remove: the unit's id is fixed, and with it, for each plan, whether the unit trains or is measured; so the
    cost is the greatest over these places, and for one plan the greater of training and evaluation.

    Replace, unit mode: a change within a unit leaves its id, so its place, as it was: again the greatest over places.

    Replace, record mode: a record's id is computed from its content, so another record in its stead may have another
    place. In a plan where both have the same place the mechanism sees a replacement. In a plan where they do not, the
    training sees one record removed and the evaluation one added, or the reverse; both mechanisms run on the same pair
    of neighbours, so their losses compose: add-or-remove of training and evaluation together. The cost is the greatest
    over all pairs of places.

    Raises ValueError unless 0 < delta < 1, or where the horizons' units differ in kind.
    """
    return max((epsilon_of(groups, delta) for groups in alternatives(horizons, adjacency)), default=0.0)


def horizon_profile(horizons: Sequence[Horizon]) -> Profile:
    """Delta as a function of epsilon for a unit that is added or removed, whatever its place."""
    return Profile(alternatives(horizons, Adjacency.ADD_OR_REMOVE))


def alternatives(horizons: Sequence[Horizon], adjacency: Adjacency) -> list[Groups]:
    """What a unit, or a pair of neighbouring units, may meet: one composition for each place or pair of places."""
    if len({horizon.train.unit for horizon in horizons}) > 1:
        raise ValueError("Expected horizons of one kind of unit.")
    places = list(_places(horizons))
    replace = adjacency is Adjacency.REPLACE
    found = {collect(_met(horizons, place, place, replace)): None for place in places}
    if replace and horizons and horizons[0].train.unit == "record":
        for index, first in enumerate(places):
            for second in places[index + 1 :]:
                found[collect(_met(horizons, first, second, replace))] = None
    return list(found)


def person_epsilon(
    train: Sequence[TrainEvent], evaluate: Sequence[EvaluateEvent], delta: float, max_per_person: int
) -> float:
    """The epsilon at `delta` for a person, in record mode: at most so many records are there or not, all at once.

    Each record is sampled on its own, so a step's sum moves by j C with the binomial probability of j (a mixture of
    Gaussians; Choquette-Choo et al. 2024, corollary 4.7); an evaluation's counts move by the number of records. Of m
    records a may train and m - a be measured: the greatest over a, where m is large over blocks of a, each with the
    greatest a and the greatest m - a in it (a record more never costs less).

    Raises ValueError unless 0 < delta < 1 and max_per_person >= 1, or where an event is not of record mode.
    """
    events: list[Event] = [*train, *evaluate]
    if max_per_person < 1:
        raise ValueError(f"Expected max_per_person >= 1, got {max_per_person!r}.")
    if any(event.unit != "record" for event in events):
        raise ValueError("Expected events of record mode: a unit is claimed for as a whole.")
    costs = [0.0]
    for training, measured in _divisions(max_per_person, bool(train), bool(evaluate)):
        steps = [step(event, records=training) for event in train if training]
        steps += [step(event, records=measured) for event in evaluate if measured]
        costs.append(epsilon_of(collect(steps), delta))
    return max(costs)


def _divisions(most: int, train: bool, evaluate: bool) -> Iterator[tuple[int, int]]:
    """The greatest numbers of records in training and in validation, block by block."""
    if not (train and evaluate):
        yield (most if train else 0), (most if evaluate else 0)
        return
    width = math.ceil((most + 1) / (_MAX_DIVISIONS + 1))
    for first in range(0, most + 1, width):
        yield min(most, first + width - 1), most - first


def _places(horizons: Sequence[Horizon]) -> Iterator[tuple[bool, ...]]:
    """Each way in which one id can lie: for each plan whether it trains. Fractions part [0, 1) into intervals."""
    for start in sorted({0.0, *(horizon.train_fraction for horizon in horizons if horizon.train_fraction < 1)}):
        yield tuple(start < horizon.train_fraction for horizon in horizons)


def _met(
    horizons: Sequence[Horizon], first: tuple[bool, ...], second: tuple[bool, ...], replace: bool
) -> Iterator[tuple[Step, int]]:
    """The steps in which a unit of one place, or two of which one stands in the other's stead, are seen."""
    for horizon, one, other in zip(horizons, first, second, strict=True):
        if one == other:
            yield horizon.steps(one, replace=replace)
        else:
            yield horizon.steps(True)
            yield horizon.steps(False)
