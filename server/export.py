"""What a run leaves behind as files that load without privet: a PEFT adapter, a sentence-transformers folder.

A folder appears whole or not at all, and names no path of this machine.
"""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from privet.common import adapter
from privet.common.config import Plan
from privet.common.errors import ModelError
from privet.common.exported import write_marker
from privet.server.exporting.draft import replaced
from privet.server.exporting.files import numpy_arrays, plan_toml, stored_names, write_common, write_json
from privet.server.exporting.outputs import form_config

if TYPE_CHECKING:
    import torch

    from privet.common.model import Classifier

__all__ = [
    "export_adapter",
    "export_sentence_transformers",
    "merged_classifier",
    "merged_encoder",
    "plan_toml",
    "write_head",
    "write_sentence_transformers",
]

_SENTENCE_TRANSFORMERS = "sentence_transformers.models."  # the module path that releases since 2.0 read


def export_adapter(
    classifier: "Classifier", base: Path, folder: Path, *, documents: Mapping[str, str] | None = None
) -> None:
    """Write the present weights as plain PEFT files into `folder`, replacing what is there.

    adapter_config.json (its base is the plan's `model.base`, as written there), adapter_model.safetensors, the
    tokenizer's files and plan.toml. For `pooling = "mean"` also head.safetensors: `weight` [L, d] and `bias` [L], which
    read the scaled features; its metadata holds feature_scale and the labels (JSON). `documents` are further text files
    by name, such as the model card.

    base: the folder that `classifier` was built on.
    Raises: RunError when the folder cannot be written.
    """
    from peft import get_peft_model_state_dict

    plan, encoder = classifier.plan, classifier.encoder
    # "auto" would look up the base's configuration on the hub to see whether its embeddings were resized.
    weights = get_peft_model_state_dict(encoder, save_embedding_layers=False)
    config: Any = copy.deepcopy(encoder.peft_config["default"])  # type: ignore[index]
    config.base_model_name_or_path = plan.model.base
    config.inference_mode = True
    with replaced(folder) as draft:
        config.save_pretrained(draft)
        adapter.save(numpy_arrays(weights), draft / "adapter_model.safetensors", {"format": "pt"})
        if classifier.head is not None:
            write_head(classifier, draft)
        write_common(plan, base, draft, documents)


def export_sentence_transformers(
    classifier: "Classifier", base: Path, folder: Path, *, documents: Mapping[str, str] | None = None
) -> None:
    """`write_sentence_transformers` into `folder`, replacing what is there.

    Raises: ModelError unless the plan pools by mean; RunError when the folder cannot be written.
    """
    _check_pooling(classifier)
    with replaced(folder) as draft:
        write_sentence_transformers(classifier, base, draft, documents=documents)
        write_marker(draft, "sentence-transformers", classifier.plan.digest)


def write_sentence_transformers(
    classifier: "Classifier", base: Path, draft: Path, *, documents: Mapping[str, str] | None = None
) -> None:
    """Write files for `sentence_transformers.SentenceTransformer(draft)`, whose `encode` gives the logits [N, L].

    Transformer with LoRA merged into its weights, mean pooling, L2 normalisation, and a Dense layer into whose weight
    the feature scale is folded. config.json holds id2label. The live classifier is left as it is.

    It reads a text's first max_length tokens.
    WINDOWS.txt says so where the plan reads longer texts in several windows.

    Raises: ModelError unless the plan pools by mean.
    """
    head, plan = _check_pooling(classifier), classifier.plan
    merged, weights = merged_encoder(classifier, base)
    num_features, num_labels = head.in_features, head.out_features
    modules = ("Transformer", "Pooling", "Normalize", "Dense")
    paths = ("", "1_Pooling", "2_Normalize", "3_Dense")
    for path in ("1_Pooling", "3_Dense"):
        (draft / path).mkdir()
    write_json(
        draft / "modules.json",
        [
            {"idx": i, "name": str(i), "path": path, "type": _SENTENCE_TRANSFORMERS + module}
            for i, (module, path) in enumerate(zip(modules, paths, strict=True))
        ],
    )
    write_json(draft / "config_sentence_transformers.json", {"prompts": {}, "default_prompt_name": None})
    write_json(draft / "sentence_bert_config.json", {"max_seq_length": plan.task.max_length, "do_lower_case": False})
    write_json(draft / "config.json", form_config(plan, base, type(merged).__name__))
    adapter.save(numpy_arrays(weights), draft / "model.safetensors", {"format": "pt"})
    write_json(
        draft / "1_Pooling" / "config.json",
        {
            "word_embedding_dimension": num_features,
            "pooling_mode_cls_token": False,
            "pooling_mode_mean_tokens": True,
            "pooling_mode_max_tokens": False,
            "pooling_mode_mean_sqrt_len_tokens": False,
        },
    )
    write_json(
        draft / "3_Dense" / "config.json",
        {
            "in_features": num_features,
            "out_features": num_labels,
            "bias": True,
            "activation_function": "torch.nn.modules.linear.Identity",
        },
    )
    dense = {"linear.weight": head.weight * plan.model.feature_scale, "linear.bias": head.bias}
    adapter.save(numpy_arrays(dense), draft / "3_Dense" / "model.safetensors", {"format": "pt"})
    if plan.task.windows > 1:
        (draft / "WINDOWS.txt").write_text(_first_window_only(plan), encoding="utf-8")
    write_common(plan, base, draft, documents)


def write_head(classifier: "Classifier", folder: Path) -> None:
    """head.safetensors of a classifier that pools by mean."""
    head, plan = _check_pooling(classifier), classifier.plan
    adapter.save(
        numpy_arrays({"weight": head.weight, "bias": head.bias}),
        folder / "head.safetensors",
        {"feature_scale": repr(plan.model.feature_scale), "labels": json.dumps(plan.task.labels)},
    )


def merged_encoder(classifier: "Classifier", base: Path) -> "tuple[Any, dict[str, torch.Tensor]]":
    """The stock model with LoRA merged into its weights, and these; the live classifier is left as it is.

    A pooler that the base's files lack, and that nothing reads, is zero.
    """
    import torch

    merged: Any = copy.deepcopy(classifier.encoder)
    merged = merged.merge_and_unload().eval()
    weights = dict(merged.state_dict())
    stored = stored_names(base)
    for name, tensor in weights.items():
        if name.startswith("pooler.") and not any(other.endswith(name) for other in stored):
            weights[name] = torch.zeros_like(tensor)  # read by nothing; was random, as the base's file lacks it
    return merged, weights


def merged_classifier(classifier: "Classifier") -> "Classifier":
    """One that computes by merged weights; it shares the head, and is for reading only."""
    merged: Any = copy.deepcopy(classifier.encoder)
    found = copy.copy(classifier)
    found._modules = dict(classifier._modules) | {"encoder": merged.merge_and_unload()}
    return found.eval()


def _check_pooling(classifier: "Classifier") -> "torch.nn.Linear":
    if classifier.head is None:
        raise ModelError(
            'only pooling = "mean" has this form.',
            where="model.pooling",
            mend="use the adapter's own folder, or `privet export ADAPTER --to merged`.",
        )
    return classifier.head


def _first_window_only(plan: Plan) -> str:
    task = plan.task
    return (
        f"This folder reads the first {task.max_length} tokens of a text and cuts off the rest.\n"
        f"The model was trained, and is judged by privet, on up to {task.windows} windows of {task.max_length} tokens, "
        f"neighbours sharing {task.stride}: the logits of a text are the mean over its windows.\n"
        "`privet predict` on the adapter's own folder reads them all.\n"
    )
