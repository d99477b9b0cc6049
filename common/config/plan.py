"""The plan: what a federation asks of its sites. Public to all of them, named by its digest."""

import hashlib
import json
import math
import unicodedata
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    FailFast,
    Field,
    PlainValidator,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from privet.common.config.bounded import MAX_LABELS
from privet.common.config.loopback import Loopback

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
Strings = Annotated[tuple[str, ...], Field(strict=False)]
Integers = Annotated[tuple[int, ...], Field(strict=False), FailFast()]
LabelSeparator = Annotated[str, Field(min_length=1, max_length=8)]
Threshold = Annotated[float, Field(gt=0, lt=1)]
_MAX_LABEL_CHARACTERS = 80_000  # of all labels together: a plan stays under a MiB however its JSON is escaped
_MAX_BUCKETS = 64
MAX_CONFUSION_LABELS = 200


class Table(BaseModel):
    """One table of a file: frozen, no key beyond the named ones, no silent conversion."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class TaskSpec(Table):
    """What is learned. The labels stand in the plan: no site's data decides them."""

    kind: Literal["classification", "multilabel", "tokens"] = "classification"
    """What is told of a text: one label out of several, any number of them, or named entities in it."""
    labels: Annotated[tuple[Annotated[str, Field(min_length=1, max_length=200)], ...], Field(strict=False), FailFast()]
    """Every class, in the order of the model's outputs. A site maps its own words to these in `data.label_map`."""
    max_length: Annotated[int, Field(ge=8, le=512)] = 128
    """Tokens of a text that are read at once; what is longer is cut off, or read in `windows`."""
    windows: Annotated[int, Field(ge=1, le=16)] = 1
    """Windows of `max_length` in which a longer text is read, the first ones; the rest is cut off."""
    stride: Annotated[int, Field(ge=0, lt=256)] = 0
    """Tokens that neighbouring windows share; below half of `max_length`."""
    buckets: Integers = ()
    """Lengths to which texts are padded, ascending, the last being `max_length`. A text's length decides alone."""
    class_weights: dict[str, Annotated[float, Field(gt=0, le=100)]] = Field(default_factory=dict)
    """Weight of each label's examples in the loss (with several labels a text: of its positives); 1 where not named."""
    label_smoothing: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Part of the target that is spread over all labels."""
    thresholds: Threshold | dict[str, Threshold] = 0.5
    """With `kind = "multilabel"`: the probability from which a label is said, one for all or a table by label."""
    entity_bound: Annotated[float, Field(gt=0, le=1000)] = 4.0
    """With `kind = "tokens"`: the L2 norm that a unit's mean counts are clipped to before noise."""

    @model_validator(mode="before")
    @classmethod
    def _default_buckets(cls, raw: Any) -> Any:
        """Without `buckets` they are those of 16, 32, 64, 128 and 256 below `max_length`, and `max_length`."""
        if isinstance(raw, dict) and not raw.get("buckets") and isinstance(raw.get("max_length", 128), int):
            longest = raw.get("max_length", 128)
            raw = raw | {"buckets": [n for n in (16, 32, 64, 128, 256) if n < longest] + [longest]}
        return raw

    @model_validator(mode="after")
    def _check(self) -> Self:
        """At least two labels to choose from, one otherwise; distinct once trimmed and in Unicode's NFC; `stride` below
        half of `max_length`; `buckets` ascending, from 8, the last being `max_length`, at most 64."""
        if len(self.labels) < (2 if self.kind == "classification" else 1):
            raise ValueError("Expected at least two labels: one class needs no model.")
        if len(self.labels) > MAX_LABELS or sum(map(len, self.labels)) > _MAX_LABEL_CHARACTERS:
            raise ValueError(
                f"Expected at most {MAX_LABELS:,} labels of at most {_MAX_LABEL_CHARACTERS:,} characters together."
            )
        if len({unicodedata.normalize("NFC", label).strip() for label in self.labels}) != len(self.labels):
            raise ValueError("Expected distinct labels (compared in Unicode's NFC, trimmed).")
        if 2 * self.stride >= self.max_length:
            raise ValueError(f"Expected a stride below {self.max_length / 2:g}, half of max_length.")
        if len(self.buckets) > _MAX_BUCKETS:
            raise ValueError(f"Expected at most {_MAX_BUCKETS} buckets.")
        if (
            list(self.buckets) != sorted(set(self.buckets))
            or self.buckets[0] < 8
            or self.buckets[-1] != self.max_length
        ):
            raise ValueError(f"Expected ascending lengths of at least 8, the last {self.max_length} (max_length).")
        return self

    @model_validator(mode="after")
    def _check_loss(self) -> Self:
        """`class_weights` and `label_smoothing` are for labels of texts, `thresholds` for several of them, and
        `entity_bound` for entities; tables name labels of the plan."""
        if self.kind == "tokens" and (self.class_weights or self.label_smoothing):
            raise ValueError('Expected neither class_weights nor label_smoothing with kind = "tokens".')
        if self.kind != "multilabel" and self.thresholds != 0.5:
            raise ValueError('Expected thresholds with kind = "multilabel" only.')
        if self.kind == "tokens" and "O" in self.labels:
            raise ValueError('Expected types of entities as labels: "O" is the tag of all other words.')
        if self.kind != "tokens" and self.entity_bound != 4.0:
            raise ValueError('Expected entity_bound with kind = "tokens" only.')
        for key in ("class_weights", "thresholds"):
            table = getattr(self, key)
            absent = [name for name in table if name not in self.labels] if isinstance(table, dict) else []
            if absent:
                raise ValueError(f"Expected labels of the plan in {key}, got {absent[0]!r}.")
        return self

    @model_serializer(mode="wrap")
    def _without_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A plan that does not use these keys keeps the digest that it had before they were."""
        later: dict[str, Any] = {"class_weights": {}, "label_smoothing": 0.0, "thresholds": 0.5, "entity_bound": 4.0}
        return {key: value for key, value in handler(self).items() if key not in later or value != later[key]}

    def __hash__(self) -> int:  # tables are dicts
        return hash(self.model_dump_json())


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


class PublicData(Table):
    """A labelled file that may be shown to anyone; the server judges each round on it."""

    source: Path
    """A CSV, TSV, JSON lines or Parquet file."""
    encoding: str = "utf-8"
    """Of a text file: any codec that Python knows."""
    text: str = "text"
    """Column with the text."""
    label: str = "label"
    """Column with the label."""
    label_map: dict[str, str] = Field(default_factory=dict)
    """The file's words for the plan's labels, where they differ."""
    label_separator: LabelSeparator = ";"  # between several labels in one cell
    limit: Annotated[int, Field(ge=1)] = 5000  # rows, the first ones


class ServerSpec(Table):
    """The server's own keys: not part of the plan. Paths are relative to federation.toml."""

    address: str = "0.0.0.0:9092"
    """Bound here; the sites call the address in `invite.toml`."""
    certificate: Path = Path("keys/server.crt")
    """The server's TLS certificate, PEM."""
    key: Path = Path("keys/server.key")
    """Its private key, mode 0600."""
    ca: Path = Path("keys/ca.crt")
    """Certificate of the authority that signed it; it goes into the invitation."""
    sites: Path = Path("sites")  # one public file per enrolled site
    state: Path = Path("state")
    """Folder of what outlives a run: who was there, the newest head of each site's ledger."""
    runs: Path = Path("runs")
    """Folder of the run folders."""
    wait: Annotated[float, Field(gt=0)] = 3600.0  # seconds to wait for min_sites before giving up
    init: Path | None = None  # the run folder, or its adapter/, of which method.init is the digest
    init_labels: dict[str, str] = Field(default_factory=dict)  # new label -> the earlier one, or "" for a row of zeros
    public: PublicData | None = None
    license: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.+-]{0,63}$")] | None = None  # of the adapter, for its card
    metrics: Loopback | None = None  # where this machine's Prometheus finds numbers of the server


