"""Initial weights derived from the plan, equal on every machine and library version.

Raw Philox 4x64 words (Salmon et al. 2011), keyed by seed and parameter name, become uniform values by our own
arithmetic: libraries' distributions drift between versions, raw words do not.
"""

import hashlib

import numpy as np

from privet.common.adapter import AdapterSpec, Entry, Floats, Role
from privet.common.config import Plan
from privet.common.errors import ConfigError


def uniform(entry: Entry, seed: int) -> Floats:
    """Uniform in ±1/√fan_in, float32 of the entry's shape; fan_in is the last axis.

    >>> uniform(Entry("a", (1, 4), Role.LORA_A), 0)
    array([[-0.29059488,  0.47327697,  0.34559566,  0.29048717]],
          dtype=float32)
    """
    material = hashlib.sha256(f"privet initial\0{seed}\0{entry.name}".encode()).digest()
    words = np.random.Philox(key=np.frombuffer(material[:16], dtype="<u8")).random_raw(entry.size)
    unit = (words >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1.0  # 53 bits in [-1, 1)
    bound = 1.0 / np.sqrt(entry.shape[-1])
    return np.asarray(unit * bound, dtype=np.float32).reshape(entry.shape)


def initial_adapter(spec: AdapterSpec, seed: int) -> dict[str, Floats]:
    """LoRA A and new layers below the last: uniform. LoRA B, the last layer and every bias: zero."""
    return {
        entry.name: uniform(entry, seed)
        if entry.role in (Role.LORA_A, Role.NEW) and len(entry.shape) > 1
        else np.zeros(entry.shape, np.float32)
        for entry in spec.entries
    }


def derived_adapter(plan: Plan, spec: AdapterSpec) -> dict[str, Floats]:
    """The adapter before the first round; its digest is in the first request. spec: the plan's.

    Raises: ConfigError for a plan that starts from a trained one: only the server that has it can begin.
    """
    if plan.method.init is not None:
        raise ConfigError(
            "the plan starts from a trained adapter, which only `privet server` reads.",
            where="method.init",
            mend="leave the key out here.",
        )
    return initial_adapter(spec, plan.method.seed)
