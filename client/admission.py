"""The judgement of a plan, and the sums of a ledger that it goes by: values, and nothing that decides."""

from dataclasses import dataclass
from typing import Literal

from privet.common.errors import Code
from privet.common.privacy.events import EvaluateEvent, TrainEvent

Unit = Literal["unit", "record"]
Decision = Literal["approved", "pending", "refused"]


@dataclass(frozen=True, kw_only=True)
class Committed:
    """What a ledger holds already: sums over approved plans, each with its whole share from approval on, and charges.

    A charge, for what a ledger that fell behind may have forgotten, counts against the data set and every federation.
    """

    epsilon: float  # over all approved plans of the data set
    delta: float
    federation_epsilon: float  # over those of the federation in question
    federation_delta: float
    unit: Unit | None  # the kind of unit that the data set's first event fixed
    unit_column: str | None = None  # data.unit of the site file, as that event fixed it
    person: str | None = None  # data.person, as the first event under a plan with one fixed it


@dataclass(frozen=True, kw_only=True)
class Admission:
    """The judgement of one plan. `epsilon` and `delta` are the share of the whole horizon.

    Training and validation units are disjoint (a keyed hash of the unit's id parts them), so that each of the two
    horizons may spend the whole share: a unit is in one of them (parallel composition).
    """

    decision: Decision
    code: Code
    reason: str  # for the operator, never sent
    horizon: int  # training rounds, spare ones included
    event: TrainEvent | None = None  # one round; None where the plan was refused
    evaluation: EvaluateEvent | None = None  # None where the plan asks for none, or this site releases none
    num_evaluations: int = 0
    epsilon: float = 0.0
    delta: float = 0.0
    person: str | None = None  # data.person and data.max_per_person at the judgement: the limit of a person's records
    max_per_person: int | None = None
    evaluate_only: bool = (
        False  # all units judge and none trains: `event` says whose units, and no round of it is allowed
    )

    @property
    def training_rounds(self) -> int:
        """Rounds that this site may train."""
        return 0 if self.evaluate_only else self.horizon

    @property
    def num_terms(self) -> str:
        """The horizon in words."""
        evaluations = f"{self.num_evaluations} evaluation{'' if self.num_evaluations == 1 else 's'}"
        if self.evaluate_only:
            return evaluations
        return f"{self.horizon} rounds" + (f" and {evaluations}" if self.evaluation else "")
