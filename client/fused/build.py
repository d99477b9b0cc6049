"""Which plans the fused engine computes, and the engine of one, from the base's files or beside a classifier."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from privet.client.fused.engine import FusedEngine, Shape, tokens_of
from privet.client.fused.lower import lower_states
from privet.client.fused.weights import Bert, bert
from privet.common.adapter import AdapterSpec, Role
from privet.common.architecture import read_architecture
from privet.common.batch import Batch
from privet.common.config import Plan
from privet.common.errors import ModelError, PrivetError
from privet.common.examples import TRAINING_ROWS, Examples, Integers, TokenExamples
from privet.common.layout import adapter_spec
from privet.common.model import Classifier
from privet.common.precision import Precision
from privet.common.states import States
from privet.common.weights import BaseWeights, stored_arrays

_LEAST_ROWS = 4


def covers(plan: Plan, folder: Path) -> str | None:
    """Why the fused engine does not compute `plan` on the base in `folder`; None where it does.

    Raises: ModelError.
    """
    architecture = read_architecture(folder)
    if architecture.kind != "bert":
        return f"the base is of type {architecture.kind!r}, not 'bert'"
    if architecture.activation != "gelu":
        return f"the base has the activation {architecture.activation!r}, not 'gelu'"
    others = [target for target in plan.lora.targets if target not in ("query", "key", "value")]
    if others:
        return f"LoRA is on {', '.join(others)} too"
    if architecture.unusual:
        return f"{architecture.unusual[0]} in the base's config.json makes it another model"
    spec = adapter_spec(plan, folder)
    if spec is None:
        return "the base's files do not tell its arrays"
    if any(entry.role is Role.NEW for entry in spec.entries):
        return "the base lacks a pooler, which would be trained too"
    return None


def rows_for(plan: Plan, inner: int) -> tuple[int, ...]:
    """How many rows every batch of a bucket has: about what a draw of B units puts there, within `tokens_of`.

    A function of the plan and the base's width alone.
    """
    batch, tokens = plan.training.expected_batch, tokens_of(inner)
    wanted = tokens if batch == "site" else max(_LEAST_ROWS, batch // len(plan.task.buckets))
    power = 1 << (wanted - 1).bit_length()
    return tuple(max(_LEAST_ROWS, min(power, tokens // length)) for length in plan.task.buckets)


def frozen_base(plan: Plan, folder: Path, precision: Precision, device: str = "cpu") -> Bert:
    """The base's frozen numbers, from its files, which are mapped: float32 matrices are copied once, side by side.

    Raises: ModelError.
    """
    weights = BaseWeights(folder)
    arrays = {name: weights.tensor(name) for name in weights}
    if plan.model.pooling == "cls":
        arrays |= _pooler(folder)
    kind = torch.bfloat16 if precision == "bfloat16" else torch.float32
    return bert(arrays, weights.architecture, kind, torch.device(device))


def shape_of(plan: Plan) -> Shape:
    return Shape(
        pooling=plan.model.pooling,
        feature_scale=plan.model.feature_scale,
        lora_scale=plan.lora.alpha / plan.lora.rank,
        buckets=plan.task.buckets,
        first_layer=plan.lora.first_layer,
    )


def _pooler(folder: Path) -> dict[str, Tensor]:
    from safetensors import safe_open

    found = {}
    for name, stored in stored_arrays(folder).items():
        if name.startswith("pooler.dense."):
            with safe_open(stored.path, framework="pt") as file:
                key = next(key for key in file.keys() if key.endswith(name))  # noqa: SIM118 (not a mapping)
                found[name] = file.get_tensor(key).float()
    if len(found) != 2:
        raise ModelError("the weights lack a pooler.", where=str(folder), mend="copy the model again.")
    return found


class SiteEngine(FusedEngine):
    """The engine of one site, beside the classifier whose weights it takes over and whose plain backward is its oracle.

    Where on this machine a row's gradient depends on its place in a batch, rows are pinned to places as under Opacus.
    """

    def __init__(self, classifier: Classifier, base: Bert, trainable: AdapterSpec) -> None:
        plan = classifier.plan
        num_rows = rows_for(plan, base.inner)
        self.task = classifier.task
        loss = self.task.per_example_loss
        super().__init__(base, classifier.spec, trainable, shape_of(plan), loss, num_rows=num_rows)
        self._classifier, self._parameters = classifier, [classifier.parameter(name) for name in trainable.names]
        self.num_rows: tuple[int, ...] = num_rows
        self.pinned = False

    def take_over(self) -> None:
        """The classifier's adapter as it stands."""
        self.adopt(self._classifier.read())

    def keep_states(self, data: TokenExamples, max_bytes: int) -> None:
        """Compute what lies below LoRA once for every window, where there is something and it fits into `max_bytes`."""
        layer, num_tokens = self._shape.first_layer, int(data.starts[-1])
        if not layer or 4 * num_tokens * self._base.width > max_bytes:
            return
        windows = np.arange(len(data.starts) - 1)
        passes = self._laid_out(data, windows, None)
        data.states = States(layer, lower_states(self._base, layer, data, windows, passes), data.starts)

    def alone(self, batch: Batch, row: int) -> Tensor:
        """One row's gradient [P] by a plain backward pass of the library's own model."""
        weights = torch.zeros_like(batch.weights)
        weights[row] = batch.weights[row]
        inputs = tuple(tensor[row : row + 1].expand_as(tensor).contiguous() for tensor in batch.inputs)
        wanted = [parameter.requires_grad for parameter in self._parameters]
        try:
            for parameter in self._parameters:
                parameter.requires_grad_(True)
            with torch.enable_grad():
                labels = batch.labels[row].expand_as(batch.labels)
                loss = self.task.per_example_loss(self._classifier(*inputs), labels, weights)
                parts = torch.autograd.grad(loss.sum(), self._parameters)
        finally:
            for parameter, before in zip(self._parameters, wanted, strict=True):
                parameter.requires_grad_(before)
        return torch.cat([part.reshape(-1) for part in parts])

    def settle_places(self, shapes: Callable[[int, int], tuple[Tensor, Tensor]]) -> None:
        """Find out whether a row's gradient is the same to the last bit at every place of a batch and beside whatever
        other rows; if not, pin rows to places. shapes(rows, length): ids and mask of rows that belong to nobody.

        Raises: PrivetError where a row's mates show in it even at its own place, which no pinning mends.
        """
        buckets = self._shape.buckets
        self.pinned = not all(
            same_everywhere(self, *shapes(rows, length), self._nobody(rows, length))
            for rows, length in zip(self.num_rows, buckets, strict=True)
        )
        if self.pinned:
            for length in buckets:
                labels = self._nobody(TRAINING_ROWS, length)
                if not same_beside_dummies(self, *shapes(TRAINING_ROWS, length), range(TRAINING_ROWS), labels):
                    raise PrivetError(
                        "a record's gradient depends on the records beside it; training here would not be private.",
                        mend="install the library versions that privet pins, or train on another machine.",
                    )

    def _nobody(self, num_rows: int, length: int) -> Tensor:
        return torch.from_numpy(self.task.nobody(num_rows, length))

    @property
    def rows_of_batches(self) -> tuple[int, ...]:
        """Of each bucket, as training has them."""
        return (TRAINING_ROWS,) * len(self.num_rows) if self.pinned else self.num_rows

    def _batches(self, data: Examples, windows: Integers, owners: Integers | None) -> Iterator[Batch]:
        if self.pinned and isinstance(data, TokenExamples):
            return data.batches(windows)
        return super()._batches(data, windows, owners)


