"""A noised update in fewer bytes: blocks of 256 values, each with a scale of its own.

Codes come after the noise and know noised values only: post-processing, which costs no privacy and shows nothing that
the update itself would not. Values lie one after the other, arrays by name; what is sent is the scales, float32, then
the codes:

- fp16: value / scale rounded to the nearest 16-bit float; the scale is the least power of two that no value exceeds.
- int8: value / scale rounded at random to one of its two neighbours in -127..127, so that its mean is the value; the
  scale is the block's largest magnitude / 127, rounded up (QSGD: Alistarh et al. 2017).

Who decodes trusts nothing: codes in their range, scales finite, not negative and of a bounded block.

>>> import numpy as np
>>> coded = encode("fp16", {"w": np.float32([[1.0, -0.5, 0.25]])}, None)
>>> len(coded.data), decode(coded)["w"].tolist()
(10, [[1.0, -0.5, 0.25]])
"""

import math
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from privet.common.adapter import MAX_WEIGHT, Arrays, Floats
from privet.common.errors import WireError

Compression = Literal["none", "fp16", "int8"]
Shapes = tuple[tuple[str, tuple[int, ...]], ...]  # by name

BLOCK = 256  # values that share a scale
MAX_VALUE = 2 * MAX_WEIGHT  # of an update: a change between two weights
_LEVELS = 127
_WIDTHS = {"fp16": 2, "int8": 1}  # bytes of a code
_HALF_ROUNDING = 2.0**-11  # of the nearest 16-bit float, relative
_HALF_LEAST = 2.0**-25  # half the distance of the smallest ones


class Rounding(Protocol):
    """Where the random rounding comes from: a site's own noise source."""

    def uniform(self, n: int) -> NDArray[np.float64]: ...


@dataclass(frozen=True)
class Coded:
    """Named arrays in fewer bytes."""

    kind: Literal["fp16", "int8"]
    shapes: Shapes
    data: bytes

    @property
    def num_values(self) -> int:
        return sum(math.prod(shape) for _, shape in self.shapes)


