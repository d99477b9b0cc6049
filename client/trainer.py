"""DP-SGD over units: Poisson draw, per-unit gradient, joint clip, noise, step. It knows no transport.

Abadi et al. 2016 (algorithm 1) with users as the sampled unit (McMahan et al. 2018): at each of S steps

    g_u = mean over at most k of the unit's records of the mean over the record's windows of their gradients
    c_u = min(1, C / (1.001 ‖g_u‖ + tiny))
    gradient = (Σ_u c_u g_u + N(0, σ²C²I)) / B
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from privet.client.gradients import GradientEngine
from privet.client.unit_gradients import Members
from privet.common.adapter import Floats
from privet.common.examples import Examples, Integers
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
    for members in _groups(data, drawn, event.max_records, model.max_windows, noise):
        gradients = model.unit_gradients(data, members)
        factors = torch.clamp(event.max_grad_norm / (_MARGIN * gradients.norms() + _TINY), max=1.0)
        total += gradients.weighted_sum(factors)
    return total.numpy()


def _groups(
    data: Examples, drawn: NDArray[np.intp], max_records: int, max_windows: int, noise: NoiseSource
) -> Iterator[Members]:
    """The drawn units in groups of at most `max_windows` windows, or of one unit: memory is bounded by that."""
    group: list[tuple[Integers, NDArray[np.float64]]] = []
    size = 0
    for unit in drawn:
        chosen = _windows(data, int(unit), max_records, noise)
        if group and size + len(chosen[0]) > max_windows:
            yield _members(group)
            group, size = [], 0
        group.append(chosen)
        size += len(chosen[0])
    if group:
        yield _members(group)


def _windows(data: Examples, unit: int, max_records: int, noise: NoiseSource) -> tuple[Integers, NDArray[np.float64]]:
    """The windows of at most `max_records` of a unit's records, a fresh random choice where it has more; their shares:
    every record has the same, and so has every window of a record."""
    records = data.units.records(unit)
    if len(records) > max_records:
        records = records[noise.choose(len(records), max_records)]
    windows, counts = data.windows.of(records)
    return windows, np.repeat(1.0 / (counts * max(1, len(records))), counts)


def _members(group: Sequence[tuple[Integers, NDArray[np.float64]]]) -> Members:
    slots = np.repeat(np.arange(len(group)), [len(windows) for windows, _ in group])
    windows, shares = (np.concatenate(parts) for parts in zip(*group, strict=True))
    return Members(windows, slots, shares, len(group))


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
