"""ONNX: pooling, normalisation, scale and head are in the graph, whose batch and length are free.

The int8 form has its weights quantised per channel ahead of time and its activations as they come (dynamic
quantisation); it is made from the very graph that was checked against PyTorch.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from privet.common.errors import InputError, RunError
from privet.server.export import merged_classifier
from privet.server.exporting.files import write_common, write_json
from privet.server.exporting.outputs import form_config

if TYPE_CHECKING:
    from privet.common.model import Classifier

MODEL = "model.onnx"
_OPSET = 17


def check_installed() -> None:
    """Raises: InputError where what writes and reads ONNX is not there."""
    from importlib.util import find_spec

    for name in ("onnx", "onnxruntime"):
        if find_spec(name) is None:
            raise InputError(f"{name} is not installed.", where="--to", mend="pip install 'privet[export]'")


def write_onnx(classifier: "Classifier", base: Path, draft: Path) -> None:
    """model.onnx: int64 `input_ids` and `attention_mask` [N, T] to float32 `logits`; config.json, tokenizer, plan.toml.

    Raises: RunError where the graph cannot be traced.
    """
    import torch

    graph = merged_classifier(classifier)
    # Two rows of unlike length: what tracing fixed to one size or left unmasked is found by the check.
    ids = torch.full((2, 7), min(5, classifier.vocabulary - 1), dtype=torch.int64)
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    dynamic = {0: "batch", 1: "length"}
    try:
        with _quiet(), torch.no_grad():
            torch.onnx.export(
                graph,
                (ids, mask),
                str(draft / MODEL),
                dynamo=False,  # by tracing: the other way needs further packages, and ten times as long
                opset_version=_OPSET,
                input_names=["input_ids", "attention_mask"],
                output_names=["logits"],
                dynamic_axes={
                    "input_ids": dynamic,
                    "attention_mask": dynamic,
                    "logits": dynamic if classifier.task.per_token else {0: "batch"},
                },
            )
    except (RuntimeError, ValueError, torch.onnx.errors.OnnxExporterError) as error:
        raise RunError(
            f"torch cannot write this model as ONNX ({type(error).__name__}).", where="--to onnx", mend="use another."
        ) from None
    write_json(draft / "config.json", form_config(classifier.plan, base, type(graph.encoder).__name__))
    write_common(classifier.plan, base, draft, None)


def quantise(draft: Path) -> None:
    """model.onnx, its weights as int8 by output channel."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    full = draft / "model.float32.onnx"
    (draft / MODEL).rename(full)
    with _quiet():
        quantize_dynamic(full, draft / MODEL, per_channel=True, weight_type=QuantType.QInt8)
    full.unlink()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the libraries' notes on tracing, on being replaced, and on preprocessing."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
