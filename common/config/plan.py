"""The plan: what a federation asks of its sites. Public to all of them, named by its digest."""

import hashlib
import json
import math
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PlainValidator, SerializerFunctionWrapHandler, model_serializer, model_validator

from privet.common.config.table import Name, Table
from privet.common.config.task import TaskSpec

MAX_CONFUSION_LABELS = 200


class ModelSpec(Table):
    """The frozen base and how a text becomes one vector."""

    base: Annotated[str, Field(min_length=1, max_length=500)]
    """The base model: a hub id, a folder, or `package:NAME`, an installed package that carries one."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Digest over the base's configuration, tokenizer and safetensors: every site needs the very same files."""
    pooling: Literal["mean", "cls", "none"] = "mean"
    """`mean`: mean-pooled, L2-normalised features, which learn far better under noise; `cls`: the stock classifier;
    `none`: every token is labelled, with `task.kind = "tokens"`."""
    feature_scale: Annotated[float, Field(gt=0, le=1000)] = 10.0
    """What the normalised mean vector is multiplied by, with `pooling = "mean"`."""


def _option(value: object) -> bool | int | float | str:
    """A method's option: no conversion, so that every machine reads the same value out of the canonical JSON."""
    if isinstance(value, bool) or (isinstance(value, int) and abs(value) <= 2**53):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, str) and len(value) <= 200:
        return value
    raise ValueError("Expected true or false, a finite number (integers up to 2^53), or at most 200 characters.")


OptionName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
Option = Annotated[bool | int | float | str, PlainValidator(_option)]


