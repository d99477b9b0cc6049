import copy
import math
import os
import pickle
import signal
import threading
import time
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from privet.common.errors import PrivetError
from privet.common.privacy import NoiseSource, SecureNoise, SeededNoise, noise, privatise

IMPOSSIBLE = 1e-9  # a p-value that chance does not give: these tests draw fresh randomness


def sources() -> list[NoiseSource]:
    return [SecureNoise(), SeededNoise("a source", 1)]


def drawn(source: NoiseSource) -> list[bytes]:
    return [source.mask(256, 0.5).tobytes(), source.choose(1000, 20).tobytes(), source.normal(64).tobytes()]


@pytest.mark.parametrize("source", sources())
def test_normals_pass_for_one_and_for_nothing_else(source: NoiseSource) -> None:
    z = source.normal(40_001)
    assert z.dtype == np.float64
    assert z.shape == (40_001,)
    assert np.isfinite(z).all()
    assert stats.kstest(z, stats.norm.cdf).pvalue > IMPOSSIBLE
    for wrong in (2 / 3, 3 / 2, 0.9, 1.1):
        assert stats.kstest(z, stats.norm(scale=wrong).cdf).pvalue < IMPOSSIBLE
    for lag in (1, 2, 3, 4, 8):  # results that share words share no value
        for a, b in ((z[:-lag], z[lag:]), (z[:-lag] ** 2, z[lag:] ** 2)):
            assert abs(np.corrcoef(a, b)[0, 1]) < 7 / math.sqrt(len(z))


@pytest.mark.parametrize("source", sources())
@pytest.mark.parametrize("n", [0, 1, 2, 3, 8191, 8192, 8193])
def test_any_number_of_normals(source: NoiseSource, n: int) -> None:
    z = source.normal(n)
    assert z.shape == (n,)
    assert len(np.unique(z)) == n


def test_each_normal_halves_the_sum_of_four_pairs() -> None:
    words = np.random.Generator(np.random.Philox(1)).integers(0, 2**64, 8, dtype=np.uint64)

    class Fixed(noise._Draws):
        def _words(self, stream: Any, n: int) -> Any:
            return words[:n].copy()

    uniform = [(int(word) >> 11) / 2**53 for word in words]
    radius = [math.sqrt(-2 * math.log(u + 2**-53)) for u in uniform[:4]]
    angle = [2 * math.pi * u for u in uniform[4:]]
    expected = [sum(r * f(a) for r, a in zip(radius, angle, strict=True)) / 2 for f in (math.cos, math.sin)]
    assert Fixed().normal(2) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("word", [0, 2**64 - 1, 1, 2**11 - 1, 2**11])
def test_no_word_makes_an_infinity(word: int) -> None:
    class Constant(noise._Draws):
        def _words(self, stream: Any, n: int) -> Any:
            return np.full(n, word, np.uint64)

    assert np.isfinite(Constant().normal(4)).all()
    assert np.abs(Constant().normal(4)).max() <= 2 * math.sqrt(106 * math.log(2)) + 1e-9
    assert Constant().mask(3, 1.0).all()
    assert not Constant().mask(3, 0.0).any()


@pytest.mark.parametrize("source", sources())
@pytest.mark.parametrize("rate", [0.003, 0.1, 0.5, 0.9])
def test_masks_have_their_rate(source: NoiseSource, rate: float) -> None:
    n = 200_000
    mask = source.mask(n, rate)
    assert mask.dtype == np.bool_
    assert mask.shape == (n,)
    assert abs(int(mask.sum()) - n * rate) < 6.5 * math.sqrt(n * rate * (1 - rate))
    both = (mask[1:] & mask[:-1]).mean()
    assert abs(both - rate**2) < 7 * rate / math.sqrt(n)


@pytest.mark.parametrize("source", sources())
def test_masks_at_the_ends(source: NoiseSource) -> None:
    assert source.mask(10_000, 1.0).all()
    assert not source.mask(10_000, 0.0).any()
    assert source.mask(0, 0.5).shape == (0,)
    for bad in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="rate"):
            source.mask(3, bad)


@pytest.mark.parametrize("source", sources())
def test_choices_are_uniform_over_subsets(source: NoiseSource) -> None:
    counts = Counter(tuple(source.choose(5, 2).tolist()) for _ in range(10_000))
    assert len(counts) == math.comb(5, 2)
    assert all(a < b < 5 for a, b in counts)
    assert stats.chisquare(list(counts.values())).pvalue > IMPOSSIBLE


