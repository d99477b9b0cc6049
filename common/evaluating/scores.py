"""Accuracy and F1 with intervals, of any task's tally."""

from dataclasses import dataclass, replace

import numpy as np

from privet.common.evaluating.intervals import (
    NUM_RESAMPLES,
    Floats,
    Interval,
    bootstrap_interval,
    resamples,
    share_interval,
)
from privet.common.evaluating.tally import Tally, f1_of, macro, table_of


@dataclass(frozen=True)
class LabelScore:
    """One label; None where there is nothing to divide by."""

    label: str
    num_true: int
    num_given: int
    precision: Interval | None
    recall: Interval | None
    f1: Interval | None


@dataclass(frozen=True)
class Scores:
    """Macro F1 is the mean over the labels that the file has or the model gave; micro F1 is of all labels' counts."""

    accuracy: Interval  # records without a mistake
    macro_f1: Interval
    micro_f1: Interval
    labels: tuple[LabelScore, ...]
    micro_precision: Interval | None = None  # of entities, whose accuracy is their micro F1
    micro_recall: Interval | None = None


def scores(tally: Tally, labels: tuple[str, ...], confidence: float, seed: int) -> Scores:
    """Accuracy and F1 by the bootstrap over units; precision and recall, being shares, by Wilson.

    Where nothing is wrong, or nothing right, all resamples agree and would claim certainty: see `_of_share`.
    """
    num_units = tally.num_units
    by_unit = tally.sums(tally.units, num_units)
    whole = table_of(np.asarray(by_unit.sum(0)).ravel(), 1)[:, 0]
    sizes = np.bincount(tally.units, minlength=num_units).astype(np.float64)
    right = np.bincount(tally.units, tally.right, num_units).astype(np.float64)
    drawn_f1 = np.empty((NUM_RESAMPLES, len(labels)))
    drawn = np.empty((NUM_RESAMPLES, 2))
    for rows, weights in resamples(num_units, seed, width=3 * len(labels)):
        counts = table_of((by_unit.T @ weights.T).T, 1)[:, :, 0]
        drawn_f1[rows] = f1_of(*counts)
        drawn[rows, 0] = (weights @ right) / (weights @ sizes)
        drawn[rows, 1] = f1_of(*counts.sum(2))
    columns = by_unit.tocsc()
    told = []
    for i, label in enumerate(labels):
        each = np.array([columns[:, [i + k * len(labels)]].toarray()[:, 0] for k in range(3)])
        told.append(_label_score(label, each, drawn_f1[:, i], confidence))
    accuracy = bootstrap_interval(float(tally.right.mean()), drawn[:, 0], confidence)
    if accuracy.value in (0.0, 1.0):
        accuracy = share_interval(right, sizes, confidence)
    macro_f1 = bootstrap_interval(float(macro(f1_of(*whole))), macro(drawn_f1), confidence)
    if macro_f1.value in (0.0, 1.0):  # then so is every label's
        parts = [part.f1 for part in told if part.f1 is not None]
        macro_f1 = Interval(
            macro_f1.value, float(np.mean([f1.low for f1 in parts])), float(np.mean([f1.high for f1 in parts]))
        )
    micro_f1 = bootstrap_interval(float(f1_of(*whole.sum(1))), drawn[:, 1], confidence)
    if micro_f1.value in (0.0, 1.0):
        each = np.array([np.asarray(part.sum(1)).ravel() for part in _thirds(by_unit, len(labels))])
        micro_f1 = _of_share(micro_f1.value, each, confidence)
    return Scores(accuracy, macro_f1, micro_f1, tuple(told))


def entity_scores(tally: Tally, types: tuple[str, ...], confidence: float, seed: int) -> Scores:
    """Of entities, of which a text may have none or many: micro F1 stands where accuracy does."""
    found = scores(tally, types, confidence, seed)
    hits, actual, said = by_unit(tally)
    return replace(
        found,
        accuracy=found.micro_f1,
        micro_precision=share_interval(hits, said, confidence) if said.any() else None,
        micro_recall=share_interval(hits, actual, confidence) if actual.any() else None,
    )


def by_unit(tally: Tally) -> Floats:
    """Hits, actual and said over all labels, of each unit: [3, U]."""
    sums = tally.sums(tally.units, tally.num_units)
    return np.array([np.asarray(part.sum(1)).ravel() for part in _thirds(sums, tally.num_labels)])


def f1_interval(value: float, each: Floats, drawn: Floats, confidence: float) -> Interval:
    """each: [3, U], hits, actual and said of each unit; drawn: F1 on resamples of the units."""
    if value in (0.0, 1.0):
        return _of_share(value, each, confidence)
    return bootstrap_interval(value, drawn, confidence)


def _thirds(by_unit: Floats, num_labels: int) -> list[Floats]:
    return [by_unit[:, k * num_labels : (k + 1) * num_labels] for k in range(3)]


def _label_score(label: str, each: Floats, drawn: Floats, confidence: float) -> LabelScore:
    """each: [3, U], hits, actual and said of each unit."""
    hits, actual, said = each
    f1 = None
    if actual.any() or said.any():
        value = float(f1_of(*each.sum(1)))
        f1 = bootstrap_interval(value, drawn, confidence)
        if value in (0.0, 1.0):
            f1 = _of_share(value, each, confidence)
    return LabelScore(
        label,
        int(actual.sum()),
        int(said.sum()),
        share_interval(hits, said, confidence) if said.any() else None,
        share_interval(hits, actual, confidence) if actual.any() else None,
        f1,
    )


def _of_share(value: float, each: Floats, confidence: float) -> Interval:
    """F1's interval out of that of one share, J = hits / (actual + said - hits): F1 = 2 J / (1 + J) rises with J."""
    hits, actual, said = each
    share = share_interval(hits, actual + said - hits, confidence)
    return Interval(value, min(value, 2 * share.low / (1 + share.low)), max(value, 2 * share.high / (1 + share.high)))
