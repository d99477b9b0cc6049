"""Where randomness comes from, and the one function that puts noise on a sum.

`SecureNoise` draws from the operating system and cannot be seeded; `SeededNoise` is for simulations and tests, and says
so: `reproducible` is True, and no site agent takes it. Both turn 64-bit words into masks and choices by the same code,
and keep a stream for each, so that what one draws (the choices depend on records) never shifts another.

Guarded against: forks that would share a key; seeds that would repeat the noise of another round; reading a sum off the
low bits of its noised value. For the last, each secure normal is the sum of four (Holohan and Braghin 2021) and results
lie on a public grid: mitigations, not proofs, for floating-point noise is not the accountant's exact Gaussian.
"""

import hashlib
import json
import math
import os
import threading
import weakref
from abc import ABC, abstractmethod
from enum import IntEnum
from typing import Any, Final, Protocol, final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from privet.common.errors import PrivetError

Words = NDArray[np.uint64]
Floats = NDArray[np.float64]

_GRID_BITS = 10  # a released sum is rounded to 2^-10 of its noise, or finer
_ROWS = 4096  # of words turned into normals at a time: stays in the processor's cache


class NoiseSource(Protocol):
    """Randomness for one training: Poisson masks, choices of records, normals."""

    @property
    def reproducible(self) -> bool:
        """Whether another could draw the same; if so, nothing it noised is private."""

    def mask(self, n: int, rate: float) -> NDArray[np.bool_]:
        """bool[n], each True with probability `rate`, independently."""

    def choose(self, n: int, k: int) -> NDArray[np.int64]:
        """int64[min(n, k)], distinct indices below n in ascending order, every subset equally likely."""

    def normal(self, n: int) -> Floats:
        """float64[n], independent standard normals."""

    def uniform(self, n: int) -> Floats:
        """float64[n], independent, in [0, 1): for what is rounded at random after the noise."""


class _Stream(IntEnum):
    MASKS = 0
    CHOICES = 1
    NORMALS = 2
    ROUNDING = 3


