"""Which units train and which only judge: a keyed hash of a unit's id decides, and nothing else does.

Removing a unit moves no other, and raising the fraction moves units from validation to training only: so a unit is in
one of the two parts, whatever else the data set holds, and their privacy losses do not add up.
"""

import hmac
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.uint64]

_SPLIT = b"privet: training or validation"
_PERSON = b"privet: records of one person"


def split_key(secret: bytes) -> bytes:
    """The key of the split, 32 bytes, from a data set's own secret; of no use for anything else."""
    return hmac.digest(secret, _SPLIT, "sha256")


def point(key: bytes, unit: bytes) -> int:
    """A unit's place in [0, 1), in steps of 2^-64: the first 8 bytes of the HMAC-SHA256 of its id."""
    return int.from_bytes(hmac.digest(key, unit, "sha256")[:8], "big")


def trains(points: Points, train_fraction: float) -> NDArray[np.bool_]:
    """bool [units]: whether each unit's place is below the fraction; the others are validation.

    Raises: ValueError unless 0 <= train_fraction <= 1.
    """
    if not 0 <= train_fraction <= 1:
        raise ValueError(f"Expected 0 <= train_fraction <= 1, got {train_fraction!r}.")
    if train_fraction == 1:
        return np.ones(len(points), np.bool_)
    return points < np.uint64(int(math.ldexp(train_fraction, 64)))  # exact: a power of two


def taken(units: NDArray[np.int64], chosen: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which records, int64 [K], belong to the chosen units (bool [units]), in their order; and these records' units,
    numbered anew without gaps, int64 [K]. units: int64 [N], each record's.

    >>> records, numbers = taken(np.array([0, 2, 1, 2]), np.array([True, False, True]))
    >>> records.tolist(), numbers.tolist()
    ([0, 1, 3], [0, 1, 1])
    """
    records = np.flatnonzero(chosen[units])
    return records, (np.cumsum(chosen) - 1)[units[records]]


def beyond_limit(
    secret: bytes, persons: Sequence[str], contents: Sequence[bytes | None], limit: int
) -> NDArray[np.bool_]:
    """bool [rows]: rows of a person who has more than `limit` different records, and not among those kept.

    Kept are the `limit` records of smallest keyed hash of person and content: a choice by this person's rows alone.
    Equal records of one person count once and stay or go together. Rows without a person ("") or content are passed
    over.
    """
    key = hmac.digest(secret, _PERSON, "sha256")
    ranks: dict[str, dict[bytes, bytes]] = {}
    for person, content in zip(persons, contents, strict=True):
        if person and content is not None:
            named = person.encode("utf-8", "surrogatepass")
            ranks.setdefault(person, {})[content] = hmac.digest(key, content + named, "sha256")
    kept = {person: frozenset(sorted(rank, key=rank.__getitem__)[:limit]) for person, rank in ranks.items()}
    return np.array(
        [
            bool(person) and content is not None and content not in kept[person]
            for person, content in zip(persons, contents, strict=True)
        ],
        np.bool_,
    )
