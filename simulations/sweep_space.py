"""Which trials a sweep has: keys of the plan with lists of values (grid) or ranges to draw from (random)."""

import difflib
import hashlib
import itertools
import json
import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import BaseModel, ValidationError

from privet.common.config import Plan
from privet.common.config.files import describe
from privet.common.config.task import TaskSpec
from privet.common.errors import ConfigError

MAX_TRIALS = 10_000
_FIXED = ("format", "name", "task.labels")
_TRIES = 100  # draws for one that is new

Settings = dict[str, Any]  # by key of the plan


@dataclass(frozen=True)
class Axis:
    """One key of the plan: values, or a range [low, high] to draw from, evenly or evenly in the logarithm."""

    key: str
    values: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False  # only integers

    @property
    def is_range(self) -> bool:
        return not self.values

    def draw(self, random: np.random.Generator) -> Any:
        """One value; numbers of a range have four digits."""
        if self.values:
            return self.values[int(random.integers(len(self.values)))]
        share = float(random.random())
        edge = 0.5 if self.whole else 0.0  # so that the ends of whole numbers are as likely as the others
        low, high = self.low - edge, self.high + edge
        value = math.exp(math.log(low) + share * math.log(high / low)) if self.log else low + share * (high - low)
        rounded = round(value) if self.whole else float(f"{value:.4g}")
        return min(max(rounded, type(rounded)(self.low)), type(rounded)(self.high))

    def __str__(self) -> str:
        if self.values:
            return f"{self.key}={','.join(setting_text(value) for value in self.values)}"
        return f"{self.key}={self.low:g}..{self.high:g}{':log' if self.log else ''}"


def setting_text(value: object) -> str:
    """A value as TOML would have it, words without quotes.

    >>> setting_text("head"), setting_text(0.3), setting_text(["query"])
    ('head', '0.3', '["query"]')
    """
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def parse_grid(text: str) -> Axis:
    """`key=value,value`; values are TOML, or else bare words. Raises: ConfigError.

    >>> parse_grid("method.kind=head,ffa").values, parse_grid("lora.targets=['query'],['query','value']").values
    (('head', 'ffa'), (['query'], ['query', 'value']))
    """
    key, _, listed = text.partition("=")
    try:
        values = tomllib.loads(f"values = [{listed}]")["values"]
    except tomllib.TOMLDecodeError:
        values = [_value(part.strip()) for part in listed.split(",")]
    return grid_axis(key.strip(), values, text)


def grid_axis(key: str, values: Sequence[Any], text: str = "") -> Axis:
    """A key with its values. Raises: ConfigError where the plan has no such key, or none or equal values are given."""
    text = text or f"{key}={list(values)}"
    _check_key(key, "--grid")
    if not values or any(value == "" for value in values):
        raise ConfigError(f"got {text!r}.", where="--grid", mend="write table.key=value,value.")
    if len({json.dumps(value, sort_keys=True, default=str) for value in values}) < len(values):
        raise ConfigError(f"{text!r} has a value twice.", where="--grid", mend="give each value once.")
    return Axis(key, tuple(values))


def parse_range(text: str) -> Axis:
    """`key=low..high` or `key=low..high:log`; of two integers, only integers are drawn. Raises: ConfigError.

    >>> parse_range("lora.rank=2..64:log")
    Axis(key='lora.rank', values=(), low=2, high=64, log=True, whole=True)
    """
    key, _, ends = text.partition("=")
    span, _, scale = ends.partition(":")
    _check_key(key.strip(), "--range")
    first, _, last = span.partition("..")
    low, high = _value(first.strip()), _value(last.strip())
    known = [isinstance(end, int | float) and not isinstance(end, bool) and math.isfinite(end) for end in (low, high)]
    if not all(known) or scale not in ("", "log", "linear") or not low < high:
        raise ConfigError(
            f"got {text!r}.", where="--range", mend="write table.key=low..high, low below high, or low..high:log."
        )
    if scale == "log" and low <= 0:
        raise ConfigError(f"got {text!r}.", where="--range", mend="a logarithmic range begins above zero.")
    return Axis(
        key.strip(), low=low, high=high, log=scale == "log", whole=isinstance(low, int) and isinstance(high, int)
    )


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _check_key(key: str, where: str) -> None:
    keys = [name for name in _keys(Plan) if name not in _FIXED]
    if key in keys:
        return
    if key in _FIXED:
        raise ConfigError(f"{key} is what the plan is about.", where=where, mend="vary another key.")
    near = difflib.get_close_matches(key, keys, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"one of {', '.join(keys)}."
    raise ConfigError(f"the plan has no key {key!r}.", where=where, mend=hint)


def _keys(table: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in table.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _keys(kind, f"{prefix}{name}.")
        else:
            yield prefix + name


def settings_of(axes: Sequence[Axis], random: int | None, seed: int) -> list[Settings]:
    """All combinations, the last key moving fastest; or, with `random`, so many different draws.

    Draws depend on seed and keys alone: more of them begin with the same ones.
    Raises: ConfigError.
    """
    keys = [axis.key for axis in axes]
    if not axes:
        raise ConfigError("there is nothing to vary.", where="privet sweep", mend="give --grid or --range.")
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ConfigError(f"{twice} is given twice.", where="privet sweep", mend="give each key once.")
    if random is None:
        if any(axis.is_range for axis in axes):
            raise ConfigError("a range has no end of values.", where="--range", mend="say how many with --random N.")
        num = math.prod(len(axis.values) for axis in axes)
        _check_number(num)
        return [dict(zip(keys, values, strict=True)) for values in itertools.product(*(axis.values for axis in axes))]
    _check_number(random)
    streams = [np.random.Generator(np.random.Philox(key=_stream(seed, key))) for key in keys]
    found: dict[str, Settings] = {}
    for _ in range(_TRIES * random):
        drawn = {axis.key: axis.draw(stream) for axis, stream in zip(axes, streams, strict=True)}
        found.setdefault(json.dumps(drawn, sort_keys=True), drawn)
        if len(found) == random:
            return list(found.values())
    raise ConfigError(
        f"there are only {len(found)} different draws.", where="--random", mend="ask for fewer, or leave it out."
    )


def _check_number(num: int) -> None:
    if not 1 <= num <= MAX_TRIALS:
        raise ConfigError(f"{num:,} trials.", where="privet sweep", mend=f"ask for 1 to {MAX_TRIALS:,}.")


def _stream(seed: int, key: str) -> int:
    return int.from_bytes(hashlib.sha256(json.dumps(["privet sweep", seed, key]).encode()).digest()[:16])


def plan_with(plan: Plan, settings: Mapping[str, Any]) -> Plan:
    """The plan with these keys set, validated as its file would be. Raises: ConfigError that names key and value."""
    raw = plan.model_dump(mode="json")
    task: dict[str, Any] = raw["task"]
    if "task.max_length" in settings and _has_default_buckets(plan.task):
        del task["buckets"]  # they follow from the length
    for key, value in settings.items():
        *tables, name = key.split(".")
        table = raw
        for part in tables:
            table = table[part]
        table[name] = value
    words = ", ".join(f"{key}={setting_text(value)}" for key, value in settings.items())
    try:
        return Plan.model_validate(raw)
    except ValidationError as error:
        fault = describe(error, f"trial {words}")
    raise fault


def _has_default_buckets(task: TaskSpec) -> bool:
    bare = task.model_dump() | {"buckets": ()}
    return TaskSpec.model_validate(bare).buckets == task.buckets
