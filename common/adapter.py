"""The adapter: named float32 arrays (LoRA factors, head), their order, digest and file.

>>> import numpy as np
>>> spec = AdapterSpec((Entry("head.weight", (2, 3), Role.HEAD), Entry("head.bias", (2,), Role.HEAD)))
>>> spec.unflatten(np.arange(8, dtype=np.float32))["head.bias"]
array([6., 7.], dtype=float32)
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from privet.common.errors import ModelError, WireError

Floats = NDArray[np.float32]
Arrays = Mapping[str, Floats]

MAX_WEIGHT = 1e4  # received weights beyond this are refused


class Role(StrEnum):
    """What a trainable array is; methods choose by it."""

    LORA_A = "lora_A"
    LORA_B = "lora_B"
    NEW = "new"  # a newly initialised layer below the last
    HEAD = "head"  # the last linear layer


@dataclass(frozen=True)
class Entry:
    """One named array."""

    name: str
    shape: tuple[int, ...]
    role: Role

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class AdapterSpec:
    """Names, shapes and roles in their fixed order: the layout of the flat vector [P]."""

    entries: tuple[Entry, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(entry.name for entry in self.entries)

    @property
    def size(self) -> int:
        """P, the number of values."""
        return sum(entry.size for entry in self.entries)

    def only(self, names: Sequence[str]) -> "AdapterSpec":
        """The part that `names` says, in this layout's order."""
        wanted = set(names)
        return AdapterSpec(tuple(entry for entry in self.entries if entry.name in wanted))

    def flatten(self, arrays: Arrays) -> Floats:
        """Named arrays to one vector [P]."""
        return np.concatenate([np.asarray(arrays[entry.name], np.float32).ravel() for entry in self.entries])

    def unflatten(self, flat: Floats) -> dict[str, Floats]:
        """A vector [P] to named arrays (copies)."""
        arrays, start = {}, 0
        for entry in self.entries:
            arrays[entry.name] = flat[start : start + entry.size].reshape(entry.shape).astype(np.float32)
            start += entry.size
        return arrays

    def check(self, arrays: Arrays, *, bound: float | None = MAX_WEIGHT) -> None:
        """Exactly these names, shapes and float32; finite; |w| <= bound where one is given.

        Raises: WireError, without any value in its text.
        """
        if set(arrays) != set(self.names):
            raise WireError("The arrays' names are not the plan's.")
        for entry in self.entries:
            array = arrays[entry.name]
            if array.dtype != np.float32 or array.shape != entry.shape:
                raise WireError(f"{entry.name} is not float32 of shape {entry.shape}.")
            largest = float(np.abs(array).max()) if array.size else 0.0  # nan where one is
            if not math.isfinite(largest):
                raise WireError(f"{entry.name} holds a value that is not finite.")
            if bound is not None and largest > bound:
                raise WireError(f"{entry.name} holds a value beyond {bound:g}.")


def digest(arrays: Arrays) -> str:
    """SHA-256 over sorted names, shapes and little-endian float32 bytes; 64 hex digits."""
    state = hashlib.sha256()
    for name in sorted(arrays):
        array = np.asarray(arrays[name], dtype="<f4", order="C")
        state.update(f"{name}\0{array.shape}\0".encode())
        state.update(array.tobytes())
    return state.hexdigest()


def save(arrays: Arrays, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file."""
    from safetensors.numpy import save_file

    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path, dict(metadata or {}))


def load(path: Path) -> dict[str, Floats]:
    """Read a safetensors file.

    Raises: ModelError.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return dict(load_file(path))
    except FileNotFoundError:
        raise ModelError(
            "no such file.", where=str(path), mend="give the folder of a finished run's adapter."
        ) from None
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"not a readable safetensors file ({error}).", where=str(path), mend="write it again."
        ) from None
