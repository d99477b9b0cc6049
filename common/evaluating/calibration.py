"""Whether probabilities mean what they say: reliability in bins, expected calibration error, Brier score, log loss."""

from dataclasses import dataclass

import numpy as np

from privet.common.evaluating.intervals import (
    NUM_RESAMPLES,
    Floats,
    Integers,
    Interval,
    bootstrap_interval,
    resamples,
    share_interval,
)

NUM_BINS = 10
_CHANCE_DRAWS = 200


@dataclass(frozen=True)
class Bin:
    """Statements with a probability in (low, high]."""

    low: float
    high: float
    num: int
    mean: float  # of the probabilities
    share: Interval  # of them that came true


@dataclass(frozen=True)
class Calibration:
    """expected_error: the mean over statements of |share that came true - mean probability| of their bin.

    error_by_chance: the same that a perfectly calibrated model shows on a file of this size (Bröcker & Smith 2007).
    overconfidence: the mean probability less the share that came true.
    """

    expected_error: Interval
    error_by_chance: float
    overconfidence: Interval
    log_loss: Interval
    brier: Interval
    bins: tuple[Bin, ...]  # those that hold a statement


def calibration(
    said: Floats, true: Floats, losses: Floats, briers: Floats, units: Integers, confidence: float, seed: int
) -> Calibration:
    """said: [M] probabilities of statements; true: [M], 1 where they came true; losses, briers, units: [M].

    For classification a statement is a record's first label; for several labels each label of each record is one.
    """
    num_units = int(units.max()) + 1
    place = _places(said)
    cell = units * NUM_BINS + place
    shape = (num_units, NUM_BINS)
    size = num_units * NUM_BINS
    counts = np.bincount(cell, minlength=size).reshape(shape).astype(np.float64)
    trues = np.bincount(cell, true, size).reshape(shape).astype(np.float64)
    means = np.bincount(cell, said, size).reshape(shape)
    sums = np.stack([np.bincount(units, values, num_units) for values in (losses, briers)], 1)
    drawn = np.empty((NUM_RESAMPLES, 4))
    for rows, weights in resamples(num_units, seed):
        num, hit, mean = weights @ counts, weights @ trues, weights @ means
        whole = num.sum(1)
        drawn[rows, 0] = np.abs(hit - mean).sum(1) / whole
        drawn[rows, 1] = (mean.sum(1) - hit.sum(1)) / whole
        drawn[rows, 2:] = weights @ sums / whole[:, None]
    total = len(said)
    found = [
        float(np.abs(trues.sum(0) - means.sum(0)).sum() / total),
        float((means.sum() - trues.sum()) / total),
        float(losses.mean()),
        float(briers.mean()),
    ]
    error, over, loss, brier = (bootstrap_interval(v, drawn[:, i], confidence) for i, v in enumerate(found))
    bins = [
        Bin(
            i / NUM_BINS,
            (i + 1) / NUM_BINS,
            int(counts[:, i].sum()),
            float(means[:, i].sum() / counts[:, i].sum()),
            share_interval(trues[:, i], counts[:, i], confidence),
        )
        for i in range(NUM_BINS)
        if counts[:, i].any()
    ]
    return Calibration(error, _by_chance(said, place, seed), over, loss, brier, tuple(bins))


def expected_error(said: Floats, true: Floats) -> float:
    """The expected calibration error of statements [M] alone."""
    return float(np.abs(np.bincount(_places(said), true - said)).sum() / len(said))


def _places(said: Floats) -> Integers:
    """Each statement's bin; a bin holds its upper end."""
    return np.clip(np.ceil(said * NUM_BINS).astype(np.int64) - 1, 0, NUM_BINS - 1)


def _by_chance(said: Floats, place: Integers, seed: int) -> float:
    """The expected calibration error's mean where each statement comes true with the probability that it states."""
    random = np.random.Generator(np.random.PCG64([seed, 2]))
    found = []
    for _ in range(_CHANCE_DRAWS):
        gap = np.bincount(place, (random.random(len(said)) < said) - said, NUM_BINS)
        found.append(np.abs(gap).sum() / len(said))
    return float(np.mean(found))
