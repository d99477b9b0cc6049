"""However many arrays a message has, it crosses the wire in a handful of calls."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from flwr.app import RecordDict

from privet.client.wire import Wire
from privet.common.adapter import Floats
from privet.common.errors import Code
from privet.common.messages import Reply, ReplyBody, Request, TrainBody, parse_reply, parse_request, to_record
from tests.integration.sites import Scene

PLAN = "5e" * 32


def lora(modules: int, seed: int) -> dict[str, Floats]:
    """Two factors of rank 8 for each of `modules` matrices of 768 by 768."""
    random = np.random.default_rng(seed)
    return {
        f"base_model.model.bert.encoder.layer.{number // 2}.attention.self.{'query' if number % 2 else 'value'}."
        f"lora_{factor}.weight": random.normal(size=shape).astype(np.float32)
        for number in range(modules)
        for factor, shape in (("A", (8, 768)), ("B", (768, 8)))
    }


@pytest.mark.parametrize("modules", [1, 24])
def test_calls_of_a_round_do_not_grow_with_the_arrays(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, modules: int
) -> None:
    calls: Counter[str] = Counter()
    sent: Counter[str] = Counter()
    genuine = Wire.call

    def counted(self: Wire, method: str, request: Any, **options: Any) -> Any:
        response = genuine(self, method, request, **options)
        calls[method] += 1
        sent["up"] += request.ByteSize()
        sent["down"] += response.ByteSize()
        return response

    monkeypatch.setattr(Wire, "call", counted)
    asked, answered = lora(modules, 1), lora(modules, 2)

    def answer(content: RecordDict) -> RecordDict:
        request = parse_request(content)
        assert all(np.array_equal(request.arrays[name], array) for name, array in asked.items())
        return to_record(Reply(ReplyBody(code=Code.OK, plan_digest=PLAN, round=1), answered))

    site = scene.site("north", answer)
    scene.gather("north")
    with scene.fleet.run() as grid:
        message = to_record(Request(TrainBody(plan_digest=PLAN, round=1), asked))
        (reply,) = grid.send_and_receive([grid.create_message(message, "train", grid.get_node_ids()[0], "1")])
        site.stop.set()
    arrived = parse_reply(reply.content).arrays
    assert {name: array.tobytes() for name, array in arrived.items()} == {n: a.tobytes() for n, a in answered.items()}
    assert site.ended()
    objects = 6  # message, records, config, array record, array, its one chunk
    assert (calls["PullObject"], calls["PushObject"]) == (objects, objects)
    assert (calls["PushMessages"], calls["ConfirmMessageReceived"]) == (1, 1)
    payload = sum(array.nbytes for array in asked.values())
    for direction in ("up", "down"):
        assert payload < sent[direction] < 1.02 * payload + 4_000, (direction, payload, sent)
