"""Frozen linear layers in bfloat16: what they compute, what they never have, and what they leave alone."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from privet.common.frozen import FrozenLinear, freeze
from privet.common.model import Classifier, build_classifier
from tests.tiny_models import Kind, tiny_base, tiny_plan

SHAPES = [(32, 64), (48, 48), (384, 1536), (1536, 384)]
EPSILON = 2.0**-8  # of bfloat16: one rounding of a value is off by half of it, relatively


def _layer(inputs: int, outputs: int, *, bias: bool = True) -> nn.Linear:
    torch.manual_seed(inputs + outputs)
    return nn.Linear(inputs, outputs, bias=bias)


@pytest.mark.parametrize(("inputs", "outputs"), SHAPES)
@pytest.mark.parametrize("bias", [True, False])
def test_product_and_gradient_are_those_of_float64(inputs: int, outputs: int, bias: bool) -> None:
    """Of the rounded numbers: what is left is one rounding of the result, and float32's of the sum."""
    linear = _layer(inputs, outputs, bias=bias)
    frozen, x = FrozenLinear(linear), torch.randn(4, 16, inputs, requires_grad=True)
    weight = linear.weight.detach().bfloat16().double()
    exact = x.detach().bfloat16().double() @ weight.T
    if bias:
        exact += linear.bias.detach().bfloat16().double()
    y = frozen(x)
    assert y.dtype == torch.float32
    assert float((y.detach() - exact).abs().max()) <= EPSILON * float(exact.abs().max())
    g = torch.randn_like(y)
    y.backward(g)
    assert x.grad is not None
    assert x.grad.dtype == torch.float32
    back = g.bfloat16().double() @ weight
    assert float((x.grad - back).abs().max()) <= EPSILON * float(back.abs().max())
    # and near the layer as it was: inputs, weights and result are each rounded once
    with torch.no_grad():
        assert float((y - linear(x)).norm() / linear(x).norm()) < 2 * EPSILON


def test_there_is_no_weight_gradient_and_nothing_to_train() -> None:
    frozen = FrozenLinear(_layer(32, 64))
    assert not list(frozen.parameters())
    assert {name: tensor.dtype for name, tensor in frozen.named_buffers()} == {
        "stored": torch.bfloat16, "stored_bias": torch.bfloat16,
    }  # fmt: skip
    x = torch.randn(4, 32, requires_grad=True)
    frozen(x).sum().backward()
    assert frozen.stored.grad is None
    assert not frozen(torch.randn(4, 32)).requires_grad  # nothing below wants a gradient: no graph


def test_neither_rows_nor_places_show_in_a_row() -> None:
    """Product and gradient, in batches of one shape, of finite mates and others."""
    frozen = FrozenLinear(_layer(384, 1536))
    own, gradient = torch.randn(16, 384), torch.randn(16, 1536)

    def of(place: int, mates: float) -> tuple[torch.Tensor, torch.Tensor]:
        x, g = torch.full((4, 16, 384), mates), torch.full((4, 16, 1536), mates)
        x[place], g[place] = own, gradient
        x.requires_grad_(True)
        y = frozen(x)
        y.backward(g)
        assert x.grad is not None
        return y[place].detach(), x.grad[place]

    expected = of(0, 0.0)
    for place in range(4):
        for mates in (0.0, 1e30, float("inf"), float("nan")):
            for found, true in zip(of(place, mates), expected, strict=True):
                assert torch.equal(found, true)


@pytest.fixture(scope="module", params=["bert", "roberta", "distilbert"])
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_every_frozen_layer_of_the_base_and_nothing_else(tmp_path: Path, kind: Kind, pooling: str) -> None:
    base = tiny_base(tmp_path / "base", kind, pooler=False)
    plan = tiny_plan(base, model={"pooling": pooling}, method={"kind": "fedavg"})
    plain, rounded = (build_classifier(plan, base) for _ in range(2))
    assert freeze(plain, "float32") == 0
    names = {name for name, module in plain.named_modules() if type(module) is nn.Linear}
    count = freeze(rounded, "bfloat16")
    frozen = {name for name, module in rounded.named_modules() if isinstance(module, FrozenLinear)}
    assert len(frozen) == count
    assert count >= 2 * 6  # query, key, value, output, up and down of each layer
    assert frozen < names
    for name in frozen:
        assert "lora" not in name
        assert not name.startswith("head")
    left = {name for name in names - frozen if ".lora_" not in name and "original_module" not in name}
    trained = {id(rounded.parameter(name)) for name in rounded.spec.names}
    for name in left:
        assert all(id(parameter) in trained for parameter in rounded.get_submodule(name).parameters())
    assert rounded.spec == plain.spec
    arrays = plain.read()
    assert all(np.array_equal(array, arrays[name]) for name, array in rounded.read().items())
    for name, parameter in rounded.named_parameters():
        assert parameter.dtype == torch.float32, name


def test_logits_are_near_those_in_float32(tmp_path: Path, kind: Kind) -> None:
    base = tiny_base(tmp_path / "base", kind)
    plan = tiny_plan(base, method={"kind": "fedavg"})
    ids = torch.arange(5, 37).reshape(2, 16)
    found = []
    for precision in ("float32", "bfloat16"):
        classifier = _trained(plan, base)
        freeze(classifier, precision)
        with torch.no_grad():
            found.append(classifier(ids, torch.ones_like(ids)))
    assert 0 < float((found[0] - found[1]).norm() / found[0].norm()) < 0.03


def test_lora_is_not_merged_into_a_rounded_weight(tmp_path: Path) -> None:
    """It would be written into an export as if it were the base's own."""
    base = tiny_base(tmp_path / "base")
    classifier = _trained(tiny_plan(base, method={"kind": "fedavg"}), base)
    freeze(classifier, "bfloat16")
    encoder: Any = classifier.encoder
    with pytest.raises(AttributeError, match="weight"):
        encoder.merge_and_unload()


def _trained(plan: Any, base: Path) -> Classifier:
    classifier = build_classifier(plan, base)
    random = np.random.default_rng(0)
    classifier.write({e.name: random.normal(0, 0.3, e.shape).astype(np.float32) for e in classifier.spec.entries})
    return classifier
