"""The arms of `privet bench step`: ways to take the same step, from no privacy at all to privet's own engines.

All train LoRA on query and value and the head, by AdamW, on the same rows in the same order. `peft` and the `opacus`
arms are what one would write with those libraries alone; privet's go through its trainer, each with another engine.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from privet.client.engines import EngineName
from privet.client.flat_engine import GradientEngine
from privet.client.fused import FusedEngine, SiteEngine, frozen_base, shape_of
from privet.client.trainer import TrainSpec, train
from privet.client.training import RoundTrainer
from privet.common.base import resolve_base
from privet.common.examples import TokenExamples
from privet.common.grouping import Units
from privet.common.initial import initial_adapter
from privet.common.layout import adapter_spec
from privet.common.precision import Precision, usable_precision
from privet.common.privacy.events import TrainEvent
from privet.common.privacy.noise import SeededNoise
from privet.common.tasks.loss import per_example_loss
from privet.simulations.bench.job import Draws, Job, Rows

_MAX_GRAD_NORM = 1.0


@dataclass(frozen=True)
class Arm:
    """`work(n)` does n turns of work (steps, or clients' updates) and returns how many examples it read."""

    num_parameters: int  # that are trained
    work: Callable[[int], int]


def peft(job: Job) -> Arm:
    """PEFT without privacy; rows padded to `max_length`."""
    model = peft_model(job)
    optimizer = torch.optim.AdamW(_trained(model), lr=job.parsed_plan().training.learning_rate)
    return _written_out(job, model, optimizer, padded=True)


def opacus(job: Job) -> Arm:
    """Opacus' hooks, clip and noise; rows padded to the longest of their batch."""
    return _written_out(job, *private_model(job), padded=False)


def opacus_padded(job: Job) -> Arm:
    """The same; rows padded to `max_length`."""
    return _written_out(job, *private_model(job), padded=True)


def privet_opacus(job: Job) -> Arm:
    """privet's trainer on its reference engine."""
    return through_trainer(job, "opacus")


def fused(job: Job) -> Arm:
    """privet's trainer on the fused engine, all in float32."""
    return through_trainer(job, "fused")


def fused_bf16(job: Job) -> Arm:
    """The same, the frozen base in bfloat16 where the machine has it."""
    return through_trainer(job, "fused", usable_precision("auto")[0])


def simulated(job: Job) -> Arm:
    """privet's trainer as a simulation runs it for one site: the fused engine on passes of mixed lengths."""
    return as_simulated(job)


def simulated_bf16(job: Job) -> Arm:
    """The same, the frozen base in bfloat16 where the machine has it."""
    return as_simulated(job, usable_precision("auto")[0])


STEP_ARMS: dict[str, Callable[[Job], Arm]] = {
    "peft": peft,
    "opacus": opacus,
    "opacus-padded": opacus_padded,
    "privet-opacus": privet_opacus,
    "fused": fused,
    "fused-bf16": fused_bf16,
    "simulated": simulated,
    "simulated-bf16": simulated_bf16,
}


def through_trainer(job: Job, name: EngineName, precision: Precision = "float32") -> Arm:
    """privet's trainer, from the draw to the noised step."""
    plan, rows = job.parsed_plan(), job.rows()
    trainer = RoundTrainer(plan, resolve_base(job.base), engine=name, precision=precision)
    engine = trainer.engine(1)
    if isinstance(engine, SiteEngine):
        engine.take_over()
    return _trained_by(engine, job, rows, int(trainer.tokenizer.pad_token_id or 0))


def as_simulated(job: Job, precision: Precision = "float32") -> Arm:
    """privet's trainer on the engine of a simulation's worker."""
    plan, base, rows = job.parsed_plan(), resolve_base(job.base), job.rows()
    spec = adapter_spec(plan, base)
    assert spec is not None
    frozen, shape = frozen_base(plan, base, precision), shape_of(plan)
    engine = FusedEngine(frozen, spec, spec, shape, per_example_loss, ragged=True)
    engine.adopt(initial_adapter(spec, plan.method.seed))
    return _trained_by(engine, job, rows, 0)


def _trained_by(engine: GradientEngine, job: Job, rows: Rows, pad: int) -> Arm:
    plan = job.parsed_plan()
    data = _examples(rows, plan.task.buckets, pad)
    noise = _EqualDraws(job, len(rows.ids))
    training = plan.training

    def work(count: int) -> int:
        event = TrainEvent(
            sample_rate=min(1.0, job.batch / len(rows.ids)),
            noise_multiplier=job.noise_multiplier,
            steps=count,
            max_grad_norm=_MAX_GRAD_NORM,
            expected_batch=job.batch,
            unit="record",
            max_records=1,
        )
        spec = TrainSpec(event=event, optimizer="adamw", learning_rate=training.learning_rate)
        before = noise.drawn
        train(engine, data, spec, noise)
        return noise.drawn - before

    return Arm(engine.spec.size, work)


class _EqualDraws(SeededNoise):
    """A simulation's noise, but as many units at every step: every arm has the same work."""

    __slots__ = ("_draws", "drawn")

    def __init__(self, job: Job, count: int) -> None:
        super().__init__("bench step", job.seed)
        self._draws, self.drawn = Draws(job.seed, count, job.batch), 0

    def mask(self, n: int, rate: float) -> NDArray[np.bool_]:
        drawn = np.zeros(n, bool)
        drawn[self._draws.next()] = True
        self.drawn += int(drawn.sum())
        return drawn


def _examples(rows: Rows, buckets: tuple[int, ...], pad: int) -> TokenExamples:
    count = len(rows.ids)
    return TokenExamples(rows.ids, rows.labels, Units(np.arange(count), count), buckets, pad)


def peft_model(job: Job) -> Any:
    """The stock sequence classifier under PEFT's LoRA, in training mode, without dropout as everywhere here."""
    import transformers
    from peft import LoraConfig, get_peft_model

    plan = job.parsed_plan()
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        resolve_base(job.base),
        num_labels=len(plan.task.labels),
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        classifier_dropout=0.0,
    )
    lora = LoraConfig(
        r=plan.lora.rank,
        lora_alpha=plan.lora.alpha,
        target_modules=list(plan.lora.targets),
        lora_dropout=0.0,
        modules_to_save=["classifier"],
        task_type="SEQ_CLS",
    )
    return get_peft_model(model, lora).train()


