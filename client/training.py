"""From a plan to a round's update: the part that agent and simulation share."""

from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from privet.client.gradients import OpacusEngine
from privet.client.trainer import TrainSpec, train
from privet.common.adapter import AdapterSpec, Arrays, Floats
from privet.common.config import Plan
from privet.common.examples import Batch, Examples, FeatureExamples, TokenExamples, tokenise
from privet.common.initial import uniform
from privet.common.methods import method_for
from privet.common.model import Classifier, build_classifier, load_tokenizer
from privet.common.privacy.events import TrainEvent
from privet.common.privacy.noise import NoiseSource
from privet.common.tasks.classification import per_example_loss


class LabelledTexts(Protocol):
    """Texts with the plan's label indices [N] (or UNKNOWN) and dense unit indices [N]."""

    @property
    def texts(self) -> list[str]: ...
    @property
    def labels(self) -> NDArray[np.int64]: ...
    @property
    def units(self) -> NDArray[np.int64]: ...
    @property
    def num_units(self) -> int: ...


class RoundTrainer:
    """A plan's model, ready to train any number of rounds on any number of data sets.

    base: the folder of the checked base model. Raises: ModelError; PrivetError from the gradient self-test.
    """

    def __init__(self, plan: Plan, base: Path) -> None:
        self.plan = plan
        self.method = method_for(plan)
        self.tokenizer = load_tokenizer(base)
        self.classifier: Classifier = build_classifier(plan, base)
        self.spec: AdapterSpec = self.classifier.spec
        self.frozen_features = self.method.frozen_features(self.spec)
        self._engines: dict[AdapterSpec, OpacusEngine] = {}

    def prepare(self, data: LabelledTexts) -> Examples:
        """Tokenise once; for frozen features run the base once over every record."""
        tokens = tokenise(data.texts, data.labels, data.units, data.num_units, self.tokenizer, self.plan.task.buckets)
        return features(self.classifier, tokens) if self.frozen_features else tokens

    def update(
        self, arrays: Arrays, examples: Examples, round: int, event: TrainEvent, noise: NoiseSource
    ) -> dict[str, Floats]:
        """One round from the broadcast `arrays` (checked by the caller): the change of the trainable arrays."""
        trainable = self.method.trainable(self.spec, round)
        engine = self._engine(trainable)
        self.classifier.write(arrays)
        training = self.plan.training
        spec = TrainSpec(
            event=event,
            optimizer=training.optimizer,
            learning_rate=training.learning_rate,
            weight_decay=training.weight_decay,
        )
        change, _ = train(engine, examples, spec, noise)
        return trainable.unflatten(change)

    def _engine(self, trainable: AdapterSpec) -> OpacusEngine:
        if trainable not in self._engines:
            module: torch.nn.Module = self.classifier.last_layer() if self.frozen_features else self.classifier
            parameters = {name: self.classifier.parameter(name) for name in trainable.names}
            engine = OpacusEngine(module, parameters, trainable, per_example_loss)
            kept = self.classifier.read()
            try:  # with weights that no gradient vanishes for
                self.classifier.write({entry.name: uniform(entry, 1) for entry in self.spec.entries})
                engine.self_test(self._rows_of_nobody())
            finally:
                self.classifier.write(kept)
            self._engines[trainable] = engine
        return self._engines[trainable]

    def _rows_of_nobody(self) -> Batch:
        """Three rows of arbitrary token ids (or features), for the engine's self-test."""
        labels = torch.arange(3) % len(self.plan.task.labels)
        weights = torch.ones(3)
        if self.frozen_features:
            width = self.classifier.last_layer().in_features
            inputs: tuple[torch.Tensor, ...] = (torch.linspace(-1, 1, 3 * width).reshape(3, width),)
        else:
            ids = torch.arange(24).reshape(3, 8) + 5
            inputs = (ids, torch.ones_like(ids))
        return Batch(inputs, labels, weights, np.arange(3))


def features(classifier: Classifier, tokens: TokenExamples) -> FeatureExamples:
    """What the last layer reads, for every record, float32 [N, d]. A row that is not finite becomes zero."""
    width = classifier.last_layer().in_features
    table = torch.zeros(len(tokens.labels), width)
    with torch.inference_mode():
        for batch in tokens.batches(np.arange(len(tokens.labels))):
            ids, mask = batch.inputs
            rows = classifier.features(ids, mask)[: len(batch.records)]
            table[torch.from_numpy(batch.records)] = rows
    finite = torch.isfinite(table).all(dim=1, keepdim=True)
    clean = torch.where(finite, table, torch.zeros_like(table))
    labels = np.where(finite.numpy()[:, 0], tokens.labels, -1)
    return FeatureExamples(clean, labels, tokens.units)
