"""`head`, `ffa` and `fedavg`: one weighted mean of updates, over three choices of what is trained.

- head: the last linear layer on frozen features (a linear probe).
- ffa: LoRA B and the head, on a shared frozen A (FFA-LoRA, Sun et al. 2024). Averaging B is exact: no product of two
  noises appears.
- fedavg: LoRA A, B and the head (FedIT, Zhang et al. 2024). The mean of products is not the product of means.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from privet.common.adapter import MAX_WEIGHT, AdapterSpec, Arrays, Floats, Role
from privet.common.methods.base import State, Update, Values, server_step, weighted_mean


@dataclass(frozen=True)
class Averaging:
    """A method that trains the arrays of `roles` and averages their changes."""

    kind: str
    roles: frozenset[Role]
    learning_rate: float = 1.0
    momentum: float = 0.0

    def trainable(self, spec: AdapterSpec, round: int) -> AdapterSpec:
        return AdapterSpec(tuple(entry for entry in spec.entries if entry.role in self.roles))

    def frozen_features(self, spec: AdapterSpec) -> bool:
        return all(entry.role is Role.HEAD for entry in self.trainable(spec, 1).entries)

    def init(self, initial: Arrays) -> State:
        return State(dict(initial))

    def broadcast(self, spec: AdapterSpec, state: State, round: int) -> dict[str, Floats]:
        return {name: state.arrays[name] for name in self.trainable(spec, round).names}

    def aggregate(self, spec: AdapterSpec, state: State, round: int, updates: Sequence[Update]) -> State:
        mean = weighted_mean(updates, self.trainable(spec, round).names)
        return server_step(state, mean, learning_rate=self.learning_rate, momentum=self.momentum, bound=MAX_WEIGHT)

    def local_gradient(self, gradient: Values, weights: Values, start: Values) -> Values:
        return gradient


ROLES = {
    "head": frozenset({Role.HEAD}),
    "ffa": frozenset({Role.LORA_B, Role.NEW, Role.HEAD}),
    "fedavg": frozenset({Role.LORA_A, Role.LORA_B, Role.NEW, Role.HEAD}),
}
