"""A BERT in two parts: below `lora.first_layer`, which no round changes and is computed once for a text; and above.

Both parts together give what the whole model gives, to the last bit. What the lower part gives of private text is kept
in memory alone, bounded, and never serialised.

No coupling through the cache: which windows are in it depends on what was drawn before. So a window's activations are
the same to the last bit whether they were kept or are computed again: always in the batch shape and at the row that the
window has in training, both functions of the window alone (`privet.common.examples`).
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from privet.common.batch import Batch, fill
from privet.common.examples import Integers, TokenExamples
from privet.common.model import Classifier, whole_mask

__all__ = ["CACHE_BYTES", "PrefixExamples", "Resumable", "cache_bytes", "lower", "splits"]

CACHE_BYTES = 512 * 2**20  # of kept activations, at most


def cache_bytes(memory: int | None) -> int:
    """How much may be kept where a plan's model may take `memory` bytes in all; None: no limit is set."""
    return CACHE_BYTES if memory is None else min(CACHE_BYTES, memory // 4)


def splits(classifier: Classifier) -> bool:
    """Whether this classifier has a frozen lower part that is computed apart: BERT, with LoRA from a later layer on,
    and one row of logits for a window."""
    plan = classifier.plan
    return classifier.model_type == "bert" and plan.lora.first_layer > 0 and plan.model.pooling != "none"


def lower(classifier: Classifier, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """What layer `lora.first_layer` reads, [N, T, d], without a graph. `splits(classifier)` must hold."""
    bert, mask = _bert(classifier), whole_mask(attention_mask)
    with torch.no_grad():
        hidden: Tensor = bert.embeddings(input_ids=input_ids)
        for layer in bert.encoder.layer[: classifier.plan.lora.first_layer]:
            hidden = layer(hidden, mask)
    return hidden


class Resumable(nn.Module):
    """The classifier; it takes token ids [N, T], or what `lower` gave of them [N, T, d], and the mask [N, T].

    Its parameters are the classifier's own.
    """

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, inputs: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits [N, L]."""
        classifier = self.classifier
        if not inputs.is_floating_point():
            inputs = lower(classifier, inputs, attention_mask)
        bert, mask, hidden = _bert(classifier), whole_mask(attention_mask), inputs
        for layer in bert.encoder.layer[classifier.plan.lora.first_layer :]:
            hidden = layer(hidden, mask)
        if classifier.head is not None:
            pooled: Tensor = classifier.head(classifier.pool(hidden, attention_mask))
            return pooled
        stock: Any = classifier.encoder.base_model.model  # type: ignore[union-attr]
        logits: Tensor = stock.classifier(stock.dropout(bert.pooler(hidden)))
        return logits


class PrefixExamples:
    """Token examples whose batches hold what `lower` gives of them, kept from the first time on while there is room.

    Inference reads the texts themselves.
    """

    def __init__(self, tokens: TokenExamples, classifier: Classifier, max_bytes: int = CACHE_BYTES) -> None:
        self.tokens, self._classifier = tokens, classifier
        self.labels, self.units, self.windows = tokens.labels, tokens.units, tokens.windows
        self._kept: dict[int, Tensor] = {}  # by window, [T, d]
        self._room = max_bytes

    def __reduce__(self) -> NoReturn:
        raise TypeError("what was computed of private text stays in this process.")

    def batches(self, windows: Integers) -> Iterator[Batch]:
        """As those of the tokens, with (activations, mask) as inputs. A window that cannot be computed has nan."""
        for batch in self.tokens.batches(windows):
            assert batch.blank is not None
            hidden = self._hidden(batch, windows[batch.places])
            yield replace(batch, inputs=(hidden, batch.inputs[1]), blank=(torch.zeros_like(hidden[0]), batch.blank[1]))

    def for_inference(self) -> Iterator[Batch]:
        return self.tokens.for_inference()

    def _hidden(self, batch: Batch, windows: Integers) -> Tensor:
        """[rows, T, d]; windows[i] stands at batch.rows[i]. Rows of nobody are zero."""
        numbers, width = windows.tolist(), int(_bert(self._classifier).config.hidden_size)
        length = batch.inputs[0].shape[1]
        if not all(number in self._kept for number in numbers):
            found = torch.zeros(len(numbers), length * width)
            places = replace(batch, places=np.arange(len(numbers)))
            fill(found, places, lambda given: lower(self._classifier, *given.inputs).flatten(1), torch.nan)
            rows = found.view(len(numbers), length, -1)
            self._keep(numbers, rows)
        else:
            rows = torch.stack([self._kept[number] for number in numbers])
        hidden = torch.zeros(len(batch.labels), *rows.shape[1:])
        hidden[torch.from_numpy(batch.rows)] = rows
        return hidden

    def _keep(self, numbers: list[int], rows: Tensor) -> None:
        for number, row in zip(numbers, rows, strict=True):
            size = row.numel() * row.element_size()
            if number not in self._kept and size <= self._room and bool(torch.isfinite(row).all()):
                try:
                    self._kept[number] = row.clone()
                except (MemoryError, RuntimeError):  # torch says so when there is none: nothing fails for it
                    self._room = 0
                    return
                self._room -= size


def _bert(classifier: Classifier) -> Any:
    model: Any = classifier.encoder.base_model.model  # type: ignore[union-attr]
    return getattr(model, "bert", model)
