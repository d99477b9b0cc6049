"""What is learned: the plan's table [task]."""

import unicodedata
from typing import Annotated, Any, Literal, Self

from pydantic import FailFast, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from privet.common.config.bounded import MAX_LABELS
from privet.common.config.table import Table

Integers = Annotated[tuple[int, ...], Field(strict=False), FailFast()]
Threshold = Annotated[float, Field(gt=0, lt=1)]
_MAX_LABEL_CHARACTERS = 80_000  # of all labels together: a plan stays under a MiB however its JSON is escaped
_MAX_BUCKETS = 64


TaskKind = Literal["classification", "multilabel", "tokens"]


class TaskSpec(Table):
    """What is learned. The labels stand in the plan: no site's data decides them."""

    kind: TaskKind = "classification"
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
