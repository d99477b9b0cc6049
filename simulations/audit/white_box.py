"""The one-run audit of the trainer with worst-case canaries, by an auditor who sees every noised gradient.

The auditor knows the plan, the real records, each canary's coordinate, and at every step the noised gradient that the
optimizer is given; the masks, the noise and the coins it does not know. That is what the accountant's claim is about.
Its score of a canary is the log likelihood ratio of the whole horizon.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from privet.client import optimizer
from privet.client.flat_engine import GradientEngine
from privet.client.trainer import clipped_sum
from privet.client.training import RoundTrainer
from privet.common.adapter import Arrays
from privet.common.config import Plan
from privet.common.errors import RunError
from privet.common.examples import Examples
from privet.common.privacy.events import TrainEvent
from privet.common.privacy.noise import SeededNoise
from privet.simulations.audit.canaries import CanaryEngine, WithCanaries, coordinates
from privet.simulations.audit.guesses import LEAST_SPREAD, Coins, Scores, log_likelihood_ratio
from privet.simulations.audit.horizon import run_horizon
from privet.simulations.audit.probing import Probing

_PROBES = 16  # random sign patterns by which squares are summed


class AuditedTrainer(RoundTrainer):
    """The trainer of sites and simulations; while `wrap` is set, its engines are wrapped by it."""

    def __init__(self, plan: Plan, base: Path) -> None:
        self.wrap: Callable[[GradientEngine], GradientEngine] | None = None
        super().__init__(plan, base)

    def engine(self, round: int) -> Any:
        made = super().engine(round)
        return made if self.wrap is None else self.wrap(made)


class Auditor:
    """Keeps the score of every canary, [m]: the larger, the likelier it is in."""

    def __init__(self, event: TrainEvent, num_canaries: int, real: Examples, seed: int, *, each_step: bool) -> None:
        self.scores: Scores = np.zeros(num_canaries)
        self.num_seen = 0
        self._event, self._real, self._seed, self._each_step = event, real, seed, each_step
        self._engine: CanaryEngine | None = None
        self._places: NDArray[np.int64] = np.empty(0, np.int64)
        self._known: Scores | None = None
        self._spread: Scores = np.ones(num_canaries)

    def wrap(self, engine: GradientEngine) -> CanaryEngine:
        """For `AuditedTrainer`: at each round's start."""
        self._places = coordinates(len(self.scores), engine.spec.size, self._seed)
        self._engine = CanaryEngine(engine, self._places, self._event.max_grad_norm)
        self._known = None
        return self._engine

    @contextmanager
    def watching(self) -> Iterator[None]:
        """While open, every step of an optimizer of the wrapped engine's parameters is seen."""

        def see(parameters: Sequence[nn.Parameter]) -> None:
            if self._engine is None or parameters[0] is not self._engine.parameters()[0]:
                return
            self._see([parameter.grad for parameter in self._engine.parameters()])

        with optimizer.watching(see):
            yield

    def _see(self, gradients: list[Any]) -> None:
        assert self._engine is not None
        event = self._event
        flat = np.concatenate([part.detach().numpy().ravel() for part in gradients]).astype(np.float64)
        if self._known is None or self._each_step:
            self._known = self._mean_of_real(self._engine.engine, with_spread=self._known is None)
            for parameter, part in zip(self._engine.parameters(), gradients, strict=True):
                parameter.grad = part  # an engine may have cleared them
        seen = (flat[self._places] * event.expected_batch - self._known) / event.max_grad_norm
        self.scores += log_likelihood_ratio(seen, event.sample_rate, self._spread)
        self.num_seen += 1

    def _mean_of_real(self, engine: GradientEngine, *, with_spread: bool) -> Scores:
        """What the real units add to the canaries' coordinates on average, [m]; how far a draw goes astray is kept."""
        event, rate = self._event, self._event.sample_rate
        probing = Probing(engine, self._places, _PROBES if with_spread and rate < 1 else 0)
        own_choices = SeededNoise(self._seed, "auditor's own choices")
        total = clipped_sum(probing, self._real, np.arange(self._real.units.num_units), event, own_choices)
        if with_spread:
            astray = rate * (1 - rate) * probing.squares / event.max_grad_norm**2
            self._spread = np.maximum(LEAST_SPREAD, np.sqrt(event.noise_multiplier**2 + astray))
        mean: Scores = rate * total[self._places]
        return mean


def typical_spread(event: TrainEvent, size: int) -> float:
    """Standard deviation of what the auditor sees without the canary, in units of what a clipped canary adds.

    The trainer's noise, and what the draw of real units leaves after their mean is taken away: of a variance of
    (1 - q) B C^2 over all coordinates, four times an even share of the `size`, for gradients are uneven. A closed form,
    for settling the number of guesses: nothing in it is measured.
    """
    drawn = 4 * (1 - event.sample_rate) * event.expected_batch / size
    return max(LEAST_SPREAD, math.sqrt(event.noise_multiplier**2 + drawn))


def attack(
    trainer: AuditedTrainer,
    real: Examples,
    event: TrainEvent,
    rounds: int,
    coins: Coins,
    seed: int,
    initial: Arrays | None = None,
) -> Scores:
    """Train the horizon on the real units and the canaries whose coin is True, from `initial` or the plan's derived
    adapter; the auditor's scores [m].

    The seeds of the training's noise hold none of the coins. Raises: InputError where the plan trains fewer parameters
    than there are canaries; RunError where the trainer did other than the events say.
    """
    auditor = Auditor(event, len(coins), real, seed, each_step=trainer.frozen_features)
    records_each = 1 if event.unit == "record" else event.max_records + 1
    examples = WithCanaries(real, np.flatnonzero(coins), records_each)
    trainer.wrap = auditor.wrap
    try:
        with auditor.watching():
            run_horizon(trainer, examples, event, rounds, (seed, "audit", "unit"), initial)
    finally:
        trainer.wrap = None
    if auditor.num_seen != rounds * event.steps:
        raise RunError(
            f"the auditor saw {auditor.num_seen:,} steps where the horizon has {rounds * event.steps:,}.",
            mend="the trainer has changed: report this to privet.",
        )
    return auditor.scores
