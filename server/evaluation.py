"""Judging the global adapter on text that anyone may see."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from privet.common.adapter import Arrays
from privet.common.config import Plan, PublicData
from privet.common.errors import DataError
from privet.common.tables import read_columns
from privet.common.tasks.classification import PublicMetrics, public_metrics
from privet.common.tokens import tokenise

if TYPE_CHECKING:
    from privet.common.examples import Examples
    from privet.common.model import Classifier


def load_public(data: PublicData, labels: Sequence[str]) -> tuple[list[str], list[int]]:
    """Texts and label indices of the public file; rows without text or with a label outside the plan are left out.

    Raises: DataError.
    """
    table = read_columns(data.source, [data.text, data.label], encoding=data.encoding)
    known = {label: index for index, label in enumerate(labels)}
    texts: list[str] = []
    truth: list[int] = []
    for text, label in zip(table.columns[data.text], table.columns[data.label], strict=True):
        if len(texts) >= data.limit:
            break
        index = known.get(data.label_map.get((label or "").strip(), (label or "").strip()))
        if text and text.strip() and index is not None:
            texts.append(text)
            truth.append(index)
    if not texts:
        raise DataError(
            "no row has both text and one of the plan's labels.",
            where=f"{data.source}: {data.label}",
            mend="correct server.public.text, .label or .label_map.",
        )
    return texts, truth


class PublicEvaluator:
    """Holds the tokenised public file; frozen features are computed once where only the last layer is trained."""

    def __init__(
        self,
        plan: Plan,
        classifier: "Classifier",
        tokenizer: object,
        texts: Sequence[str],
        truth: Sequence[int],
        frozen: bool,
    ) -> None:
        from privet.common.inference import frozen_features

        self._plan, self._classifier = plan, classifier
        self._truth = np.asarray(truth, np.int64)
        units = np.arange(len(texts))
        settings: dict[str, int] = {"windows": plan.task.windows, "stride": plan.task.stride}
        tokens = tokenise(texts, self._truth, units, len(texts), tokenizer, plan.task.buckets, **settings)
        self._examples: Examples = frozen_features(classifier, tokens) if frozen else tokens

    def __call__(self, arrays: Arrays) -> PublicMetrics:
        """Metrics of the adapter `arrays` on the public file."""
        from privet.common.inference import record_logits

        self._classifier.write(arrays)
        return public_metrics(record_logits(self._classifier, self._examples), self._truth, self._plan.task.labels)
