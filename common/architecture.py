"""What a base's config.json says of its encoder: read without any library that computes."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from privet.common.config import Plan
from privet.common.errors import ModelError

TARGETS = {
    "bert": {"query": "query", "key": "key", "value": "value"},
    "roberta": {"query": "query", "key": "key", "value": "value"},
    "distilbert": {"query": "q_lin", "key": "k_lin", "value": "v_lin"},
}
_DENSE = {  # the other projections of a layer, as `lora.targets` names them
    "bert": {
        "attention_output": "attention.output.dense",
        "intermediate": "intermediate.dense",
        "output": "output.dense",
    },
    "distilbert": {"attention_output": "attention.out_lin", "intermediate": "ffn.lin1", "output": "ffn.lin2"},
}
_DENSE["roberta"] = _DENSE["bert"]
_PEOPLE = "BERT (Chinese BERT too), RoBERTa and DistilBERT"
LAST_LAYER = {"bert": "classifier", "roberta": "classifier.out_proj", "distilbert": "classifier"}
_LAST_LAYER_OF_TOKENS = "classifier"  # in every stock classifier of tokens

# Names in config.json, and what stands for one that is not there.
_BERT: dict[str, tuple[str, Any]] = {
    "vocabulary": ("vocab_size", 30522),
    "width": ("hidden_size", 768),
    "depth": ("num_hidden_layers", 12),
    "heads": ("num_attention_heads", 12),
    "inner": ("intermediate_size", 3072),
    "positions": ("max_position_embeddings", 512),
    "types": ("type_vocab_size", 2),
    "activation": ("hidden_act", "gelu"),
    "epsilon": ("layer_norm_eps", 1e-12),
    "padding": ("pad_token_id", 0),
}
_KEYS: dict[str, dict[str, tuple[str, Any]]] = {
    "bert": _BERT,
    "roberta": _BERT | {"vocabulary": ("vocab_size", 50265), "padding": ("pad_token_id", 1)},
    "distilbert": {
        "vocabulary": ("vocab_size", 30522),
        "width": ("dim", 768),
        "depth": ("n_layers", 6),
        "heads": ("n_heads", 12),
        "inner": ("hidden_dim", 3072),
        "positions": ("max_position_embeddings", 512),
        "activation": ("activation", "gelu"),
        "padding": ("pad_token_id", 0),
    },
}
_SIZES = ("vocabulary", "width", "depth", "heads", "inner", "positions", "types")
# Keys by which the library would build something else than the plain encoder, unless they have this value.
_PLAIN: dict[str, tuple[Any, ...]] = {
    "is_decoder": (False, None),
    "add_cross_attention": (False, None),
    "is_encoder_decoder": (False, None),
    "pruned_heads": ({}, None),
    "position_embedding_type": ("absolute", None),
    "chunk_size_feed_forward": (0, None),
}
_OTHER_NAMES = {"distilbert": ("hidden_size", "num_attention_heads", "num_hidden_layers")}  # the library takes both


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One encoder. unusual: keys of config.json by which it is not the plain encoder of its kind; mostly none."""

    kind: str
    vocabulary: int
    width: int
    depth: int
    heads: int
    inner: int  # of the feed-forward layer
    positions: int  # rows of the table of positions
    types: int = 0  # 0: no table of token types
    activation: str
    epsilon: float = 1e-12  # of LayerNorm
    padding: int | None  # token id
    unusual: tuple[str, ...] = ()

    @property
    def prefix(self) -> str:
        """What stands before the encoder's names in its stock sequence classifier."""
        return f"{self.kind}."

    def layer(self, index: int) -> str:
        """What stands before the names of one layer, in the bare encoder."""
        return f"{'transformer' if self.kind == 'distilbert' else 'encoder'}.layer.{index}."

    def attention(self, index: int, target: str) -> str:
        """The name of the layer's projection `target`: "query", "key" or "value"."""
        inside = "attention" if self.kind == "distilbert" else "attention.self"
        return f"{self.layer(index)}{inside}.{TARGETS[self.kind][target]}"

    def projection(self, index: int, target: str) -> str:
        """The name of the layer's projection `target`, any that `lora.targets` may say."""
        if target in TARGETS[self.kind]:
            return self.attention(index, target)
        return self.layer(index) + _DENSE[self.kind][target]

    def projection_shape(self, target: str) -> tuple[int, int]:
        """Outputs and inputs of a projection."""
        if target == "intermediate":
            return self.inner, self.width
        return (self.width, self.inner) if target == "output" else (self.width, self.width)

    def encoder_shapes(self) -> dict[str, tuple[int, ...]]:
        """Every array of the bare encoder by name, without a pooler."""
        width = self.width
        shapes: dict[str, tuple[int, ...]] = {}

        def linear(name: str, rows: int, columns: int) -> None:
            shapes[f"{name}.weight"] = (rows, columns)
            shapes[f"{name}.bias"] = (rows,)

        def norm(name: str) -> None:
            shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (width,)

        shapes["embeddings.word_embeddings.weight"] = (self.vocabulary, width)
        shapes["embeddings.position_embeddings.weight"] = (self.positions, width)
        if self.types:
            shapes["embeddings.token_type_embeddings.weight"] = (self.types, width)
        norm("embeddings.LayerNorm")
        for index in range(self.depth):
            layer = self.layer(index)
            for target in ("query", "key", "value"):
                linear(self.attention(index, target), width, width)
            for part, rows, columns in self._dense():
                linear(layer + part, rows, columns)
            for part in _NORMS[self.kind == "distilbert"]:
                norm(layer + part)
        return shapes

    def _dense(self) -> Iterator[tuple[str, int, int]]:
        for target, name in _DENSE[self.kind].items():
            yield name, *self.projection_shape(target)

    def below_head(self) -> dict[str, tuple[int, ...]]:
        """The layer between encoder and last layer of its stock sequence classifier, by the classifier's names."""
        name = {"bert": "bert.pooler.dense", "roberta": "classifier.dense", "distilbert": "pre_classifier"}[self.kind]
        return {f"{name}.weight": (self.width, self.width), f"{name}.bias": (self.width,)}


