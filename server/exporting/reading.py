"""Every form's logits for texts, read from its files by stock libraries alone; and the adapter's own, by PyTorch."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from privet.common.adapter import Floats
from privet.common.exported import Kind

if TYPE_CHECKING:
    from privet.common.model import Classifier

Reader = Callable[[Sequence[str]], Floats]  # texts to logits [M, K]: a row a text, or a row a token


def adapter_reader(classifier: "Classifier", tokenizer: Any) -> Reader:
    """The classifier in memory; a text's first max_length tokens."""
    import torch

    @torch.inference_mode()
    def read(texts: Sequence[str]) -> Floats:
        inputs = _tokens(tokenizer, texts, classifier.plan.task.max_length, "pt")
        logits = classifier(inputs["input_ids"], inputs["attention_mask"])
        return _rows(logits.float().numpy(), inputs["attention_mask"].numpy())

    return read


def form_reader(kind: Kind, folder: Path, max_length: int) -> Reader:
    """The files in `folder`, as their readers would load them: nothing of the model in memory is used."""
    if kind == "sentence-transformers":
        return _sentence_transformers(folder)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return _merged(folder, tokenizer, max_length) if kind == "merged" else _onnx(folder, tokenizer, max_length)


def _merged(folder: Path, tokenizer: Any, max_length: int) -> Reader:
    import torch
    import transformers
    from safetensors import safe_open

    architecture = json.loads((folder / "config.json").read_text(encoding="utf-8"))["architectures"][0]
    model = getattr(transformers, architecture).from_pretrained(
        folder, local_files_only=True, use_safetensors=True, dtype=torch.float32
    )
    model.eval()
    head = None
    if (folder / "head.safetensors").is_file():
        with safe_open(folder / "head.safetensors", framework="pt") as file:
            scale = float(file.metadata()["feature_scale"])
            head = (file.get_tensor("weight") * scale, file.get_tensor("bias"))

    @torch.inference_mode()
    def read(texts: Sequence[str]) -> Floats:
        inputs = _tokens(tokenizer, texts, max_length, "pt")
        out = model(**inputs)
        if head is None:
            logits = out.logits
        else:
            mask = inputs["attention_mask"].unsqueeze(-1)
            mean = (out.last_hidden_state * mask).sum(1) / mask.sum(1)
            logits = torch.nn.functional.linear(torch.nn.functional.normalize(mean, dim=-1), *head)
        return _rows(logits.numpy(), inputs["attention_mask"].numpy())

    return read


def _onnx(folder: Path, tokenizer: Any, max_length: int) -> Reader:
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()  # as PyTorch's, or their speeds would not compare
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])

    def read(texts: Sequence[str]) -> Floats:
        inputs = dict(_tokens(tokenizer, texts, max_length, "np"))
        return _rows(session.run(None, inputs)[0], inputs["attention_mask"])

    return read


def _sentence_transformers(folder: Path) -> Reader:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)

    def read(texts: Sequence[str]) -> Floats:
        return np.asarray(model.encode(list(texts), batch_size=len(texts), show_progress_bar=False), np.float32)

    return read


def _tokens(tokenizer: Any, texts: Sequence[str], max_length: int, kind: str) -> dict[str, Any]:
    found = tokenizer(
        list(texts),
        truncation=True,
        max_length=max_length,
        padding=True,
        return_tensors=kind,
        return_token_type_ids=False,
    )
    return {name: found[name] for name in ("input_ids", "attention_mask")}


def _rows(logits: Floats, mask: Any) -> Floats:
    """[N, K] as it is; [N, T, K] without the padding: [M, K]."""
    return logits if logits.ndim == 2 else logits[np.asarray(mask, bool)]