class _Draws(ABC):
    """Masks, choices and normals from streams of uniform 64-bit words."""

    __slots__ = ()

    @abstractmethod
    def _words(self, stream: _Stream, n: int) -> Words:
        """The next uint64[n] of a stream."""

    def mask(self, n: int, rate: float) -> NDArray[np.bool_]:
        """bool[n], each True with probability `rate`, which is rounded up to a multiple of 2^-53.

        Raises ValueError unless 0 <= rate <= 1.
        """
        if not 0 <= rate <= 1:
            raise ValueError(f"Expected 0 <= rate <= 1, got {rate!r}.")
        return (self._words(_Stream.MASKS, n) >> np.uint64(11)) * 2.0**-53 < rate

    def choose(self, n: int, k: int) -> NDArray[np.int64]:
        """int64[min(n, k)], distinct, ascending: the k smallest of n words. Everything, and no draw, where k >= n."""
        if n < 0 or k < 0:
            raise ValueError(f"Expected n >= 0 and k >= 0, got {n!r} and {k!r}.")
        if k >= n or k == 0:
            return np.arange(min(n, k), dtype=np.int64)
        return np.sort(np.argpartition(self._words(_Stream.CHOICES, n), k - 1)[:k]).astype(np.int64, copy=False)

    def normal(self, n: int) -> Floats:
        """float64[n], standard normals, each (z1 + z2 + z3 + z4) / 2 of four Box-Muller pairs.

        Eight words make two results: the halved sums of four cosine parts and of four sine parts.
        """
        out = np.empty((n + 1) // 2 * 2)
        for start in range(0, len(out), 2 * _ROWS):
            part = out[start : start + 2 * _ROWS].reshape(-1, 2)
            words = self._words(_Stream.NORMALS, 4 * part.size).reshape(8, -1)
            words >>= np.uint64(11)
            uniform = words.astype(np.float64)
            uniform[:4] += 1.0  # 1 .. 2^53: the logarithm never sees 0
            uniform *= 2.0**-53
            radius, angle = uniform[:4], uniform[4:]
            np.log(radius, out=radius)
            radius *= -2.0
            np.sqrt(radius, out=radius)
            angle *= 2.0 * math.pi
            np.sum(radius * np.cos(angle), axis=0, out=part[:, 0])
            np.sum(radius * np.sin(angle), axis=0, out=part[:, 1])
        out *= 0.5
        return out[:n]

    def uniform(self, n: int) -> Floats:
        """float64[n] in [0, 1), multiples of 2^-53."""
        uniform = (self._words(_Stream.ROUNDING, n) >> np.uint64(11)).astype(np.float64)
        uniform *= 2.0**-53
        return uniform


@final
class SecureNoise(_Draws):
    """AES-256 in counter mode under keys from the operating system, one for each stream; new keys in a forked child.

    Takes no argument, cannot be copied, pickled or subclassed; may be shared by threads.
    """

    __slots__ = ("__weakref__", "_ciphers", "_lock", "_pid")

    reproducible: Final = False

    def __init__(self) -> None:
        self._rekey()
        _LIVE.add(self)

    def __init_subclass__(cls) -> None:
        raise TypeError("SecureNoise is final: a subclass could replace its source of randomness.")

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError("SecureNoise cannot be copied or pickled: the copy would draw the same noise.")

    def _rekey(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()  # also after a fork, where another thread may have held the old one
        self._ciphers = tuple(
            Cipher(algorithms.AES256(os.urandom(32)), modes.CTR(bytes(16))).encryptor() for _ in _Stream
        )

    def _words(self, stream: _Stream, n: int) -> Words:
        if self._pid != os.getpid():  # a fork that told Python nothing
            self._rekey()
        with self._lock:
            keystream = bytearray(self._ciphers[stream].update(bytes(8 * n)))
        return np.frombuffer(keystream, dtype="<u8")


_LIVE: "weakref.WeakSet[SecureNoise]" = weakref.WeakSet()


def _rekey_all() -> None:
    for source in list(_LIVE):
        source._rekey()


os.register_at_fork(after_in_child=_rekey_all)


class SeededNoise(_Draws):
    """numpy's Philox under keys from the SHA-256 of `words`, whose order and type matter. For simulations and tests.

    Equal words give equal draws on every machine, normals under the same numpy: they are numpy's own (a ziggurat), ten
    times faster than sums of four. What the four guard against, reading a sum off its noised value, is no matter
    where the noise can be drawn again.
    Raises TypeError where a word is neither an int nor a str.
    """

    __slots__ = ("_generators", "_normals")

    reproducible: Final = True

    def __init__(self, *words: int | str) -> None:
        for word in words:
            if isinstance(word, bool) or not isinstance(word, int | str):
                raise TypeError(f"Expected words of type int or str, got {type(word).__name__}.")
        named = json.dumps(["privet noise", *words])
        self._generators = tuple(
            np.random.Philox(key=int.from_bytes(hashlib.sha256(f"{stream.name} {named}".encode()).digest()[:16]))
            for stream in _Stream
        )
        self._normals = np.random.Generator(self._generators[_Stream.NORMALS])

    def _words(self, stream: _Stream, n: int) -> Words:
        return self._generators[stream].random_raw(n)

    def normal(self, n: int) -> Floats:
        """float64[n], independent standard normals."""
        return self._normals.standard_normal(n)


def privatise(
    total: Floats, *, noise_multiplier: float, max_grad_norm: float, expected_batch: float, noise: NoiseSource
) -> NDArray[np.float32]:
    """The noised mean gradient float32[P] of a sum float64[P] of unit gradients clipped to `max_grad_norm`.

    (total + N(0, sigma^2 C^2)) / B: added in float64, rounded to the public grid (a power of two, at most 2^-10
    sigma C), then divided by the expected batch, a public constant. Abadi et al. 2016, algorithm 1.
    With sigma 0 there is neither noise nor rounding, and only a reproducible source is taken.
    Raises PrivetError where sigma is 0 with another source, where a bound is not a positive finite number, or where the
    sum is not finite (the clip lets no such unit through).
    """
    for name, value in (("max_grad_norm", max_grad_norm), ("expected_batch", expected_batch)):
        if not 0 < value < math.inf:
            raise PrivetError(f"Expected a finite {name} > 0.")
    if not 0 <= noise_multiplier < math.inf:
        raise PrivetError("Expected a finite noise_multiplier >= 0.")
    if total.dtype != np.float64 or total.ndim != 1:
        raise PrivetError("Expected the sum as a vector of float64.")
    if not np.isfinite(total).all():
        raise PrivetError("Expected a finite sum of clipped gradients.")
    if noise_multiplier == 0:
        if not noise.reproducible:
            raise PrivetError("A noise multiplier of 0 is for simulations only: nothing un-noised leaves a site.")
        return (total / expected_batch).astype(np.float32)
    scale = noise_multiplier * max_grad_norm
    if not 2.0**-126 <= scale < 2.0**128:
        raise PrivetError("Expected noise_multiplier times max_grad_norm within the normal range of float32.")
    grid = 2.0 ** (math.floor(math.log2(scale)) - _GRID_BITS)
    released = np.rint((total + scale * noise.normal(total.size)) / grid) * grid
    return (released / expected_batch).astype(np.float32)
