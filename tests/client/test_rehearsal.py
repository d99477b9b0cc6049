"""A rehearsal reads no record, writes no ledger, needs consent, is bounded, and passes for nothing else."""

import hashlib
import json
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from privet.client import apart_worker, rehearsal
from privet.client.apart import Apart, ApartError
from privet.client.app import _Serving
from privet.client.rehearsal import MAX_REQUESTS, MAX_SECONDS, Rehearsals
from privet.client.stage import generated
from privet.common.audit_log import AuditLog, AuditLogError, Entry, read
from privet.common.audit_log.entries import Rehearsed
from privet.common.config import Plan
from privet.common.errors import Code, WireError
from privet.common.messages import (
    FinishBody,
    OfferBody,
    Reply,
    ReplyBody,
    Request,
    parse_reply,
    parse_request,
    to_record,
)
from privet.common.privacy.events import TrainEvent
from privet.common.rehearsal import (
    RehearsalReply,
    RehearsalReplyBody,
    RehearsalReport,
    RehearsalRequest,
    parse_rehearsal,
    parse_rehearsal_reply,
)
from privet.server.roster import sound_reply
from tests.client.agent_bench import Bench, site_of
from tests.client.rehearsal_bench import RoomHere, Server
from tests.tiny_models import tiny_plan

CONSENT: dict[str, Any] = {"federation__tiny__rehearsal": True}


@pytest.fixture(scope="module")
def plan(base: Path) -> Plan:
    return tiny_plan(base, training={"rounds": 3, "local_steps": 2, "expected_batch": 5})


@pytest.fixture(scope="module")
def server(plan: Plan, base: Path) -> Server:
    return Server(plan, base)


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsal, "Apart", RoomHere)
    monkeypatch.setattr(RoomHere, "opened", 0)


def rehearsals(
    folder: Path, plan: Plan, told: list[str] | None = None, clock: Callable[[], float] | None = None, **changes: Any
) -> Rehearsals:
    site = site_of(folder, **(CONSENT | {"federation__tiny__plan": plan.digest} | changes))
    tell = (lambda _kind, text: None) if told is None else (lambda kind, text: told.append(f"{kind} {text}"))
    return Rehearsals(site, plan.name, tell, threading.Event(), clock=clock or time.monotonic)


# No record, no ledger


class Untouchable:
    """Raises whatever is asked of it, but for the path that it was given: the audit log lies beside a ledger."""

    def __init__(self, path: Path | None = None) -> None:
        object.__setattr__(self, "given", path)

    def __getattribute__(self, name: str) -> Any:
        given = object.__getattribute__(self, "given")
        if name == "path" and given is not None:
            return given
        raise AssertionError(f"{name} was asked for in a rehearsal")


def test_neither_records_nor_ledger_are_touched_and_the_client_goes_on(
    tmp_path: Path, plan: Plan, server: Server
) -> None:
    """A whole rehearsal through the client's door, over objects that nobody may look at."""
    site = site_of(tmp_path, **CONSENT, federation__tiny__plan=plan.digest)
    records: Any = Untouchable()
    ledger: Any = Untouchable(tmp_path / "ledger.sqlite")
    serving = _Serving(site, "tiny", records, ledger, threading.Lock(), lambda _event: None)
    shapes = {name: array.shape for name, array in server.arrays().items()}
    updates = []
    for request in (server.offer(), server.round(1), server.round(2), server.round(2), server.end()):
        reply = parse_rehearsal_reply(serving.answer(to_record(request)))
        assert reply.body.code is Code.OK
        if request.arrays:
            assert {name: array.shape for name, array in reply.arrays.items()} == shapes
            assert all(np.isfinite(array).all() for array in reply.arrays.values())
            updates.append(reply.arrays["head.weight"])
        assert not serving.stop.is_set()
    assert not np.array_equal(updates[1], updates[2])  # the noise is drawn anew
    assert np.abs(updates[0]).max() > 0
    serving.conclude()
    lines = [line.entry() for line in read(tmp_path / "ledger.audit.jsonl").lines]
    told = [(entry.round, entry.num_bytes > 0) for entry in lines if isinstance(entry, Rehearsed)]
    assert told == [(0, False), (1, True), (2, True), (2, True), (0, False)]  # whatever leaves stands in the log


