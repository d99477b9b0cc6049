"""What a run leaves behind as files that load without privet: a PEFT adapter, a sentence-transformers folder.

A folder appears whole or not at all, and names no path of this machine.
"""

import copy
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tomli_w

from privet.common import adapter
from privet.common.base import TOKENIZER_FILES
from privet.common.config import Plan
from privet.common.errors import ModelError, RunError

if TYPE_CHECKING:
    import torch

    from privet.common.model import Classifier

__all__ = ["export_adapter", "export_sentence_transformers", "plan_toml"]

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
    with _replaced(folder) as draft:
        config.save_pretrained(draft)
        adapter.save(_numpy(weights), draft / "adapter_model.safetensors", {"format": "pt"})
        if classifier.head is not None:
            adapter.save(
                _numpy({"weight": classifier.head.weight, "bias": classifier.head.bias}),
                draft / "head.safetensors",
                {"feature_scale": repr(plan.model.feature_scale), "labels": json.dumps(plan.task.labels)},
            )
        _copy_tokenizer(base, draft)
        (draft / "plan.toml").write_text(plan_toml(plan), encoding="utf-8")
        for name, text in (documents or {}).items():
            (draft / name).write_text(text, encoding="utf-8")


def export_sentence_transformers(
    classifier: "Classifier", base: Path, folder: Path, *, documents: Mapping[str, str] | None = None
) -> None:
    """Write a folder for `sentence_transformers.SentenceTransformer(folder)`, whose `encode` gives the logits [N, L].

    Transformer with LoRA merged into its weights, mean pooling, L2 normalisation, and a Dense layer into whose weight
    the feature scale is folded. config.json holds id2label. The live classifier is left as it is.

    It reads a text's first max_length tokens.
    WINDOWS.txt says so where the plan reads longer texts in several windows.

    Raises: ModelError unless the plan pools by mean; RunError when the folder cannot be written.
    """
    import torch

    plan, head = classifier.plan, classifier.head
    if head is None:
        raise ModelError(
            'only pooling = "mean" has this form.', where="model.pooling", mend="use the adapter's own folder."
        )
    merged: Any = copy.deepcopy(classifier.encoder)
    merged = merged.merge_and_unload()
    weights = dict(merged.state_dict())
    stored = _stored_names(base)
    for name, tensor in weights.items():
        if name.startswith("pooler.") and not any(other.endswith(name) for other in stored):
            weights[name] = torch.zeros_like(tensor)  # read by nothing; was random, as the base's file lacks it
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    for key in ("_name_or_path", "torch_dtype"):
        config.pop(key, None)
    config |= {
        "architectures": [type(merged).__name__],
        "dtype": "float32",
        "id2label": dict(enumerate(plan.task.labels)),
        "label2id": {label: i for i, label in enumerate(plan.task.labels)},
    }
    num_features, num_labels = head.in_features, head.out_features
    modules = ("Transformer", "Pooling", "Normalize", "Dense")
    paths = ("", "1_Pooling", "2_Normalize", "3_Dense")
    with _replaced(folder) as draft:
        for path in ("1_Pooling", "3_Dense"):
            (draft / path).mkdir()
        _write_json(
            draft / "modules.json",
            [
                {"idx": i, "name": str(i), "path": path, "type": _SENTENCE_TRANSFORMERS + module}
                for i, (module, path) in enumerate(zip(modules, paths, strict=True))
            ],
        )
        _write_json(draft / "config_sentence_transformers.json", {"prompts": {}, "default_prompt_name": None})
        _write_json(
            draft / "sentence_bert_config.json", {"max_seq_length": plan.task.max_length, "do_lower_case": False}
        )
        _write_json(draft / "config.json", config)
        adapter.save(_numpy(weights), draft / "model.safetensors", {"format": "pt"})
        _copy_tokenizer(base, draft)
        _write_json(
            draft / "1_Pooling" / "config.json",
            {
                "word_embedding_dimension": num_features,
                "pooling_mode_cls_token": False,
                "pooling_mode_mean_tokens": True,
                "pooling_mode_max_tokens": False,
                "pooling_mode_mean_sqrt_len_tokens": False,
            },
        )
        _write_json(
            draft / "3_Dense" / "config.json",
            {
                "in_features": num_features,
                "out_features": num_labels,
                "bias": True,
                "activation_function": "torch.nn.modules.linear.Identity",
            },
        )
        dense = {"linear.weight": head.weight * plan.model.feature_scale, "linear.bias": head.bias}
        adapter.save(_numpy(dense), draft / "3_Dense" / "model.safetensors", {"format": "pt"})
        (draft / "plan.toml").write_text(plan_toml(plan), encoding="utf-8")
        if plan.task.windows > 1:
            (draft / "WINDOWS.txt").write_text(_first_window_only(plan), encoding="utf-8")
        for name, text in (documents or {}).items():
            (draft / name).write_text(text, encoding="utf-8")


def _first_window_only(plan: Plan) -> str:
    task = plan.task
    return (
        f"This folder reads the first {task.max_length} tokens of a text and cuts off the rest.\n"
        f"The model was trained, and is judged by privet, on up to {task.windows} windows of {task.max_length} tokens, "
        f"neighbours sharing {task.stride}: the logits of a text are the mean over its windows.\n"
        "`privet predict` on the adapter's own folder reads them all.\n"
    )


def plan_toml(plan: Plan) -> str:
    """The plan as TOML, defaults written out, with its digest in a comment."""
    return f"# plan {plan.digest}\n" + tomli_w.dumps(plan.model_dump(mode="json"))


def _numpy(tensors: Mapping[str, "torch.Tensor"]) -> dict[str, adapter.Floats]:
    return {name: tensor.detach().cpu().numpy().astype(np.float32) for name, tensor in tensors.items()}


def _write_json(path: Path, document: object) -> None:
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _stored_names(base: Path) -> set[str]:
    """The arrays that the base's files hold."""
    from safetensors import safe_open

    names: set[str] = set()
    for path in base.glob("*.safetensors"):
        with safe_open(path, framework="np") as file:
            names.update(file.keys())
    return names


def _copy_tokenizer(base: Path, folder: Path) -> None:
    """Copy the tokenizer's files; its class is written in where only the base's config.json tells it."""
    from privet.common.model import load_tokenizer

    for name in TOKENIZER_FILES:
        if (base / name).is_file():
            shutil.copyfile(base / name, folder / name)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if "tokenizer_class" not in config:
        _write_json(path, config | {"tokenizer_class": type(load_tokenizer(base)).__name__})


@contextmanager
def _replaced(folder: Path) -> Iterator[Path]:
    """A draft folder that takes `folder`'s place when the block ends well, and is removed when it does not.

    Every file reaches the disk before the renaming. Raises: RunError for what the file system refuses.
    """
    folder = folder.absolute()
    mark = secrets.token_hex(4)
    draft, old = folder.with_name(f".{folder.name}.{mark}.new"), folder.with_name(f".{folder.name}.{mark}.old")
    try:
        draft.mkdir(parents=True)
        yield draft
        mode = (draft / "plan.toml").stat().st_mode
        for path in [*draft.rglob("*"), draft]:
            if path.is_file():
                path.chmod(mode)  # safetensors' writer makes files that only their owner may read
            _flush(path)
        if folder.exists():
            folder.rename(old)
        draft.rename(folder)
        _flush(folder.parent)
    except OSError as error:
        if old.exists() and not folder.exists():
            old.rename(folder)
        raise RunError(
            f"cannot be written ({error.strerror or type(error).__name__}).",
            where=str(folder),
            mend="check the disk's free space and the folder's permissions.",
        ) from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
