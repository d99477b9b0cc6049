"""site.toml: data, budget, policy. Owned by the site, never sent, and never raised by anything received."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PlainValidator, field_validator, model_validator

from privet.common.config.loopback import Loopback
from privet.common.config.source import checked_query, checked_url, is_url, origin, place, refuse_secrets
from privet.common.config.table import LabelSeparator, Name, Table

Epsilon = Annotated[float, Field(gt=0, le=1000)]
Delta = Annotated[float, Field(gt=0, lt=0.01)]
MIN_MEMORY = 10**9  # bytes


def _source(value: object) -> Path | str:
    """A file's path, or a database's URL. What is refused is not quoted: it may hold a password."""
    if isinstance(value, str):
        return checked_url(value) if is_url(value) else Path(value)
    if isinstance(value, Path):
        return value
    shown = f" (got {value})" if isinstance(value, int | float) else ""
    raise ValueError(f"Expected the path of a file or the URL of a database{shown}.")


def _variable(value: object) -> str:
    """An environment variable's name. What is refused is not quoted: it may be the password itself."""
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,255}", value):
        return value
    raise ValueError("Expected the name of an environment variable.")


class DataSpec(Table):
    """Where the private text lies and who counts as one person."""

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]  # random, made by `privet init site`; names the ledger
    source: Annotated[Path | str, PlainValidator(_source)]  # a file, or a database's URL
    query: Annotated[str, Field(max_length=100_000)] | None = None  # with a URL: rows with the columns named below
    user: Annotated[str, Field(min_length=1, max_length=256)] | None = None  # of the database
    password_file: Path | None = None  # with the database's password, readable by its owner only
    password_env: Annotated[str, PlainValidator(_variable)] | None = None
    """Name of an environment variable that holds the database's password."""
    timeout: Annotated[float, Field(gt=0, le=86_400)] = 600.0  # seconds that reading from a database may take
    format: Literal["csv", "tsv", "jsonl", "parquet", "tokens", "conll"] | None = None  # unset: by the file's suffix
    encoding: str = "utf-8"
    """Of a text file: any codec that Python knows."""
    text: Annotated[str, Field(min_length=1)]
    """Column with the text."""
    label: Annotated[str, Field(min_length=1)]
    """Column with the label."""
    unit: Annotated[str, Field(min_length=1)]
    """Whom the guarantee protects: the column that says whose a row is, or the word `record`."""
    max_records: Annotated[int, Field(ge=1, le=10_000)] = 4  # of one unit, in one step
    person: Annotated[str, Field(min_length=1)] | None = None  # with unit = "record": whose record a row is
    max_per_person: Annotated[int, Field(ge=1, le=1000)] | None = None  # records of one person, the others are left out
    label_map: dict[str, str] = Field(default_factory=dict)
    """This file's words for the plan's labels, where they differ. Rows with any other label train nothing."""
    label_separator: LabelSeparator = ";"  # between several labels in one cell, where a plan has several a record
    exclude: Path | None = None  # unit ids that are never trained on, one a line

    @property
    def shown(self) -> str:
        """The source, for people: a database without user and parameters."""
        return f"a database query ({place(self.source)})" if isinstance(self.source, str) else str(self.source)

    @property
    def origin(self) -> Path | str:
        """What tells this source from others: the file, or the database and the query. No credential is in it."""
        return origin(self.source, self.query or "") if isinstance(self.source, str) else self.source

    @model_validator(mode="before")
    @classmethod
    def _no_secrets(cls, raw: Any) -> Any:
        """No password stands in this table, under whatever key."""
        if isinstance(raw, dict):
            refuse_secrets(raw)
        return raw

    @model_validator(mode="after")
    def _check_source(self) -> Self:
        """A file goes without `query`, `user` and passwords. A database's URL needs `query`, one statement that reads,
        has neither `format` nor `encoding`, and at most one of `password_file` and `password_env`; SQLite has no
        user."""
        if isinstance(self.source, Path):
            of_database = ("query", "user", "password_file", "password_env")
            given = [f"data.{key}" for key in of_database if getattr(self, key) is not None]
            if given:
                raise ValueError(f"Expected no {given[0]}: source is a file, not the URL of a database.")
            return self
        if self.query is None:
            raise ValueError("Expected query, for source is the URL of a database: a SELECT with the named columns.")
        checked_query(self.query)
        if self.format is not None or self.encoding != "utf-8":
            raise ValueError("Expected neither format nor encoding: a database states its own.")
        if self.password_file is not None and self.password_env is not None:
            raise ValueError("Expected password_file or password_env, not both.")
        logs_in = (self.user, self.password_file, self.password_env) != (None, None, None)
        if logs_in and self.source.startswith("sqlite"):
            raise ValueError("Expected no user and no password: SQLite has none.")
        return self

    @model_validator(mode="after")
    def _check_person(self) -> Self:
        """`person` and `max_per_person` are given both or neither, and only with `unit = "record"`."""
        if (self.person is None) != (self.max_per_person is None):
            raise ValueError(
                "Expected both person and max_per_person, or neither: one means nothing without the other."
            )
        if self.person is not None and self.unit != "record":
            raise ValueError(
                'Expected person and max_per_person with unit = "record" only: with a column as unit, everyone there '
                "is protected with all their records already."
            )
        return self


