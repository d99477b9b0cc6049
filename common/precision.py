"""In which precision the frozen base is computed, and on which device: what a file asks for, and what there is.

Only the base's frozen linear layers ever run in bfloat16 (`privet.common.frozen`). All that is trained, and clip, sum
and noise, stay in float32 and float64 whatever is said here.
"""

from functools import cache
from typing import Literal

from privet.common.errors import ConfigError

Precision = Literal["float32", "bfloat16"]
AskedPrecision = Literal["float32", "bfloat16", "auto"]
Device = Literal["cpu", "cuda"]
AskedDevice = Literal["cpu", "cuda", "auto"]


@cache
def bfloat16_hardware(device: Device = "cpu") -> str | None:
    """What multiplies matrices in bfloat16 here: "AMX", "AVX-512 BF16", "CUDA"; None where it would be emulated."""
    import torch

    if device == "cuda":  # tensor cores have it from compute capability 8.0 on
        there = torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0)
        return "CUDA" if there else None
    for name, words in (("_is_amx_tile_supported", "AMX"), ("_is_avx512_bf16_supported", "AVX-512 BF16")):
        probe = getattr(torch.cpu, name, None)  # no part of torch's public interface, and not in every release
        if probe is not None and probe():
            return words
    return None


def usable_precision(asked: AskedPrecision, device: Device = "cpu") -> tuple[Precision, str]:
    """The precision to compute in, and why, in words for people.

    "bfloat16" without hardware for it falls back to float32: emulated, it would be slower and gain nothing.
    """
    if asked == "float32":
        return "float32", "float32"
    found = bfloat16_hardware(device)
    if found is not None:
        return "bfloat16", f"bfloat16 for the frozen base ({found}), float32 for all that is trained"
    return "float32", "float32: this machine has no bfloat16 hardware" + (
        ', which precision = "bfloat16" asks for' if asked == "bfloat16" else ""
    )


def usable_device(asked: AskedDevice) -> Device:
    """Raises: ConfigError where "cuda" is asked for and there is none."""
    if asked == "cpu":
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if asked == "auto":
        return "cpu"
    raise ConfigError("torch finds no CUDA device.", where="device", mend='set device = "cpu", or "auto".')
