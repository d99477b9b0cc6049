"""What one site guarantees, to whom and against what: a page of the model card, and strict JSON on the wire."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from privet.common.config.table import Table
from privet.common.privacy.events import EvaluateEvent, TrainEvent
from privet.common.privacy.horizon import FALSE_POSITIVE_RATES, Horizon, figures
from privet.common.privacy.words import FALSE_POSITIVE_RATE, statement_table, statement_words

__all__ = ["FALSE_POSITIVE_RATE", "EvaluationPart", "Statement", "TradeOff", "statement"]

Probability = Annotated[float, Field(ge=0, le=1)]
_MAX_LOSS = 1e7
Loss = Annotated[float, Field(ge=0, le=_MAX_LOSS)]
Words = Annotated[str, Field(max_length=300, pattern=r"^[A-Za-z0-9 .,;:()=%'-]*$")]  # no markup, no line breaks


class EvaluationPart(Table):
    """What is measured on the site's validation units: noised counts, so many times."""

    release: Literal["accuracy", "per_class", "confusion"]
    noise_multiplier: Annotated[float, Field(ge=0, le=1e6)]  # on every cell, a unit's cells having norm at most 1
    evaluations: Annotated[int, Field(ge=1, le=10**6)]  # of the horizon: reserved, whether or not all were run


class TradeOff(Table):
    """A membership test's rates: how often it is right about a unit that was used, at most."""

    false_positive_rate: Annotated[float, Field(gt=0, lt=1)]
    true_positive_bound: Probability


class Statement(Table):
    """One site's privacy statement for its whole horizon. Nothing here is computed from a record.

    `epsilon` is for a whole unit (add or remove), `epsilon_replace` for any change within one (replace); both are
    None where no finite epsilon holds. In record mode a unit is a single record; `epsilon_person` is then for all of
    a person's records, where the site holds them to a number, and None is no claim for a person.

    A site that only evaluates states no round and no fraction: the training's figures tell its number of declared units
    (expected_batch / sample_rate) and nothing that was done.

    A field with a default may be missing, as in statements written before it was: the default says what held then.
    """

    format: Literal[1] = 1
    guarantee: bool
    reason: Words = ""  # why there is no guarantee
    unit: Literal["unit", "record"]
    delta: Annotated[float, Field(gt=0, lt=1)]
    epsilon: Loss | None
    epsilon_replace: Loss | None
    max_per_person: Annotated[int, Field(ge=1, le=1000)] | None = None  # records; None: not held to any number
    epsilon_person: Loss | None = None
    advantage: Probability  # bound on true minus false positive rate of a membership test
    true_positive_bound: Probability  # of a membership test with one false alarm in a hundred
    trade_off: Annotated[tuple[TradeOff, ...], Field(strict=False, max_length=16)] = ()
    mu: Annotated[float, Field(ge=0, le=1000)] | None = None  # approximate: see `mu_meaning`
    mu_meaning: Literal["approximate: least Gaussian profile that dominates down to delta"] = (
        "approximate: least Gaussian profile that dominates down to delta"
    )
    mechanism: Literal["DP-SGD, Gaussian noise"] = "DP-SGD, Gaussian noise"
    sampling: Literal["poisson"] = "poisson"
    accountant: Annotated[str, Field(pattern=r"^[a-z-]{1,30} [0-9a-z.+]{1,30}, privacy loss distributions$")]
    noise_multiplier: Annotated[float, Field(ge=0, le=10_000)]
    max_grad_norm: Annotated[float, Field(ge=1e-3, le=1e3)]
    sample_rate: Annotated[float, Field(gt=0, le=1)]
    expected_batch: Annotated[int, Field(ge=1, le=10**9)]
    local_steps: Annotated[int, Field(ge=1, le=10**6)]
    rounds: Annotated[int, Field(ge=0, le=10**6)]  # of the horizon: reserved, whether or not all were run; 0: see below
    max_records: Annotated[int, Field(ge=1, le=10**6)]
    train_fraction: Annotated[float, Field(ge=0, le=1)] = 1.0  # of the units; the others are never trained on
    evaluation: EvaluationPart | None = None
    released: Annotated[
        tuple[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_ -]{0,63}$")], ...], Field(strict=False, max_length=16)
    ]
    declared_weight: Annotated[float, Field(gt=0, le=1e9)] | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.guarantee == bool(self.reason):
            raise ValueError("Expected a reason where there is no guarantee, and only there.")
        if (self.epsilon is None) != (self.epsilon_replace is None):
            raise ValueError("Expected both epsilon and epsilon_replace, or neither.")
        noiseless = self.noise_multiplier == 0 or (self.evaluation and self.evaluation.noise_multiplier == 0)
        if noiseless and self.epsilon is not None:
            raise ValueError("Expected no epsilon where no noise is added.")
        if self.guarantee and self.epsilon is None:
            raise ValueError("Expected no guarantee without a finite epsilon.")
        if self.evaluation is not None and self.train_fraction == 1:
            raise ValueError("Expected train_fraction < 1 where units are measured: they are not trained on.")
        if (self.rounds == 0) != (self.train_fraction == 0):
            raise ValueError("Expected rounds = 0 and train_fraction = 0 together: a site that only evaluates.")
        if self.rounds == 0 and (self.evaluation is None or "update" in self.released):
            raise ValueError("Expected evaluations and no update where nothing is trained.")
        self._check_person()
        rates = [point.false_positive_rate for point in self.trade_off]
        if rates != sorted(set(rates)):
            raise ValueError("Expected ascending false positive rates.")
        stated = [
            point.true_positive_bound for point in self.trade_off if point.false_positive_rate == FALSE_POSITIVE_RATE
        ]
        if stated and stated[0] != self.true_positive_bound:
            raise ValueError("Expected one true_positive_bound for one false positive rate.")
        return self

    def _check_person(self) -> None:
        if self.max_per_person is not None and self.unit != "record":
            raise ValueError('Expected max_per_person with unit "record" only: a unit is claimed for as a whole.')
        if self.epsilon_person is None:
            return
        if self.max_per_person is None or self.epsilon is None:
            raise ValueError("Expected epsilon_person only with max_per_person and epsilon.")
        if self.epsilon_person < self.epsilon:
            raise ValueError("Expected epsilon_person >= epsilon: a person has a record at least.")

    @property
    def horizon(self) -> Horizon:
        """The mechanism that is stated. Raises ValueError where no event could have such figures."""
        part = self.evaluation
        return Horizon(
            train=TrainEvent(
                sample_rate=self.sample_rate,
                noise_multiplier=self.noise_multiplier,
                steps=self.local_steps,
                max_grad_norm=self.max_grad_norm,
                expected_batch=self.expected_batch,
                unit=self.unit,
                max_records=self.max_records,
            ),
            rounds=self.rounds,
            evaluation=None
            if part is None
            else EvaluateEvent(noise_multiplier=part.noise_multiplier, release=part.release, unit=self.unit),
            num_evaluations=0 if part is None else part.evaluations,
            train_fraction=self.train_fraction,
        )

    def to_json(self) -> dict[str, Any]:
        """A dictionary of JSON's types; `model_dump_json` is the text."""
        return self.model_dump(mode="json")

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Self:
        """The statement that `to_json` wrote. Raises pydantic.ValidationError, a ValueError, on anything else."""
        return cls.model_validate(raw)

    def in_words(self, kind: str = "classification") -> list[str]:
        """A few plain sentences, for someone whose records may be among those used. kind: of the plan's task, which
        decides what its counts count."""
        return statement_words(self, kind)

    def table(self, kind: str = "classification") -> list[tuple[str, str]]:
        """Every figure as (label, value), for the card and a page; kind as in `in_words`."""
        return statement_table(self, kind)