def test_what_cannot_be_logged_of_a_rehearsal_is_not_sent(
    tmp_path: Path, plan: Plan, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = site_of(tmp_path, **CONSENT, federation__tiny__plan=plan.digest)
    ledger: Any = Untouchable(tmp_path / "ledger.sqlite")
    serving = _Serving(site, "tiny", Untouchable(), ledger, threading.Lock(), lambda _event: None)  # type: ignore[arg-type]
    assert parse_rehearsal_reply(serving.answer(to_record(server.offer()))).body.code is Code.OK

    def full(_log: AuditLog, _entry: Entry) -> None:
        raise AuditLogError("the audit log cannot be written (no space left on device).")

    monkeypatch.setattr(AuditLog, "append", full)
    with pytest.raises(RuntimeError, match=r"^AuditLogError; see the log$"):  # the link says `unavailable`
        serving.answer(to_record(server.round(1)))
    serving._rehearsals.close()


def test_a_ledger_and_its_plans_stay_as_they_were(tmp_path: Path, plan: Plan, base: Path, server: Server) -> None:
    """Beside a plan that lies pending, and one that is served."""
    for approve in ("ask", "first-use"):
        folder = tmp_path / approve
        folder.mkdir()
        bench = Bench(folder, plan, base, policy__approve=approve, **CONSENT, federation__tiny__plan=plan.digest)
        decision = bench.offer().code
        assert decision is (Code.PENDING if approve == "ask" else Code.OK)
        plans, head = bench.ledger.plans(), bench.ledger.head()
        files = _digests(folder)
        serving = _Serving(bench.site, "tiny", bench.agent._records, bench.ledger, threading.Lock(), lambda _e: None)
        for request in (server.offer(), server.round(1), server.round(3), server.end()):
            assert parse_rehearsal_reply(serving.answer(to_record(request))).body.code is Code.OK
        assert (bench.ledger.plans(), bench.ledger.head(), bench.ledger.events()) == (plans, head, [])
        assert _digests(folder) == files
        assert bench.offer().code is decision
        bench.close()


def _digests(folder: Path) -> dict[str, str]:
    """Of all files but the audit log, which a rehearsal's answers stand in."""
    files = [path for path in folder.iterdir() if path.is_file() and not path.name.endswith(".audit.jsonl")]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_next_request_of_a_run_ends_what_was_rehearsed(tmp_path: Path, plan: Plan, server: Server) -> None:
    serving = _Serving(
        site_of(tmp_path, **CONSENT, federation__tiny__plan=plan.digest),
        "tiny",
        Untouchable(),  # type: ignore[arg-type]
        Untouchable(tmp_path / "ledger.sqlite"),  # type: ignore[arg-type]
        threading.Lock(),
        lambda _event: None,
    )
    assert parse_rehearsal_reply(serving.answer(to_record(server.offer()))).body.code is Code.OK
    agent: Any = SimpleNamespace(
        answer=lambda *_: Reply(ReplyBody(code=Code.OK, plan_digest=plan.digest)),
        finished=False,
        held=None,
        expected_values=1,
        audit=serving.audit,
    )
    serving._agent = agent
    serving.answer(to_record(Request(FinishBody(plan_digest=plan.digest))))
    reply = parse_rehearsal_reply(serving.answer(to_record(server.round())))
    assert reply.body.code is Code.UNKNOWN_PLAN


# Consent and limits


def test_without_consent_nothing_is_built_and_the_operator_is_told(tmp_path: Path, plan: Plan, server: Server) -> None:
    told: list[str] = []
    site = rehearsals(tmp_path, plan, told, federation__tiny__rehearsal=False)
    for request in (server.offer(), server.round(), server.end()):
        reply = site.answer(request)
        assert reply.body.code is Code.REFUSED_POLICY
        assert not reply.arrays
    assert RoomHere.opened == 0
    assert all("federation.tiny.rehearsal" in text for text in told)


def changed(plan: Plan, **tables: dict[str, Any]) -> Plan:
    raw = json.loads(plan.canonical())
    for name, table in tables.items():
        raw[name] = raw[name] | table
    return Plan.model_validate_json(json.dumps(raw))


@pytest.mark.parametrize(
    ("tables", "changes", "code"),
    [
        ({"training": {"local_steps": 1001}}, {}, Code.REFUSED_POLICY),
        ({"training": {"expected_batch": 51}}, {}, Code.REFUSED_POLICY),
        ({"method": {"kind": "ffa"}}, {"policy__methods": ("head",)}, Code.REFUSED_POLICY),
        ({"model": {"sha256": "0" * 64}}, {}, Code.BASE_MISMATCH),
        ({"model": {"base": "/nowhere/at/all"}}, {}, Code.BASE_MISMATCH),
        ({}, {"federation__tiny__plan": "1" * 64}, Code.REFUSED_POLICY),  # a folder that only the server names
        ({}, {"federation__tiny__plan": None}, Code.REFUSED_POLICY),
    ],
)
def test_a_plan_that_would_be_refused_is_not_rehearsed(
    tables: dict[str, Any], changes: dict[str, Any], code: Code, tmp_path: Path, plan: Plan, server: Server
) -> None:
    asked = changed(plan, **tables)
    site = rehearsals(tmp_path, asked, **changes)
    assert site.answer(server.offer(asked)).body.code is code
    assert RoomHere.opened == (code is Code.BASE_MISMATCH)


def test_a_base_that_the_site_names_itself_serves_any_plan(
    tmp_path: Path, plan: Plan, base: Path, server: Server
) -> None:
    own: dict[str, Any] = {"federation__tiny__plan": "1" * 64, "federation__tiny__base": str(base)}
    asked = changed(plan, model={"base": "/nowhere/at/all"})
    assert rehearsals(tmp_path, plan, **own).answer(server.offer(asked)).body.code is Code.OK


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"plan_digest": "2" * 64}, Code.BAD_REQUEST),
        ({"plan": "{}"}, Code.BAD_REQUEST),
        ({"plan": "[" * 5000}, Code.BAD_REQUEST),
        ({"adapter_digest": "2" * 64}, Code.ADAPTER_MISMATCH),
    ],
)
def test_an_offer_that_does_not_fit_itself_is_refused(
    changes: dict[str, Any], code: Code, tmp_path: Path, plan: Plan, server: Server
) -> None:
    site = rehearsals(tmp_path, plan)
    assert site.answer(server.offer(**changes)).body.code is code
    assert site.answer(server.round()).body.code is Code.UNKNOWN_PLAN


