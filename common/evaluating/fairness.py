"""One label at a time, by fairlearn: how often groups are given it (demographic parity), and how often rightly and
wrongly (equalised odds). Told is the label whose gap between two groups is largest; its p-value is the chance that the
largest gap of any label is as large."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from privet.common.errors import ConfigError
from privet.common.evaluating.intervals import (
    NUM_RESAMPLES,
    Floats,
    Integers,
    Interval,
    bootstrap_interval,
    resamples,
)
from privet.common.evaluating.shuffling import NUM_SHUFFLES, p_values, shuffles
from privet.common.evaluating.tally import Tally, table_of

MIN_RECORDS = 10  # with a label, and without it, in every group, for its rates to be compared


@dataclass(frozen=True)
class LabelGap:
    """rates: by kind of rate ("given", or "recall" and "false alarms"), then by group."""

    label: str
    gap: Interval
    rates: dict[str, dict[str, float]]
    p_value: float
    num_labels: int  # that were compared; the others are too rare in a group


def largest_accuracy_gap(group: Integers, right: Floats) -> float:
    """Between two groups. Raises: ConfigError without fairlearn."""
    from sklearn.metrics import accuracy_score

    frame = _fairlearn().MetricFrame(
        metrics=accuracy_score, y_true=np.ones(len(right)), y_pred=right, sensitive_features=group
    )
    return float(frame.difference())


def label_gaps(
    group: Integers,
    names: Sequence[str],
    tally: Tally,
    labels: tuple[str, ...],
    strata: Integers,
    confidence: float,
    seed: int,
) -> tuple[LabelGap | None, LabelGap | None]:
    """Parity and odds; None where no label is frequent enough in every group. group: [N], dense, places in `names`."""
    actual = table_of(tally.sums(group, len(names)).toarray(), 1)[1][:, 0]
    sizes = np.bincount(group, minlength=len(names))[:, None]
    chosen = np.flatnonzero(((actual >= MIN_RECORDS) & (sizes - actual >= MIN_RECORDS)).all(0))
    if not len(chosen):
        return None, None
    tally = Tally(tally.hits[:, chosen], tally.actual[:, chosen], tally.said[:, chosen], tally.right, tally.units)
    entries = [part.tocoo() for part in (tally.hits, tally.actual, tally.said)]
    shape = (len(names), len(chosen))

    def counts(dealt: Integers) -> Floats:
        """Hits, actual and said by group and label [3, G, L]: thousands of times, so without a sparse product."""
        cells = [np.bincount(dealt[e.row] * shape[1] + e.col, e.data, shape[0] * shape[1]) for e in entries]
        return np.asarray(cells, np.float64).reshape(3, *shape)

    found = []
    for odds in (False, True):

        def gaps(dealt: Integers, odds: bool = odds) -> Floats:
            return _gaps(counts(dealt), np.bincount(dealt, minlength=len(names)).astype(np.float64), odds)

        # Odds compare records of the same truth: groups are exchanged among these.
        among = strata if odds else np.zeros(len(group), np.int64)
        drawn = np.array([gaps(dealt).max() for dealt in shuffles(group, tally.units, among, seed, NUM_SHUFFLES)])
        values = gaps(group)
        worst = int(values.argmax())
        found.append(
            LabelGap(
                labels[chosen[worst]],
                _interval(group, len(names), tally, worst, odds, confidence, seed),
                _rates(group, names, tally, worst, odds),
                float(p_values(values[[worst]], drawn)[0]),
                len(chosen),
            )
        )
    return found[0], found[1]


def _gaps(counts: Floats, sizes: Floats, odds: bool) -> Floats:
    """counts: [3, ..., G, L]; sizes: [..., G]; each label's gap [..., L], 0 where a group lacks what to divide by."""
    hits, actual, said = counts
    absent = sizes[..., None] - actual
    pairs = (
        ((hits, actual), (said - hits, absent)) if odds else ((said, np.broadcast_to(sizes[..., None], said.shape)),)
    )
    found = []
    for part, whole in pairs:
        rates = np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
        spread = rates.max(-2) - rates.min(-2)
        found.append(np.where(np.isfinite(spread), spread, 0.0))
    return np.asarray(np.max(found, axis=0))


def _interval(
    group: Integers, num_groups: int, tally: Tally, label: int, odds: bool, confidence: float, seed: int
) -> Interval:
    from scipy import sparse

    one = Tally(tally.hits[:, [label]], tally.actual[:, [label]], tally.said[:, [label]], tally.right, tally.units)
    by_unit = one.sums(one.units, one.num_units, group, num_groups)
    ones = np.ones(len(group))
    members = sparse.coo_array((ones, (one.units, group)), shape=(one.num_units, num_groups)).tocsr()
    fairlearn = _fairlearn()
    function = fairlearn.equalized_odds_difference if odds else fairlearn.demographic_parity_difference
    dense = [np.asarray(part.toarray()).ravel() for part in (one.actual, one.said)]
    value = float(function(*dense, sensitive_features=group))
    drawn = np.empty(NUM_RESAMPLES)
    for rows, weights in resamples(one.num_units, seed, width=4 * num_groups):
        counts = table_of((by_unit.T @ weights.T).T, num_groups)
        drawn[rows] = _gaps(counts, (members.T @ weights.T).T, odds)[:, 0]
    return bootstrap_interval(value, drawn, confidence)


def _rates(group: Integers, names: Sequence[str], tally: Tally, label: int, odds: bool) -> dict[str, dict[str, float]]:
    fairlearn = _fairlearn()
    metrics = (
        {"recall": fairlearn.true_positive_rate, "false alarms": fairlearn.false_positive_rate}
        if odds
        else {"given": fairlearn.selection_rate}
    )
    frame = fairlearn.MetricFrame(
        metrics=metrics,
        y_true=tally.actual[:, [label]].toarray().ravel(),
        y_pred=tally.said[:, [label]].toarray().ravel(),
        sensitive_features=group,
    )
    return {kind: {name: float(frame.by_group[kind][place]) for place, name in enumerate(names)} for kind in metrics}


def _fairlearn() -> Any:
    try:
        from fairlearn import metrics
    except ImportError as error:
        raise ConfigError(
            "comparing groups needs fairlearn.", where="--by", mend='pip install "privet[evaluation]"'
        ) from error
    return metrics
