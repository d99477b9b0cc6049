"""A site's metrics: what its validation units add up to under an adapter, and the noise without which none leaves."""

import numpy as np
from numpy.typing import NDArray

from privet.client.training import RoundTrainer
from privet.common.adapter import Arrays, Floats
from privet.common.examples import Examples
from privet.common.privacy.events import EvaluateEvent, Release
from privet.common.privacy.noise import NoiseSource, privatise
from privet.common.tasks.targets import Targets


def counts(
    trainer: RoundTrainer, arrays: Arrays, examples: Examples, event: EvaluateEvent, noise: NoiseSource
) -> Floats:
    """The noised cells of one evaluation, float32 [cells]: the Gaussian mechanism on a sum of L2 sensitivity 1.

    arrays: checked by the caller; examples: of the validation units. Where there are none, it is noise all the same.
    Raises: PrivetError where the event has no noise and `noise` cannot be drawn again.
    """
    return noised(exact_cells(trainer, arrays, examples, event.release), event, noise)


def exact_cells(trainer: RoundTrainer, arrays: Arrays, examples: Examples, release: Release) -> NDArray[np.float64]:
    """The un-noised cells, float64 [cells]. Private: never leaves a site, and is not kept."""
    return trainer.task.unit_cells(release, *judged(trainer, arrays, examples))


def judged(trainer: RoundTrainer, arrays: Arrays, examples: Examples) -> tuple[Floats, Targets, NDArray[np.int64], int]:
    """What a task counts cells of: logits, targets, each record's unit, and how many units there are. Private."""
    logits = trainer.logits(arrays, examples)
    owners = np.empty(len(examples.labels), np.int64)
    for unit in range(examples.units.num_units):
        owners[examples.units.records(unit)] = unit
    return logits, examples.labels, owners, examples.units.num_units


def noised(cells: NDArray[np.float64], event: EvaluateEvent, noise: NoiseSource) -> Floats:
    """The cells with noise of deviation `event.noise_multiplier` on each, float32 [cells]."""
    return privatise(cells, noise_multiplier=event.noise_multiplier, max_grad_norm=1.0, expected_batch=1.0, noise=noise)
