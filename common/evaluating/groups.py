"""Whether an adapter serves groups of records alike: each group's accuracy, its gap to all others, and what is more
than chance.

That no group differs is tested by dealing the groups out anew. A group's p-value is the chance that *any* group would
stand out so far (Westfall & Young 1993): it is corrected for the number of groups.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from privet.common.errors import ConfigError
from privet.common.evaluating.fairness import LabelGap, label_gaps, largest_accuracy_gap
from privet.common.evaluating.intervals import (
    NUM_RESAMPLES,
    Floats,
    Integers,
    Interval,
    bootstrap_interval,
    difference,
    resamples,
    share_interval,
)
from privet.common.evaluating.shuffling import NUM_SHUFFLES, p_values, shuffles
from privet.common.evaluating.tally import Tally, f1_of, macro, table_of

MIN_UNITS = 20  # of a group that is compared
MAX_GROUPS = 50
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Group:
    """gap: its accuracy less that of all other groups that are compared; p_value: corrected for their number."""

    name: str
    num_records: int
    num_units: int
    accuracy: Interval
    macro_f1: Interval
    gap: Interval
    p_value: float

    @property
    def significant(self) -> bool:
        return self.p_value <= SIGNIFICANT


@dataclass(frozen=True)
class Comparison:
    """accuracy_gap: the largest between two groups; None, as is all else, where fewer than two are large enough."""

    column: str
    groups: tuple[Group, ...]
    accuracy_gap: float | None
    parity: LabelGap | None
    odds: LabelGap | None
    small: tuple[tuple[str, int], ...]  # groups that are too small, and their numbers of units
    num_without: int  # records without a group


def compare(
    column: str,
    names: Sequence[str],
    groups: Integers,
    tally: Tally,
    labels: tuple[str, ...],
    strata: Integers,
    confidence: float,
    seed: int,
    *,
    entities: bool = False,
) -> Comparison:
    """names: of the groups; groups: [N], places in `names`, or -1; strata: [N], records of one have the same truth.

    entities: compared are the groups' micro F1, which then stand where accuracies do; labels are not compared.
    Intervals of gaps hold jointly, by Bonferroni. Raises: ConfigError for more groups than MAX_GROUPS, or without
    fairlearn.
    """
    pairs = np.unique(np.stack([groups, tally.units]), axis=1)[0]
    sizes = np.bincount(pairs[pairs >= 0], minlength=len(names))
    large = np.flatnonzero(sizes >= MIN_UNITS)
    small = tuple((names[i], int(sizes[i])) for i in np.flatnonzero(sizes < MIN_UNITS).tolist())
    num_without = int((groups < 0).sum())
    if len(large) > MAX_GROUPS:
        raise ConfigError(
            f"the column {column!r} has {len(large):,} groups of at least {MIN_UNITS} units.",
            where="--by",
            mend=f"give a column with at most {MAX_GROUPS} groups.",
        )
    if len(large) < 2:
        return Comparison(column, (), None, None, None, small, num_without)
    place = np.full(len(names) + 1, -1, np.int64)  # the last is that of -1
    place[large] = np.arange(len(large))
    kept = np.flatnonzero(place[groups] >= 0)
    group, tally, strata = place[groups][kept], tally.taken(kept), strata[kept]
    macro_f1 = _macro_f1(group, len(large), tally, confidence, seed)
    chances = _chances(group, len(large), tally, seed)
    level = 1 - (1 - confidence) / len(large)
    if entities:
        from privet.common.evaluating.entity_groups import by_group

        each = by_group(group, len(large), tally, (confidence, level), seed)
        called = [
            Group(names[int(at)], int((group == i).sum()), int(sizes[at]), own, macro_f1[i], difference(*apart), chance)
            for i, (at, (own, apart, chance)) in enumerate(zip(large, each, strict=True))
        ]
        values = [part.accuracy.value for part in called]
        return Comparison(column, tuple(called), float(np.ptp(values)), None, None, small, num_without)
    told = tuple(
        Group(
            names[int(large[i])],
            int((group == i).sum()),
            int(sizes[large[i]]),
            _accuracy(tally, group == i, confidence),
            macro_f1[i],
            difference(_accuracy(tally, group == i, level), _accuracy(tally, group != i, level)),
            float(chances[i]),
        )
        for i in range(len(large))
    )
    shown = [names[i] for i in large.tolist()]
    parity, odds = label_gaps(group, shown, tally, labels, strata, confidence, seed)
    return Comparison(column, told, largest_accuracy_gap(group, tally.right), parity, odds, small, num_without)


def _accuracy(tally: Tally, inside: "np.typing.NDArray[np.bool_]", confidence: float) -> Interval:
    units, num = tally.units[inside], tally.num_units
    right = np.bincount(units, tally.right[inside], num).astype(np.float64)
    return share_interval(right, np.bincount(units, minlength=num).astype(np.float64), confidence)


def _macro_f1(group: Integers, num_groups: int, tally: Tally, confidence: float, seed: int) -> list[Interval]:
    by_unit = tally.sums(tally.units, tally.num_units, group, num_groups)
    found = macro(f1_of(*table_of(np.asarray(by_unit.sum(0)).ravel(), num_groups)))
    drawn = np.empty((NUM_RESAMPLES, num_groups))
    for rows, weights in resamples(tally.num_units, seed, width=by_unit.shape[1]):
        drawn[rows] = macro(f1_of(*table_of((by_unit.T @ weights.T).T, num_groups)))
    return [bootstrap_interval(float(value), drawn[:, i], confidence) for i, value in enumerate(found)]


def _chances(group: Integers, num_groups: int, tally: Tally, seed: int) -> Floats:
    """Each group's corrected p-value: |its accuracy less that of all|, in standard deviations, against the largest of
    any group where groups are dealt out anew."""
    share, num = float(tally.right.mean()), len(group)

    def apart(dealt: Integers) -> Floats:
        sizes = np.bincount(dealt, minlength=num_groups)
        found = np.bincount(dealt, tally.right, num_groups) / sizes
        spread = np.sqrt(share * (1 - share) * (1 / sizes - 1 / num))
        return np.divide(np.abs(found - share), spread, out=np.zeros(num_groups), where=spread > 0)

    same = np.zeros(num, np.int64)
    drawn = np.array([apart(dealt).max() for dealt in shuffles(group, tally.units, same, seed, NUM_SHUFFLES)])
    return p_values(apart(group), drawn)