class BudgetSpec(Table):
    """What this data set may spend over its life."""

    epsilon: Epsilon
    """ε over the data set's whole life, in all federations together."""
    delta: Delta
    """δ over its whole life: the chance that the guarantee fails."""
    declared_units: Annotated[int, Field(ge=1, le=10**9)]
    """Units (people) in the data, stated from public knowledge, never counted from the data. It leaves."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        """`delta` is at most 0.1 / `declared_units`."""
        if self.delta > 0.1 / self.declared_units:
            raise ValueError(
                f"Expected delta <= 0.1 / declared_units = {0.1 / self.declared_units:.3g}: a larger one would allow "
                "whole records to be published."
            )
        return self


class PolicySpec(Table):
    """What the operator allows, whatever a plan asks."""

    approve: Literal["ask", "first-use"] = "ask"
    """`ask`: every new plan waits for `privet approve`; `first-use`, for demonstrations and tests: none does."""
    min_noise_multiplier: Annotated[float, Field(gt=0, le=1000)] = 0.5
    """No plan trains or evaluates here with less noise than this, in clip norms."""
    max_sample_rate: Annotated[float, Field(gt=0, le=1)] = 1.0
    """The largest part of the units that a step may draw, on average."""
    max_rounds: Annotated[int, Field(ge=1)] = 10_000  # of one plan's horizon
    max_local_steps: Annotated[int, Field(ge=1)] = 1_000  # of one round
    methods: Annotated[tuple[Name, ...], Field(strict=False, max_length=64)] = ("head", "fedavg", "ffa")
    """Federated methods that may run. One of another package runs its code here, beside the data."""


_TIME = r"([01]\d|2[0-3]):[0-5]\d"
_BYTES = {"MB": 10**6, "GB": 10**9, "MiB": 2**20, "GiB": 2**30}


class ResourcesSpec(Table):
    """What this machine gives."""

    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    """Of the processor, for computing."""
    engine: Literal["opacus", "fused"] = "opacus"  # what computes the records' gradients
    precision: Literal["float32", "bfloat16", "auto"] = "float32"  # of the frozen base; all that is trained: float32
    hours: Annotated[  # local times between which the site is there, "19:00-07:00"; none: always
        tuple[Annotated[str, Field(pattern=rf"^{_TIME}-{_TIME}$")], ...], Field(strict=False, max_length=24)
    ] = ()
    memory: Annotated[str, Field(pattern=r"^\d{1,6}(\.\d{1,3})? ?(MB|GB|MiB|GiB)$")] | None = None
    """Most memory: half for the data, half for a plan's model; such as `6 GB`."""

    @field_validator("hours", mode="before")
    @classmethod
    def _one_or_several(cls, raw: Any) -> Any:
        """`hours` may be one window by itself."""
        return (raw,) if isinstance(raw, str) else raw

    @model_validator(mode="after")
    def _check(self) -> Self:
        """A window of `hours` ends at another time than it starts; `memory` is at least 1000 MB."""
        for window in self.hours:
            start, _, end = window.partition("-")
            if start == end:
                raise ValueError(
                    f"Expected hours that end at another time than they start, got {window}; none: always."
                )
        if self.memory_bytes is not None and self.memory_bytes < MIN_MEMORY:
            raise ValueError(f"Expected memory of at least {MIN_MEMORY // 10**6} MB: the libraries alone need half.")
        return self

    @property
    def memory_bytes(self) -> int | None:
        """`memory` in bytes."""
        if self.memory is None:
            return None
        unit = next(name for name in _BYTES if self.memory.endswith(name))
        return round(float(self.memory.removesuffix(unit)) * _BYTES[unit])


