"""The model card of an export: the adapter's own, with this form's metadata, snippet and check.

What people wrote into the adapter's card (a licence, a warning) stays.
"""

import re
from typing import Any

from privet.common.config import Plan
from privet.common.errors import InputError
from privet.common.exported import Kind
from privet.server.exporting.check import Check
from privet.server.exporting.snippets import NEEDS, form_snippet, hub_id

_LIBRARIES: dict[Kind, str] = {
    "merged": "transformers",
    "onnx": "onnx",
    "onnx-int8": "onnx",
    "sentence-transformers": "sentence-transformers",
}
_WHAT: dict[Kind, str] = {
    "merged": "the base model with the adapter merged into its weights, for `transformers`",
    "onnx": "one ONNX graph from token ids to logits",
    "onnx-int8": "one ONNX graph from token ids to logits, its weights quantised to int8 by output channel",
    "sentence-transformers": "a `sentence-transformers` folder, whose `encode` gives the logits",
}
_USE = re.compile(r"^## Use\n.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)


def export_card(kind: Kind, plan: Plan, adapter_card: str | None, check: Check) -> str:
    """README.md of the export's folder. adapter_card: README.md of the adapter's, where it has one.

    Raises: InputError where that one's head cannot be read.
    """
    head, body = _parts(adapter_card)
    tags = [tag for tag in head.get("tags") or [] if tag not in ("lora", "peft")]
    head |= {"library_name": _LIBRARIES[kind], "tags": list(dict.fromkeys([*tags, *_tags(kind)]))}
    base = head.get("base_model") or hub_id(plan.model.base)
    if base:
        head |= {"base_model": base, "base_model_relation": "quantized" if kind == "onnx-int8" else "finetune"}
    if kind == "onnx-int8":  # judged were the weights before they were quantised
        head.pop("model-index", None)
        head.pop("metrics", None)
    section = _use(kind, plan, check)
    if not body:
        body = f"# {plan.name}\n\n{section}\nNo card lay beside the adapter: its results and privacy are not known.\n"
    elif _USE.search(body):
        body = _USE.sub(lambda _: section, body, count=1)
    else:
        body = f"{body.rstrip()}\n\n{section}"
    return f"---\n{_yaml(head)}---\n\n{body.strip()}\n"


def _use(kind: Kind, plan: Plan, check: Check) -> str:
    task, notes = plan.task, []
    if kind == "merged" and plan.model.pooling == "mean":
        notes.append(
            "No stock class pools as this model does: the folder holds the bare encoder, and `head.safetensors` its "
            "last layer. The sentence-transformers form needs no line of arithmetic."
        )
    if task.windows > 1:
        notes.append(
            f"It reads a text's first {task.max_length} tokens. The model was trained on up to {task.windows} windows "
            "of that length, over which `privet predict` averages the logits."
        )
    results = "before it was quantised; " if kind == "onnx-int8" else ""
    lines = [
        "## Use",
        "",
        f"This folder is {_WHAT[kind]}. It needs {NEEDS[kind]}, and no other folder.",
        *(text for note in notes for text in ("", note)),
        "",
        "```python",
        form_snippet(kind, plan).rstrip("\n"),
        "```",
        "",
        "Checked against the adapter in PyTorch when it was made:",
        "",
        *(f"- {line}" for line in check.in_words()),
        "",
        f"The results below are the adapter's, {results}plan.toml and privacy.json are as they lay beside it.",
        "",
        "",
    ]
    return "\n".join(lines)


def _tags(kind: Kind) -> tuple[str, ...]:
    return {"onnx": ("onnx",), "onnx-int8": ("onnx", "int8")}.get(kind, (kind,) if kind != "merged" else ())


def _parts(card: str | None) -> tuple[dict[str, Any], str]:
    import yaml

    found = re.match(r"---\r?\n(.*?)^---\s*?$", card or "", re.MULTILINE | re.DOTALL)
    if card is None or found is None:
        return {}, (card or "").strip()
    try:
        head = yaml.safe_load(found[1]) or {}
    except yaml.YAMLError:
        head = None
    if not isinstance(head, dict):
        raise InputError("its head of metadata is not valid YAML.", where="README.md", mend="correct it.")
    return head, card[found.end() :].strip()


def _yaml(head: dict[str, Any]) -> str:
    import yaml

    return str(yaml.safe_dump(head, sort_keys=False, allow_unicode=True, width=1000))
