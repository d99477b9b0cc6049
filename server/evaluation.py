"""Judging the global adapter on text that anyone may see."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np

from privet.common.adapter import Arrays
from privet.common.config import Plan, PublicData, TaskSpec
from privet.common.errors import DataError
from privet.common.tables import read_columns
from privet.common.tasks.base import Public, task_of
from privet.common.tasks.targets import Targets, known
from privet.common.tokens import tokenise
from privet.server.public_metrics import judge_public
from privet.server.tagged_public import load_tagged

if TYPE_CHECKING:
    from privet.common.examples import Examples
    from privet.common.model import Classifier


def load_public(data: PublicData, task: TaskSpec | Sequence[str]) -> tuple[list[str], Targets]:
    """Texts and targets of the public file; rows without text or with a label outside the plan are left out.
    Where the task labels tokens, a target is the array of a text's tags.

    task: the plan's; labels alone are those of a classification.

    Raises: DataError.
    """
    if isinstance(task, TaskSpec) and task.kind == "tokens":
        return load_tagged(data, task)
    lists = {data.label: data.label_separator}
    table = read_columns(data.source, [data.text, data.label], encoding=data.encoding, lists=lists)
    chosen = task_of(task)
    plan = {label: index for index, label in enumerate(chosen.spec.labels)}
    local = {name: plan[label] for name, label in data.label_map.items() if label in plan}
    mapped = {label: index for label, index in plan.items() if label not in data.label_map} | local
    rows = [
        (text, (label or "").strip())
        for text, label in zip(table.columns[data.text], table.columns[data.label], strict=True)
        if text and text.strip()
    ]
    truth = chosen.targets([label for _, label in rows], mapped, data.label_separator)
    kept = np.flatnonzero(known(truth))[: data.limit]
    texts, truth = [rows[row][0] for row in kept], truth[kept]
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
        truth: Targets,
        frozen: bool,
    ) -> None:
        from privet.common.inference import frozen_features
        from privet.common.tagged import tagged

        self._task, self._classifier = task_of(plan.task), classifier
        self._truth = np.asarray(truth)
        units = np.arange(len(texts))
        if self._task.per_token:
            data = SimpleNamespace(texts=texts, tags=list(truth), units=units, num_units=len(texts))
            self._examples: Examples = tagged(data, tokenizer, plan.task, None)
            self._truth = self._examples.labels
            return
        settings: dict[str, int] = {"windows": plan.task.windows, "stride": plan.task.stride}
        tokens = tokenise(texts, self._truth, units, len(texts), tokenizer, plan.task.buckets, **settings)
        self._examples = frozen_features(classifier, tokens) if frozen else tokens

    def __call__(self, arrays: Arrays) -> Public:
        """Metrics of the adapter `arrays` on the public file. Raises: NotJudgedError."""
        from privet.common.inference import record_logits

        self._classifier.write(arrays)
        return judge_public(self._task, record_logits(self._classifier, self._examples), self._truth)
