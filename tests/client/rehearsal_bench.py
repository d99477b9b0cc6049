"""A site that is rehearsed with, and the requests of an honest server; the process apart is this one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from privet.client.apart import settled
from privet.client.apart_worker import Worker
from privet.common import adapter
from privet.common.adapter import Arrays, Floats
from privet.common.config import Plan
from privet.common.model import build_classifier, initial_arrays
from privet.common.rehearsal import (
    RehearsalEndBody,
    RehearsalOfferBody,
    RehearsalRequest,
    RehearsalRoundBody,
)


class RoomHere:
    """As `Apart`, in this process."""

    opened = 0

    def __init__(self, *, threads: int = 1, memory: int | None = None, stop: object = None) -> None:
        type(self).opened += 1
        self._worker, self._threads = Worker(), threads

    def ask(
        self, what: Mapping[str, Any], arrays: Arrays | None = None, *, seconds: float
    ) -> tuple[Mapping[str, Any], dict[str, Floats]]:
        assert seconds > 0
        header, found = self._worker.answer({"threads": self._threads} | dict(what), arrays or {})
        return settled(header), found

    def close(self) -> None: ...


class Server:
    """An honest one."""

    def __init__(self, plan: Plan, base: Path) -> None:
        self.plan, self.initial = plan, initial_arrays(build_classifier(plan, base))

    def offer(self, offered: Plan | None = None, **changes: str) -> RehearsalRequest:
        plan = offered or self.plan
        body = {
            "plan": plan.canonical(),
            "plan_digest": plan.digest,
            "adapter_digest": adapter.digest(self.initial),
        }
        return RehearsalRequest(RehearsalOfferBody.model_validate(body | changes))

    def arrays(self) -> dict[str, Floats]:
        return {name: array for name, array in self.initial.items() if name in {"head.weight", "head.bias"}}

    def round(self, number: int = 1, arrays: Arrays | None = None) -> RehearsalRequest:
        body = RehearsalRoundBody(plan_digest=self.plan.digest, round=number)
        return RehearsalRequest(body, self.arrays() if arrays is None else arrays)

    def end(self) -> RehearsalRequest:
        return RehearsalRequest(RehearsalEndBody(plan_digest=self.plan.digest))
