"""The files that every exported form has: weights, JSON, tokenizer, the plan."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tomli_w

from privet.common import adapter
from privet.common.base import TOKENIZER_FILES
from privet.common.config import Plan

if TYPE_CHECKING:
    import torch

__all__ = ["base_config", "copy_tokenizer", "numpy_arrays", "plan_toml", "stored_names", "write_common", "write_json"]


def plan_toml(plan: Plan) -> str:
    """The plan as TOML, defaults written out, with its digest in a comment."""
    return f"# plan {plan.digest}\n" + tomli_w.dumps(plan.model_dump(mode="json"))


def numpy_arrays(tensors: Mapping[str, "torch.Tensor"]) -> dict[str, adapter.Floats]:
    return {name: tensor.detach().cpu().numpy().astype(np.float32) for name, tensor in tensors.items()}


def write_json(path: Path, document: object) -> None:
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def base_config(base: Path) -> dict[str, Any]:
    """The base's config.json without what tells of its own machine or precision."""
    config: dict[str, Any] = json.loads((base / "config.json").read_text(encoding="utf-8"))
    for key in ("_name_or_path", "torch_dtype"):
        config.pop(key, None)
    return config


def stored_names(base: Path) -> set[str]:
    """The arrays that the base's files hold."""
    from safetensors import safe_open

    names: set[str] = set()
    for path in base.glob("*.safetensors"):
        with safe_open(path, framework="np") as file:
            names.update(file.keys())
    return names


def copy_tokenizer(base: Path, folder: Path) -> None:
    """Copy the tokenizer's files; its class is written in where only the base's config.json tells it."""
    from privet.common.model import load_tokenizer

    for name in TOKENIZER_FILES:
        if (base / name).is_file() and not name.startswith("model."):  # of the weights' shards, which are not copied
            shutil.copyfile(base / name, folder / name)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if "tokenizer_class" not in config:
        write_json(path, config | {"tokenizer_class": type(load_tokenizer(base)).__name__})


def write_common(plan: Plan, base: Path, folder: Path, documents: Mapping[str, str] | None) -> None:
    """The tokenizer, plan.toml and further text files by name."""
    copy_tokenizer(base, folder)
    (folder / "plan.toml").write_text(plan_toml(plan), encoding="utf-8")
    for name, text in (documents or {}).items():
        (folder / name).write_text(text, encoding="utf-8")
