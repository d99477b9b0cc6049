"""Events, accounting, calibration, noise and the statement."""

from privet.common.privacy.accountant import advantage, delta, epsilon, true_positive_bound
from privet.common.privacy.calibration import noise_multiplier
from privet.common.privacy.events import Adjacency, TrainEvent
from privet.common.privacy.noise import NoiseSource, SecureNoise, SeededNoise, privatise
from privet.common.privacy.statement import Statement

__all__ = [
    "Adjacency",
    "NoiseSource",
    "SecureNoise",
    "SeededNoise",
    "Statement",
    "TrainEvent",
    "advantage",
    "delta",
    "epsilon",
    "noise_multiplier",
    "privatise",
    "true_positive_bound",
]
