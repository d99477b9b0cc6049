"""A classifier's outputs for examples: a record's are the same to the last bit whoever else is there."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from privet.common.adapter import Floats
from privet.common.batch import fill
from privet.common.examples import Examples, FeatureExamples, TokenExamples
from privet.common.model import Classifier
from privet.common.tagged import TaggedExamples

__all__ = ["frozen_features", "record_logits"]


def record_logits(classifier: Classifier, examples: Examples) -> Floats:
    """Logits of every record, float32 [N, L]: the mean over its windows. They may hold values that are not finite:
    nan for a record that cannot be computed. Of a task that labels tokens the rows of `common.tagging.entity_table`."""
    if isinstance(examples, TaggedExamples):
        from privet.common.tagging import entity_table

        return entity_table(classifier, examples)
    if isinstance(examples, FeatureExamples):
        found = examples.windows.mean(_outputs(classifier.last_layer(), examples, classifier.task.num_outputs))
        found[examples.unsound] = np.nan  # their features are zero, and what is said of those is of nobody
        return found
    return examples.windows.mean(_outputs(classifier, examples, classifier.task.num_outputs))


def frozen_features(classifier: Classifier, tokens: TokenExamples) -> FeatureExamples:
    """What the last layer reads, for every window. A record that cannot be computed has no label."""
    table = _outputs(classifier.features, tokens, classifier.last_layer().in_features)
    return FeatureExamples(table, tokens.labels, tokens.units, tokens.windows)


def _outputs(layer: Callable[..., Tensor], examples: Examples, width: int) -> Tensor:
    """float32 [W, width], a row for each window; nan for one that cannot be computed."""
    table = torch.zeros(len(examples.windows.record), width)
    with torch.inference_mode():
        for batch in examples.for_inference():
            fill(table, batch, lambda given: layer(*given.inputs), torch.nan)
    return table
