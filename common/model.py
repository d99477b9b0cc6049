"""The one place that builds a classifier from a plan: base, LoRA, pooling, head.

`pooling = "cls"` is the stock AutoModelForSequenceClassification, `"none"` the stock AutoModelForTokenClassification.
`"mean"` is mean-pooled, L2-normalised, scaled features under one linear layer (as sentence-transformers: Reimers &
Gurevych 2019).
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from privet.common.adapter import AdapterSpec, Arrays, Entry, Floats, Role
from privet.common.architecture import TARGETS as _TARGETS
from privet.common.architecture import (
    Architecture,
    check_length,
    last_layer_name,
    model_type,
    read_architecture,
    refuse_code,
)
from privet.common.base import base_digest, checked_base, resolve_base
from privet.common.config import Plan
from privet.common.errors import ModelError
from privet.common.initial import derived_adapter, initial_adapter
from privet.common.tasks.base import task_of
from privet.common.tokenizer_rules import plain_tokenizer

__all__ = [
    "Classifier",
    "base_digest",
    "build_classifier",
    "checked_base",
    "load_tokenizer",
    "model_type",
    "resolve_base",
]

_NEW_MODULES = {"bert": [], "roberta": [], "distilbert": ["pre_classifier"]}  # besides the classifier
_TASK_TYPES = {"cls": "SEQ_CLS", "none": "TOKEN_CLS", "mean": "FEATURE_EXTRACTION"}  # PEFT's
# Dropout is off everywhere: it adds noise that buys no privacy, and one step must be a function of data and plan.
_NO_DROPOUT = {
    "bert": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "classifier_dropout": 0.0},
    "roberta": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "classifier_dropout": 0.0},
    "distilbert": {"dropout": 0.0, "attention_dropout": 0.0, "seq_classif_dropout": 0.0},
}


class Classifier(nn.Module):
    """Texts' token ids to logits [N, K], or [N, T, K] of every token; its adapter is all that training may change."""

    def __init__(self, plan: Plan, encoder: nn.Module, head: nn.Linear | None, new: frozenset[str], kind: str) -> None:
        super().__init__()
        self.plan, self.encoder, self.head = plan, encoder, head
        self.task = task_of(plan.task)
        self.model_type = kind
        self._last = last_layer_name(plan, kind)
        last = self._last
        self._parameters_by_name: dict[str, nn.Parameter] = {}
        entries = []
        for full, parameter in self.named_parameters():
            name = canonical_name(full)
            if ".lora_A." in full:
                role = Role.LORA_A
            elif ".lora_B." in full:
                role = Role.LORA_B
            elif name in (f"{last}.weight", f"{last}.bias", "head.weight", "head.bias"):
                role = Role.HEAD
            elif name in new:
                role = Role.NEW
            else:
                parameter.requires_grad_(False)
                continue
            if ".original_module." in full:
                parameter.requires_grad_(False)
                continue
            entries.append(Entry(name, tuple(parameter.shape), role))
            self._parameters_by_name[name] = parameter
        self.spec = AdapterSpec(tuple(sorted(entries, key=lambda entry: entry.name)))

    def parameter(self, name: str) -> nn.Parameter:
        """The torch parameter behind an adapter's name."""
        return self._parameters_by_name[name]

    def read(self) -> dict[str, Floats]:
        """The adapter as it stands (copies)."""
        return {
            name: parameter.detach().cpu().numpy().astype(np.float32)
            for name, parameter in self._parameters_by_name.items()
        }

    def write(self, arrays: Arrays) -> None:
        """Set the named arrays; others stay. Shapes are the caller's to have checked."""
        with torch.no_grad():
            for name, array in arrays.items():
                parameter = self._parameters_by_name[name]
                parameter.copy_(torch.from_numpy(np.array(array, dtype=np.float32)))

    @property
    def vocabulary(self) -> int:
        """Token ids are below this."""
        return int(self.encoder.get_input_embeddings().num_embeddings)  # type: ignore[operator]

    def features(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """What the last linear layer reads, [N, d]."""
        if self.head is None:
            return self._last_layer_input(input_ids, attention_mask)
        hidden = self.encoder(input_ids=input_ids, attention_mask=whole_mask(attention_mask)).last_hidden_state
        return self.pool(hidden, attention_mask)

    def pool(self, hidden: Tensor, attention_mask: Tensor) -> Tensor:
        """Last hidden states [N, T, d] to mean-pooled, L2-normalised, scaled features [N, d]."""
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1.0)
        return nn.functional.normalize(mean, dim=-1) * self.plan.model.feature_scale

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits [N, K], or [N, T, K]."""
        if self.head is None:
            logits: Tensor = self.encoder(input_ids=input_ids, attention_mask=whole_mask(attention_mask)).logits
            return logits
        out: Tensor = self.head(self.features(input_ids, attention_mask))
        return out

    def last_layer(self) -> nn.Linear:
        """The linear layer that yields the logits."""
        if self.head is not None:
            return self.head
        weight = self._parameters_by_name[f"{self._last}.weight"]
        return next(m for m in self.encoder.modules() if isinstance(m, nn.Linear) and m.weight is weight)

    def _last_layer_input(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        caught: list[Tensor] = []
        hook = self.last_layer().register_forward_pre_hook(lambda _module, inputs: caught.append(inputs[0]))
        try:
            self.encoder(input_ids=input_ids, attention_mask=whole_mask(attention_mask))
        finally:
            hook.remove()
        return caught[0]


def whole_mask(mask: Tensor) -> Tensor:
    """[N, T] to [N, 1, T, T]: with a mask of two axes the library takes another path where no row has padding, and one
    record would decide how its batch-mates are computed."""
    return mask.bool()[:, None, None, :].expand(-1, 1, mask.shape[1], -1)


def canonical_name(full: str) -> str:
    """A parameter's name without PEFT's wrappers: stable across its versions.

    >>> canonical_name("encoder.base_model.model.bert.encoder.layer.0.attention.self.query.lora_A.default.weight")
    'bert.encoder.layer.0.attention.self.query.lora_A.weight'
    >>> canonical_name("encoder.base_model.model.classifier.modules_to_save.default.weight")
    'classifier.weight'
    """
    name = full.removeprefix("encoder.base_model.model.")
    return name.replace(".modules_to_save.default", "").replace(".original_module", "").replace(".default.", ".")


def load_tokenizer(folder: Path) -> Any:
    """The base's fast tokenizer, from local files only, of plain parts alone.

    Raises: ModelError.
    """
    refuse_code(folder)
    return plain_tokenizer(folder)


def build_classifier(plan: Plan, folder: Path) -> Classifier:
    """The classifier of `plan` on the base in `folder` (checked beforehand by `checked_base`), initial adapter set.

    Raises: ModelError.
    """
    import transformers
    from peft import LoraConfig, get_peft_model

    kind = model_type(folder)
    refuse_code(folder)
    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    check_length(plan, read_architecture(folder), folder)
    if plan.lora.first_layer >= config.num_hidden_layers:
        raise ModelError(
            f"first_layer {plan.lora.first_layer}, and the base has {config.num_hidden_layers} layers, counted from 0.",
            where="lora.first_layer",
            mend=f"set at most {config.num_hidden_layers - 1}.",
        )
    settings: dict[str, Any] = dict(
        local_files_only=True,
        trust_remote_code=False,
        attn_implementation="sdpa",
        dtype=torch.float32,
        use_safetensors=True,
        **_NO_DROPOUT[kind],
    )
    labels = task_of(plan.task).output_names
    try:
        with _quiet_loading():
            if plan.model.pooling != "mean":
                stock = {
                    "cls": transformers.AutoModelForSequenceClassification,
                    "none": transformers.AutoModelForTokenClassification,
                }
                encoder, info = stock[plan.model.pooling].from_pretrained(
                    folder,
                    num_labels=len(labels),
                    id2label=dict(enumerate(labels)),
                    label2id={label: i for i, label in enumerate(labels)},
                    ignore_mismatched_sizes=True,  # a head for other labels is replaced
                    output_loading_info=True,
                    **settings,
                )
            else:
                encoder, info = transformers.AutoModel.from_pretrained(folder, output_loading_info=True, **settings)
    except (OSError, RuntimeError, ValueError, ImportError) as error:
        raise ModelError(
            f"the weights cannot be loaded ({type(error).__name__}).", where=str(folder), mend="copy the model again."
        ) from None
    replaced = {str(row[0]) for row in info["mismatched_keys"]}
    if any(not name.startswith("classifier.") for name in replaced):
        raise ModelError("a weight has another shape than config.json says.", where=str(folder), mend="copy it again.")
    missing = {str(name) for name in info["missing_keys"]} | replaced
    if plan.model.pooling == "mean":
        missing = {name for name in missing if "pooler" not in name}  # unused here
        if missing:
            raise ModelError(f"the weights lack {sorted(missing)[0]}.", where=str(folder), mend="copy the model again.")
    to_save = _modules_to_save(plan, kind, missing)
    lora = LoraConfig(
        r=plan.lora.rank,
        lora_alpha=plan.lora.alpha,
        **_placed(plan, read_architecture(folder)),
        lora_dropout=0.0,
        bias="none",
        modules_to_save=to_save or None,
        task_type=_TASK_TYPES[plan.model.pooling],
    )
    with warnings.catch_warnings():  # PEFT asks transformers for an attribute by its old name
        warnings.simplefilter("ignore", FutureWarning)
        wrapped = get_peft_model(encoder, lora)
    head = nn.Linear(int(config.hidden_size), len(labels)) if plan.model.pooling == "mean" else None
    classifier = Classifier(plan, wrapped, head, frozenset(missing), kind)
    classifier.write(initial_adapter(classifier.spec, plan.method.seed))
    return classifier.train()


def _placed(plan: Plan, architecture: Architecture) -> dict[str, Any]:
    """PEFT's settings of where LoRA is: short names of the attention's projections, on all layers or on the upper ones;
    with others every module by its whole name, for "output.dense" is the end of two."""
    first, names = plan.lora.first_layer, _TARGETS[architecture.kind]
    if not set(plan.lora.targets) <= set(names):
        layers = range(first, architecture.depth)
        return {"target_modules": [architecture.projection(i, target) for i in layers for target in plan.lora.targets]}
    found: dict[str, Any] = {"target_modules": [names[target] for target in plan.lora.targets]}
    if first:
        found |= {"layers_to_transform": list(range(first, architecture.depth)), "layers_pattern": "layer"}
    return found


def _modules_to_save(plan: Plan, kind: str, missing: set[str]) -> list[str]:
    """Modules that the base's file does not hold: saved whole beside the LoRA factors.

    Raises: ModelError where other weights are missing than a head's: such a base is broken.
    """
    if plan.model.pooling == "mean":
        return []
    allowed = ["classifier", *(_NEW_MODULES[kind] if plan.model.pooling == "cls" else [])]
    if any(".pooler." in name for name in missing):
        allowed.append("pooler")
    for name in missing:
        if not any(part in name.split(".") for part in allowed):
            raise ModelError(f"the weights lack {name}.", where="model.base", mend="copy the model again.")
    return allowed


class _quiet_loading:
    """Silence transformers' progress bars and notes about the new head, which is meant to be new."""

    def __enter__(self) -> None:
        from transformers.utils import logging

        self._level = logging.get_verbosity()
        logging.set_verbosity_error()
        logging.disable_progress_bar()

    def __exit__(self, *_: object) -> None:
        from transformers.utils import logging

        logging.set_verbosity(self._level)


def initial_arrays(classifier: Classifier) -> Mapping[str, Floats]:
    """The adapter before the first round; its digest is in the first request.

    Raises: ConfigError for a plan that starts from a trained one.
    """
    return derived_adapter(classifier.plan, classifier.spec)
