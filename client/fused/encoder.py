"""A frozen BERT with LoRA, forward and back: the numbers of transformers' `BertModel`, post-LN.

Frozen matrix products run in the precision of the weights; LoRA, attention, norms and residuals in float32. There is
no dropout. The backward pass is written out: with a few hundred tokens in a batch, an autograd graph would cost as much
as the numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from privet.client.fused.attention import Attended, Factors, attend, attend_back
from privet.client.fused.weights import Bert
from privet.common.passes import Pass, Segment

_NORM_EPSILON = 1e-12  # of torch.nn.functional.normalize


@dataclass
class Normed:
    """The input of a layer norm [.., d], its mean and 1 / deviation."""

    x: Tensor
    mean: Tensor
    scale: Tensor


@dataclass
class Kept:
    """What the way back through one layer needs."""

    x: Tensor  # [M, d]
    attended: list[Attended]
    norm1: Normed
    inner: Tensor  # before the activation, in the precision of the weights
    norm2: Normed


class Encoder:
    """A BERT on one pass: hidden states [M, d] of its M tokens, rows and tokens as `Pass` says.

    factors: of each layer, as the pass's rows meet them. pooling: with `cls` the last layer gives [capacity, d], the
    first token of each row: nobody reads the others.
    """

    def __init__(self, bert: Bert, given: Pass, factors: Sequence[Factors | None], pooling: str) -> None:
        self._bert, self._pass, self._factors, self._pooling = bert, given, factors, pooling
        self._mask = given.mask.to(bert.device)
        self._biases = [attention_bias(self._mask[s.tokens].view(-1, s.length), bert.num_heads) for s in given.segments]
        starts = np.zeros(given.capacity, np.int64)
        starts[: len(given.labels)] = given.starts()
        self._starts = torch.from_numpy(starts).to(bert.device)
        self._kept: list[Kept] = []

    def forward(self, first: int | None = None) -> Tensor:
        """Through all layers that the pass has not been through. first: from this one on is kept what `back` needs;
        None: nothing is."""
        bert, given = self._bert, self._pass
        x = self._embedded() if given.states is None else given.states.to(bert.device)
        for index in range(given.layer, len(bert.layers)):
            x, kept = self._layer(index, x)
            if first is not None and index >= first:
                self._kept.append(kept)
        return x

    def lower(self, layer: int) -> Tensor:
        """What `layer` reads, [M, d]."""
        x = self._embedded()
        for index in range(layer):
            x, _ = self._layer(index, x)
        return x

    def _embedded(self) -> Tensor:
        bert, given = self._bert, self._pass
        x = bert.words[given.ids.to(bert.device)] + bert.positions[given.positions.to(bert.device)]
        return functional.layer_norm(x, (bert.width,), *bert.norm, bert.epsilon)

    def back(self, g: Tensor, first: int) -> None:
        """From ∂ loss / ∂ hidden states back to layer `first`, the lowest with LoRA; leaves every row's gradients of
        the factors."""
        for index in reversed(range(first, len(self._bert.layers))):
            found = self._layer_back(index, g, self._kept.pop(), needs_input=index > first)
            if found is not None:
                g = found

    def _only_first(self, index: int) -> bool:
        return self._pooling == "cls" and index == len(self._bert.layers) - 1

    def _layer(self, index: int, x: Tensor) -> tuple[Tensor, Kept]:
        layer, epsilon, heads = self._bert.layers[index], self._bert.epsilon, self._bert.num_heads
        whole = x
        seen, attended = attend(x, layer.qkv, self._factors[index], self._pass.segments, self._biases, heads)
        if self._only_first(index):
            seen, x = seen[self._starts], x[self._starts]
        x, norm1 = _norm(_sum(layer.out(seen), x), layer.norm1, epsilon)
        inner = layer.up(x)
        x, norm2 = _norm(_sum(layer.down(functional.gelu(inner)), x), layer.norm2, epsilon)
        return x, Kept(whole, attended, norm1, inner, norm2)

    def _layer_back(self, index: int, g: Tensor, kept: Kept, *, needs_input: bool) -> Tensor | None:
        """∂ loss / ∂ the layer's input [M, d] of that of its output; None where nobody needs it."""
        layer, heads = self._bert.layers[index], self._bert.num_heads
        g = _norm_back(g, kept.norm2, layer.norm2)
        of_inner = torch.ops.aten.gelu_backward(layer.down.back(g), kept.inner)
        g = _norm_back(_sum(layer.up.back(of_inner), g), kept.norm1, layer.norm1)
        of_seen = layer.out.back(g)
        if self._only_first(index):
            of_seen, g = (self._spread(part, len(kept.x)) for part in (of_seen, g))
        given = self._pass.segments, self._biases, heads
        found = attend_back(
            of_seen, kept.x, kept.attended, layer.qkv, self._factors[index], *given, needs_input=needs_input
        )
        return None if found is None else found.add_(g)

    def _spread(self, part: Tensor, num_tokens: int) -> Tensor:
        """Of the rows' first tokens [capacity, d] to all tokens [M, d]."""
        rows = len(self._pass.labels)
        whole = torch.zeros(num_tokens, part.shape[1], dtype=part.dtype, device=part.device)
        whole[self._starts[:rows]] = part[:rows]
        return whole

    def features(self, hidden: Tensor, scale: float) -> Tensor:
        """What the last linear layer reads, [R, d]: `mean`, L2-normalised and scaled; or `cls` through the pooler."""
        if self._pooling == "cls":
            assert self._bert.pooler is not None
            return torch.tanh(self._bert.pooler(hidden).float())[: len(self._pass.labels)]
        return functional.normalize(self._means(hidden), dim=-1) * scale

    def features_back(self, g: Tensor, read: Tensor, hidden: Tensor, scale: float) -> Tensor:
        """∂ loss / ∂ hidden states of ∂ loss / ∂ features [R, d]; read: the features."""
        found = torch.zeros_like(hidden)
        if self._pooling == "cls":
            assert self._bert.pooler is not None
            found[: len(g)] = g * (1 - read * read)
            return self._bert.pooler.back(found).float()
        means = self._means(hidden)
        length = torch.linalg.vector_norm(means, dim=-1, keepdim=True)
        unit = read / scale
        along = torch.where(length > _NORM_EPSILON, (unit * g).sum(-1, keepdim=True) * unit, torch.zeros_like(unit))
        of_means = (g - along) * (scale / length.clamp(min=_NORM_EPSILON))
        for segment in self._pass.segments:
            weights, count = self._token_weights(segment)
            shares = weights / count.unsqueeze(1)
            found[segment.tokens].view(*shares.shape[:2], -1).copy_(of_means[segment.rows].unsqueeze(1) * shares)
        return found

    def _means(self, hidden: Tensor) -> Tensor:
        """Mean of each row's tokens, [R, d]."""
        found = []
        for segment in self._pass.segments:
            weights, count = self._token_weights(segment)
            rows = hidden[segment.tokens].view(segment.num_rows, segment.length, -1)
            found.append((rows * weights).sum(1) / count)
        return torch.cat(found)

    def _token_weights(self, segment: Segment) -> tuple[Tensor, Tensor]:
        """Of each token 0 or 1, [n, T, 1]; how many tokens each row has, [n, 1]."""
        weights = self._mask[segment.tokens].view(segment.num_rows, segment.length, 1).float()
        return weights, weights.sum(1).clamp(min=1.0)


def attention_bias(mask: Tensor, num_heads: int) -> Tensor:
    """Mask [N, T] of 0 and 1 to what is added to attention scores, [N h, 1, T]: the same path with or without padding,
    so that no row decides how its batch-mates are computed."""
    bias = torch.zeros(mask.shape, device=mask.device).masked_fill_(mask == 0, torch.finfo(torch.float32).min)
    return bias.repeat_interleave(num_heads, 0).unsqueeze(1)


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
