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
from torch import Tensor

from privet.client.gradients import GradientEngine
from privet.common.adapter import Floats
from privet.common.examples import Examples
from privet.common.privacy.events import TrainEvent
from privet.common.privacy.noise import NoiseSource, privatise

_TINY = 1e-30
_MARGIN = 1.001  # covers the rounding of the norm
_EXACT_ROWS = 16  # unit gradients that are held in float64 at once


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
    """Σ_u c_u g_u over the drawn units, float64 [P]. Each unit adds a vector of norm at most C.

    Norms in float64 of the very values that are summed: a float32 norm of millions of values can fall short by more than
    the margin.
    """
    total = torch.zeros(model.spec.size, dtype=torch.float64)
    size = max(1, data.group_values // model.spec.size)
    for start in range(0, len(drawn), size):
        gradients = _unit_gradients(model, data, drawn[start : start + size], event.max_records, noise)
        for part in gradients.split(_EXACT_ROWS):
            exact = part.double()  # the same tensor where the engine works in float64
            norms = torch.linalg.vector_norm(exact, dim=1)
            finite = torch.isfinite(norms)
            if not bool(finite.all()):
                exact = torch.where(finite.unsqueeze(1), exact, torch.zeros_like(exact))
                norms = torch.where(finite, norms, torch.zeros_like(norms))
            factors = torch.clamp(event.max_grad_norm / (_MARGIN * norms + _TINY), max=1.0)
            total += factors @ exact
    return total.numpy()


def _unit_gradients(
    model: GradientEngine, data: Examples, group: NDArray[np.intp], max_records: int, noise: NoiseSource
) -> Tensor:
    """g_u of each unit in the group, [units, P] in the engine's precision. A record that cannot be computed counts as zero."""
    records, slots, shares = [], [], []
    for slot, unit in enumerate(group):
        members = data.units.records(int(unit))
        if len(members) > max_records:
            members = members[noise.choose(len(members), max_records)]
        records.append(members)
        slots.append(np.full(len(members), slot))
        shares.append(np.full(len(members), 1.0 / max(1, len(members)), np.float32))
    wanted = np.concatenate(records)
    order = np.argsort(wanted)
    slot_of, share_of = np.concatenate(slots)[order], np.concatenate(shares)[order]
    gradients: Tensor | None = None
    for batch in data.batches(wanted):
        rows = model.per_record(batch)
        alone = bool((share_of == 1).all()) and len(wanted) == len(group)
        if alone and len(rows) == len(wanted) and np.array_equal(batch.records, wanted):
            return rows  # one record a unit, in order
        rows = rows[torch.from_numpy(batch.rows)]
        place = np.searchsorted(wanted[order], batch.records)
        rows *= torch.from_numpy(share_of[place]).unsqueeze(1)
        finite = torch.isfinite(rows.sum(dim=1, keepdim=True))  # a value that is not finite makes the sum so
        if not bool(finite.all()):
            rows = torch.where(finite, rows, torch.zeros_like(rows))  # selected: 0 · inf is not 0
        if gradients is None:
            gradients = torch.zeros(len(group), model.spec.size, dtype=rows.dtype)
        gradients.index_add_(0, torch.from_numpy(slot_of[place]), rows)
    return torch.zeros(len(group), model.spec.size) if gradients is None else gradients


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
