"""The forward pass of a frozen BERT with LoRA: the numbers of transformers' `BertModel` with `sdpa` attention, post-LN.

Frozen matrix products run in the precision of the weights; LoRA, attention, norms and residuals in float32. There is
no dropout.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from privet.client.fused.projection import Factors, attend, linear
from privet.client.fused.weights import Bert, Layer


def embed(bert: Bert, ids: Tensor) -> Tensor:
    """Token ids [N, T] to what the first layer reads [N, T, d]."""
    x = bert.words[ids] + bert.positions[: ids.shape[1]]
    return functional.layer_norm(x, (bert.width,), *bert.norm, bert.epsilon)


def attention_bias(mask: Tensor) -> Tensor:
    """Mask [N, T] of 0 and 1 to what is added to attention scores, [N, 1, T, T]: the same path with or without padding,
    so that no row decides how its batch-mates are computed."""
    length = mask.shape[1]
    bias = torch.zeros(mask.shape, device=mask.device).masked_fill_(mask == 0, torch.finfo(torch.float32).min)
    return bias[:, None, None, :].expand(-1, 1, length, -1)


def encode(
    bert: Bert,
    x: Tensor,
    bias: Tensor,
    factors: Sequence[Factors | None],
    first: int = 0,
    last: int | None = None,
    *,
    pooling: str = "mean",
) -> Tensor:
    """Through the layers from `first` up to `last`: x [N, T, d] to hidden states [N, T, d].

    With pooling `cls` the last layer's are [N, 1, d], those of the first token: nobody reads the others.
    """
    for index in range(first, len(bert.layers) if last is None else last):
        only_first = pooling == "cls" and index == len(bert.layers) - 1
        x = _layer(bert, bert.layers[index], x, bias, factors[index], only_first)
    return x


def _layer(bert: Bert, layer: Layer, x: Tensor, bias: Tensor, factors: Factors | None, only_first: bool) -> Tensor:
    d = bert.width
    seen = attend(x, layer.qkv, layer.qkv_bias, factors, bias, bert.num_heads)
    if only_first:
        seen, x = seen[:, :1], x[:, :1]
    x = functional.layer_norm(linear(seen, layer.out, layer.out_bias) + x, (d,), *layer.norm1, bert.epsilon)
    inner = functional.gelu(linear(x, layer.up, layer.up_bias))
    return functional.layer_norm(linear(inner, layer.down, layer.down_bias) + x, (d,), *layer.norm2, bert.epsilon)


def features(bert: Bert, hidden: Tensor, mask: Tensor, pooling: str, scale: float) -> Tensor:
    """What the last linear layer reads, [N, d]: `mean`, L2-normalised and scaled; or `cls` through the pooler."""
    if pooling == "cls":
        assert bert.pooler is not None
        return torch.tanh(linear(hidden[:, 0], *bert.pooler).float())
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    mean = (hidden * weights).sum(1) / weights.sum(1).clamp(min=1.0)
    return functional.normalize(mean, dim=-1) * scale
