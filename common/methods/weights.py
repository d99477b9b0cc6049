"""Aggregation weights from what sites state or declare: never from a count of their data."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_CAP = 4.0  # times the lower median: a site that states too much gains no more, of two sites neither


@dataclass(frozen=True)
class Stated:
    """What one site said of its own update."""

    noise_multiplier: float  # σ
    max_grad_norm: float  # C
    expected_batch: float  # B
    declared_weight: float | None = None


def aggregation_weights(kind: str, sites: Sequence[Stated]) -> list[float]:
    """One weight a site, summing to 1.

    uniform: 1/n. declared: in proportion to what operators declared; a site that declared none counts as the lower
    median of those that did. noise: inverse variance of the stated noise, (B / (σC))². The last two are capped at 4
    times the lower median over the sites: nobody can check what is stated, and no site takes everything by a large one.
    Raises: ValueError for another kind or no site.

    >>> aggregation_weights("noise", [Stated(1.0, 1.0, 10.0), Stated(2.0, 1.0, 10.0)])
    [0.8, 0.2]
    >>> aggregation_weights("declared", [Stated(1.0, 1.0, 10.0, declared) for declared in (1.0, 1e9)])
    [0.2, 0.8]
    """
    if not sites:
        raise ValueError("Expected at least one site.")
    if kind == "uniform":
        raw = np.ones(len(sites))
    elif kind == "declared":
        declared = np.array([site.declared_weight for site in sites if site.declared_weight is not None])
        middle = _lower_median(declared) if len(declared) else 1.0
        raw = _capped(np.array([middle if site.declared_weight is None else site.declared_weight for site in sites]))
    elif kind == "noise":
        deviations = np.array([site.noise_multiplier * site.max_grad_norm / site.expected_batch for site in sites])
        noised = deviations[deviations > 0]
        if not len(noised):  # a simulation without noise: nothing to weigh by
            raw = np.ones(len(sites))
        else:
            deviations = np.where(deviations > 0, deviations, noised.min())  # stating none gains nothing
            relative = np.clip(deviations / deviations.max(), 1e-100, 1.0)  # no overflow, whatever is stated
            raw = _capped(relative**-2.0)
    else:
        raise ValueError(f"Expected weight 'uniform', 'declared' or 'noise', got {kind!r}.")
    return [float(value) for value in raw / raw.sum()]


def _capped(raw: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.minimum(raw, _CAP * _lower_median(raw))


def _lower_median(values: NDArray[np.float64]) -> float:
    return float(np.sort(values)[(len(values) - 1) // 2])
