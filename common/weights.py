"""A base's weights from its safetensors files, mapped into memory: processes on one machine share the pages.

Names are the bare encoder's, whether the file was saved from it or from a model around it; what lies beside the encoder
(a pooler, a head) keeps its own. The caller has checked the files' digest (`checked_base`).
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from privet.common.adapter import Floats
from privet.common.architecture import Architecture, read_architecture
from privet.common.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

_FILE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_FORMATS = {"F32": "<f4", "F16": "<f2", "F64": "<f8", "BF16": "<u2"}


@dataclass(frozen=True)
class Stored:
    """One array of a file: its bytes are [start, end)."""

    path: Path
    format: str
    shape: tuple[int, ...]
    start: int
    end: int


class BaseWeights(Mapping[str, Floats]):
    """Every array of the plain encoder by name, float32; a float32 file is mapped, read when it is looked at.

    The arrays may be written to: that copies the page and never reaches the file.
    Raises: ModelError where the files cannot be read, an array lacks, or has another shape than config.json says.
    """

    def __init__(self, folder: Path) -> None:
        self.architecture = read_architecture(folder)
        if self.architecture.unusual:
            raise ModelError(
                f"config.json: {self.architecture.unusual[0]} makes it another model than the plain encoder.",
                where=str(folder),
                mend="use a plain encoder.",
            )
        stored = stored_arrays(folder)
        check_encoder(self.architecture, stored, folder)
        self._mapped: dict[Path, NDArray[np.uint8]] = {}
        self._stored = {name: stored[name] for name in self.architecture.encoder_shapes()}
        for name, each in self._stored.items():
            if each.format not in _FORMATS:
                raise ModelError(
                    f"{name} is of type {each.format[:8]}.", where=str(each.path), mend="use a plain encoder."
                )

    def __getitem__(self, name: str) -> Floats:
        stored = self._stored[name]
        if stored.path not in self._mapped:
            self._mapped[stored.path] = np.memmap(stored.path, np.uint8, mode="c")
        return _decode(self._mapped[stored.path][stored.start : stored.end], stored)

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)

    def tensor(self, name: str) -> "Tensor":
        """The same array for torch, on the same memory."""
        import torch

        return torch.from_numpy(self[name])


def check_encoder(architecture: Architecture, stored: Mapping[str, Stored], folder: Path) -> None:
    """Every array of the bare encoder is there in the shape that config.json says.

    Raises: ModelError.
    """
    for name, shape in architecture.encoder_shapes().items():
        if name not in stored:
            raise ModelError(f"the weights lack {name}.", where=str(folder), mend="copy the model again.")
        if stored[name].shape != shape:
            raise other_shape(folder)


def other_shape(folder: Path) -> ModelError:
    return ModelError("a weight has another shape than config.json says.", where=str(folder), mend="copy it again.")


def stored_arrays(folder: Path) -> dict[str, Stored]:
    """What the files that the library would load hold, by the bare encoder's names.

    Raises: ModelError.
    """
    prefix = read_architecture(folder).prefix
    found: dict[str, Stored] = {}
    for path in _files(folder):
        for key, each in _header(path).items():
            name = key.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
            name = name.removeprefix(prefix)
            if name in found:
                raise ModelError(f"the weights hold {name} twice.", where=str(folder), mend="copy the model again.")
            found[name] = each
    return found


def _files(folder: Path) -> list[Path]:
    """One file, or the shards of an index: files of this folder, whose digest is the base's."""
    if (folder / _FILE).is_file():
        return [folder / _FILE]
    try:
        names = set(json.loads((folder / _INDEX).read_text(encoding="utf-8"))["weight_map"].values())
        if not names or not all(name == Path(name).name and name.endswith(".safetensors") for name in names):
            raise ValueError("no plain name of a file")
    except FileNotFoundError:
        raise ModelError(f"no {_FILE}.", where=str(folder), mend="copy the model again.") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(
            f"it cannot be read ({type(error).__name__}).", where=str(folder / _INDEX), mend="copy the model again."
        ) from None
    return [folder / name for name in sorted(names)]


def _header(path: Path) -> dict[str, Stored]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy"):  # its checks: sizes, offsets, no holes, nothing beyond the end
            pass
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            document: dict[str, Any] = json.loads(file.read(size))
        document.pop("__metadata__", None)
        return {
            name: Stored(
                path,
                str(each["dtype"]),
                tuple(each["shape"]),
                8 + size + each["data_offsets"][0],
                8 + size + each["data_offsets"][1],
            )
            for name, each in document.items()
        }
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"the weights cannot be loaded ({type(error).__name__}).", where=str(path), mend="copy the model again."
        ) from None


def _decode(raw: NDArray[np.uint8], stored: Stored) -> Floats:
    values = raw.view(_FORMATS[stored.format]).reshape(stored.shape)
    if stored.format == "BF16":  # the upper half of a float32
        return (values.astype(np.uint32) << np.uint32(16)).view(np.float32)
    if values.dtype != np.float32 or not values.flags.aligned:
        return np.array(values, np.float32)
    return np.asarray(values)
