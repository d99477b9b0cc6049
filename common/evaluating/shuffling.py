"""Groups dealt out anew, as if they said nothing about the outcomes: what a difference by chance alone looks like."""

from collections.abc import Iterator

import numpy as np

from privet.common.evaluating.intervals import Floats, Integers

NUM_SHUFFLES = 2000


def shuffles(groups: Integers, units: Integers, strata: Integers, seed: int, num: int) -> Iterator[Integers]:
    """`num` times a group for every record, [N].

    A unit keeps its records together: units of one group exchange their groups, among those of equal stratum; within a
    unit of several groups the records do, those of equal stratum. strata: [N]; a unit's is that of most of its records.
    """
    random = np.random.Generator(np.random.PCG64([seed, 3]))
    ids, unit = np.unique(units, return_inverse=True)
    low, high = np.full(len(ids), np.iinfo(np.int64).max), np.full(len(ids), -1, np.int64)
    np.minimum.at(low, unit, groups)
    np.maximum.at(high, unit, groups)
    whole = low == high
    members = np.flatnonzero(whole)
    unit_strata = _most_frequent(unit, strata, len(ids))[members]
    unit_order = np.argsort(unit_strata, kind="stable")
    mixed = np.flatnonzero(~whole[unit])
    blocks = np.unique(np.stack([unit[mixed], strata[mixed]]), axis=1, return_inverse=True)[1].ravel()
    block_order = np.argsort(blocks, kind="stable")
    for _ in range(num):
        of_unit = low.copy()
        drawn = np.lexsort((random.random(len(members)), unit_strata))
        of_unit[members[unit_order]] = low[members[drawn]]
        dealt = of_unit[unit]
        if len(mixed):
            drawn = np.lexsort((random.random(len(mixed)), blocks))
            dealt[mixed[block_order]] = groups[mixed[drawn]]
        yield dealt


def _most_frequent(unit: Integers, strata: Integers, num_units: int) -> Integers:
    pairs, counts = np.unique(np.stack([unit, strata]), axis=1, return_counts=True)
    order = np.lexsort((pairs[1], -counts, pairs[0]))
    first = np.unique(pairs[0][order], return_index=True)[1]
    found = np.zeros(num_units, np.int64)
    found[pairs[0][order][first]] = pairs[1][order][first]
    return found


def p_values(found: Floats, drawn: Floats) -> Floats:
    """For each value, how often the values by chance [num] reach it; never 0 (Phipson & Smyth 2010)."""
    return np.asarray([(1 + np.count_nonzero(drawn >= value - 1e-9)) / (1 + len(drawn)) for value in found])
