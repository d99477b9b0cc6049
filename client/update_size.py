"""How many bytes one update has: from the plan and the base's config.json, without building or loading a model."""

import json
from pathlib import Path
from typing import Any

from privet.common.base import checked_base
from privet.common.compression import coded_bytes
from privet.common.config import Plan, Site
from privet.common.errors import ModelError
from privet.common.methods import is_foreign
from privet.common.tasks.base import task_of

# Of each architecture: config.json's names of width and depth, and the head of its stock sequence classifier.
_WIDTH = {"bert": "hidden_size", "roberta": "hidden_size", "distilbert": "dim"}
_INNER = {"bert": "intermediate_size", "roberta": "intermediate_size", "distilbert": "hidden_dim"}
_DEPTH = {"bert": "num_hidden_layers", "roberta": "num_hidden_layers", "distilbert": "n_layers"}
_BELOW_HEAD = {"bert": "pooler.dense", "roberta": "classifier.dense", "distilbert": "pre_classifier"}
_MAX_CONFIG_BYTES = 1 << 20


def local_base(plan: Plan, site: Site) -> Path | None:
    """The folder of the plan's base where this machine has it, digest checked; None otherwise. Asks no network.

    The site's own `federation.NAME.base` goes before what the plan names.
    """
    membership = site.federation.get(plan.name)
    base = (membership.base if membership else None) or plan.model.base
    try:
        return checked_base(base, plan.model.sha256, local_only=True)
    except (ModelError, OSError):
        return None


def update_bytes(plan: Plan, folder: Path | None) -> int | None:
    """Bytes of one update's arrays, compressed as the plan says, on the base in `folder`; None without a base, with one
    of another kind, or for a method that is none of privet's own.

    Only config.json and the names in the weights' headers are read: what the base's file lacks is trained anew.
    """
    if folder is None or is_foreign(plan):
        return None
    try:
        path = folder / "config.json"
        if path.stat().st_size > _MAX_CONFIG_BYTES:
            return None
        config = json.loads(path.read_text(encoding="utf-8"))
        kind = config["model_type"]
        width, depth, inner = (_positive(config[name[kind]]) for name in (_WIDTH, _DEPTH, _INNER))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    if config.get("add_cross_attention"):
        return None
    num_labels, rank = task_of(plan.task).num_outputs, plan.lora.rank
    values = num_labels * (width + 1)  # the head: weight and bias
    if plan.method.kind != "head":
        if plan.lora.first_layer >= depth:
            return None
        outputs = sum(inner if target == "intermediate" else width for target in plan.lora.targets)  # of B
        inputs = sum(inner if target == "output" else width for target in plan.lora.targets)  # of A
        each = outputs + (inputs if plan.method.kind == "fedavg" else 0)
        values += (depth - plan.lora.first_layer) * rank * each
        if plan.model.pooling == "cls" and not _holds(folder, _BELOW_HEAD[kind]):
            values += width * (width + 1)
    return coded_bytes(plan.training.compression, values)


def _positive(value: Any) -> int:
    if type(value) is not int or not 0 < value < 1 << 20:
        raise ValueError("Expected a size.")
    return value


def _holds(folder: Path, module: str) -> bool:
    """Whether the safetensors headers name this module's weight."""
    from safetensors import SafetensorError, safe_open

    name = f"{module}.weight"
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="numpy") as file:
                if any(key == name or key.endswith(f".{name}") for key in file.keys()):  # noqa: SIM118
                    return True
        except (OSError, SafetensorError):
            continue
    return False