def statement(
    event: TrainEvent,
    rounds: int,
    delta: float,
    *,
    released: tuple[str, ...],
    declared_weight: float | None = None,
    evaluation: EvaluateEvent | None = None,
    num_evaluations: int = 0,
    train_fraction: float = 1.0,
    max_per_person: int | None = None,
    guarantee: bool = True,
    reason: str = "",
) -> Statement:
    """The statement of `rounds` equal events and `num_evaluations` equal evaluations of the other units.

    Without a finite epsilon it is never a guarantee. Raises ValueError (pydantic.ValidationError among them) where a
    value is out of the statement's bounds, as when `guarantee` is False and no `reason` is given.
    """
    from importlib.metadata import version  # slow to import

    horizon = Horizon(
        train=event,
        rounds=rounds,
        evaluation=evaluation if num_evaluations else None,
        num_evaluations=num_evaluations,
        train_fraction=train_fraction,
    )
    found = figures(horizon, delta, max_per_person)
    finite = found.epsilon <= _MAX_LOSS and found.epsilon_replace <= _MAX_LOSS
    if not finite and guarantee:
        guarantee = False
        noiseless = event.noise_multiplier == 0 or (evaluation is not None and evaluation.noise_multiplier == 0)
        reason = "no noise is added" if noiseless else "delta is too small for any finite epsilon"
    person = found.epsilon_person if finite else None
    return Statement(
        guarantee=guarantee,
        reason=reason,
        unit=event.unit,
        delta=delta,
        epsilon=found.epsilon if finite else None,
        epsilon_replace=found.epsilon_replace if finite else None,
        max_per_person=max_per_person,
        # person_epsilon composes on a grid of its own, which may be the finer one
        epsilon_person=None if person is None or person > _MAX_LOSS else max(person, found.epsilon),
        advantage=found.advantage,
        true_positive_bound=found.true_positives[FALSE_POSITIVE_RATES.index(FALSE_POSITIVE_RATE)],
        trade_off=tuple(
            TradeOff(false_positive_rate=rate, true_positive_bound=bound)
            for rate, bound in zip(FALSE_POSITIVE_RATES, found.true_positives, strict=True)
        ),
        mu=found.mu,
        accountant=f"dp-accounting {version('dp-accounting')}, privacy loss distributions",
        noise_multiplier=event.noise_multiplier,
        max_grad_norm=event.max_grad_norm,
        sample_rate=event.sample_rate,
        expected_batch=event.expected_batch,
        local_steps=event.steps,
        rounds=rounds,
        max_records=event.max_records,
        train_fraction=train_fraction,
        evaluation=None
        if horizon.evaluation is None
        else EvaluationPart(
            release=horizon.evaluation.release,
            noise_multiplier=horizon.evaluation.noise_multiplier,
            evaluations=num_evaluations,
        ),
        released=released,
        declared_weight=declared_weight,
    )
