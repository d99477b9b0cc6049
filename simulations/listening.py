"""What a simulation tells, to whom: everything to the run folder, and to the listener what a person can follow."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from privet.common.live import Event, Listener
from privet.server.checkpoint import Checkpoint
from privet.server.run_folder import RunFolder

if TYPE_CHECKING:
    from privet.simulations.grid import SimulationGrid

_FEW = 50  # sites whose answers to the plan are told one by one


class Listening:
    """The strategy's listener. `truth` has the sites' score without noise, by round, and `clipped` the share of their
    units whose counts were clipped, where the task clips any: a finished run has neither in a file."""

    def __init__(
        self,
        tell: Listener | None,
        folder: RunFolder | None,
        num_sites: int,
        exact: Callable[[int], tuple[float, float | None]],
    ) -> None:
        """exact: score without noise and share of clipped units (None: no task of that kind) in the evaluation of this
        number."""
        self._tell: Listener = tell or (lambda _event: None)
        self._folder, self._exact, self._many = folder, exact, num_sites > _FEW
        self._answers: Counter[str] = Counter()
        self.truth: dict[int, float] = {}
        self.clipped: dict[int, float] = {}

    def __call__(self, event: Event) -> None:
        offer = event["event"] == "offer"
        if self._folder is not None:
            self._folder.record({"simulated": True, **event}, durably=not offer)
        if offer and self._many:
            self._answers[str(event["code"])] += 1
            return
        if self._answers:
            self._tell({"event": "answers", "codes": dict(self._answers)})
            self._answers.clear()
        exact = self._found(event)
        self._tell(event if exact is None else event | exact | {"simulated": True})

    def _found(self, row: Event) -> Event | None:
        """What an evaluated round's event tells the researcher beside: found when it is kept, and told only later."""
        evaluation = row.get("evaluation")
        if not isinstance(evaluation, dict):
            return None
        round = int(str(row["round"]))
        if round not in self.truth:
            self.truth[round], clipped = self._exact(evaluation["number"])
            if clipped is not None:
                self.clipped[round] = clipped
        told: Event = {"sites_truth": self.truth[round]}
        return told | ({"sites_clipped": self.clipped[round]} if round in self.clipped else {})

    def replied(self, site: str, kind: str) -> None:
        """A site answered; kind: "train" or "evaluate"."""
        self._tell({"event": "reply", "site": site, "kind": kind})

    def keep(self, checkpoint: Checkpoint, grid: "SimulationGrid") -> None:
        """Store it, with what `restore` needs; without the statements of many sites: the plan and the data give them
        again."""
        if self._folder is None:
            return
        self._found(checkpoint.row or {})
        counts = {"trained": grid.trained.tolist(), "measured": grid.measured.tolist()}
        further: dict[str, Any] = {**counts, "truth": {str(round): value for round, value in self.truth.items()}}
        if self.clipped:
            further["clipped"] = {str(round): value for round, value in self.clipped.items()}
        statements = {} if self._many else checkpoint.statements
        self._folder.keep(replace(checkpoint, statements=statements, simulation=further))

    def restore(self, kept: Mapping[str, Any], grid: "SimulationGrid") -> None:
        """Put back what a checkpoint held."""
        if kept:
            grid.trained[:], grid.measured[:] = np.array(kept["trained"]), np.array(kept["measured"])
            self.truth = {int(round): value for round, value in kept["truth"].items()}
            self.clipped = {int(round): value for round, value in kept.get("clipped", {}).items()}
