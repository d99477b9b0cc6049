"""What a simulation leaves behind."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from privet.common.adapter import Floats
from privet.common.config import Plan
from privet.common.live import Event
from privet.common.privacy.statement import Statement
from privet.common.tasks.base import task_of
from privet.common.tasks.score import score_of
from privet.server.judgement import kept_round
from privet.simulations import history as tables
from privet.simulations.terms import Spent

if TYPE_CHECKING:
    import pandas

    from privet.simulations.baselines import Baselines


@dataclass(frozen=True, repr=False)
class Simulation:
    """A finished simulation. `history` is a DataFrame of one row a round, `rounds` the events themselves; `final` the
    public metrics of the kept round, or None. baselines: where they were asked for.

    truth: by evaluated round, the sites' score without noise, which only a simulation can know; in no file of a
    finished run. clipped: likewise the share of the sites' units whose counts were clipped; None where the task clips
    none.
    spent: what each site trained and measured, and the epsilon of that.
    """

    plan: Plan
    arrays: Mapping[str, Floats]
    rounds: Sequence[Event]
    statements: Mapping[str, Statement]
    folder: Path | None
    truth: Mapping[int, float] = field(default_factory=dict)
    spent: Spent | None = None
    baselines: "Baselines | None" = None
    clipped: Mapping[int, float] | None = None

    @property
    def history(self) -> "pandas.DataFrame":
        """Its columns and their types: `privet.simulations.history`."""
        return tables.frame(self.rounds, self.statements, self.truth, score=self.score_name, clipped=self.clipped)

    def __repr__(self) -> str:
        return tables.in_words(self)

    def _repr_html_(self) -> str:
        return tables.as_html(self)

    @property
    def final(self) -> Mapping[str, object] | None:
        kept = kept_round(self.rounds, self.plan.evaluation)
        return kept["public"] if kept is not None else None

    @property
    def score_name(self) -> str:
        """What the task's score is, for people: "accuracy"."""
        return task_of(self.plan.task).score_name

    @property
    def score(self) -> float:
        """The public score of the round that is kept, the last or the best; nan where nothing was judged."""
        value = score_of(self.final)
        return math.nan if value is None else value

    @property
    def accuracy(self) -> float:
        """`score`, under the name that it has where a record has one label."""
        return self.score
