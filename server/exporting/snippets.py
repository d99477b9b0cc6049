"""Python that labels one text by a form's files, without privet: what each model card shows, and tests execute."""

import json
import re
from pathlib import Path

from privet.common.config import Plan
from privet.common.exported import Kind

NEEDS: dict[Kind, str] = {
    "merged": "`torch` and `transformers`",
    "onnx": "`onnxruntime`, and `transformers` for its tokenizer",
    "onnx-int8": "`onnxruntime`, and `transformers` for its tokenizer",
    "sentence-transformers": "`sentence-transformers`",
}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
_STOCK = {"cls": "AutoModelForSequenceClassification", "mean": "AutoModel", "none": "AutoModelForTokenClassification"}


def hub_id(base: str) -> str | None:
    """`model.base` where it is a hub id: not a package, and no folder of this machine (which `model` would prefer)."""
    return base if _HUB_ID.fullmatch(base) and not Path(base).is_dir() else None


def adapter_snippet(plan: Plan) -> str:
    """For the adapter's own folder, on its base."""
    base, mean = plan.model.base, plan.model.pooling == "mean"
    stock = _STOCK[plan.model.pooling]
    packaged = base.startswith("package:")
    lines = ["import tomllib", *(["from importlib.util import find_spec"] if packaged else [])]
    lines += ["from pathlib import Path", "", "import numpy as np", "import torch"]
    lines += ["from peft import PeftModel"]
    lines += ["from safetensors.torch import safe_open"] if mean else []
    lines += [f"from transformers import {stock}, AutoTokenizer", "", 'adapter = "."  # the folder of this card']
    if packaged:
        name = _literal(base.removeprefix("package:"))
        lines.append(f"package = Path(find_spec({name}).submodule_search_locations[0])")
        lines.append('base = package / "model" if (package / "model").is_dir() else package')
    else:
        note = "" if hub_id(base) else "  # the folder of the base model on your machine"
        lines.append(f"base = {_literal(base)}{note}")
    lines += ['text = "Put a text here."', ""]
    lines += ['plan = tomllib.loads(Path(adapter, "plan.toml").read_text(encoding="utf-8"))']
    lines += ['labels = plan["task"]["labels"]']
    if plan.model.pooling == "none":
        lines += ['labels = ["O", *(f"{part}-{label}" for label in labels for part in "BI")]']
    lines += ["tokenizer = AutoTokenizer.from_pretrained(adapter)"]
    lines += _inputs(plan, "pt")
    if mean:
        lines.append(f"model = {stock}.from_pretrained(base, dtype=torch.float32)")
        lines.append("model = PeftModel.from_pretrained(model, adapter).eval()")
        return "\n".join([*lines, *_mean("adapter"), *_show(plan), ""])
    lines += [
        f"model = {stock}.from_pretrained(",
        "    base, num_labels=len(labels), dtype=torch.float32, ignore_mismatched_sizes=True",
        ")",
        "model = PeftModel.from_pretrained(model, adapter).eval()",
    ]
    return "\n".join([*lines, *_plain(), *_show(plan), ""])


def form_snippet(kind: Kind, plan: Plan) -> str:
    """For the folder of an export, which needs no base beside it."""
    mean, stock = plan.model.pooling == "mean", _STOCK[plan.model.pooling]
    lines = ["import json", "import tomllib", "from pathlib import Path", ""]
    if kind == "sentence-transformers":
        lines += ["import numpy as np", "from sentence_transformers import SentenceTransformer"]
    elif kind == "merged":
        lines += ["import numpy as np", "import torch", *(["from safetensors.torch import safe_open"] if mean else [])]
        lines += [f"from transformers import {stock}, AutoTokenizer"]
    else:
        lines += ["import numpy as np", "import onnxruntime", "from transformers import AutoTokenizer"]
    lines += ["", 'folder = "."  # the folder of this card', 'text = "Put a text here."', ""]
    lines += ['config = json.loads(Path(folder, "config.json").read_text(encoding="utf-8"))']
    lines += ['labels = list(config["id2label"].values())']
    lines += ['plan = tomllib.loads(Path(folder, "plan.toml").read_text(encoding="utf-8"))']
    if kind == "sentence-transformers":
        lines += ['model = SentenceTransformer(folder, device="cpu")', "logits = model.encode([text])"]
        return "\n".join([*lines, *_show(plan), ""])
    lines += ["tokenizer = AutoTokenizer.from_pretrained(folder)"]
    if kind == "merged":
        lines += [*_inputs(plan, "pt"), f"model = {stock}.from_pretrained(folder, dtype=torch.float32).eval()"]
        lines += _mean("folder") if mean else _plain()
    else:
        lines += [*_inputs(plan, "np"), 'model = onnxruntime.InferenceSession(str(Path(folder, "model.onnx")))']
        lines += ['given = {name: inputs[name] for name in ("input_ids", "attention_mask")}']
        lines += ["logits = model.run(None, given)[0]"]
    return "\n".join([*lines, *_show(plan), ""])


def _inputs(plan: Plan, tensors: str) -> list[str]:
    offsets = ", return_offsets_mapping=True" if plan.model.pooling == "none" else ""
    lines = [
        "inputs = tokenizer(",
        f'    [text], truncation=True, max_length=plan["task"]["max_length"], return_tensors="{tensors}"{offsets}',
        ")",
    ]
    return lines + (['offsets = inputs.pop("offset_mapping")[0].tolist()'] if offsets else [])


def _plain() -> list[str]:
    return ["with torch.inference_mode():", "    logits = model(**inputs).logits.numpy()"]


def _mean(folder: str) -> list[str]:
    return [
        f'with torch.inference_mode(), safe_open(Path({folder}, "head.safetensors"), framework="pt") as head:',
        '    mask = inputs["attention_mask"].unsqueeze(-1)',
        "    mean = (model(**inputs).last_hidden_state * mask).sum(1) / mask.sum(1)",
        '    features = torch.nn.functional.normalize(mean, dim=-1) * float(head.metadata()["feature_scale"])',
        '    logits = (features @ head.get_tensor("weight").T + head.get_tensor("bias")).numpy()',
    ]


def _show(plan: Plan) -> list[str]:
    """From `logits`, an array [1, L]; of tokens [1, T, L]."""
    if plan.model.pooling == "none":
        return [
            "for (start, end), row in zip(offsets, logits[0]):",
            "    tag = labels[row.argmax()]",
            '    if tag != "O" and end > start:',
            "        print(text[start:end], tag)",
        ]
    if plan.task.kind == "multilabel":
        return [
            'least = plan["task"].get("thresholds", 0.5)',
            "for label, chance in zip(labels, 1 / (1 + np.exp(-logits[0]))):",
            "    if chance >= (least.get(label, 0.5) if isinstance(least, dict) else least):",
            '        print(label, f"{chance:.4f}")',
        ]
    return [
        "chances = np.exp(logits[0] - logits[0].max())",
        "chances /= chances.sum()",
        'print(labels[chances.argmax()], f"{chances.max():.4f}")',
    ]


def _literal(text: str) -> str:
    """A string of Python on one line: JSON's strings are Python's, too."""
    return json.dumps(text, ensure_ascii=False)
