"""A plain transformers folder: the base with LoRA merged into its weights.

With pooling "cls" it is the stock sequence classifier. Mean pooling has no stock class, and a class of our own would be
code that its readers must trust: the folder then holds the stock bare encoder, and beside it head.safetensors, as an
adapter's folder does. The sentence-transformers form is the one that needs no line of arithmetic.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from privet.common import adapter
from privet.server.export import merged_encoder, write_head
from privet.server.exporting.files import numpy_arrays, write_common, write_json
from privet.server.exporting.outputs import form_config

if TYPE_CHECKING:
    from privet.common.model import Classifier


def write_merged(classifier: "Classifier", base: Path, draft: Path) -> None:
    """config.json, model.safetensors, the tokenizer, plan.toml; for mean pooling also head.safetensors: `weight` [L, d]
    and `bias` [L], which read mean-pooled, L2-normalised features times its metadata's feature_scale."""
    merged, weights = merged_encoder(classifier, base)
    adapter.save(numpy_arrays(weights), draft / "model.safetensors", {"format": "pt"})
    if classifier.head is not None:
        write_head(classifier, draft)
    write_json(draft / "config.json", form_config(classifier.plan, base, type(merged).__name__))
    write_common(classifier.plan, base, draft, None)
