"""What a simulation tells, to whom: everything to the run folder, and to the listener what a person can follow."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from privet.common.live import Event, Listener
from privet.server.checkpoint import Checkpoint
from privet.server.run_folder import RunFolder

_FEW = 50  # sites whose answers to the plan are told one by one


class Listening:
    """The strategy's listener. `truth` has the sites' accuracy without noise, by round: it stands in no file."""

    def __init__(
        self,
        tell: Listener | None,
        folder: RunFolder | None,
        num_sites: int,
        exact: Callable[[int], float],
    ) -> None:
        """exact: the accuracy without noise in the evaluation of this number."""
        self._tell: Listener = tell or (lambda _event: None)
        self._folder, self._exact, self._many = folder, exact, num_sites > _FEW
        self._answers: Counter[str] = Counter()
        self.truth: dict[int, float] = {}

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
        evaluation = event.get("evaluation")
        if isinstance(evaluation, dict):
            exact = self._exact(evaluation["number"])
            self.truth[int(str(event["round"]))] = exact
            event = event | {"sites_truth": exact, "simulated": True}
        self._tell(event)

    def replied(self, site: str) -> None:
        """A site answered."""
        self._tell({"event": "reply", "site": site})

    def keep(self, checkpoint: Checkpoint) -> None:
        """Store it without the statements: thousands of them, and the plan and the data give them again."""
        if self._folder is not None:
            self._folder.keep(replace(checkpoint, statements={}) if self._many else checkpoint)
