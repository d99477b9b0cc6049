"""A frozen BERT with LoRA, forward and back: the numbers of transformers' `BertModel`, post-LN.

Frozen matrix products run in the precision of the weights; LoRA, attention, norms and residuals in float32. There is
no dropout. The backward pass is written out: with a few hundred tokens in a batch, an autograd graph would cost as much
as the numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from privet.client.fused.attention import Attended, Factors, attend, attend_back
from privet.client.fused.weights import Bert, Layer

_NORM_EPSILON = 1e-12  # of torch.nn.functional.normalize


@dataclass
class Normed:
    """The input of a layer norm [N, T, d], its mean and 1 / deviation [N, T, 1]."""

    x: Tensor
    mean: Tensor
    scale: Tensor


@dataclass
class Kept:
    """What the way back through one layer needs."""

    attended: Attended
    norm1: Normed
    inner: Tensor  # [N, T, i], before the activation, in the precision of the weights
    norm2: Normed
    only_first: bool


def embed(bert: Bert, ids: Tensor) -> Tensor:
    """Token ids [N, T] to what the first layer reads [N, T, d]."""
    x = bert.words[ids] + bert.positions[: ids.shape[1]]
    return functional.layer_norm(x, (bert.width,), *bert.norm, bert.epsilon)


def attention_bias(mask: Tensor, num_heads: int) -> Tensor:
    """Mask [N, T] of 0 and 1 to what is added to attention scores, [N h, 1, T]: the same path with or without padding,
    so that no row decides how its batch-mates are computed."""
    bias = torch.zeros(mask.shape, device=mask.device).masked_fill_(mask == 0, torch.finfo(torch.float32).min)
    return bias.repeat_interleave(num_heads, 0).unsqueeze(1)


def encode(
    bert: Bert,
    x: Tensor,
    bias: Tensor,
    factors: Sequence[Factors | None],
    first: int = 0,
    last: int | None = None,
    *,
    pooling: str = "mean",
    kept: list[Kept] | None = None,
) -> Tensor:
    """Through the layers from `first` up to `last`: x [N, T, d] to hidden states [N, T, d].

    With pooling `cls` the last layer's are [N, 1, d], those of the first token: nobody reads the others.
    kept: gets what `encode_back` needs of each layer.
    """
    for index in range(first, len(bert.layers) if last is None else last):
        only_first = pooling == "cls" and index == len(bert.layers) - 1
        x, state = _layer(bert, bert.layers[index], x, bias, factors[index], only_first)
        if kept is not None:
            kept.append(state)
    return x


def encode_back(bert: Bert, g: Tensor, kept: list[Kept], factors: Sequence[Factors | None], first: int) -> None:
    """From the last layer back to `first`, the lowest with LoRA; leaves every row's gradients of the factors.

    g: ∂ loss / ∂ hidden states, as `encode` shaped them. kept: of the layers from `first` on; it is emptied.
    """
    for index in reversed(range(first, first + len(kept))):
        back = _layer_back(bert, bert.layers[index], g, kept.pop(), factors[index], index > first)
        if back is not None:
            g = back


def _layer(
    bert: Bert, layer: Layer, x: Tensor, bias: Tensor, factors: Factors | None, only_first: bool
) -> tuple[Tensor, Kept]:
    seen, attended = attend(x, layer.qkv, factors, bias, bert.num_heads)
    if only_first:
        seen, x = seen[:, :1], x[:, :1]
    x, norm1 = _norm(_sum(layer.out(seen), x), layer.norm1, bert.epsilon)
    inner = layer.up(x)
    x, norm2 = _norm(_sum(layer.down(functional.gelu(inner)), x), layer.norm2, bert.epsilon)
    return x, Kept(attended, norm1, inner, norm2, only_first)


def _layer_back(
    bert: Bert, layer: Layer, g: Tensor, kept: Kept, factors: Factors | None, needs_input: bool
) -> Tensor | None:
    """∂ loss / ∂ the layer's input [N, T, d] of that of its output; None where nobody needs it."""
    g = _norm_back(g, kept.norm2, layer.norm2)
    of_inner = torch.ops.aten.gelu_backward(layer.down.back(g), kept.inner)
    g = _norm_back(_sum(layer.up.back(of_inner), g), kept.norm1, layer.norm1)
    of_seen = layer.out.back(g).float()
    if kept.only_first:
        of_seen, g = (_at_first_token(part, kept.attended.x) for part in (of_seen, g))
    back = attend_back(of_seen, kept.attended, layer.qkv, factors, needs_input)
    return None if back is None else back.add_(g)


def _sum(product: Tensor, rest: Tensor) -> Tensor:
    """A new product, of whatever precision, plus `rest`, in float32."""
    return product.float().add_(rest)


def _norm(x: Tensor, parameters: tuple[Tensor, Tensor], epsilon: float) -> tuple[Tensor, Normed]:
    y, mean, scale = torch.native_layer_norm(x, x.shape[-1:], *parameters, epsilon)
    return y, Normed(x, mean, scale)


def _norm_back(g: Tensor, normed: Normed, parameters: tuple[Tensor, Tensor]) -> Tensor:
    back: Tensor = torch.ops.aten.native_layer_norm_backward(
        g, normed.x, normed.x.shape[-1:], normed.mean, normed.scale, *parameters, [True, False, False]
    )[0]
    return back


def _at_first_token(part: Tensor, like: Tensor) -> Tensor:
    whole = torch.zeros_like(like)
    whole[:, :1] = part
    return whole


def features(bert: Bert, hidden: Tensor, mask: Tensor, pooling: str, scale: float) -> Tensor:
    """What the last linear layer reads, [N, d]: `mean`, L2-normalised and scaled; or `cls` through the pooler."""
    if pooling == "cls":
        assert bert.pooler is not None
        return torch.tanh(bert.pooler(hidden[:, 0]).float())
    mean, _ = _mean(hidden, mask)
    return functional.normalize(mean, dim=-1) * scale


def features_back(
    bert: Bert, g: Tensor, read: Tensor, hidden: Tensor, mask: Tensor, pooling: str, scale: float
) -> Tensor:
    """∂ loss / ∂ hidden states of ∂ loss / ∂ features [N, d]; read: the features."""
    if pooling == "cls":
        assert bert.pooler is not None
        return bert.pooler.back(g * (1 - read * read)).float().unsqueeze(1)
    mean, shares = _mean(hidden, mask)
    length = torch.linalg.vector_norm(mean, dim=-1, keepdim=True)
    unit = read / scale
    along = torch.where(length > _NORM_EPSILON, (unit * g).sum(-1, keepdim=True) * unit, torch.zeros_like(unit))
    of_mean = (g - along) * (scale / length.clamp(min=_NORM_EPSILON))
    return of_mean.unsqueeze(1) * shares


def _mean(hidden: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of a row's tokens [N, d], and each token's share in it [N, T, 1]."""
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    count = weights.sum(1).clamp(min=1.0)
    return (hidden * weights).sum(1) / count, weights / count.unsqueeze(1)
