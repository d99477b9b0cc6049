"""The frozen numbers of a BERT, laid out for the fused engine: one matrix for query, key and value of a layer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from privet.common.architecture import Architecture

_LAYER = "encoder.layer"


@dataclass(frozen=True)
class Layer:
    """One transformer layer. Matrices [out, in] in the precision of frozen products, all else float32."""

    qkv: Tensor  # [3d, d]
    qkv_bias: Tensor
    out: Tensor  # [d, d]
    out_bias: Tensor
    norm1: tuple[Tensor, Tensor]  # weight and bias [d]
    up: Tensor  # [i, d]
    up_bias: Tensor
    down: Tensor  # [d, i]
    down_bias: Tensor
    norm2: tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Bert:
    """A frozen BERT encoder (Devlin et al. 2019) as transformers' `BertModel` stores it."""

    words: Tensor  # [V, d]
    positions: Tensor  # [T, d], the embedding of token type 0 added
    norm: tuple[Tensor, Tensor]
    layers: tuple[Layer, ...]
    pooler: tuple[Tensor, Tensor] | None  # weight [d, d] and bias, for pooling = "cls"
    num_heads: int
    epsilon: float

    @property
    def width(self) -> int:
        return self.words.shape[1]

    @property
    def device(self) -> torch.device:
        return self.words.device

    def to(self, device: torch.device) -> "Bert":
        """All tensors on `device`."""
        moved: Bert = _mapped(self, lambda tensor: tensor.to(device))
        return moved


def bert(arrays: Mapping[str, Tensor], architecture: Architecture, precision: torch.dtype) -> Bert:
    """The frozen numbers from a base's tensors, named as in `BertModel` (without a leading "bert.").

    precision: of the frozen matrix products, torch.float32 or torch.bfloat16.
    Raises: KeyError for a tensor that is missing.
    """

    def matrix(*names: str) -> Tensor:
        return torch.cat([arrays[f"{name}.weight"] for name in names]).detach().to(precision).contiguous()

    def bias(*names: str) -> Tensor:
        return torch.cat([arrays[f"{name}.bias"] for name in names]).detach().to(precision).contiguous()

    def norm(name: str) -> tuple[Tensor, Tensor]:
        return arrays[f"{name}.weight"].detach().float(), arrays[f"{name}.bias"].detach().float()

    layers = []
    for index in range(architecture.depth):
        at = f"{_LAYER}.{index}"
        projections = [f"{at}.attention.self.{name}" for name in ("query", "key", "value")]
        layers.append(
            Layer(
                matrix(*projections),
                bias(*projections),
                matrix(f"{at}.attention.output.dense"),
                bias(f"{at}.attention.output.dense"),
                norm(f"{at}.attention.output.LayerNorm"),
                matrix(f"{at}.intermediate.dense"),
                bias(f"{at}.intermediate.dense"),
                matrix(f"{at}.output.dense"),
                bias(f"{at}.output.dense"),
                norm(f"{at}.output.LayerNorm"),
            )
        )
    pooler = None
    if "pooler.dense.weight" in arrays:
        pooler = matrix("pooler.dense"), bias("pooler.dense")
    positions = arrays["embeddings.position_embeddings.weight"].detach().float()
    if architecture.types:
        positions = positions + arrays["embeddings.token_type_embeddings.weight"][0].detach().float()
    return Bert(
        words=arrays["embeddings.word_embeddings.weight"].detach().float(),
        positions=positions,
        norm=norm("embeddings.LayerNorm"),
        layers=tuple(layers),
        pooler=pooler,
        num_heads=architecture.heads,
        epsilon=architecture.epsilon,
    )


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple):
        return tuple(_mapped(part, change) for part in value)
    if isinstance(value, Layer | Bert):
        return type(value)(**{name: _mapped(part, change) for name, part in vars(value).items()})
    return value
