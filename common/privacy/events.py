"""What happened to the data, as the accountant must know it: necessary and sufficient for composition."""

import math
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any, Literal, Self


class Adjacency(StrEnum):
    """Which two data sets count as neighbours."""

    ADD_OR_REMOVE = "add_or_remove_one"  # one unit with all its records is there or not
    REPLACE = "replace_one"  # one unit has other records: what any change within a unit amounts to


@dataclass(frozen=True, kw_only=True)
class TrainEvent:
    """One round of DP-SGD at one site: `steps` Poisson-subsampled Gaussian mechanisms.

    Only `sample_rate`, `noise_multiplier` and `steps` decide epsilon. `max_grad_norm` and `expected_batch` scale the
    noise in the update, `unit` and `max_records` say whom the guarantee is about; they are kept for the statement.

    Raises ValueError where a value is out of range or of another type.
    """

    sample_rate: float  # q, the chance of one unit to join one step
    noise_multiplier: float  # sigma, in units of max_grad_norm; 0 only in simulations without privacy
    steps: int  # local steps of the round
    max_grad_norm: float  # C
    expected_batch: int  # B, in units
    unit: Literal["unit", "record"]
    max_records: int  # k, of one unit in one step

    def __post_init__(self) -> None:
        for name in ("sample_rate", "noise_multiplier", "max_grad_norm"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(f"Expected a finite number for {name}, got {value!r}.")
        for name in ("steps", "expected_batch", "max_records"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"Expected an integer {name} >= 1, got {value!r}.")
        if not 0 < self.sample_rate <= 1:
            raise ValueError(f"Expected 0 < sample_rate <= 1, got {self.sample_rate!r}.")
        if self.noise_multiplier != 0 and not 1e-3 <= self.noise_multiplier <= 1e6:
            raise ValueError(f"Expected noise_multiplier 0 or in [0.001, 1e6], got {self.noise_multiplier!r}.")
        if self.max_grad_norm <= 0:
            raise ValueError(f"Expected max_grad_norm > 0, got {self.max_grad_norm!r}.")
        if self.unit not in ("unit", "record"):
            raise ValueError(f'Expected unit "unit" or "record", got {self.unit!r}.')

    def to_json(self) -> dict[str, Any]:
        """A dictionary that survives JSON exactly."""
        return asdict(self)

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Self:
        """The event that `to_json` wrote. Raises ValueError on a missing, unknown or bad entry."""
        return cls(**_entries(cls, raw))


Release = Literal["accuracy", "per_class", "confusion"]


@dataclass(frozen=True, kw_only=True)
class EvaluateEvent:
    """One evaluation at one site: a Gaussian mechanism on the sum of the validation units' cells.

    Each unit adds the mean of its records' one-hot cells, of norm at most 1; put in another unit's place it changes the
    sum by at most the square root of 2. Noise of deviation `noise_multiplier` is on every cell.

    Raises ValueError where a value is out of range or of another type.
    """

    noise_multiplier: float  # sigma, in units of the norm 1; 0 only in simulations without privacy
    release: Release
    unit: Literal["unit", "record"]

    def __post_init__(self) -> None:
        sigma = self.noise_multiplier
        if isinstance(sigma, bool) or not isinstance(sigma, int | float) or not math.isfinite(sigma):
            raise ValueError(f"Expected a finite number for noise_multiplier, got {sigma!r}.")
        if sigma != 0 and not 1e-3 <= sigma <= 1e6:
            raise ValueError(f"Expected noise_multiplier 0 or in [0.001, 1e6], got {sigma!r}.")
        if self.release not in ("accuracy", "per_class", "confusion"):
            raise ValueError(f'Expected release "accuracy", "per_class" or "confusion", got {self.release!r}.')
        if self.unit not in ("unit", "record"):
            raise ValueError(f'Expected unit "unit" or "record", got {self.unit!r}.')

    def to_json(self) -> dict[str, Any]:
        """A dictionary that survives JSON exactly."""
        return asdict(self)

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Self:
        """The event that `to_json` wrote. Raises ValueError on a missing, unknown or bad entry."""
        return cls(**_entries(cls, raw))


Event = TrainEvent | EvaluateEvent


def _entries(kind: type[TrainEvent] | type[EvaluateEvent], raw: dict[str, Any]) -> dict[str, Any]:
    names = [field.name for field in fields(kind)]
    if not isinstance(raw, dict) or raw.keys() != set(names):
        raise ValueError(f"Expected exactly the entries {', '.join(names)}.")
    return raw
