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

from privet.client.flat_engine import GradientEngine
from privet.client.optimizer import make as make_optimizer
from privet.client.unit_gradients import Members, together
from privet.common.adapter import Floats
from privet.common.examples import Examples, Integers
from privet.common.methods import Adjust
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
    adjust: Adjust | None = None  # a method's own: noised gradient, weights, start -> what the optimizer steps by


@dataclass(frozen=True)
class Local:
    """What one site brings to a training of several together. The data of all are views of one token store."""

    data: Examples
    event: TrainEvent
    noise: NoiseSource


def train(model: GradientEngine, data: Examples, spec: TrainSpec, noise: NoiseSource) -> tuple[Floats, TrainEvent]:
    """S steps from the model's present weights; the update is their change, float32 [P].

    The model is left at the weights it came with. Optimizer state is local to the call: a function of noised gradients
    only. Empty draws, and empty data, are noised and charged like any other.
    """
    return train_together(model, [Local(data, spec.event, noise)], spec)[0], spec.event


def train_together(model: GradientEngine, sites: Sequence[Local], spec: TrainSpec) -> Floats:
    """S steps of K sites side by side, each from its own weights in the model: their changes, float32 [K, P].

    Every site has its own draws, clipped sum, noise and optimizer state; nothing of one enters what another gets.
    spec: the optimizer, and the steps; of its event no more is used.
    """
    if len(sites) != model.num_sites or any(site.event.steps != spec.event.steps for site in sites):
        raise ValueError(f"Expected {model.num_sites} sites of {spec.event.steps} steps each.")
    start = model.read()
    optimizer = make_optimizer(spec.optimizer, model.parameters(), spec.learning_rate, spec.weight_decay)
    try:
        for _ in range(spec.event.steps):
            drawn = [
                np.flatnonzero(site.noise.mask(site.data.units.num_units, site.event.sample_rate)) for site in sites
            ]
            total = clipped_sums(model, sites, drawn)
            gradient = np.stack([_noised(of_one, site) for of_one, site in zip(total, sites, strict=True)])
            if spec.adjust is not None:
                shape = gradient.shape
                gradient = spec.adjust(gradient, model.read().reshape(shape), start.reshape(shape))
            model.assign(torch.from_numpy(gradient))
            optimizer.step()
        return (model.read() - start).reshape(len(sites), -1)
    finally:
        model.write(start)
        for parameter in model.parameters():
            parameter.grad = None


def clipped_sum(
    model: GradientEngine, data: Examples, drawn: NDArray[np.intp], event: TrainEvent, noise: NoiseSource
) -> NDArray[np.float64]:
    """Σ_u c_u g_u over the drawn units, float64 [P]. Each unit adds a vector of norm at most C."""
    total: NDArray[np.float64] = clipped_sums(model, [Local(data, event, noise)], [drawn])[0]
    return total


def clipped_sums(
    model: GradientEngine, sites: Sequence[Local], drawn: Sequence[NDArray[np.intp]]
) -> NDArray[np.float64]:
    """The clipped sum of each of K sites over its drawn units, float64 [K, P]."""
    total = torch.zeros(len(sites), model.spec.size, dtype=torch.float64)
    bounds = torch.tensor([site.event.max_grad_norm for site in sites], dtype=torch.float64)
    for members in together(_all_groups(sites, drawn, model.max_windows), len(sites), model.max_windows):
        gradients = model.unit_gradients(sites[0].data, members)
        bound = bounds[0] if members.owners is None else bounds[torch.from_numpy(members.owners)]
        factors = torch.clamp(bound / (_MARGIN * gradients.norms() + _TINY), max=1.0)
        total += gradients.weighted_sum(factors)
    sums: NDArray[np.float64] = total.numpy()
    return sums


def _noised(total: NDArray[np.float64], site: Local) -> Floats:
    return privatise(
        total,
        noise_multiplier=site.event.noise_multiplier,
        max_grad_norm=site.event.max_grad_norm,
        expected_batch=site.event.expected_batch,
        noise=site.noise,
    )


def _all_groups(
    sites: Sequence[Local], drawn: Sequence[NDArray[np.intp]], max_windows: int
) -> Iterator[tuple[int, Members]]:
    for number, (site, units) in enumerate(zip(sites, drawn, strict=True)):
        for members in _groups(site.data, units, site.event.max_records, max_windows, site.noise):
            yield number, members


def _groups(
    data: Examples, drawn: NDArray[np.intp], max_records: int, max_windows: int, noise: NoiseSource
) -> Iterator[Members]:
    """The drawn units in groups of at most `max_windows` windows, or of one unit: memory is bounded by that."""
    if not len(drawn):
        return
    windows, slots, shares = _windows(data, drawn, max_records, noise)
    starts = np.searchsorted(slots, np.arange(len(drawn) + 1))
    first = 0
    while first < len(drawn):
        last = int(np.searchsorted(starts, starts[first] + max_windows, side="right")) - 1
        last = max(first + 1, min(last, len(drawn)))
        part = slice(starts[first], starts[last])
        yield Members(windows[part], slots[part] - first, shares[part], last - first)
        first = last


def _windows(
    data: Examples, drawn: NDArray[np.intp], max_records: int, noise: NoiseSource
) -> tuple[Integers, Integers, NDArray[np.float64]]:
    """The windows of at most `max_records` records of each drawn unit, a fresh random choice where it has more; which
    of the drawn units each belongs to; their shares: every record has the same, and so has every window of a record."""
    records, counts = data.units.of(drawn)
    if counts.max(initial=0) > max_records:
        parts = np.split(records, np.cumsum(counts)[:-1])
        chosen = [part[noise.choose(len(part), max_records)] if len(part) > max_records else part for part in parts]
        records, counts = np.concatenate(chosen), np.minimum(counts, max_records)
    windows, per_record = data.windows.of(records)
    units = np.repeat(np.arange(len(drawn)), counts)
    shares = 1.0 / (per_record * np.maximum(1, counts[units]))
    return windows, np.repeat(units, per_record), np.repeat(shares, per_record)
