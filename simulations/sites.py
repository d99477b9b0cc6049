"""A virtual site: the same trainer and methods as a real one, seeded noise, no ledger, no guarantee."""

from flwr.app import RecordDict

from privet.client.training import RoundTrainer
from privet.common.errors import Code
from privet.common.examples import Examples
from privet.common.messages import FinishBody, OfferBody, Reply, ReplyBody, parse_request, to_record
from privet.common.privacy.events import TrainEvent
from privet.common.privacy.noise import SeededNoise
from privet.common.privacy.statement import Statement


class VirtualSite:
    """event: what one round does here, or None where the plan does not fit this site (it refuses, as a real one)."""

    def __init__(
        self,
        name: str,
        trainer: RoundTrainer,
        examples: Examples,
        event: TrainEvent | None,
        statement: Statement | None,
        seed: int,
    ) -> None:
        self.name, self._trainer, self._examples = name, trainer, examples
        self._event, self._statement, self._seed = event, statement, seed

    def answer(self, record: RecordDict) -> RecordDict:
        """Offers, rounds and the end, through the same messages as on the wire."""
        request = parse_request(record)
        body = request.body
        digest = body.plan_digest
        if self._event is None:
            return to_record(Reply(ReplyBody(code=Code.REFUSED_POLICY, plan_digest=digest)))
        if isinstance(body, OfferBody):
            return to_record(Reply(ReplyBody(code=Code.OK, plan_digest=digest, statement=self._statement)))
        if isinstance(body, FinishBody):
            return to_record(Reply(ReplyBody(code=Code.OK, plan_digest=digest)))
        noise = SeededNoise(self._seed, self.name, body.round)
        update = self._trainer.update(request.arrays, self._examples, body.round, self._event, noise)
        return to_record(Reply(ReplyBody(code=Code.OK, plan_digest=digest, round=body.round), update))
