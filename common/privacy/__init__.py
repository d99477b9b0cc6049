"""Events, accounting, calibration, noise and the statement."""

from privet.common.privacy.accountant import advantage, delta, epsilon, true_positive_bound
from privet.common.privacy.calibration import noise_multiplier
from privet.common.privacy.events import Adjacency, EvaluateEvent, Event, TrainEvent
from privet.common.privacy.horizon import Horizon, horizon_epsilon, person_epsilon
from privet.common.privacy.noise import NoiseSource, SecureNoise, SeededNoise, privatise
from privet.common.privacy.statement import Statement

__all__ = [
    "Adjacency",
    "EvaluateEvent",
    "Event",
    "Horizon",
    "NoiseSource",
    "SecureNoise",
    "SeededNoise",
    "Statement",
    "TrainEvent",
    "advantage",
    "delta",
    "epsilon",
    "horizon_epsilon",
    "noise_multiplier",
    "person_epsilon",
    "privatise",
    "true_positive_bound",
]
