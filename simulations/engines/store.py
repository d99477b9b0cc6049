"""The data of all virtual sites: tokenised once, in arrays that every worker reads and nobody copies.

Records are numbered as in the data's files, those of the public test file after them; windows (what the model reads of
a record) in the records' order. A site is a run of entries in its `Part`: which records, and to which of the site's
units each belongs. So a site costs a row in a few arrays and no Python object.

    ids [T] int32                 token ids, special tokens included, of all windows one after the other, no padding
    window_start [W + 1] int64    where each window's ids begin
    record_start [R + 1] int64    where each record's windows begin
    labels [R] or [R, L]          targets (`common.tasks.targets`), or UNKNOWN; the truth for public records
    words [T] int32               of the ids, which word of its record a piece stands for, or NO_WORD; and
    tags, tag_start               of all words, record by record (`common.tagged.TagTable`); None where records are
                                  labelled as a whole
    train, validation             `Part`s; `public_start`: the number of the first public record
    names [N] bytes               of the sites (ASCII): what seeds their noise
    features [W, d] float32       of every window, raw, where the last layer alone is trained; or [T, d], what the first
                                  layer with LoRA reads of every token; None until computed

In a worker they are read-only views of one file without a name, which is gone with the last process that holds it.
"""

import mmap
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privet.common.adapter import Floats
from privet.common.tasks.targets import Targets

_ALIGNMENT = 64  # bytes
_OF_TAGS = ("words", "tags", "tag_start")
Layout = Mapping[str, tuple[str, tuple[int, ...], int]]  # dtype, shape and offset of each array
Anything = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Part:
    """The records that sites train on, or those that they measure on. Site i has the entries start[i] to start[i + 1].

    rows: record numbers, ascending within a site; units: dense within the site and part; num_units: [N], of each site.
    """

    rows: NDArray[np.int32]
    units: NDArray[np.int32]
    start: NDArray[np.int64]
    num_units: NDArray[np.int32]

    def of(self, site: int) -> tuple[NDArray[np.int32], NDArray[np.int32], int]:
        """A site's records, their units, and how many units it has: views."""
        entries = slice(int(self.start[site]), int(self.start[site + 1]))
        return self.rows[entries], self.units[entries], int(self.num_units[site])


@dataclass(eq=False)
class Store:
    """See the module. pad: the token id that fills a row up."""

    ids: NDArray[np.int32]
    window_start: NDArray[np.int64]
    record_start: NDArray[np.int64]
    labels: Targets
    train: Part
    validation: Part
    names: NDArray[np.bytes_]
    public_start: int
    pad: int
    features: Floats | None = field(default=None)
    words: NDArray[np.int32] | None = None
    tags: NDArray[np.int16] | None = None
    tag_start: NDArray[np.int64] | None = None

    @property
    def num_sites(self) -> int:
        return len(self.names)

    @property
    def num_windows(self) -> int:
        return len(self.window_start) - 1

    @property
    def num_public(self) -> int:
        return len(self.labels) - self.public_start

    def name(self, site: int) -> str:
        return bytes(self.names[site]).decode("ascii")

    def arrays(self) -> dict[str, Anything]:
        """All of it by name, for `from_arrays`; without features."""
        found: dict[str, Anything] = {
            "ids": self.ids,
            "window_start": self.window_start,
            "record_start": self.record_start,
            "labels": self.labels,
            "names": self.names,
            "scalars": np.array([self.public_start, self.pad], np.int64),
        }
        found |= {name: getattr(self, name) for name in _OF_TAGS if getattr(self, name) is not None}
        for kind, part in (("train", self.train), ("validation", self.validation)):
            found |= {f"{kind}.{name}": array for name, array in vars(part).items()}
        return found

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Anything]) -> "Store":
        """What `arrays` gave."""

        def part(kind: str) -> Part:
            return Part(**{name: arrays[f"{kind}.{name}"] for name in ("rows", "units", "start", "num_units")})

        public_start, pad = arrays["scalars"].tolist()
        return cls(
            ids=arrays["ids"],
            window_start=arrays["window_start"],
            record_start=arrays["record_start"],
            labels=arrays["labels"],
            train=part("train"),
            validation=part("validation"),
            names=arrays["names"],
            public_start=public_start,
            pad=pad,
            **{name: arrays.get(name) for name in _OF_TAGS},
        )


class SharedFile:
    """A file without a name, in memory where the system can: the text of a simulation stays on no disk.

    fd: for child processes to inherit; only the parent writes.
    """

    def __init__(self) -> None:
        if hasattr(os, "memfd_create"):
            self.fd = os.memfd_create("privet", os.MFD_CLOEXEC)
        else:
            with tempfile.TemporaryFile(prefix="privet-") as file:
                self.fd = os.dup(file.fileno())
        self._size = 0

    def append(self, arrays: Mapping[str, Anything]) -> Layout:
        """Write arrays at the end; where each lies."""
        layout: dict[str, tuple[str, tuple[int, ...], int]] = {}
        for name, array in arrays.items():
            self._size += -self._size % _ALIGNMENT
            whole = np.ascontiguousarray(array)
            layout[name] = (whole.dtype.str, whole.shape, self._size)
            left: memoryview = whole.reshape(-1).view(np.uint8).data
            while left:
                written = os.pwrite(self.fd, left, self._size)
                self._size, left = self._size + written, left[written:]
        os.ftruncate(self.fd, self._size)
        return layout

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1


def mapped(fd: int, layout: Layout) -> dict[str, Anything]:
    """Read-only views of what `SharedFile.append` wrote; the mapping lives as long as one of them."""
    size = os.fstat(fd).st_size
    memory = mmap.mmap(fd, size, access=mmap.ACCESS_READ) if size else b""
    arrays: dict[str, Anything] = {}
    for name, (dtype, shape, offset) in layout.items():
        count = int(np.prod(shape, dtype=np.int64))
        if count:
            arrays[name] = np.frombuffer(memory, dtype, count, offset).reshape(shape)
        else:
            arrays[name] = np.zeros(shape, dtype)
    return arrays