def private_model(job: Job) -> tuple[Any, Any]:
    """PEFT's model under Opacus' hooks, and Opacus' optimizer on AdamW."""
    from opacus.grad_sample import GradSampleModule
    from opacus.optimizers import DPOptimizer

    model = GradSampleModule(peft_model(job), batch_first=True, loss_reduction="mean", strict=False)
    optimizer = DPOptimizer(
        torch.optim.AdamW(_trained(model), lr=job.parsed_plan().training.learning_rate),
        noise_multiplier=job.noise_multiplier,
        max_grad_norm=_MAX_GRAD_NORM,
        expected_batch_size=job.batch,
    )
    return model, optimizer


def padded_batch(rows: Rows, drawn: NDArray[np.int64], length: int | None) -> dict[str, torch.Tensor]:
    """What a sequence classifier takes, [drawn, length]; None is the longest of the rows. Padding has the id 0."""
    width = length or max(len(rows.ids[index]) for index in drawn)
    ids, mask = np.zeros((len(drawn), width), np.int64), np.zeros((len(drawn), width), np.int64)
    for row, index in enumerate(drawn):
        own = rows.ids[index]
        ids[row, : len(own)], mask[row, : len(own)] = own, 1
    labels = torch.from_numpy(rows.labels[drawn])
    return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask), "labels": labels}


def _written_out(job: Job, model: Any, optimizer: Any, *, padded: bool) -> Arm:
    rows = job.rows()
    draws = Draws(job.seed, len(rows.ids), job.batch)

    def work(count: int) -> int:
        examples = 0
        for drawn in _take(draws, count):
            optimizer.zero_grad()
            model(**padded_batch(rows, drawn, job.max_length if padded else None)).loss.backward()
            optimizer.step()
            examples += len(drawn)
        return examples

    return Arm(sum(parameter.numel() for parameter in _trained(model)), work)


def _take(draws: Draws, count: int) -> Iterator[NDArray[np.int64]]:
    for _ in range(count):
        yield draws.next()


def _trained(model: Any) -> list[Any]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]
