"""What is computed in, by what is asked for and what there is."""

from collections.abc import Iterator

import pytest
import torch

from privet.common import precision
from privet.common.errors import ConfigError
from privet.common.precision import bfloat16_hardware, usable_device, usable_precision


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    bfloat16_hardware.cache_clear()
    yield
    bfloat16_hardware.cache_clear()


@pytest.mark.parametrize(
    ("amx", "avx", "found"),
    [(True, True, "AMX"), (False, True, "AVX-512 BF16"), (False, False, None), (True, False, "AMX")],
)
def test_the_processors_units(monkeypatch: pytest.MonkeyPatch, amx: bool, avx: bool, found: str | None) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx)
    assert bfloat16_hardware() == found
    for asked in ("auto", "bfloat16"):
        given, words = usable_precision(asked)
        assert given == ("bfloat16" if found else "float32")
        assert (found or "no bfloat16 hardware") in words
    assert usable_precision("float32") == ("float32", "float32")
    assert ("asks for" in usable_precision("bfloat16")[1]) == (found is None)


def test_a_torch_that_does_not_tell_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.delattr(torch.cpu, name)
    assert bfloat16_hardware() is None


@pytest.mark.parametrize(
    ("there", "capability", "found"), [(True, (9, 0), "CUDA"), (True, (7, 5), None), (False, (0, 0), None)]
)
def test_a_gpu(monkeypatch: pytest.MonkeyPatch, there: bool, capability: tuple[int, int], found: str | None) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert bfloat16_hardware("cuda") == found
    assert usable_device("cpu") == "cpu"
    assert usable_device("auto") == ("cuda" if there else "cpu")
    if there:
        assert usable_device("cuda") == "cuda"
    else:
        with pytest.raises(ConfigError, match="no CUDA device"):
            usable_device("cuda")


def test_asking_for_float32_looks_at_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "bfloat16_hardware", lambda *_: pytest.fail("looked"))
    assert usable_precision("float32")[0] == "float32"
