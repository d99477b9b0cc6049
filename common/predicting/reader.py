"""A trained model that only reads: LoRA merged into the frozen weights, on one device, called on batches by length."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from privet.common import adapter
from privet.common.base import checked_base
from privet.common.config import Plan
from privet.common.errors import ModelError
from privet.common.exported import read_marker
from privet.common.model import Classifier
from privet.common.precision import AskedDevice, Device, Precision, usable_device, usable_precision
from privet.common.predicting.folder import damaged, model_folder, read_plan
from privet.common.wordpiece import quick_tokenizer

__all__ = ["Reader", "by_length", "load_reader", "reader_of"]

CPU_TOKENS = 1024  # of a batch, padding included: its widest layer stays near a core's cache
CUDA_TOKENS = 2**15

Floats = NDArray[np.float32]


class Reader:
    """Token ids to logits. `encoder` is a transformers model; `head` is there for mean pooling."""

    def __init__(
        self,
        plan: Plan,
        encoder: nn.Module,
        head: nn.Linear | None,
        tokenizer: Any,
        *,
        device: Device = "cpu",
        precision: Precision = "float32",
        tokens: int | None = None,
    ) -> None:
        self.plan, self.tokenizer = plan, tokenizer
        self.device, self.precision = torch.device(device), precision
        kind = torch.bfloat16 if precision == "bfloat16" else torch.float32
        self.encoder = encoder.to(self.device, kind).eval().requires_grad_(False)
        self.head = None if head is None else head.to(self.device).eval().requires_grad_(False)
        self.tokens = tokens or (CUDA_TOKENS if device == "cuda" else CPU_TOKENS)
        self._pad = int(tokenizer.pad_token_id or 0)
        self.vocabulary = int(self.encoder.get_input_embeddings().num_embeddings)  # type: ignore[operator]

    def __call__(self, rows: Sequence[NDArray[np.int32]]) -> Iterator[tuple[NDArray[np.int64], Floats]]:
        """Logits of windows, in batches of like length: which windows, and float32 [rows, K] or [rows, T, K]."""
        lengths = np.array([len(row) for row in rows], np.int64)
        for batch in by_length(lengths, self.tokens):
            yield batch, self._forward([rows[i] for i in batch], lengths[batch])

    @torch.inference_mode()
    def _forward(self, rows: Sequence[NDArray[np.int32]], lengths: NDArray[np.int64]) -> Floats:
        longest = int(lengths.max())
        ids = np.full((len(rows), longest), self._pad, np.int64)
        mask = np.arange(longest) < lengths[:, None]
        ids[mask] = np.concatenate(rows)
        given = torch.from_numpy(ids).to(self.device)
        # Without padding there is nothing to mask, and attention is faster for it.
        seen = None if mask.all() else torch.from_numpy(mask).to(self.device)
        found = self.encoder(input_ids=given, attention_mask=seen)
        logits: Tensor = found.logits if self.head is None else self.head(self.pool(found.last_hidden_state, seen))
        return np.asarray(logits.float().cpu().numpy(), np.float32)

    def pool(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """As `Classifier.pool`."""
        hidden = hidden.float()
        if mask is None:
            mean = hidden.mean(1)
        else:
            weights = mask.unsqueeze(-1).to(hidden.dtype)
            mean = (hidden * weights).sum(1) / weights.sum(1).clamp(min=1.0)
        return nn.functional.normalize(mean, dim=-1) * self.plan.model.feature_scale


def by_length(lengths: NDArray[np.int64], tokens: int) -> Iterator[NDArray[np.int64]]:
    """Places of rows, the shortest first, in batches that hold at most `tokens` with their padding, or a single row.

    A batch of a quarter of that ends where a longer row would make more than an eighth of it padding.

    >>> [batch.tolist() for batch in by_length(np.array([3, 9, 3, 4]), 8)]
    [[0, 2], [3], [1]]
    """
    order = np.argsort(lengths, kind="stable")
    ascending = lengths[order].tolist()
    start = held = 0
    for end, length in enumerate(ascending):
        padded = (end + 1 - start) * length
        wasteful = 8 * padded > 9 * (held + length) and 4 * held >= tokens
        if end > start and (padded > tokens or wasteful):
            yield order[start:end]
            start, held = end, 0
        held += length
    if len(order):
        yield order[start:]


def load_reader(
    path: Path,
    base: str | None = None,
    *,
    device: AskedDevice = "cpu",
    precision: Precision = "float32",
    tokens: int | None = None,
) -> Reader:
    """The model that `path` names (`model_folder`); `base` stands for the plan's own, with its digest.

    precision: "bfloat16" only where the hardware has it; the last layer stays in float32. tokens: of a batch.
    Raises: ModelError, ConfigError.
    """
    folder, merged = model_folder(path)
    plan = read_plan(folder)
    place = usable_device(device)
    kind, _ = usable_precision(precision, place)
    if not merged:
        from privet.common.prediction import Predictor

        where = checked_base(base or plan.model.base, plan.model.sha256)
        return reader_of(
            Predictor.load(folder, str(where)).classifier, where, device=place, precision=kind, tokens=tokens
        )
    if base is not None:
        raise ModelError("a merged export holds its base.", where="--base", mend="leave it out.")
    read_marker(folder)
    encoder, head = _merged(folder, plan)
    return Reader(plan, encoder, head, quick_tokenizer(folder), device=place, precision=kind, tokens=tokens)


def reader_of(
    classifier: Classifier,
    base: Path,
    *,
    device: Device = "cpu",
    precision: Precision = "float32",
    tokens: int | None = None,
) -> Reader:
    """Of a classifier on the base in `base`, which is used up: LoRA is merged into its weights."""
    wrapped: Any = classifier.encoder
    encoder = wrapped.merge_and_unload()
    tokenizer = quick_tokenizer(base)
    return Reader(
        classifier.plan, encoder, classifier.head, tokenizer, device=device, precision=precision, tokens=tokens
    )


def _merged(folder: Path, plan: Plan) -> tuple[nn.Module, nn.Linear | None]:
    """The model in a merged export, and the head that pooling "mean" needs beside it. Raises: ModelError."""
    import transformers

    from privet.common.architecture import refuse_code
    from privet.common.model import _quiet_loading as quiet_loading

    refuse_code(folder)
    mean = plan.model.pooling == "mean"
    kind = {"mean": "AutoModel", "cls": "AutoModelForSequenceClassification"}.get(
        plan.model.pooling, "AutoModelForTokenClassification"
    )
    try:
        with quiet_loading():
            encoder, info = getattr(transformers, kind).from_pretrained(
                folder,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                dtype=torch.float32,
                attn_implementation="sdpa",
                output_loading_info=True,
            )
    except Exception as error:  # a damaged folder fails in many ways
        raise damaged(folder, f"its weights cannot be loaded ({type(error).__name__}).") from None
    absent = [str(name) for name in info["missing_keys"] if not (mean and "pooler" in str(name))]
    if absent or info["mismatched_keys"]:
        raise damaged(folder, f"its weights lack {absent[0]}." if absent else "a weight has another shape.")
    num_outputs = len(plan.task.labels) if plan.model.pooling != "none" else 1 + 2 * len(plan.task.labels)
    if not mean:
        if encoder.config.num_labels != num_outputs:
            raise damaged(folder, "its last layer is not that of its plan's labels.")
        return encoder, None
    if not (folder / "head.safetensors").is_file():
        raise damaged(folder, "the export has no head.safetensors.")
    arrays = adapter.load(folder / "head.safetensors")
    head = nn.Linear(int(encoder.config.hidden_size), num_outputs)
    with torch.no_grad():
        for name, parameter in head.named_parameters():
            array = arrays.get(name)
            if array is None or array.shape != tuple(parameter.shape) or not np.isfinite(array).all():
                raise damaged(folder, "its head.safetensors is not that of its plan's labels.")
            parameter.copy_(torch.from_numpy(array))
    return encoder, head