def same_everywhere(engine: FusedEngine, ids: Tensor, mask: Tensor, labels: Tensor | None = None) -> bool:
    """Whether each row's gradient is the same to the last bit wherever it stands in this batch, and beside dummies.

    labels: targets of the rows; None: an index each."""
    labels = torch.arange(len(ids)) % engine.num_labels if labels is None else labels
    expected = engine.per_row(_batch(ids, mask, labels))
    for shift in range(1, len(ids)):
        if len(ids) > 16 and shift & (shift - 1) and shift % 7:  # powers of two and multiples of seven: every lane
            continue
        rolled = engine.per_row(_batch(*(part.roll(shift, 0) for part in (ids, mask, labels))))
        if not torch.equal(rolled, expected.roll(shift, 0)):
            return False
    return same_beside_dummies(engine, ids, mask, [0], labels)


def same_beside_dummies(
    engine: FusedEngine, ids: Tensor, mask: Tensor, rows: Iterable[int], labels: Tensor | None = None
) -> bool:
    """Whether each of `rows` has the same gradient to the last bit where all others are dummies, at the same place."""
    labels = torch.arange(len(ids)) % engine.num_labels if labels is None else labels
    expected = engine.per_row(_batch(ids, mask, labels))
    for row in rows:
        blank, short = ids[:1, :1].expand_as(ids).clone(), torch.zeros_like(mask)
        short[:, 0] = 1
        blank[row], short[row] = ids[row], mask[row]
        own, weights = torch.zeros_like(labels), torch.zeros(len(ids))
        own[row], weights[row] = labels[row], 1.0
        if not torch.equal(engine.per_row(_batch(blank, short, own, weights))[row], expected[row]):
            return False
    return True


def _batch(ids: Tensor, mask: Tensor, labels: Tensor, weights: Tensor | None = None) -> Batch:
    rows = torch.arange(len(ids)).numpy()
    return Batch((ids, mask), labels, torch.ones(len(ids)) if weights is None else weights, rows, rows)


def engine_of(classifier: Classifier, folder: Path, trainable: AdapterSpec, precision: Precision) -> SiteEngine:
    """The engine of what a round trains of `classifier`, whose base is in `folder`."""
    made = SiteEngine(classifier, frozen_base(classifier.plan, folder, precision), trainable)
    made.take_over()
    return made