class SimulationSpec(Table):
    """How `privet simulate` reads one file as many virtual sites. Not part of the plan."""

    data: Path | None = None  # unset: text that privet generates, where the plan's labels are those
    encoding: str = "utf-8"
    """Of a text file."""
    text: str = "text"
    """Column with the text."""
    label: str = "label"
    """Column with the label."""
    label_map: dict[str, str] = Field(default_factory=dict)
    """The file's words for the plan's labels, where they differ."""
    label_separator: LabelSeparator = ";"  # between several labels in one cell
    unit: str = "record"
    """Whom the simulated guarantee is about: a column, or the word `record`."""
    max_records: Annotated[int, Field(ge=1, le=10_000)] = 4
    """Of one unit, in one step."""
    split: str | None = None  # a column whose value "test" marks public rows; unset: a fifth of the units
    partition: str = "iid"
    """How rows become sites: `iid`, `dirichlet:ALPHA` or `column:NAME`."""
    sample_rate: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Part of a site's units in a step, where the plan says `expected_batch = "site"`."""
    delta: Annotated[float, Field(gt=0, lt=0.01)] = 1e-5
    """δ of each site."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Of draws, noise, partition and cohorts."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0  # probability that a site of the cohort does not do a round
    straggler: Annotated[float, Field(ge=0, lt=1)] = 0.0  # that another does it, and its reply comes too late
    engine: Literal["auto", "opacus", "fused"] = "auto"  # of gradients; auto: fused where it computes the plan
    precision: Literal["auto", "float32", "bfloat16"] = (
        "auto"  # of the frozen base; auto: bfloat16 with hardware for it
    )
    device: Literal["cpu", "cuda", "auto"] = "auto"
    """Where the workers compute; `auto`: a GPU where there is one."""


class Federation(Plan):
    """federation.toml: the plan, the server's table and the simulation's."""

    server: ServerSpec = ServerSpec()
    simulation: SimulationSpec = SimulationSpec()

    @property
    def plan(self) -> Plan:
        """The plan alone, as sites see it."""
        return Plan.model_validate(self.model_dump(exclude={"server", "simulation"}))
