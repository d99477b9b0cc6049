"""A virtual site: the same trainer and methods as a real one, seeded noise, no ledger, no guarantee."""

import math
from collections.abc import Iterable

import numpy as np
from flwr.app import RecordDict
from numpy.typing import NDArray

from privet.client.evaluation import exact_cells, noised
from privet.client.training import RoundTrainer
from privet.common.config import Plan
from privet.common.errors import Code
from privet.common.examples import Examples
from privet.common.messages import (
    COUNTS,
    EvaluateBody,
    FinishBody,
    OfferBody,
    Reply,
    ReplyBody,
    Request,
    parse_request,
    to_record,
)
from privet.common.privacy.events import EvaluateEvent, TrainEvent
from privet.common.privacy.noise import SeededNoise
from privet.common.privacy.statement import Statement
from privet.common.tasks.classification import exact_accuracy


class VirtualSite:
    """event: what one round does here, or None where the plan does not fit this site (it refuses, as a real one).

    validation and evaluation: what metrics are measured on, and how they are noised; None where none are.
    `exact` keeps the un-noised cells of the latest evaluation by its number: for the researcher, and never sent.
    """

    def __init__(
        self,
        name: str,
        trainer: RoundTrainer,
        examples: Examples,
        event: TrainEvent | None,
        statement: Statement | None,
        seed: int,
        *,
        validation: Examples | None = None,
        evaluation: EvaluateEvent | None = None,
    ) -> None:
        self.name, self._trainer, self._examples = name, trainer, examples
        self._event, self._statement, self._seed = event, statement, seed
        self._validation, self._evaluation = validation, evaluation
        self.exact: tuple[int, NDArray[np.float64]] | None = None

    def answer(self, record: RecordDict) -> RecordDict:
        """Offers, rounds, evaluations and the end, through the same messages as on the wire."""
        request = parse_request(record)
        body = request.body
        digest = body.plan_digest
        if self._event is None:
            return to_record(Reply(ReplyBody(code=Code.REFUSED_POLICY, plan_digest=digest)))
        if isinstance(body, OfferBody):
            return to_record(Reply(ReplyBody(code=Code.OK, plan_digest=digest, statement=self._statement)))
        if isinstance(body, FinishBody):
            return to_record(Reply(ReplyBody(code=Code.OK, plan_digest=digest)))
        if isinstance(body, EvaluateBody):
            return to_record(self._evaluate(request, body))
        noise = SeededNoise(self._seed, self.name, body.round)
        update = self._trainer.update(request.arrays, self._examples, body.round, self._event, noise)
        return to_record(Reply(ReplyBody(code=Code.OK, plan_digest=digest, round=body.round), update))

    def _evaluate(self, request: Request, body: EvaluateBody) -> Reply:
        event, number, digest = self._evaluation, body.round, body.plan_digest
        if event is None or self._validation is None:
            return Reply(ReplyBody(code=Code.REFUSED_POLICY, plan_digest=digest, round=number))
        cells = exact_cells(self._trainer, request.arrays, self._validation, event.release)
        self.exact = number, cells
        released = noised(cells, event, SeededNoise(self._seed, self.name, "evaluate", number))
        return Reply(ReplyBody(code=Code.OK, plan_digest=digest, round=number), {COUNTS: released})


def sites_truth(plan: Plan, sites: Iterable[VirtualSite], number: int) -> float:
    """The accuracy without noise, in evaluation `number`, over all validation units of the sites that measured it; nan
    where there are none. Only a simulation can know it."""
    release = plan.evaluation.release
    cells = [site.exact[1] for site in sites if site.exact is not None and site.exact[0] == number]
    if release == "none" or not cells:
        return math.nan
    return exact_accuracy(release, np.sum(cells, axis=0), len(plan.task.labels))