def coded_bytes(kind: Compression, num_values: int) -> int:
    """Bytes of an update of so many values.

    >>> [coded_bytes(kind, 1000) for kind in ("none", "fp16", "int8")]
    [4000, 2016, 1016]
    """
    return 4 * num_values if kind == "none" else 4 * -(-num_values // BLOCK) + _WIDTHS[kind] * num_values


def encode(kind: Literal["fp16", "int8"], arrays: Arrays, rounding: Rounding | None) -> Coded:
    """Noised arrays, coded. rounding: for int8. Never fails: a block that is not finite gets a scale that nobody takes,
    and is refused where it arrives, as it would be uncoded."""
    shapes = tuple((name, tuple(arrays[name].shape)) for name in sorted(arrays))
    values = np.concatenate([np.zeros(0), *(np.asarray(arrays[name], np.float64).ravel() for name, _ in shapes)])
    return encode_flat(kind, shapes, values, rounding)


def encode_flat(
    kind: Literal["fp16", "int8"], shapes: Shapes, values: NDArray[np.floating], rounding: Rounding | None
) -> Coded:
    """As `encode`, of values [P] that lie one after the other, arrays by name."""
    blocks = np.zeros((-(-len(values) // BLOCK), BLOCK))
    blocks.reshape(-1)[: len(values)] = values
    most = np.abs(blocks).max(1, initial=0.0)
    sound = most <= MAX_VALUE
    blocks[~sound] = 0.0
    scales = _scales(kind, np.where(sound, most, 0.0))
    ratios = blocks / np.where(scales > 0, scales, 1.0)[:, None]
    codes: NDArray[np.generic]
    if kind == "fp16":
        codes = ratios.astype("<f2")
    else:
        if rounding is None:
            raise ValueError("Expected a source for the rounding.")
        below = np.floor(ratios)
        up = np.zeros(ratios.shape, np.bool_)
        up.reshape(-1)[: len(values)] = rounding.uniform(len(values)) < (ratios - below).reshape(-1)[: len(values)]
        codes = (below + up).astype(np.int8)
    told = np.where(sound, scales, np.inf).astype("<f4")
    return Coded(kind, shapes, told.tobytes() + codes.reshape(-1)[: len(values)].tobytes())


def decode(coded: Coded) -> dict[str, Floats]:
    """Named float32 arrays of this process's own.

    Raises: WireError for bytes that `encode` makes of no finite values within the bound.
    """
    scales, codes = _parts(coded)
    if not (np.isfinite(scales).all() and (scales >= 0).all() and (scales <= _largest_scale(coded.kind)).all()):
        raise WireError("A scale of the coded arrays is out of its range.")
    in_range = np.abs(codes) <= (1 if coded.kind == "fp16" else _LEVELS)  # False for what is no number
    if not in_range.all():
        raise WireError("A code of the coded arrays is out of its range.")
    values = np.clip(np.repeat(scales, BLOCK)[: len(codes)] * codes, -MAX_VALUE, MAX_VALUE).astype(np.float32)
    arrays, start = dict[str, Floats](), 0
    for name, shape in coded.shapes:
        end = start + math.prod(shape)
        arrays[name] = values[start:end].reshape(shape)
        start = end
    return arrays


def error_bound(coded: Coded) -> float:
    """What the coding may have cost, from what arrived alone: the L2 error of the arrays relative to their L2 norm as
    decoded. fp16: at most that. int8: its root mean square over the rounding is at most that.

    int8: a value's variance is s² f (1 - f) ≤ s²/4 with f the fraction that is rounded away and s its block's scale.
    """
    scales, codes = _parts(coded)
    per_value = np.repeat(scales, BLOCK)[: len(codes)]
    norm = float(np.linalg.norm(per_value * codes))
    if coded.kind == "int8":
        error = float(np.linalg.norm(per_value)) / 2
    else:
        error = float(np.linalg.norm(per_value * np.maximum(np.abs(codes) * _HALF_ROUNDING, _HALF_LEAST)))
    return error / norm if norm else 0.0


def coding_error(coded: Coded, values: NDArray[np.floating]) -> float:
    """The L2 error of the coded values [P] relative to their L2 norm: what only who encodes can know. nan where a block
    is not finite."""
    scales, codes = _parts(coded)
    with np.errstate(invalid="ignore"):
        decoded = np.repeat(scales, BLOCK)[: len(codes)] * codes
    norm = float(np.linalg.norm(values.astype(np.float64)))
    return float(np.linalg.norm(decoded - values)) / norm if norm else 0.0


def _scales(kind: str, most: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each block's largest magnitude: float32 values, so that both sides divide and multiply by the same ones."""
    if kind == "fp16":
        exponents = np.frexp(most)[1]  # most <= 2^exponent
        exact = np.ldexp(0.5, exponents) == most
        scales = np.ldexp(1.0, exponents - exact)
        return np.where(most > 0, np.maximum(scales, 2.0**-126), 0.0)
    scales = (most / _LEVELS).astype(np.float32)
    short = scales.astype(np.float64) * _LEVELS < most
    return np.where(short, np.nextafter(scales, np.float32(np.inf)), scales).astype(np.float64)


def _largest_scale(kind: str) -> float:
    return float(_scales(kind, np.array([MAX_VALUE]))[0])


def _parts(coded: Coded) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scales [blocks] and codes [P]. Raises: WireError where the bytes are too few or too many."""
    num_values = coded.num_values
    if len(coded.data) != coded_bytes(coded.kind, num_values):
        raise WireError("The coded arrays do not fill the listed shapes.")
    num_blocks = -(-num_values // BLOCK)
    codes = np.frombuffer(coded.data, "<f2" if coded.kind == "fp16" else "i1", num_values, 4 * num_blocks)
    with np.errstate(invalid="ignore"):  # whoever sent a signalling nan is refused for it, without a word from numpy
        return np.frombuffer(coded.data, "<f4", num_blocks).astype(np.float64), codes.astype(np.float64)
