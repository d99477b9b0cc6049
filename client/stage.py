"""A plan's model and generated examples, for rehearsals: whoever is here has never seen a record."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from privet.client.engines import EngineName
from privet.client.training import RoundTrainer
from privet.common import adapter
from privet.common.adapter import Arrays, Floats
from privet.common.base import checked_base
from privet.common.config import Plan
from privet.common.examples import Examples
from privet.common.model import initial_arrays
from privet.common.precision import AskedPrecision, usable_precision
from privet.common.prefix import CACHE_BYTES
from privet.common.privacy.events import TrainEvent
from privet.common.privacy.noise import SecureNoise
from privet.common.tasks.base import task_of
from privet.common.tasks.targets import Targets

_MAX_TOKENS = 2_000_000  # of all generated records together
_NOISE_MULTIPLIER = 1.0  # whatever the site's share asks for: the time is the same, and the reply tells nothing of it
_WORDS = (
    "patient",
    "came",
    "back",
    "with",
    "pain",
    "nurse",
    "asked",
    "for",
    "new",
    "bill",
    "bank",
    "card",
    "loan",
    "fee",
)


@dataclass(frozen=True)
class Generated:
    """Texts that privet makes up, of the longest kind that the plan reads; as `LabelledTexts`."""

    texts: list[str]
    labels: Targets
    units: NDArray[np.int64]
    num_units: int
    tags: list[Targets] | None = None  # of each text's words, where the plan's task labels tokens


def generated(plan: Plan, event: TrainEvent) -> Generated:
    """As many units as a step draws on average, each with as many records as a step takes of one: what a step costs at
    most, but for a draw above the average. At most two million tokens, else fewer records."""
    length = plan.task.max_length * plan.task.windows
    most = max(1, _MAX_TOKENS // length)
    num_units = min(event.expected_batch, most)
    records = num_units * max(1, min(event.max_records, most // num_units))
    random = np.random.Generator(np.random.PCG64(0))
    texts = [" ".join([_WORDS[i] for i in random.integers(0, len(_WORDS), length).tolist()]) for _ in range(records)]
    task, units = task_of(plan.task), np.arange(records) % num_units
    if task.per_token:
        tags = list(task.nobody(records, length))
        return Generated(texts, np.zeros(records, np.int64), units, num_units, tags)
    return Generated(texts, task.nobody(records, plan.task.max_length), units, num_units)


class Stage:
    """Ready to rehearse the plan's rounds by the very trainer that trains, on `generated` text, with secure noise.

    event: what one round would be at this site. Every unit is drawn in every step. engine, precision: as the site file
    says.
    Raises: ModelError; ConfigError for an engine that does not compute the plan; PrivetError from the self-test.
    """

    def __init__(
        self,
        plan: Plan,
        base: str,
        event: TrainEvent,
        *,
        local_only: bool,
        engine: EngineName = "opacus",
        precision: AskedPrecision = "float32",
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        folder = checked_base(base, plan.model.sha256, local_only=local_only)
        self._trainer = RoundTrainer(
            plan, folder, engine=engine, precision=usable_precision(precision)[0], cache_bytes=cache_bytes
        )
        self._examples: Examples = self._trainer.prepare(generated(plan, event))
        self._event = replace(event, sample_rate=1.0, noise_multiplier=_NOISE_MULTIPLIER)
        self.size = self._trainer.spec.size
        self.initial_digest = plan.method.init or adapter.digest(initial_arrays(self._trainer.classifier))

    def round(self, arrays: Arrays, round: int) -> dict[str, Floats]:
        """An update of the true names and shapes.

        Raises: WireError where the arrays are not those that the plan's round brings.
        """
        method, spec = self._trainer.method, self._trainer.spec
        state = method.init(self._trainer.classifier.read())
        spec.only(tuple(method.broadcast(spec, state, round))).check(arrays)
        return self._trainer.update(arrays, self._examples, round, self._event, SecureNoise())
