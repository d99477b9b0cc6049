"""The loss-threshold membership attack (Yeom et al. 2018) on the final adapter: which units were trained on?

Half of the units, by fair coins, are trained on. An attacker calls a unit a member where its records' mean loss is
low. Its ROC is shown beside what the privacy statement bounds: no threshold's true positive rate, at a false positive
rate alpha, may lie above. It is an attack like others, not a test: what it fails to see, a better one may.
"""

from dataclasses import dataclass

import numpy as np

from privet.client.training import LabelledTexts
from privet.common.privacy.accountant import advantage, true_positive_bound
from privet.common.privacy.events import TrainEvent
from privet.simulations.audit.guesses import Scores

ALPHAS = (0.001, 0.01, 0.1)


@dataclass(frozen=True)
class Roc:
    """A receiver operating characteristic, and figures read off it. `num_*`: units judged."""

    false_positive: tuple[float, ...]
    true_positive: tuple[float, ...]
    auc: float
    num_members: int
    num_others: int

    def at(self, alpha: float) -> float:
        """The largest true positive rate of a threshold whose false positive rate is at most `alpha`."""
        return max(t for f, t in zip(self.false_positive, self.true_positive, strict=True) if f <= alpha)

    @property
    def advantage(self) -> float:
        """The largest difference of the two rates."""
        return max(t - f for f, t in zip(self.false_positive, self.true_positive, strict=True))


@dataclass(frozen=True)
class Bounds:
    """What the statement's events bound, for any attack whatever."""

    true_positive: tuple[float, ...]  # at ALPHAS
    advantage: float


def bounds(event: TrainEvent, rounds: int) -> Bounds:
    """From the privacy loss distribution; 1 everywhere where an event has no noise."""
    events = [event] * rounds
    return Bounds(tuple(true_positive_bound(events, alpha) for alpha in ALPHAS), advantage(events))


def by_unit(losses: Scores, records: LabelledTexts) -> Scores:
    """Mean loss of each unit's records, float64 [units], over those that are finite; nan where none is."""
    sound = np.isfinite(losses)
    counts = np.bincount(records.units[sound], minlength=records.num_units)
    sums = np.bincount(records.units[sound], weights=losses[sound], minlength=records.num_units)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def roc(members: Scores, others: Scores) -> Roc:
    """Of mean losses of units: the lower, the likelier a member. Raises ValueError where either is empty."""
    if not len(members) or not len(others):
        raise ValueError("Expected at least one member and one other.")
    from sklearn.metrics import roc_auc_score, roc_curve

    truth = np.concatenate([np.ones(len(members)), np.zeros(len(others))])
    scores = -np.concatenate([members, others])
    false_positive, true_positive, _ = roc_curve(truth, scores, drop_intermediate=False)
    return Roc(
        tuple(float(value) for value in false_positive),
        tuple(float(value) for value in true_positive),
        float(roc_auc_score(truth, scores)),
        len(members),
        len(others),
    )
