"""The processes of `privet bench transport`: a real server and real sites, but for what they would compute.

Run as ``python -m privet.simulations.bench.endpoints server|sites JSON``; each prints events as lines of JSON.
"""

import privet.common.quiet  # noqa: F401, I001 - before flwr

import json
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Message, RecordDict

from privet.client.link import hard_exit, serve
from privet.common.adapter import Floats
from privet.common.errors import Code, RunError
from privet.common.keys import load_site_key, public_pem
from privet.common.messages import Reply, ReplyBody, Request, TrainBody, max_reply_bytes, parse_reply, to_record
from privet.common.messages import parse_request as parse
from privet.server.fleet import Fleet

_PLAN = "0" * 64
_LORA_LAYERS, _LORA_RANK, _LORA_WIDTH = 12, 8, 768
_PATIENCE = 300.0


def update_arrays(kilobytes: int | None, seed: int) -> dict[str, Floats]:
    """A head of so many kilobytes, or LoRA of rank 8 on query and value of BERT-base (24 modules, 294,912 values)."""
    random = np.random.default_rng(seed)
    if kilobytes is not None:
        return {"head.weight": random.normal(size=(kilobytes * 250,)).astype(np.float32)}
    shapes = {"A": (_LORA_RANK, _LORA_WIDTH), "B": (_LORA_WIDTH, _LORA_RANK)}
    return {
        f"base_model.model.bert.encoder.layer.{layer}.attention.self.{part}.lora_{factor}.weight": random.normal(
            size=shape
        ).astype(np.float32)
        for layer in range(_LORA_LAYERS)
        for part in ("query", "value")
        for factor, shape in shapes.items()
    }


def peak_bytes() -> int:
    """The most memory that this process has had resident; 0 where the system does not tell."""
    try:
        text = Path("/proc/self/status").read_text(encoding="ascii")
        return int(next(line.split()[1] for line in text.splitlines() if line.startswith("VmHWM:"))) << 10
    except (OSError, StopIteration):
        return 0


def tell(**event: Any) -> None:
    """One event, for the process that started this one."""
    print(json.dumps(event), flush=True)


def run_server(folder: Path, count: int, rounds: int, kilobytes: int | None) -> None:
    """Wait for `count` sites, then run a round to warm up and `rounds` to be timed."""
    sent = update_arrays(kilobytes, 0)
    fleet = Fleet(
        address="127.0.0.1:0",
        certificates=tuple((folder / name).read_bytes() for name in ("ca.crt", "server.crt", "server.key")),  # type: ignore[arg-type]
        database=folder / "fleet.sqlite",
        allowed={public_pem(load_site_key(folder / f"{number}.key")): str(number) for number in range(count)},
        max_reply_bytes=max_reply_bytes(sum(array.size for array in sent.values())),
    )
    fleet.start()
    tell(event="listening", port=fleet.port)
    end = time.monotonic() + _PATIENCE
    while len(fleet.online()) < count:
        if time.monotonic() > end:
            raise RunError("the sites did not come.", mend="try fewer of them on this machine.")
        fleet.wait_for_change(1.0)
    tell(event="online", peak=peak_bytes())
    with fleet.run() as grid:
        for number in range(rounds + 1):
            began, busy = time.monotonic(), time.process_time()
            record = to_record(Request(TrainBody(plan_digest=_PLAN, round=number + 1), sent))
            asked = [grid.create_message(record, "train", node, str(number)) for node in grid.get_node_ids()]
            replies = grid.send_and_receive(asked, timeout=_PATIENCE)
            sound = sum(_is_sound(reply, sent) for reply in replies)
            del replies
            if sound != count:
                raise RunError(f"{count - sound} of {count} sites did not answer round {number}.", mend="try fewer.")
            seconds, processor = time.monotonic() - began, time.process_time() - busy
            tell(event="round", round=number, seconds=seconds, processor=processor, peak=peak_bytes())
    fleet.close()


def _is_sound(message: Message, expected: dict[str, Floats]) -> bool:
    if message.has_error():
        tell(event="failed", reason=message.error.reason)
        return False
    arrays = parse_reply(message.content).arrays
    return {name: array.shape for name, array in arrays.items()} == {name: a.shape for name, a in expected.items()}


def run_sites(folder: Path, address: str, first: int, count: int, kilobytes: int | None) -> None:
    """Sites `first` to `first + count`, each with a link of its own, until SIGTERM."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    ca = (folder / "ca.crt").read_bytes()

    def site(number: int) -> None:
        update = update_arrays(kilobytes, 1 + number)

        def answer(record: RecordDict) -> RecordDict:
            body = parse(record).body
            assert isinstance(body, TrainBody)
            return to_record(Reply(ReplyBody(code=Code.OK, plan_digest=_PLAN, round=body.round), update))

        key = load_site_key(folder / f"{number}.key")
        serve(address=address, ca=ca, key=key, answer=answer, stop=stop, on_event=lambda _event, _text: None)

    threads = [threading.Thread(target=site, args=(first + number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    while not stop.wait(0.5):
        pass
    for thread in threads:
        thread.join(30.0)


if __name__ == "__main__":
    given = json.loads(sys.argv[2])
    folder = Path(given.pop("folder"))
    (run_server if sys.argv[1] == "server" else run_sites)(folder, **given)
    hard_exit(0)
