"""What one site guarantees, to whom and against what: a page of the model card, and strict JSON on the wire."""

import math
from decimal import ROUND_CEILING, Context, Decimal
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from privet.common.config.plan import Table
from privet.common.privacy.accountant import advantage, epsilon, true_positive_bound
from privet.common.privacy.events import Adjacency, TrainEvent

Probability = Annotated[float, Field(ge=0, le=1)]
Loss = Annotated[float, Field(ge=0, le=1e7)]
Words = Annotated[str, Field(max_length=300, pattern=r"^[A-Za-z0-9 .,;:()=%'-]*$")]  # no markup, no line breaks
FALSE_POSITIVE_RATE = 0.01  # at which true_positive_bound is stated


class Statement(Table):
    """One site's privacy statement for its whole horizon. Nothing here is computed from a record.

    `epsilon` is for a whole unit (add or remove), `epsilon_replace` for any change within one (replace); both are
    None where no finite epsilon holds. In record mode a unit is a single record.
    """

    format: Literal[1] = 1
    guarantee: bool
    reason: Words = ""  # why there is no guarantee
    unit: Literal["unit", "record"]
    delta: Annotated[float, Field(gt=0, lt=1)]
    epsilon: Loss | None
    epsilon_replace: Loss | None
    advantage: Probability  # bound on true minus false positive rate of a membership test
    true_positive_bound: Probability  # of a membership test with one false alarm in a hundred
    mechanism: Literal["DP-SGD, Gaussian noise"] = "DP-SGD, Gaussian noise"
    sampling: Literal["poisson"] = "poisson"
    accountant: Annotated[str, Field(pattern=r"^[a-z-]{1,30} [0-9a-z.+]{1,30}, privacy loss distributions$")]
    noise_multiplier: Annotated[float, Field(ge=0, le=10_000)]
    max_grad_norm: Annotated[float, Field(ge=1e-3, le=1e3)]
    sample_rate: Annotated[float, Field(gt=0, le=1)]
    expected_batch: Annotated[int, Field(ge=1, le=10**9)]
    local_steps: Annotated[int, Field(ge=1, le=10**6)]
    rounds: Annotated[int, Field(ge=1, le=10**6)]  # of the horizon: reserved, whether or not all were run
    max_records: Annotated[int, Field(ge=1, le=10**6)]
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
        if self.noise_multiplier == 0 and self.epsilon is not None:
            raise ValueError("Expected no epsilon where no noise is added.")
        if self.guarantee and self.epsilon is None:
            raise ValueError("Expected no guarantee without a finite epsilon.")
        return self

    def to_json(self) -> dict[str, Any]:
        """A dictionary of JSON's types; `model_dump_json` is the text."""
        return self.model_dump(mode="json")

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Self:
        """The statement that `to_json` wrote. Raises pydantic.ValidationError, a ValueError, on anything else."""
        return cls.model_validate(raw)

    def in_words(self) -> list[str]:
        """A few plain sentences, for someone whose records may be among those used."""
        record = self.unit == "record"
        noun = "record" if record else "unit"
        words = []
        if not self.guarantee:
            words.append(f"This is no privacy guarantee: {self.reason.rstrip('.')}.")
        if self.epsilon is None or self.epsilon_replace is None:
            words.append("No bound can be stated on what the released adapter tells about a person's records.")
        else:
            whole = "one record" if record else "one unit (for example one person) with all its records"
            words += [
                f"{'As if computed for a real site: whether' if not self.guarantee else 'Whether'} {whole} was used or "
                f"not changes the chance of any outcome by at most a factor of e^epsilon, with epsilon = "
                f"{_up(self.epsilon)}, but for a chance of delta = {_up_short(self.delta)}.",
                f"Put as a test: someone who tries to tell which {noun}s were used, and is wrong on 1 in 100 of those"
                f" that were not, finds at most {_up(100 * self.true_positive_bound, 1)} in 100 of those that were.",
                f"Exchanging {'one record for another' if record else 'or rewriting records within one unit'} is "
                f"protected less than leaving the {noun} out: epsilon = {_up(self.epsilon_replace)} at the same delta.",
            ]
            if record:
                words.append(
                    "Each record counted on its own. There is no claim for a person: the more records someone has here,"
                    " the weaker their protection."
                )
            words.append(
                "The figures are for this plan at this site alone. Every other training on the same data, of this"
                " federation or another, adds to them; and for a person whose records lie at several sites the losses"
                " of all those sites add up."
            )
        words.append(
            f"How: up to {self.rounds:,} rounds of {self.local_steps:,} steps. In each step every {noun} took part with"
            f" chance {self.sample_rate:.3g}, "
            + ("" if record else f"with at most {self.max_records:,} of its records, ")
            + f"its contribution was limited to length {self.max_grad_norm:g}, and "
            + (
                f"noise {self.noise_multiplier:g} times that length was added to the sum."
                if self.noise_multiplier > 0
                else "no noise was added."
            )
        )
        words.append(f"What left the site: {', '.join(self.released) if self.released else 'nothing'}, and this page.")
        if self.guarantee:
            words.append(
                "Not covered: a compromised computer at the site, the times at which the site was online, and choices"
                " made from private results outside this accounting."
            )
        return words


def statement(
    event: TrainEvent,
    rounds: int,
    delta: float,
    *,
    released: tuple[str, ...],
    declared_weight: float | None = None,
    guarantee: bool = True,
    reason: str = "",
) -> Statement:
    """The statement of a horizon of `rounds` equal events. Without a finite epsilon it is never a guarantee.

    Raises pydantic.ValidationError (a ValueError) where a value is out of the statement's bounds, as when `guarantee`
    is False and no `reason` is given.
    """
    from importlib.metadata import version  # slow to import

    events = [event] * rounds
    whole, within = (epsilon(events, delta, adjacency) for adjacency in (Adjacency.ADD_OR_REMOVE, Adjacency.REPLACE))
    finite = math.isfinite(whole) and math.isfinite(within)
    if not finite and guarantee:
        guarantee = False
        reason = "no noise is added" if event.noise_multiplier == 0 else "delta is too small for any finite epsilon"
    return Statement(
        guarantee=guarantee,
        reason=reason,
        unit=event.unit,
        delta=delta,
        epsilon=whole if finite else None,
        epsilon_replace=within if finite else None,
        advantage=advantage(events),
        true_positive_bound=true_positive_bound(events, FALSE_POSITIVE_RATE),
        accountant=f"dp-accounting {version('dp-accounting')}, privacy loss distributions",
        noise_multiplier=event.noise_multiplier,
        max_grad_norm=event.max_grad_norm,
        sample_rate=event.sample_rate,
        expected_batch=event.expected_batch,
        local_steps=event.steps,
        rounds=rounds,
        max_records=event.max_records,
        released=released,
        declared_weight=declared_weight,
    )


def _up(value: float, digits: int = 2) -> str:
    """A decimal that never understates: rounded up."""
    return str(Decimal(repr(value)).quantize(Decimal(1).scaleb(-digits), ROUND_CEILING))


def _up_short(value: float) -> str:
    """Three significant digits that never understate: rounded up."""
    return f"{float(Context(prec=3, rounding=ROUND_CEILING).create_decimal(repr(value))):.3g}"
