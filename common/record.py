"""The passage of a text and named arrays through Flower's RecordDict; strict on the way in.

On the wire a message is one RecordDict with at most two records. `privet` is a ConfigRecord with the key `body` (the
text) and, where arrays come with it, `arrays`: their names and shapes, as canonical JSON sorted by name. `arrays` is an
ArrayRecord of one flat array, `flat`, that holds their values one after the other in that order, raw little-endian
float32: Flower passes each object in a call of its own, so many small arrays would cost a call or two each. Where the
plan says how updates are compressed, the bytes of `flat` are those of common/compression.py instead, and its `stype`
names the way.

Nothing is ever unpickled, and nothing is copied before all sizes agree.

>>> import numpy as np
>>> record = carry("hello", {"b": np.zeros(2, np.float32), "a": np.ones((1, 2), np.float32)})
>>> record["privet"]["arrays"]
'[["a",[1,2]],["b",[2]]]'
>>> unpack_arrays(read(record, max_text=10, max_values=4))["a"]
array([[1., 1.]], dtype=float32)
"""

import json
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from privet.common.adapter import Arrays, Floats
from privet.common.compression import Coded, Compression, Shapes, coded_bytes, decode
from privet.common.errors import WireError

MAX_VALUES = 1 << 26
"""Most values of all arrays of a message together: 256 MiB of float32."""
_MAX_ARRAYS = 4096
_MAX_LISTING = 1 << 20  # characters
_MAX_NAME = 300  # characters
_MAX_AXES = 8
_STYPES: dict[Compression, str] = {
    "none": "privet.float32.le",
    "fp16": "privet.fp16.blocks.le",
    "int8": "privet.int8.blocks.le",
}
_FLAT = "flat"


@dataclass(frozen=True)
class Carried:
    """A sound message: its text, the layout of its arrays, and their bytes, which nothing has copied yet."""

    text: str
    shapes: Shapes = ()
    data: bytes = b""
    compression: Compression = "none"

    @property
    def coded(self) -> Coded | None:
        """The arrays where they are compressed."""
        return None if self.compression == "none" else Coded(self.compression, self.shapes, self.data)


def carry(text: str, arrays: Arrays) -> RecordDict:
    """A text and named arrays as Flower's record."""
    if not arrays:
        return RecordDict({"privet": ConfigRecord({"body": text})})
    shapes = tuple((name, tuple(arrays[name].shape)) for name in sorted(arrays))
    data = b"".join(np.asarray(arrays[name], dtype="<f4", order="C").tobytes() for name, _ in shapes)
    return _carry(text, shapes, data)


def carry_flat(text: str, shapes: Shapes, flat: Floats) -> RecordDict:
    """As `carry`, of arrays that lie one after the other in `flat` [P], by name."""
    return _carry(text, shapes, np.asarray(flat, dtype="<f4", order="C").tobytes())


def carry_coded(text: str, coded: Coded) -> RecordDict:
    """A text and compressed arrays."""
    return _carry(text, coded.shapes, coded.data, coded.kind)


