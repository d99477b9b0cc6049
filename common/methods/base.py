"""The interface of a federated method: pure functions on named arrays, no transport, no torch.

After local differential privacy everything here is post-processing. docs/methods.md says how to write one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import numpy as np

from privet.common.adapter import AdapterSpec, Arrays, Floats

Values: TypeAlias = Any  # a numpy array or a torch tensor, float32 [..., P]; the operators that both have will do
Adjust: TypeAlias = Callable[[Values, Values, Values], Values]  # Method.local_gradient


@dataclass(frozen=True)
class State:
    """What the server keeps between rounds: the global adapter, and its optimizer's momentum."""

    arrays: dict[str, Floats]
    momentum: dict[str, Floats] = field(default_factory=dict)


@dataclass(frozen=True)
class Update:
    """One site's checked reply: the change of the trainable arrays, and its weight >= 0."""

    arrays: Arrays
    weight: float


class Method(Protocol):
    """`init` and `aggregate` make states; `trainable` says what a round trains; `broadcast` what a site needs."""

    @property
    def kind(self) -> str:
        """The plan's name for it."""
        ...

    def trainable(self, spec: AdapterSpec, round: int) -> AdapterSpec:
        """The arrays that sites train, clip and return in this round: a function of plan and round only."""
        ...

    def frozen_features(self, spec: AdapterSpec) -> bool:
        """Whether only the last layer is ever trained, so that its input can be computed once."""
        ...

    def init(self, initial: Arrays) -> State:
        """The state before the first round."""
        ...

    def broadcast(self, spec: AdapterSpec, state: State, round: int) -> dict[str, Floats]:
        """The arrays sent to a site; all others it derives from the plan."""
        ...

    def aggregate(self, spec: AdapterSpec, state: State, round: int, updates: Sequence[Update]) -> State:
        """The state after the round. Raises: ValueError where all weights are zero."""
        ...

    def local_gradient(self, gradient: Values, weights: Values, start: Values) -> Values:
        """What a site's optimizer steps by, in place of the noised gradient. Called after the noise, at every step.

        Each is float32 [..., P]: the noised gradient, the present weights, and those that the round began with. Leading
        axes are sites, many in one pass: none may learn of another, and nothing is kept between calls. So it is a
        function of noised values and the plan alone: post-processing. Nothing that is given may be written to.
        """
        return gradient


def weighted_mean(updates: Sequence[Update], names: Sequence[str]) -> dict[str, Floats]:
    """Σ w_i Δ_i / Σ w_i in float64, by name.

    >>> one = Update({"b": np.float32([1, 3])}, 1.0)
    >>> two = Update({"b": np.float32([5, 3])}, 3.0)
    >>> weighted_mean([one, two], ["b"])["b"].tolist()
    [4.0, 3.0]
    """
    total = float(sum(update.weight for update in updates))
    if not updates or not total > 0:
        raise ValueError("Expected at least one update with a weight above zero.")
    mean = {}
    for name in names:
        summed = np.zeros(updates[0].arrays[name].shape, np.float64)
        for update in updates:
            summed += (update.weight / total) * update.arrays[name].astype(np.float64)
        mean[name] = summed.astype(np.float32)
    return mean


def server_step(
    state: State, mean: Mapping[str, Floats], *, learning_rate: float, momentum: float, bound: float
) -> State:
    """FedAvgM (Hsu et al. 2019): v ← βv + Δ̄, w ← w + ηv. β = 0 and η = 1 is FedAvg.

    Weights are kept within ±bound, so that what is sent next passes every site's check.
    """
    arrays, velocity = dict(state.arrays), dict(state.momentum)
    for name, change in mean.items():
        step = change
        if momentum:
            step = np.float32(momentum) * velocity.get(name, np.zeros_like(change)) + change
            velocity[name] = step
        arrays[name] = np.clip(arrays[name] + np.float32(learning_rate) * step, -bound, bound).astype(np.float32)
    return State(arrays, velocity)
