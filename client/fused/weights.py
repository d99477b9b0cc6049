"""The frozen numbers of a BERT, laid out for the fused engine: one matrix for query, key and value of a layer."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from privet.client.fused.matrices import Matrix
from privet.common.architecture import Architecture

_LAYER = "encoder.layer"


@dataclass(frozen=True)
class Layer:
    """One transformer layer. Linear layers in the precision of frozen products, all else float32."""

    qkv: Matrix  # [3d, d]
    out: Matrix  # [d, d]
    norm1: tuple[Tensor, Tensor]  # weight and bias [d]
    up: Matrix  # [i, d]
    down: Matrix  # [d, i]
    norm2: tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Bert:
    """A frozen BERT encoder (Devlin et al. 2019) as transformers' `BertModel` stores it."""

    words: Tensor  # [V, d]
    positions: Tensor  # [T, d], the embedding of token type 0 added
    norm: tuple[Tensor, Tensor]
    layers: tuple[Layer, ...]
    pooler: Matrix | None  # [d, d], for pooling = "cls"
    num_heads: int
    epsilon: float

    @property
    def width(self) -> int:
        return self.words.shape[1]

    @property
    def inner(self) -> int:
        """The width of the feed-forward layers, the widest."""
        return self.layers[0].up.shape[0]

    @property
    def device(self) -> torch.device:
        return self.words.device


def bert(
    arrays: Mapping[str, Tensor],
    architecture: Architecture,
    precision: torch.dtype,
    device: torch.device | None = None,
) -> Bert:
    """The frozen numbers from a base's tensors, named as in `BertModel` (without a leading "bert.").

    precision: of the frozen matrix products, torch.float32 or torch.bfloat16.
    Raises: KeyError for a tensor that is missing.
    """

    def matrix(*names: str) -> Matrix:
        weight, bias = (torch.cat([arrays[f"{name}.{kind}"] for name in names]) for kind in ("weight", "bias"))
        return Matrix(*(part.detach().to(device, precision).contiguous() for part in (weight, bias)))

    def plain(tensor: Tensor) -> Tensor:
        return tensor.detach().to(device, torch.float32)

    def norm(name: str) -> tuple[Tensor, Tensor]:
        return plain(arrays[f"{name}.weight"]), plain(arrays[f"{name}.bias"])

    layers = []
    for index in range(architecture.depth):
        at = f"{_LAYER}.{index}"
        projections = [f"{at}.attention.self.{name}" for name in ("query", "key", "value")]
        layers.append(
            Layer(
                matrix(*projections),
                matrix(f"{at}.attention.output.dense"),
                norm(f"{at}.attention.output.LayerNorm"),
                matrix(f"{at}.intermediate.dense"),
                matrix(f"{at}.output.dense"),
                norm(f"{at}.output.LayerNorm"),
            )
        )
    positions = plain(arrays["embeddings.position_embeddings.weight"])
    if architecture.types:
        positions = positions + plain(arrays["embeddings.token_type_embeddings.weight"][0])
    return Bert(
        words=plain(arrays["embeddings.word_embeddings.weight"]),
        positions=positions,
        norm=norm("embeddings.LayerNorm"),
        layers=tuple(layers),
        pooler=matrix("pooler.dense") if "pooler.dense.weight" in arrays else None,
        num_heads=architecture.heads,
        epsilon=architecture.epsilon,
    )