def test_a_plan_of_another_federation_is_refused(tmp_path: Path, plan: Plan, server: Server) -> None:
    other = Plan.model_validate_json(json.dumps(json.loads(plan.canonical()) | {"name": "other"}))
    assert rehearsals(tmp_path, plan).answer(server.offer(other)).body.code is Code.REFUSED_POLICY


def test_hostile_rounds_get_fixed_codes(tmp_path: Path, plan: Plan, server: Server) -> None:
    site = rehearsals(tmp_path, plan)
    assert site.answer(server.round()).body.code is Code.UNKNOWN_PLAN
    assert site.answer(server.offer()).body.code is Code.OK
    sound = server.arrays()
    for arrays in (
        {},
        sound | {"head.weight": np.full_like(sound["head.weight"], np.nan)},
        sound | {"head.weight": np.full_like(sound["head.weight"], 2e4)},
        sound | {"head.weight": sound["head.weight"][:, :-1]},
        sound | {"more": np.zeros(3, np.float32)},
    ):
        reply = site.answer(server.round(1, arrays))
        assert (reply.body.code, reply.arrays, reply.body.report) == (Code.BAD_REQUEST, {}, None)
    assert site.answer(server.round(4)).body.code is Code.OUTSIDE_HORIZON
    other = replace(server.round(), body=server.round().body.model_copy(update={"plan_digest": "3" * 64}))
    assert site.answer(other).body.code is Code.UNKNOWN_PLAN
    assert site.answer(server.round()).body.code is Code.OK


def test_no_server_burns_the_machine_for_ever(tmp_path: Path, plan: Plan, server: Server) -> None:
    now = [0.0]
    site = rehearsals(tmp_path, plan, clock=lambda: now[0])
    assert site.answer(server.offer()).body.code is Code.OK
    codes = [site.answer(server.round()).body.code for _ in range(MAX_REQUESTS)]
    assert codes == [Code.OK] * (MAX_REQUESTS - 1) + [Code.OUTSIDE_HORIZON]
    now[0] += 86_400
    assert site.answer(server.round()).body.code is Code.OK