_NORMS = (
    ("attention.output.LayerNorm", "output.LayerNorm"),
    ("sa_layer_norm", "output_layer_norm"),
)


def model_type(folder: Path) -> str:
    """The architecture's name, one of those that work here.

    Raises: ModelError.
    """
    return _kind(_config(folder), folder)


def read_architecture(folder: Path) -> Architecture:
    """The encoder in `folder`.

    Raises: ModelError.
    """
    config = _config(folder)
    kind = _kind(config, folder)
    refuse_code(folder)
    found: dict[str, Any] = {field: config.get(name, default) for field, (name, default) in _KEYS[kind].items()}
    for field in _SIZES:
        if field in found and (type(found[field]) is not int or found[field] < 1):
            raise _odd(folder, _KEYS[kind][field][0])
    if not isinstance(found["activation"], str):
        raise _odd(folder, _KEYS[kind]["activation"][0])
    if type(found.get("epsilon", 0.0)) not in (int, float):
        raise _odd(folder, "layer_norm_eps")
    if found["padding"] is not None and type(found["padding"]) is not int:
        raise _odd(folder, "pad_token_id")
    unusual = [key for key, plain in _PLAIN.items() if key in config and config[key] not in plain]
    unusual += [key for key in _OTHER_NAMES.get(kind, ()) if key in config]
    return Architecture(kind=kind, unusual=tuple(unusual), **found)


def refuse_code(folder: Path) -> None:
    """A base is data: what makes the library choose other code, or merge other weights in, is refused.

    Raises: ModelError.
    """
    config = _config(folder)
    found = [key for key in ("auto_map", "quantization_config") if config.get(key)]
    found += [name for name in ("adapter_config.json",) if (folder / name).exists()]
    if found:
        raise ModelError(
            f"it has {found[0]}, by which a base would choose code or other weights.",
            where=str(folder),
            mend="use a plain encoder in safetensors.",
        )


def last_layer_name(plan: Plan, kind: str) -> str:
    """The last linear layer of the stock classifier that the plan takes."""
    return _LAST_LAYER_OF_TOKENS if plan.model.pooling == "none" else LAST_LAYER[kind]


def check_length(plan: Plan, architecture: Architecture, folder: Path) -> None:
    """Refuse a plan whose windows are longer than the base can read.

    Raises: ModelError.
    """
    longest = architecture.positions
    if architecture.kind == "roberta":  # its positions are counted from pad_token_id + 1
        if architecture.padding is None or architecture.padding < 0:
            raise ModelError("it has no padding token.", where=str(folder), mend="give it one in config.json.")
        longest -= architecture.padding + 1
    if plan.task.max_length > longest:
        raise ModelError(
            f"max_length {plan.task.max_length} exceeds the base's {longest} positions.",
            where="task.max_length",
            mend=f"set at most {longest}.",
        )


def _kind(config: Mapping[str, Any], folder: Path) -> str:
    kind = str(config.get("model_type"))
    if kind not in TARGETS:
        raise ModelError(
            f"a model of type {kind!r}.",
            where=str(folder),
            mend=f"use one of type {', '.join(sorted(TARGETS))}: {_PEOPLE}.",
        )
    return kind


def _config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("no object")
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(
            f"config.json cannot be read ({error}).", where=str(folder), mend="copy the model again."
        ) from None
    return config


def _odd(folder: Path, key: str) -> ModelError:
    return ModelError(f"config.json: {key} is not what it must be.", where=str(folder), mend="copy the model again.")