def _carry(text: str, shapes: Shapes, data: bytes, compression: Compression = "none") -> RecordDict:
    dtype, length = ("float32", len(data) // 4) if compression == "none" else ("uint8", len(data))
    flat = Array(dtype=dtype, shape=(length,), stype=_STYPES[compression], data=data)
    return RecordDict(
        {
            "privet": ConfigRecord({"body": text, "arrays": listing_of(shapes)}),
            "arrays": ArrayRecord({_FLAT: flat}),
        }
    )


def read(record: RecordDict, *, max_text: int, max_values: int, compression: Compression = "none") -> Carried:
    """What a record carries, checked whole and copied nowhere.

    max_text: most characters of the text. max_values: most values of all arrays together. compression: the one way in
    which arrays may come.
    Raises: WireError, whose text holds nothing that arrived.
    """
    if type(record) is not RecordDict or not set(record) <= {"privet", "arrays"}:
        raise WireError("The message holds an unknown record.")
    config, carried = record.get("privet"), record.get("arrays")
    keys = {"body"} if carried is None else {"body", "arrays"}
    if type(config) is not ConfigRecord or set(config) != keys or any(type(config[key]) is not str for key in keys):
        raise WireError("The message has no body, or no listing of its arrays.")
    text = config["body"]
    if len(text) > max_text:
        raise WireError("The message's body is too long.")
    if carried is None:
        return Carried(text)
    shapes = shapes_of(config["arrays"])
    count = sum(math.prod(shape) for _, shape in shapes)
    if count > max_values:
        raise WireError(f"The message's arrays hold more than {max_values:,} values.")
    if type(carried) is not ArrayRecord or set(carried) != {_FLAT}:
        raise WireError("The message's arrays are not one flat array.")
    return Carried(text, shapes, _data(carried[_FLAT], count, compression), compression)


def unpack_arrays(carried: Carried) -> dict[str, Floats]:
    """Arrays of this process's own, that can be written to: parts of one copy.

    Raises: WireError where they are compressed and out of their range.
    """
    if (coded := carried.coded) is not None:
        return decode(coded)
    values = np.frombuffer(carried.data, dtype="<f4").astype(np.float32)
    arrays: dict[str, Floats] = {}
    start = 0
    for name, shape in carried.shapes:
        end = start + math.prod(shape)
        arrays[name] = values[start:end].reshape(shape)
        start = end
    return arrays


def carried_bytes(num_values: int, max_text: int) -> int:
    """Most memory that a sound message of so many values and characters may take as Flower inflates it.

    The values count twice, in their objects and in the array joined from them; text and listing are UTF-8.
    """
    return 2 * 4 * num_values + 4 * max_text + _MAX_LISTING + (1 << 20)


def listing_of(shapes: Shapes) -> str:
    """Names and shapes as canonical JSON."""
    return json.dumps([[name, list(shape)] for name, shape in shapes], separators=(",", ":"))


@lru_cache(maxsize=8)
def shapes_of(listing: str) -> Shapes:
    """Names and shapes of a canonical listing: bounded, sorted, unique, and written in the one way.

    Raises: WireError.
    """
    brackets = max(listing.count("["), listing.count("{"))  # each costs the parser far more than a character
    if len(listing) > _MAX_LISTING or brackets > 2 * _MAX_ARRAYS + 1:
        raise WireError("The message's listing of arrays is too long.")
    try:
        rows = json.loads(listing)
        shapes = tuple((_name(name), _shape(shape)) for name, shape in rows)
        canonical = listing_of(shapes) == listing
    except (ValueError, TypeError, RecursionError):
        raise WireError("The message's listing of arrays is not of the known form.") from None
    names = [name for name, _ in shapes]
    if not canonical or not names or names != sorted(set(names)):
        raise WireError("The message's listing of arrays is not the canonical one.")
    return shapes


def _name(name: object) -> str:
    if type(name) is not str or len(name) > _MAX_NAME:
        raise ValueError("Expected a name.")
    name.encode()  # UnicodeEncodeError, a ValueError: half a surrogate pair is no text
    return name


def _shape(shape: object) -> tuple[int, ...]:
    if type(shape) is not list or len(shape) > _MAX_AXES:
        raise ValueError("Expected a shape.")
    if not all(type(n) is int and 0 < n <= MAX_VALUES for n in shape):
        raise ValueError("Expected lengths.")
    return tuple(shape)


def _data(array: Any, count: int, compression: Compression) -> bytes:
    """The bytes of the flat array. Raises: WireError where it is not sound, or not of `count` values so compressed."""
    if type(array) is not Array or type(array.shape) is not tuple or type(array.data) is not bytes:
        raise WireError("The message's flat array is not of Flower's plain kind.")
    dtype, length = ("float32", count) if compression == "none" else ("uint8", coded_bytes(compression, count))
    if array.stype != _STYPES[compression] or array.dtype != dtype:
        raise WireError(f"The message's flat array is not raw {dtype} of the agreed form.")
    if (
        array.shape != (length,)
        or type(array.shape[0]) is not int
        or len(array.data) != coded_bytes(compression, count)
    ):
        raise WireError("The message's flat array does not fill the listed shapes.")
    data: bytes = array.data
    return data