class MethodSpec(Table):
    """How updates become the next adapter."""

    kind: Name = "head"
    """`head`: the last layer alone; `ffa`: LoRA with a frozen A; `fedavg`: plain LoRA; or one that is installed."""
    options: Annotated[dict[OptionName, Option], Field(max_length=32)] = Field(default_factory=dict)
    """Options of an installed method; privet's own have none."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Of the initial weights, which every site derives for itself."""
    server_learning_rate: Annotated[float, Field(gt=0, le=10)] = 1.0
    """What the mean update is multiplied by."""
    server_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Momentum of the server's step."""
    init: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """Digest of a finished run's adapter to start from; `[server] init` says where it lies."""

    @model_serializer(mode="wrap")
    def _without_none(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """TOML has no null; and a plan that starts anew, or has no options, keeps the digest that it had before these
        keys were."""
        return {key: value for key, value in handler(self).items() if value is not None and value != {}}

    def __hash__(self) -> int:  # options are a dict
        return hash(self.model_dump_json())


LoraTarget = Literal["query", "key", "value", "attention_output", "intermediate", "output"]
LORA_PRESETS: dict[str, tuple[LoraTarget, ...]] = {
    "attention": ("query", "key", "value", "attention_output"),
    "all": ("query", "key", "value", "attention_output", "intermediate", "output"),
}


class LoraSpec(Table):
    """Hu et al. 2021: W + (alpha / rank) B A on the named projections."""

    rank: Annotated[int, Field(ge=1, le=256)] = 8
    """Columns of B and rows of A."""
    alpha: Annotated[float, Field(gt=0, le=1024)] = 16.0
    """The update is scaled by alpha / rank."""
    targets: Annotated[tuple[LoraTarget, ...], Field(strict=False, min_length=1)] = ("query", "value")
    """Projections of each layer that get an adapter: a list, or the name of a preset."""
    first_layer: Annotated[int, Field(ge=0, lt=1024)] = 0
    """The first layer of the base that gets an adapter, counted from 0; those below it stay frozen."""

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, raw: Any) -> Any:
        """A preset stands for its list: the plan's digest is that of the list."""
        if isinstance(raw, dict) and isinstance(raw.get("targets"), str):
            if raw["targets"] not in LORA_PRESETS:
                raise ValueError(f"Expected a list for targets, or one of {', '.join(map(repr, LORA_PRESETS))}.")
            raw = raw | {"targets": list(LORA_PRESETS[raw["targets"]])}
        return raw

    @model_validator(mode="after")
    def _check(self) -> Self:
        """Distinct `targets`."""
        if len(set(self.targets)) != len(self.targets):
            raise ValueError("Expected distinct targets.")
        return self

    @model_serializer(mode="wrap")
    def _without_zero(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A plan with LoRA on every layer keeps the digest that it had before this key was."""
        return {key: value for key, value in handler(self).items() if key != "first_layer" or value}


class TrainingSpec(Table):
    """The horizon and one round of local DP-SGD. No epsilon here: that is the site's."""

    rounds: Annotated[int, Field(ge=1, le=10_000)]
    """Rounds of the federation. Each site's noise is fixed once for all of them: more rounds, more noise in each."""
    spare_rounds: Annotated[int, Field(ge=0, le=1_000)] = 0
    """Rounds beyond, reserved like the others, to be used after failed ones."""
    local_steps: Annotated[int, Field(ge=1, le=10_000)] = 5
    """Steps of DP-SGD that a site takes in a round."""
    expected_batch: Annotated[int, Field(ge=1, le=1_000_000)] | Literal["site"]
    """B, units (people) in a step on average; `site`: each site declares its own."""
    optimizer: Literal["sgd", "adamw"] = "adamw"
    """Of the local steps; it starts fresh in every round."""
    learning_rate: Annotated[float, Field(ge=1e-8, le=100)]
    """Of the local steps."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the local learning rate falls over the rounds."""
    warmup_rounds: Annotated[int, Field(ge=0, le=10_000)] = 0
    """Rounds at the beginning in which it rises to the whole rate."""
    final_rate: Annotated[float, Field(ge=1e-3, le=1)] = 0.1
    """Part of the rate that is left in the last planned round, unless it is constant."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Of the local steps."""
    max_grad_norm: Annotated[float, Field(ge=1e-3, le=1e3)] = 1.0
    """C, the clip norm: the most that one unit can add to a step."""
    train_fraction: Annotated[float, Field(ge=0.1, le=1)] = 1.0
    """Part of a site's units that trains. The others are kept for evaluation and never trained on."""
    compression: Literal["none", "fp16", "int8"] = "none"
    """Of a noised update on its way to the server."""

    @model_validator(mode="after")
    def _check_schedule(self) -> Self:
        """Fewer `warmup_rounds` than `rounds`."""
        if self.warmup_rounds >= self.rounds:
            raise ValueError(f"Expected fewer warmup_rounds than rounds ({self.rounds}), got {self.warmup_rounds}.")
        return self

    @model_serializer(mode="wrap")
    def _without_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A plan of one rate and plain updates keeps the digest that it had before these keys were."""
        left_out = {"schedule": "constant", "warmup_rounds": 0, "compression": "none"}
        if self.schedule == "constant":
            left_out["final_rate"] = self.final_rate
        found = handler(self)
        return {key: value for key, value in found.items() if key not in left_out or value != left_out[key]}

    @property
    def horizon(self) -> int:
        """Rounds that a site reserves: planned and spare."""
        return self.rounds + self.spare_rounds


class EvaluationSpec(Table):
    """What sites are asked to measure on their validation units, and what the server does with what it measures.

    Stopping early and the choice of the best round use public metrics or noised ones, never anything else.
    """

    release: Literal["none", "accuracy", "per_class", "confusion"] = "none"
    """Counts that sites are asked for: right and wrong, for each label, or all pairs. Noise is on every cell."""
    every: Annotated[int, Field(ge=1, le=10_000)] = (
        5  # completed rounds between two evaluations; the last is judged too
    )
    metric: Literal["public", "sites"] = "public"  # the accuracy that `keep` and `patience` go by
    keep: Literal["last", "best"] = "last"  # the round whose adapter the run ends with
    patience: Annotated[int, Field(ge=0, le=10_000)] = 0  # judgements without a better one until it stops; 0: never


class CohortSpec(Table):
    """Who takes part in a round, and how their updates are weighed."""

    min_sites: Annotated[int, Field(ge=1, le=100_000)] = 2
    """Sites that a round needs."""
    fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Part of the connected sites that is asked in a round."""
    timeout: Annotated[float, Field(gt=0, le=7 * 86_400)] = 600.0  # seconds a round may take
    weight: Literal["uniform", "declared", "noise"] = "noise"
    """`noise`: noisier sites count less; `uniform`; `declared`: by `declared_weight` of the sites."""


class Plan(Table):
    """Everything both sides need; `digest` names it everywhere. It has no epsilon and no delta."""

    format: Literal[1]
    """Of this file."""
    name: Name
    """Of the federation. A site's file has a table `[federation.NAME]` for it."""
    task: TaskSpec
    model: ModelSpec
    method: MethodSpec = MethodSpec()
    lora: LoraSpec = LoraSpec()
    training: TrainingSpec
    evaluation: EvaluationSpec = EvaluationSpec()
    cohort: CohortSpec = CohortSpec()

    @model_validator(mode="after")
    def _check_task(self) -> Self:
        """`model.pooling = "none"` goes with `task.kind = "tokens"`, and only there. `release = "confusion"` is for
        `task.kind = "classification"`."""
        if (self.task.kind == "tokens") != (self.model.pooling == "none"):
            raise ValueError('Expected model.pooling = "none" with task.kind = "tokens", and only there.')
        if self.task.kind == "multilabel" and self.evaluation.release == "confusion":
            raise ValueError('Expected evaluation.release = "accuracy" or "per_class" with task.kind = "multilabel".')
        if self.task.kind == "tokens" and self.evaluation.release == "confusion":
            raise ValueError('Expected evaluation.release = "accuracy" or "per_class" with task.kind = "tokens".')
        return self

    @model_validator(mode="after")
    def _check_evaluation(self) -> Self:
        """Where `evaluation.release` asks for metrics, `training.train_fraction` is below 1. `evaluation.metric =
        "sites"` needs such a release. `release = "confusion"` allows at most 200 labels."""
        evaluation, labels = self.evaluation, len(self.task.labels)
        if evaluation.release != "none" and self.training.train_fraction == 1:
            raise ValueError(
                "Expected training.train_fraction < 1 where evaluation.release asks for metrics: they are measured on "
                "units that are not trained on."
            )
        if evaluation.release == "none" and evaluation.metric == "sites":
            raise ValueError('Expected evaluation.release other than "none" where evaluation.metric = "sites".')
        if evaluation.release == "confusion" and labels > MAX_CONFUSION_LABELS:
            raise ValueError(
                f'Expected at most {MAX_CONFUSION_LABELS} labels with release = "confusion", got {labels}.'
            )
        return self

    @property
    def num_evaluations(self) -> int:
        """Evaluations that a site reserves: one after every `evaluation.every` rounds, and after the last."""
        return 0 if self.evaluation.release == "none" else -(-self.training.rounds // self.evaluation.every)

    def canonical(self) -> str:
        """Canonical JSON, defaults written out: the one text that is hashed, sent and stored."""
        return json.dumps(
            self.model_dump(mode="json", include=set(Plan.model_fields)),
            sort_keys=True,
            separators=(",", ":"),
            ensure_ascii=False,
            allow_nan=False,
        )

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON, 64 hex digits."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()