@settings(max_examples=50)
@given(n=st.integers(0, 300), k=st.integers(0, 300))
def test_choices_are_distinct_and_in_range(n: int, k: int) -> None:
    for source in sources():
        chosen = source.choose(n, k)
        assert chosen.dtype == np.int64
        assert chosen.shape == (min(n, k),)
        assert chosen.tolist() == sorted(set(chosen.tolist()) & set(range(n)))


@pytest.mark.parametrize("make", [SecureNoise, lambda: SeededNoise(3)])
def test_the_streams_do_not_shift_each_other(make: Any) -> None:
    source = make()
    assert len({source._words(stream, 4).tobytes() for stream in noise._Stream}) == len(noise._Stream)
    alone, mixed = SeededNoise(3), SeededNoise(3)
    mixed.choose(50, 7)
    assert np.array_equal(alone.mask(30, 0.5), mixed.mask(30, 0.5))
    assert np.array_equal(alone.normal(30), mixed.normal(30))


def test_two_secure_sources_differ_and_each_goes_on() -> None:
    a, b = SecureNoise(), SecureNoise()
    for first, second in zip(drawn(a) + drawn(a), drawn(b) + drawn(b), strict=True):
        assert first != second
    assert all(first != second for first, second in zip(drawn(a), drawn(a), strict=True))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("hook", [True, False])
def test_a_forked_child_draws_from_new_keys(hook: bool) -> None:
    source = SecureNoise()
    source.normal(8)
    if not hook:  # as if the fork had told Python nothing: only the process id is left
        noise._LIVE.discard(source)
    read, write = os.pipe()
    with source._lock:  # held by another thread at the time of the fork
        child = os.fork()
        if child == 0:
            try:
                signal.alarm(20)
                if hook:  # the process id alone must not be what saves us here
                    source._pid = os.getpid()
                os.write(write, b"".join(drawn(source)))
            finally:
                os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        theirs = pipe.read()
    os.waitpid(child, 0)
    ours = drawn(source)
    assert len(theirs) == sum(map(len, ours))
    start = 0
    for part in ours:
        assert theirs[start : start + len(part)] != part
        start += len(part)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_two_children_of_one_parent_differ() -> None:
    source = SecureNoise()
    found = set()
    for _ in range(2):
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.write(write, source.normal(16).tobytes())
            finally:
                os._exit(0)
        os.close(write)
        with os.fdopen(read, "rb") as pipe:
            found.add(pipe.read())
        os.waitpid(child, 0)
    found.add(source.normal(16).tobytes())
    assert len(found) == 3
    assert {len(part) for part in found} == {128}


def test_threads_share_a_secure_source_without_repeats() -> None:
    source = SecureNoise()
    found: list[bytes] = []

    def draw() -> None:
        found.extend(source.normal(2).tobytes() for _ in range(200))

    threads = [threading.Thread(target=draw) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 800


def test_secure_noise_has_no_seed_and_no_copy() -> None:
    with pytest.raises(TypeError):
        SecureNoise(1)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="final"):
        type("Weak", (SecureNoise,), {})
    for copied in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="copied or pickled"):
            copied(SecureNoise())
    np.random.seed(0)
    first = SecureNoise().normal(4)
    np.random.seed(0)
    assert not np.array_equal(first, SecureNoise().normal(4))
    with pytest.raises(AttributeError):
        SecureNoise().reproducible = True  # type: ignore[misc]
    assert (SecureNoise.reproducible, SeededNoise.reproducible) == (False, True)


def test_seeded_noise_is_pinned() -> None:
    source = SeededNoise(7, "north")
    assert source.mask(12, 0.5).tolist() == [bool(int(bit)) for bit in "111110111101"]
    assert source.choose(20, 5).tolist() == [5, 6, 7, 9, 14]
    golden = [0.638809456936785, -1.5169621090292333, -0.6584408938216432, -0.4017235950231015, -0.25399514510002225]
    assert source.normal(5) == pytest.approx(golden, rel=1e-12)