def test_slow_rounds_are_bounded_by_their_time(
    tmp_path: Path, plan: Plan, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, allowed, genuine = [0.0], list[float](), RoomHere.ask

    def ask(self: RoomHere, what: Any, arrays: Any = None, *, seconds: float) -> Any:
        allowed.append(seconds)
        now[0] += min(seconds, 500.0)
        return genuine(self, what, arrays, seconds=seconds)

    monkeypatch.setattr(RoomHere, "ask", ask)
    site = rehearsals(tmp_path, plan, clock=lambda: now[0])
    site.answer(server.offer())
    while site.answer(server.round()).body.code is Code.OK:
        pass
    assert sum(min(one, 500.0) for one in allowed) == MAX_SECONDS
    assert max(allowed) == 600.0
    assert allowed[-1] == 100.0


def test_what_fails_apart_is_one_code_and_leaves_nothing_open(
    tmp_path: Path, plan: Plan, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    site = rehearsals(tmp_path, plan, told)
    site.answer(server.offer())

    def ask(self: RoomHere, what: Any, arrays: Any = None, *, seconds: float) -> Any:
        raise ApartError("ended by signal 9")

    monkeypatch.setattr(RoomHere, "ask", ask)
    reply = site.answer(server.round())
    assert reply.body == RehearsalReplyBody(code=Code.UNAVAILABLE, plan_digest=plan.digest, round=1)
    assert "signal 9" in told[-1]
    assert site.answer(server.round()).body.code is Code.UNKNOWN_PLAN


# The wire


def test_nothing_of_a_rehearsal_passes_for_a_request_or_an_update(plan: Plan, server: Server) -> None:
    for request in (server.offer(), server.round(), server.end()):
        with pytest.raises(WireError):
            parse_request(to_record(request))
        assert parse_rehearsal(to_record(request)) is not None
    assert parse_rehearsal(to_record(Request(FinishBody(plan_digest=plan.digest)))) is None
    reply = RehearsalReply(RehearsalReplyBody(code=Code.OK, plan_digest=plan.digest, round=1), server.arrays())
    with pytest.raises(WireError):
        parse_reply(to_record(reply))
    message: Any = SimpleNamespace(has_error=lambda: False, content=to_record(reply))
    assert sound_reply(message, plan.digest, 1) is None
    message.content = to_record(Reply(ReplyBody(code=Code.OK, plan_digest=plan.digest, round=1), server.arrays()))
    assert sound_reply(message, plan.digest, 1) is not None
    with pytest.raises(WireError):
        parse_rehearsal_reply(message.content)


def test_the_wire_is_strict(plan: Plan, server: Server) -> None:
    with pytest.raises(WireError):
        parse_rehearsal(to_record(RehearsalRequest(server.offer().body, server.arrays())))
    with pytest.raises(WireError):
        parse_rehearsal(to_record(server.round()), max_values=10)
    big = Request(OfferBody(plan="{}", plan_digest="0" * 64, adapter_digest="0" * 64))
    assert parse_rehearsal(to_record(big), max_values=0) is None
    body = RehearsalReplyBody(code=Code.UNAVAILABLE, plan_digest=plan.digest)
    with pytest.raises(WireError):
        parse_rehearsal_reply(to_record(RehearsalReply(body, server.arrays())))


def test_a_reply_holds_these_fields_and_no_other(tmp_path: Path, plan: Plan, server: Server) -> None:
    site = rehearsals(tmp_path, plan)
    site.answer(server.offer())
    body = site.answer(server.round()).body.model_dump()
    assert set(body) == {"kind", "code", "plan_digest", "round", "report"}
    assert set(body["report"]) == {"prepare_seconds", "seconds", "peak_bytes"}
    with pytest.raises(ValueError, match="extra"):
        RehearsalReport.model_validate({"seconds": 1.0, "records": 3})


# Generated text


def test_generated_text_is_as_much_as_a_step_draws_and_bounded(plan: Plan) -> None:
    event = TrainEvent(
        sample_rate=0.1,
        noise_multiplier=2.0,
        steps=2,
        max_grad_norm=1.0,
        expected_batch=5,
        unit="unit",
        max_records=4,
    )
    made = generated(plan, event)
    assert (made.num_units, len(made.texts), len(set(made.texts))) == (5, 20, 20)
    assert set(np.bincount(made.units)) == {4}
    assert all(len(text.split()) == plan.task.max_length for text in made.texts)
    long = changed(plan, task={"max_length": 512, "windows": 16, "buckets": []})
    most = 2_000_000 // (512 * 16)
    many = generated(long, replace(event, expected_batch=10**6))
    assert many.num_units == len(many.texts) == most


# The process apart


@pytest.mark.slow
def test_the_process_apart_knows_nothing_of_this_one_s_memory(
    tmp_path: Path, plan: Plan, base: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its peak is its own: a site's records are in the memory of the process that starts it."""
    monkeypatch.setattr(rehearsal, "Apart", Apart)
    records = np.ones(250_000_000)  # 2 GB
    site = rehearsals(tmp_path, plan)
    assert site.answer(server.offer()).body.code is Code.OK
    reply = site.answer(server.round())
    assert reply.body.code is Code.OK
    assert reply.body.report is not None
    assert reply.body.report.peak_bytes is not None
    assert 1e8 < reply.body.report.peak_bytes < 1.5e9 < records.nbytes
    room = site._room
    assert isinstance(room, Apart)
    child = room._child
    assert child is not None
    child.kill()
    assert site.answer(server.round()).body.code is Code.UNAVAILABLE
    assert child.poll() is not None


def test_a_peak_is_told_by_this_program_s_own_status() -> None:
    peak = apart_worker.peak_bytes()
    assert peak is not None
    assert peak > 50e6


def test_where_memory_runs_out_the_process_apart_goes_first() -> None:
    """A plan that nobody approved must not have the system end the agent in the middle of another one's round."""
    room = Apart(threads=1, memory=None, stop=threading.Event())
    room._child = child = room._start()
    try:
        score = Path(f"/proc/{child.pid}/oom_score_adj")
        end = time.monotonic() + 30
        while score.read_text().strip() != "1000" and time.monotonic() < end:
            time.sleep(0.05)
        assert score.read_text().strip() == "1000"
        assert Path("/proc/self/oom_score_adj").read_text().strip() != "1000"
    finally:
        room.close()
