"""The local optimizers are torch's, and import no compiler."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from privet.client.optimizer import make


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize(("kind", "reference"), [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)])
def test_ten_steps_are_those_of_torch(kind: str, reference: type[torch.optim.Optimizer], decay: float) -> None:
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=generator) for shape in ((3, 50), (7,))]
    own, theirs = ([nn.Parameter(tensor.clone()) for tensor in start] for _ in range(2))
    mine = make(kind, own, 0.03, decay)
    oracle = reference(theirs, lr=0.03, weight_decay=decay)  # type: ignore[call-arg]
    for _ in range(10):
        for left, right in zip(own, theirs, strict=True):
            left.grad = torch.randn(left.shape, generator=generator)
            right.grad = left.grad.clone()
        mine.step()
        oracle.step()
    for left, right, before in zip(own, theirs, start, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-6, atol=1e-7)
        assert not torch.equal(left, before)


def test_no_compiler_is_imported() -> None:
    code = (
        "import sys, torch; from privet.client.optimizer import make; p = torch.nn.Parameter(torch.zeros(2));"
        "o = make('adamw', [p], 0.1, 0.0); p.grad = torch.ones(2); o.step(); assert 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="adamw"):
        make("lion", [], 0.1, 0.0)
