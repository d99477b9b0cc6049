"""DP-SGD over units: Poisson draw, per-unit gradient, joint clip, noise, step. It knows no transport.

Abadi et al. 2016 (algorithm 1) with users as the sampled unit (McMahan et al. 2018): at each of S steps

    g_u = mean over at most k of the unit's records' gradients
    c_u = min(1, C / (1.001 ‖g_u‖ + tiny))
    gradient = (Σ_u c_u g_u + N(0, σ²C²I)) / B
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from privet.client.gradients import GradientEngine
from privet.client.unit_gradients import Members
from privet.common.adapter import Floats
from privet.common.examples import Examples
from privet.common.privacy.events import TrainEvent
from privet.common.privacy.noise import NoiseSource, privatise

_TINY = 1e-30
_MARGIN = 1.001  # covers what rounding may do to a norm or a neighbour


@dataclass(frozen=True, kw_only=True)
class TrainSpec:
    """One round. The privacy of it is `event` alone; the optimizer's knobs cannot affect it."""

    event: TrainEvent
    optimizer: str
    learning_rate: float
    weight_decay: float = 0.0


def train(model: GradientEngine, data: Examples, spec: TrainSpec, noise: NoiseSource) -> tuple[Floats, TrainEvent]:
    """S steps from the model's present weights; the update is their change, float32 [P].

    The model is left at the weights it came with. Optimizer state is local to the call: a function of noised gradients
    only. Empty draws, and empty data, are noised and charged like any other.
    """
    event = spec.event
    start = model.read()
    optimizer = _optimizer(model, spec)
    try:
        for _ in range(event.steps):
            drawn = np.flatnonzero(noise.mask(data.units.num_units, event.sample_rate))
            total = clipped_sum(model, data, drawn, event, noise)
            gradient = privatise(
                total,
                noise_multiplier=event.noise_multiplier,
                max_grad_norm=event.max_grad_norm,
                expected_batch=event.expected_batch,
                noise=noise,
            )
            _assign(model, gradient)
            optimizer.step()
        return model.read() - start, event
    finally:
        model.write(start)
        for parameter in model.parameters():
            parameter.grad = None


def clipped_sum(
    model: GradientEngine, data: Examples, drawn: NDArray[np.intp], event: TrainEvent, noise: NoiseSource
) -> NDArray[np.float64]:
    """Σ_u c_u g_u over the drawn units, float64 [P]. Each unit adds a vector of norm at most C."""
    total = torch.zeros(model.spec.size, dtype=torch.float64)
    size = max(1, model.group_values // model.spec.size)
    for start in range(0, len(drawn), size):
        members = _members(data, drawn[start : start + size], event.max_records, noise)
        gradients = model.unit_gradients(data, members)
        factors = torch.clamp(event.max_grad_norm / (_MARGIN * gradients.norms() + _TINY), max=1.0)
        total += gradients.weighted_sum(factors)
    return total.numpy()


def _members(data: Examples, group: NDArray[np.intp], max_records: int, noise: NoiseSource) -> Members:
    """At most `max_records` records of each unit, a fresh random choice where it has more."""
    records, slots, shares = [], [], []
    for slot, unit in enumerate(group):
        found = data.units.records(int(unit))
        if len(found) > max_records:
            found = found[noise.choose(len(found), max_records)]
        records.append(found)
        slots.append(np.full(len(found), slot))
        shares.append(np.full(len(found), 1.0 / max(1, len(found)), np.float32))
    return Members(np.concatenate(records), np.concatenate(slots), np.concatenate(shares), len(group))


def _optimizer(model: GradientEngine, spec: TrainSpec) -> torch.optim.Optimizer:
    parameters = list(model.parameters())
    if spec.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=spec.learning_rate, weight_decay=spec.weight_decay)
    if spec.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=spec.learning_rate, weight_decay=spec.weight_decay)
    raise ValueError(f"Expected optimizer 'sgd' or 'adamw', got {spec.optimizer!r}.")


def _assign(model: GradientEngine, gradient: Floats) -> None:
    flat = torch.from_numpy(gradient)
    parameters = model.parameters()
    for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        parameter.grad = part.reshape(parameter.shape).clone()
