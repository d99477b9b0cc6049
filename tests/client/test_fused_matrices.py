"""Frozen linear layers: laid out once, the numbers are those of the plain products, to the last bit in bfloat16."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from privet.client.fused.matrices import Matrix


@given(st.integers(1, 70), st.sampled_from([(128, 512), (512, 128), (384, 128), (48, 80)]), st.integers(0, 9))
def test_products_are_those_of_the_plain_matrix(tokens: int, shape: tuple[int, int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for dtype in (torch.float32, torch.bfloat16):
        weight, bias, x, g = (
            torch.randn(size, generator=generator).to(dtype)
            for size in (shape, shape[:1], (tokens, shape[1]), (tokens, shape[0]))
        )
        made = Matrix(weight, bias)
        assert made.shape == shape
        exact = functional.linear(x.double(), weight.double(), bias.double())
        back = g.double() @ weight.double()
        tolerance: Any = {"rtol": 2**-7, "atol": 0.05} if dtype is torch.bfloat16 else {"rtol": 1e-4, "atol": 1e-4}
        torch.testing.assert_close(made(x).double(), exact, **tolerance)
        torch.testing.assert_close(made.back(g).double(), back, **tolerance)
        assert made(x).dtype is made.back(g).dtype is dtype


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_tokens_row_is_the_same_at_every_place(dtype: torch.dtype) -> None:
    """Of passes of one size; where this fails on a machine, sites' results depend on who else was drawn."""
    generator = torch.Generator().manual_seed(0)
    made = Matrix(torch.randn(384, 128, generator=generator).to(dtype), torch.zeros(384, dtype=dtype))
    x = torch.randn(512, 128, generator=generator)
    expected = made(x)
    for shift in range(1, 512, 5):
        assert torch.equal(made(x.roll(shift, 0)), expected.roll(shift, 0))
        others = torch.randn(512, 128, generator=generator)
        others[shift] = x[0]
        assert torch.equal(made(others)[shift], expected[0])
