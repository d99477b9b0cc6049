"""From a plan to a round's update: the part that agent and simulation share."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from privet.client.engines import EngineName, gradient_engine, require
from privet.client.fused import SiteEngine
from privet.client.gradient_check import self_test
from privet.client.gradients import OpacusEngine
from privet.client.linear import LinearEngine
from privet.client.trainer import TrainSpec, train
from privet.common.adapter import AdapterSpec, Arrays, Floats
from privet.common.batch import Batch
from privet.common.config import Plan
from privet.common.examples import INFERENCE_ROWS, TRAINING_ROWS, Examples, TokenExamples, dummies
from privet.common.frozen import freeze
from privet.common.inference import frozen_features, record_logits
from privet.common.initial import uniform
from privet.common.methods import adjustment, method_for
from privet.common.model import Classifier, build_classifier, load_tokenizer
from privet.common.precision import Precision
from privet.common.prefix import CACHE_BYTES, PrefixExamples, splits
from privet.common.privacy.events import TrainEvent
from privet.common.privacy.noise import NoiseSource
from privet.common.schedule import learning_rate
from privet.common.tagged import tagged
from privet.common.tasks.base import task_of
from privet.common.tasks.targets import Targets
from privet.common.tokens import tokenise

_ROUNDED = 0.05  # of the fused engine in bfloat16 against the library's model in bfloat16: they round at other places


class LabelledTexts(Protocol):
    """Texts with the targets of their records (`common.tasks.targets`) and dense unit indices [N]."""

    @property
    def texts(self) -> list[str]: ...
    @property
    def labels(self) -> Targets: ...
    @property
    def units(self) -> NDArray[np.int64]: ...
    @property
    def num_units(self) -> int: ...


class RoundTrainer:
    """A plan's model, ready to train any number of rounds on any number of data sets.

    Building it also rehearses one full batch of every shape, on rows that belong to nobody: what the plan cannot do
    on this machine fails here, before a record is read for it, and not where it would depend on records. What fails
    later all the same is one record's: it contributes nothing, and nobody hears of it.
    base: the folder of the checked base model. engine: what computes the gradients. precision: of the frozen base.
    cache_bytes: how much of what the layers below `lora.first_layer` give may be kept, in memory, for each data set.
    Raises: ModelError; ConfigError where the engine does not compute the plan; PrivetError from the gradient self-test.
    """

    def __init__(
        self,
        plan: Plan,
        base: Path,
        *,
        engine: EngineName = "opacus",
        precision: Precision = "float32",
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        require(engine, plan, base)
        self.plan, self.engine_name, self.precision, self._base = plan, engine, precision, base
        self._cache_bytes = cache_bytes
        self.method, self.task = method_for(plan), task_of(plan.task)
        self.tokenizer = load_tokenizer(base)
        self.classifier: Classifier = build_classifier(plan, base)
        freeze(self.classifier, precision)
        # Sets the truncation now: two threads that did so at once would disturb each other.
        self._pad = self._tokenise([""], self.task.nobody(1, 1), np.zeros(1, np.int64), 1).pad
        self.spec: AdapterSpec = self.classifier.spec
        self.frozen_features = self.method.frozen_features(self.spec) and not self.task.per_token
        self._engines: dict[AdapterSpec, OpacusEngine | LinearEngine | SiteEngine] = {}
        self._rehearse_inference()
        self.engine(1)

    def prepare(self, data: LabelledTexts) -> Examples:
        """Tokenise once; for frozen features run the base once over every record."""
        if self.task.per_token:
            tokens: TokenExamples = tagged(data, self.tokenizer, self.plan.task, self.classifier.vocabulary)
        else:
            tokens = self._tokenise(data.texts, data.labels, data.units, data.num_units)
        if self.frozen_features:
            return frozen_features(self.classifier, tokens)
        if self.engine_name == "opacus" and splits(self.classifier):
            return PrefixExamples(tokens, self.classifier, self._cache_bytes)
        engine = self.engine(1)
        if isinstance(engine, SiteEngine):
            engine.keep_states(tokens, self._cache_bytes)
        return tokens

    def _tokenise(
        self, texts: Sequence[str], labels: Targets, units: NDArray[np.int64], num_units: int
    ) -> TokenExamples:
        task, vocabulary = self.plan.task, self.classifier.vocabulary
        settings: dict[str, int] = {"windows": task.windows, "stride": task.stride}
        return tokenise(texts, labels, units, num_units, self.tokenizer, task.buckets, vocabulary, **settings)

    def update(
        self,
        arrays: Arrays,
        examples: Examples,
        round: int,
        event: TrainEvent,
        noise: NoiseSource,
    ) -> dict[str, Floats]:
        """One round from the broadcast `arrays` (checked by the caller): the change of the trainable arrays."""
        engine = self.engine(round)
        self.classifier.write(arrays)
        if isinstance(engine, SiteEngine):
            engine.take_over()
        training = self.plan.training
        spec = TrainSpec(
            event=event,
            optimizer=training.optimizer,
            learning_rate=learning_rate(training, round),
            weight_decay=training.weight_decay,
            adjust=adjustment(self.method),
        )
        change, _ = train(engine, examples, spec, noise)
        return engine.spec.unflatten(change)

    def logits(self, arrays: Arrays, examples: Examples) -> Floats:
        """What the classifier with `arrays` (checked by the caller) says of every record, float32 [N, L]: the mean over
        its windows.

        A record's row is the same to the last bit whoever else is there. It may hold values that are not finite. The
        classifier keeps `arrays`.
        """
        self.classifier.write(arrays)
        return record_logits(self.classifier, examples)

    def engine(self, round: int) -> OpacusEngine | LinearEngine | SiteEngine:
        """The gradient engine of what this round trains; self-tested when it is made."""
        trainable = self.method.trainable(self.spec, round)
        if trainable not in self._engines:
            made = gradient_engine(
                self.engine_name,
                self.classifier,
                trainable,
                self._base,
                precision=self.precision,
                frozen_features=self.frozen_features,
            )
            kept = self.classifier.read()
            try:  # with weights that no gradient vanishes for
                self.classifier.write({entry.name: uniform(entry, 1) for entry in self.spec.entries})
                if isinstance(made, SiteEngine):
                    made.take_over()
                    made.settle_places(self._without_padding)
                rounded = isinstance(made, SiteEngine) and self.precision == "bfloat16"
                for batch in self._batches_of_nobody():
                    self_test(made, batch, **({"tolerance": _ROUNDED} if rounded else {}))
                if isinstance(made, OpacusEngine):
                    for inputs in self._inputs_of_nobody(TRAINING_ROWS):
                        made.per_row(self._batch_of_nobody(inputs))
                elif isinstance(made, SiteEngine):
                    for length, num_rows in zip(self.plan.task.buckets, made.rows_of_batches, strict=True):
                        for inputs in self._inputs_of_nobody(num_rows, (length,)):
                            made.per_row(self._batch_of_nobody(inputs))
            finally:
                self.classifier.write(kept)
            self._engines[trainable] = made
        return self._engines[trainable]

    def _batches_of_nobody(self) -> Iterator[Batch]:
        """One full batch of every shape that training has; the shortest last."""
        if self.frozen_features:
            width = self.classifier.last_layer().in_features
            inputs = torch.linspace(-1, 1, TRAINING_ROWS * width).reshape(TRAINING_ROWS, width)
            yield self._batch_of_nobody((inputs,))
            return
        for length in reversed(self.plan.task.buckets):
            yield self._batch_of_nobody(self._without_padding(TRAINING_ROWS, length))

    def _rehearse_inference(self) -> None:
        """As frozen features and logits are computed."""
        read = self.classifier.features if self.frozen_features else self.classifier
        with torch.inference_mode():
            for inputs in self._inputs_of_nobody(INFERENCE_ROWS):
                read(*inputs)

    def _inputs_of_nobody(
        self, num_rows: int, lengths: Sequence[int] = ()
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Ids and mask of every length that may go wrong where others do not: of most positions, since some models
        count no padding; of the last id; of dummies, which a batch has or not as records fall."""
        for length in reversed(lengths or self.plan.task.buckets):
            ids, mask = self._without_padding(num_rows, length)
            yield ids, mask
            yield torch.full_like(ids, self.classifier.vocabulary - 1), mask
            blank, first = dummies(num_rows, length, self._pad)
            yield torch.from_numpy(blank), torch.from_numpy(first)

    def _without_padding(self, num_rows: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and mask [num_rows, length]: neither the tokenizer's padding nor the model's is among the ids."""
        config: Any = self.classifier.encoder.config
        every = torch.arange(self.classifier.vocabulary)
        usable = every[(every != self._pad) & (every != (-1 if config.pad_token_id is None else config.pad_token_id))]
        usable = usable if len(usable) else every
        ids = usable[torch.arange(num_rows * length) % len(usable)].reshape(num_rows, length)
        return ids, torch.ones_like(ids)

    def _batch_of_nobody(self, inputs: tuple[torch.Tensor, ...]) -> Batch:
        rows = np.arange(len(inputs[0]))
        labels = torch.from_numpy(self.task.nobody(len(rows), inputs[0].shape[1]))
        return Batch(inputs, labels, torch.ones(len(rows)), rows, rows)
