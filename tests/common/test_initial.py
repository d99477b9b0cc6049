"""Initial weights: derived from the plan, equal everywhere, and as random as they should be."""

import hashlib
import math
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from privet.common.adapter import AdapterSpec, Entry, Role, digest
from privet.common.initial import initial_adapter, uniform

SPEC = AdapterSpec(
    (
        Entry("layer.lora_A.weight", (8, 32), Role.LORA_A),
        Entry("layer.lora_B.weight", (32, 8), Role.LORA_B),
        Entry("pre_classifier.weight", (32, 32), Role.NEW),
        Entry("pre_classifier.bias", (32,), Role.NEW),
        Entry("head.weight", (3, 32), Role.HEAD),
        Entry("head.bias", (3,), Role.HEAD),
    )
)
GOLDEN = "b1e9a0877788df0b5376282167cf40d208270577edd9f131b6a04fc7ddc85b6d"


def test_golden_values() -> None:
    """To the last bit: a server and a site of another year compare digests of these."""
    values = uniform(Entry("layer.lora_A.weight", (2, 3), Role.LORA_A), 7)
    assert values.view(np.uint32).tolist() == [
        [3202975257, 3194658846, 1055042198],
        [3188984885, 1015686329, 1049824343],
    ]
    assert digest(initial_adapter(SPEC, 7)) == GOLDEN


def test_the_values_follow_from_the_documented_words() -> None:
    """Philox 4x64 under the first 16 bytes of a SHA-256; the upper 53 bits in [-1, 1)."""
    entry = Entry("layer.lora_A.weight", (2, 5), Role.LORA_A)
    key = hashlib.sha256(b"privet initial\x007\x00layer.lora_A.weight").digest()[:16]
    words = np.random.Philox(key=int.from_bytes(key, "little")).random_raw(10)
    expected = [(int(word) >> 11) / 2**52 - 1 for word in words]
    np.testing.assert_array_equal(uniform(entry, 7).ravel(), np.float32(np.array(expected) / math.sqrt(5)))


def test_equal_in_another_process() -> None:
    entries = [(entry.name, entry.shape, str(entry.role)) for entry in SPEC.entries]
    code = (
        "from privet.common.adapter import *; from privet.common.initial import *\n"
        "import numpy as np; np.random.seed(1)\n"
        f"spec = AdapterSpec(tuple(Entry(n, s, Role(r)) for n, s, r in {entries!r}))\n"
        "print(digest(initial_adapter(spec, 2**62 + 1)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert found == digest(initial_adapter(SPEC, 2**62 + 1))


@pytest.mark.parametrize("fan_in", [1, 4, 32, 768])
def test_uniform_within_one_over_the_root_of_fan_in(fan_in: int) -> None:
    values = uniform(Entry("a", (4096 // fan_in + 1, fan_in), Role.LORA_A), 3)
    bound = 1 / math.sqrt(fan_in)
    assert np.abs(values).max() <= np.float32(bound)
    scaled = values.ravel().astype(np.float64) / bound
    assert stats.kstest(scaled, "uniform", args=(-1, 2)).pvalue > 1e-3
    assert stats.kstest(scaled * 0.9, "uniform", args=(-1, 2)).pvalue < 1e-3
    assert values.dtype == np.float32
    assert values.flags.c_contiguous


def test_seeds_and_names_give_unrelated_values() -> None:
    shape = (64, 64)
    seen = [uniform(Entry(name, shape, Role.LORA_A), seed).ravel() for seed in (0, 1, 2**63 - 1) for name in "ab"]
    for i, one in enumerate(seen):
        for other in seen[:i]:
            assert abs(np.corrcoef(one, other)[0, 1]) < 0.1
    assert np.array_equal(seen[0], uniform(Entry("a", shape, Role.NEW), 0).ravel())  # neither role nor order matters


def test_a_seed_and_a_name_cannot_be_exchanged() -> None:
    one = uniform(Entry("2\x00a", (4, 4), Role.LORA_A), 1)
    other = uniform(Entry("a", (4, 4), Role.LORA_A), 12)
    assert not np.array_equal(one, other)


def test_what_starts_at_zero() -> None:
    arrays = initial_adapter(SPEC, 0)
    SPEC.check(arrays)
    moving = {name for name, array in arrays.items() if array.any()}
    assert moving == {"layer.lora_A.weight", "pre_classifier.weight"}
