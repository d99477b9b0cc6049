"""The events of metrics.jsonl that a report is made of, strictly read."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from privet.common.tasks.score import ACCURACY

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]


class _Part(BaseModel):
    """A part of an event; what is not known here is passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore")


def _with_score(raw: Any) -> Any:
    """The score as `accuracy`, whatever it is: `score_name` says so."""
    return {"accuracy": raw["score"]} | raw if isinstance(raw, dict) and "score" in raw else raw


class Public(_Part):
    """Metrics of the public file. accuracy: the task's score, which `score_name` names."""

    score_name: str = ACCURACY
    accuracy: Share
    macro_f1: Share
    loss: float  # of a run that diverged it is no number
    num_records: Count
    recall: dict[str, float] = Field(default_factory=dict)
    confusion: list[list[Count]] = Field(default_factory=list)  # rows: truth

    _scored = model_validator(mode="before")(_with_score)


class Estimated(_Part):
    """A share from noised counts."""

    value: float
    error: float


class AtSites(_Part):
    """Metrics of the sites' pooled, noised counts; None where the noise drowns them. accuracy: as in `Public`."""

    score_name: str = ACCURACY
    accuracy: float | None
    error: float | None
    noise_error: float | None
    noise_share: float | None
    num_units: float | None = None  # not told by counts of entities
    num_units_error: float | None = None
    recall: dict[str, Estimated | None] = Field(default_factory=dict)
    confusion: list[list[float]] | None = None  # rows: truth

    _scored = model_validator(mode="before")(_with_score)


class Evaluated(_Part):
    """Who answered an evaluation."""

    number: int
    answered: tuple[str, ...]
    missing: tuple[str, ...]
    failed: dict[str, str]
    left_out: tuple[str, ...] = ()


class Compressed(_Part):
    """How updates came."""

    kind: str
    error_bound: float


def _spread(raw: Any) -> Any:
    return {"values": raw} if isinstance(raw, list) else raw


class Spread(_Part):
    """The optional entry `spread` of a round's event: the score of each single site, told by simulations alone.

    One of three, by what the writer has:

    - `{"sites": {"site-0": 0.81, "site-1": 0.77}}`: by name, for some thousands of sites at most;
    - `{"values": [0.81, 0.77]}`, or the list alone: without names, in any order;
    - `{"quantiles": {"0": 0.5, "0.25": 0.7, "0.5": 0.77, "0.75": 0.8, "1": 0.9}, "num_sites": 10000}`.

    A deployment's events never have it: a site's own score is private. Where one stands there it is not shown.
    """

    sites: dict[str, Share] = Field(default_factory=dict)
    values: list[Share] = Field(default_factory=list)
    quantiles: dict[Share, Share] = Field(default_factory=dict)
    num_sites: Count = 0

    @model_validator(mode="after")
    def _check(self) -> "Spread":
        if sum(map(bool, (self.sites, self.values, self.quantiles))) != 1:
            raise ValueError("Expected one of sites, values and quantiles.")
        return self

    @property
    def every(self) -> list[float]:
        """Each site's score, ascending; empty where only quantiles are known."""
        return sorted([*self.sites.values(), *self.values])

    def quantile(self, share: float) -> float | None:
        """The score under which so great a share of the sites lies; None where it is not known."""
        every = self.every
        if not every:
            return self.quantiles.get(share)
        place = share * (len(every) - 1)
        below = int(place)
        above = min(below + 1, len(every) - 1)
        return every[below] + (place - below) * (every[above] - every[below])


class Row(_Part):
    """The event "round"."""

    round: Count
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    cohort: tuple[str, ...]
    answered: tuple[str, ...]
    missing: tuple[str, ...]
    failed: dict[str, str]
    aggregated: bool
    bytes_down: Count
    bytes_up: Count
    public: Public | None = None
    sites: AtSites | None = None
    evaluation: Evaluated | None = None
    compression: Compressed | None = None
    compression_error: float | None = None  # measured, told by simulations alone
    spread: Annotated[Spread | None, BeforeValidator(_spread)] = None
    time: float | None = None  # seconds since 1970, when it was told