def test_seeded_words_order_and_type_matter() -> None:
    keys: list[tuple[int | str, ...]] = [
        (),
        (1,),
        ("1",),
        (1, 2),
        (2, 1),
        (12,),
        ("1", "2"),
        ("1, 2",),
        (1, "a"),
        ("a", 1),
    ]
    assert len({SeededNoise(*key).normal(4).tobytes() for key in keys}) == len(keys)
    assert drawn(SeededNoise(1, "a")) == drawn(SeededNoise(1, "a"))
    for bad in (True, 1.0, b"a", None):
        with pytest.raises(TypeError, match="int or str"):
            SeededNoise(bad)  # type: ignore[arg-type]


def released(total: Any, source: NoiseSource, sigma: float = 1.7, norm: float = 0.3, batch: float = 8) -> Any:
    return privatise(total, noise_multiplier=sigma, max_grad_norm=norm, expected_batch=batch, noise=source)


@pytest.mark.parametrize("source", sources())
@pytest.mark.parametrize(("sigma", "norm", "batch"), [(1.7, 0.3, 8), (0.5, 1.0, 3), (20.0, 100.0, 512)])
def test_an_empty_sum_is_released_as_noise_of_the_stated_size(
    source: NoiseSource, sigma: float, norm: float, batch: int
) -> None:
    out = released(np.zeros(40_000), source, sigma, norm, batch)
    assert out.dtype == np.float32
    scale = sigma * norm / batch
    assert stats.kstest(out, stats.norm(scale=scale).cdf).pvalue > IMPOSSIBLE
    for wrong in (2 / 3, 3 / 2):
        assert stats.kstest(out, stats.norm(scale=wrong * scale).cdf).pvalue < IMPOSSIBLE


def test_the_noise_is_added_to_the_sum_and_rounded_to_the_public_grid() -> None:
    total = np.random.Generator(np.random.Philox(2)).normal(size=5000)
    for sigma, norm in ((1.7, 0.3), (1.0, 1.0), (0.77, 1e-3), (3.0, 1e3)):
        out = released(total, SeededNoise(5), sigma, norm, 8)  # a batch that is a power of two: the division is exact
        scale = sigma * norm
        grid = 2.0 ** (math.floor(math.log2(scale)) - 10)
        assert scale / 2048 < grid <= scale / 1024
        steps = out.astype(np.float64) * 8 / grid
        assert np.array_equal(steps, np.rint(steps))
        assert len(np.unique(steps)) > 500
        exact = total + scale * SeededNoise(5).normal(5000)
        assert np.abs(out * 8.0 - exact).max() <= grid / 2 + 1e-6 * np.abs(exact).max()


def test_a_sum_moves_the_release_by_itself_over_the_batch() -> None:
    out = released(np.full(40_000, 5.0), SecureNoise(), batch=10)
    assert out.mean() == pytest.approx(0.5, abs=7 * 1.7 * 0.3 / 10 / 200)


def test_without_noise_only_for_a_reproducible_source() -> None:
    total = np.array([1.0, 1 / 3, -2.0])
    assert np.array_equal(released(total, SeededNoise(1), sigma=0.0, batch=3), (total / 3).astype(np.float32))
    with pytest.raises(PrivetError, match="simulations only"):
        released(total, SecureNoise(), sigma=0.0)


@pytest.mark.parametrize(
    "bad",
    [
        {"sigma": -1.0},
        {"sigma": math.nan},
        {"sigma": math.inf},
        {"norm": 0.0},
        {"norm": math.nan},
        {"norm": 1e-40},
        {"norm": 1e40},
        {"batch": 0},
        {"batch": math.inf},
    ],
)
def test_bad_bounds_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(PrivetError, match="Expected"):
        released(np.zeros(3), SeededNoise(1), **bad)


@pytest.mark.parametrize(
    "total", [np.array([0.0, np.nan]), np.array([np.inf]), np.zeros(3, np.float32), np.zeros((2, 2)), np.zeros(2, int)]
)
def test_bad_sums_are_refused(total: Any) -> None:
    with pytest.raises(PrivetError, match="Expected"):
        released(total, SecureNoise())


def test_normals_are_quick() -> None:
    source = SecureNoise()
    source.normal(1000)
    began = time.process_time()
    for _ in range(3):
        source.normal(300_000)
    assert (time.process_time() - began) / 3 < 0.25  # about 0.03 on an idle core