class MembershipSpec(Table):
    """One federation this site takes part in. Its (epsilon, delta) is a share of the budget."""

    address: Annotated[str, Field(pattern=r"^([^\s:/]+|\[[0-9a-fA-F:]+\]):[0-9]{1,5}$")]
    """Of the server, as in the invitation."""
    ca: Path
    """Certificates of the federation's authority, PEM; several while the old one gives way to the new."""
    key: Path
    """This site's private key, mode 0600."""
    proxy: Annotated[str, Field(pattern=r"^http://([^\s:/@]+|\[[0-9a-fA-F:]+\]):[0-9]{1,5}/?$")] | None = None
    """The way out, by HTTP CONNECT. The environment's `https_proxy` is never followed."""
    proxy_auth: Path | None = None  # a private file with user:password for the proxy
    epsilon: Epsilon
    """This federation's share of the budget's ε."""
    delta: Delta
    """This federation's share of the budget's δ."""
    plan: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None  # the digest the invitation named; others wait
    release: Annotated[
        tuple[Literal["update", "accuracy", "per_class", "confusion"], ...], Field(strict=False, max_length=4)
    ] = ("update",)
    """What may leave: the noised update, and noised counts. What a plan asks beyond is not computed."""
    evaluate_only: bool = False  # all units only judge: no update ever leaves, and evaluations alone are charged
    declared_weight: Annotated[float, Field(gt=0, le=1e9)] | None = None
    """Where the plan weighs sites by what they declare. It leaves."""
    expected_batch: Annotated[int, Field(ge=1)] | None = None  # where the plan says expected_batch = "site"
    rehearsal: bool = False  # whether the server may rehearse here: computing time on generated text, no budget
    base: str | None = None  # where this site keeps the plan's base model; its digest is checked all the same

    @model_validator(mode="after")
    def _check_release(self) -> Self:
        """With `evaluate_only` the release names metrics, and not `update`."""
        if self.evaluate_only and ("update" in self.release or not self.release):
            raise ValueError(
                'Expected release to name metrics, and not "update", with evaluate_only: no update leaves a site that '
                "only evaluates."
            )
        return self

    @model_validator(mode="after")
    def _check_proxy(self) -> Self:
        """`proxy_auth` needs `proxy`."""
        if self.proxy_auth is not None and self.proxy is None:
            raise ValueError("Expected proxy beside proxy_auth: it says who this site is to the proxy.")
        return self


class Site(Table):
    """site.toml."""

    format: Literal[1]
    """Of this file."""
    name: Name
    """Of this site."""
    data: DataSpec
    budget: BudgetSpec
    policy: PolicySpec = PolicySpec()
    resources: ResourcesSpec = ResourcesSpec()
    federation: Annotated[dict[Name, MembershipSpec], Field(min_length=1)]
    stay: bool = False  # after a finished run, wait for the next plan
    metrics: Loopback | None = None  # where this machine's Prometheus finds numbers of the client

    @model_validator(mode="after")
    def _check(self) -> Self:
        """The federations' shares together stay within the budget, in ε and in δ."""
        spent_epsilon = sum(m.epsilon for m in self.federation.values())
        spent_delta = sum(m.delta for m in self.federation.values())
        if spent_epsilon > self.budget.epsilon * (1 + 1e-12) or spent_delta > self.budget.delta * (1 + 1e-12):
            raise ValueError(
                f"The federations' shares (epsilon {spent_epsilon:g}, delta {spent_delta:g}) exceed the budget "
                f"(epsilon {self.budget.epsilon:g}, delta {self.budget.delta:g})."
            )
        return self
