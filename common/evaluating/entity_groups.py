"""Groups of texts by the micro F1 of their entities: each beside all others, and what is more than chance."""

import numpy as np

from privet.common.evaluating.intervals import NUM_RESAMPLES, Floats, Integers, Interval, resamples
from privet.common.evaluating.scores import f1_interval
from privet.common.evaluating.shuffling import NUM_SHUFFLES, p_values, shuffles
from privet.common.evaluating.tally import Tally, f1_of

__all__ = ["by_group"]


def by_group(
    group: Integers, num_groups: int, tally: Tally, levels: tuple[float, float], seed: int
) -> list[tuple[Interval, tuple[Interval, Interval], float]]:
    """Of each group: its F1 at the first level; its and all others' at the second; its p-value, corrected for their
    number. group: [N], dense. An F1 with nothing to divide by is 0, as in seqeval."""
    parts = np.array([np.asarray(part.sum(1)).ravel() for part in (tally.hits, tally.actual, tally.said)])  # [3, N]
    num_units = tally.num_units
    cell = tally.units * num_groups + group
    size = num_units * num_groups
    own = np.array([np.bincount(cell, part, size).reshape(num_units, num_groups) for part in parts])  # [3, U, G]
    others = own.sum(2, keepdims=True) - own
    drawn = np.empty((2, NUM_RESAMPLES, num_groups))
    for rows, weights in resamples(num_units, seed, width=6 * num_groups):
        for side, counts in enumerate((own, others)):
            drawn[side, rows] = _f1(weights @ counts)
    chances = _chances(group, num_groups, parts, tally.units, seed)

    def interval(side: int, i: int, level: float) -> Interval:
        each = (own, others)[side][:, :, i]
        return f1_interval(float(_f1(each.sum(1))), each, drawn[side, :, i], level)

    return [
        (interval(0, i, levels[0]), (interval(0, i, levels[1]), interval(1, i, levels[1])), float(chances[i]))
        for i in range(num_groups)
    ]


def _f1(counts: Floats) -> Floats:
    """counts: [3, ...], hits, actual and said."""
    return np.nan_to_num(f1_of(*counts))


def _chances(group: Integers, num_groups: int, parts: Floats, units: Integers, seed: int) -> Floats:
    """|F1 less that of all others|, by the spread that as many entities would have, against the largest of any group
    where groups are dealt out anew."""
    whole = parts.sum(1)

    def apart(dealt: Integers) -> Floats:
        counts = np.array([np.bincount(dealt, part, num_groups) for part in parts])
        rest = whole[:, None] - counts
        sizes, others = counts[1] + counts[2], rest[1] + rest[2]
        both = (sizes > 0) & (others > 0)
        spread = np.sqrt(1 / np.where(both, sizes, 1) + 1 / np.where(both, others, 1))
        return np.asarray(np.where(both, np.abs(_f1(counts) - _f1(rest)) / spread, 0.0))

    same = np.zeros(len(group), np.int64)
    drawn = np.array([apart(dealt).max() for dealt in shuffles(group, units, same, seed, NUM_SHUFFLES)])
    return p_values(apart(group), drawn)
