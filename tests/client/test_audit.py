"""What leaves a site stands in its audit log before it leaves; nothing of the data stands there."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from privet.client import audit as audit_room
from privet.client.audit import SiteAudit, audit_path, disagreements, missing
from privet.client.ledger import Ledger
from privet.client.ledger.head import head_path
from privet.client.training import RoundTrainer
from privet.common.audit_log import AuditLog, AuditLogError, Entry, Line, Verified, read
from privet.common.audit_log.entries import Approved, Found, Refused, Released, Replayed, Stopped
from privet.common.errors import Code
from tests.client.agent_bench import Bench, payload
from tests.tiny_models import tiny_plan

SECRET = "zanzibarian quincunx"
ROWS = [(f"{SECRET} fever", "calm", "person-xyzzy"), ("chest pain", "urgent", "p1"), ("a rash", "other", "p2")]


@pytest.fixture
def bench(tmp_path: Path, base: Path) -> Iterator[Bench]:
    made = Bench(tmp_path, tiny_plan(base, training={"rounds": 3, "local_steps": 1, "expected_batch": 5}), base, ROWS)
    yield made
    made.close()


def log_of(bench: Bench) -> Verified:
    return read(audit_path(bench.path))


def entries(bench: Bench) -> list[Entry]:
    return [line.entry() for line in log_of(bench).lines]


def test_each_reply_has_its_line_with_the_ledgers_digest(bench: Bench) -> None:
    assert bench.offer().code is Code.OK
    reply = bench.train(1)
    assert bench.train(1).code is Code.OK  # the same again
    assert bench.train(9).code is Code.OUTSIDE_HORIZON
    found = entries(bench)
    assert [entry.kind for entry in found] == ["begun", "approved", "released", "released", "replayed", "refused"]
    statement, update, again, refusal = found[2:]
    assert isinstance(update, Released)
    assert isinstance(statement, Released)
    assert statement.what == "statement"
    event = bench.ledger.events()[0]
    digest = hashlib.sha256(payload(reply)).hexdigest()
    assert (update.event, update.reply_sha256, update.round) == (event.id, digest, 1)
    assert digest == event.reply_sha256
    assert update.num_bytes == sum(array.nbytes for array in reply.arrays.values())
    assert isinstance(again, Replayed)
    assert again.reply_sha256 == update.reply_sha256
    assert isinstance(refusal, Refused)
    assert (refusal.code, refusal.round, refusal.request) == (Code.OUTSIDE_HORIZON, 9, "train")
    with Ledger.open(bench.path) as ledger:
        assert not disagreements(log_of(bench), ledger)


def test_the_line_is_there_before_the_reply_is_given_and_after_it_is_stored(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.offer()
    order: list[str] = []
    reserve, store, train, append = Ledger.reserve, Ledger.store, RoundTrainer.update, AuditLog.append

    def note(name: str, genuine):  # type: ignore[no-untyped-def]
        def noted(*args, **kwargs):  # type: ignore[no-untyped-def]
            done = genuine(*args, **kwargs)
            order.append(name)
            return done

        return noted

    for room, name, genuine in (
        (Ledger, "reserve", reserve),
        (RoundTrainer, "update", train),
        (Ledger, "store", store),
        (AuditLog, "append", append),
    ):
        monkeypatch.setattr(room, name, note(name, genuine))
    reply = bench.train(1)
    assert reply.code is Code.OK
    assert order == ["reserve", "update", "store", "append"]
    assert str(bench.ledger.events()[0].reply_sha256) in audit_path(bench.path).read_text()


def test_what_cannot_be_logged_is_not_sent_stays_spent_and_is_replayed_later(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.offer()

    def full(_log: AuditLog, _entry: Entry) -> None:
        raise AuditLogError("the audit log cannot be written (no space left on device).")

    with monkeypatch.context() as disk:
        disk.setattr(AuditLog, "append", full)
        reply = bench.train(1)
        assert reply.code is Code.UNAVAILABLE
        assert not reply.arrays
        assert reply.body.statement is None
        assert bench.offer().code is Code.UNAVAILABLE
        assert bench.train(7).code is Code.UNAVAILABLE  # a refusal, too
    assert any("no space left" in text for kind, text in bench.told if kind == "error")
    (event,) = bench.ledger.events()
    assert event.state == "stored"
    before = len(entries(bench))
    again = bench.train(1)
    assert again.code is Code.OK
    assert hashlib.sha256(payload(again)).hexdigest() == event.reply_sha256
    (line,) = entries(bench)[before:]
    assert type(line) is Released  # the first time that it leaves
    assert line.reply_sha256 == event.reply_sha256
    assert len(bench.ledger.events()) == 1


def test_a_reply_that_the_ledger_does_not_hold_is_not_sent(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.offer()
    monkeypatch.setattr(Ledger, "events", lambda *_: [])
    assert bench.train(1).code is Code.UNAVAILABLE


def test_a_restart_finds_what_the_log_lacks(bench: Bench) -> None:
    bench.offer()
    bench.train(1)
    audit_path(bench.path).rename(bench.folder / "away")
    bench.restart()
    bench.agent.audit.started(bench.ledger)
    found = entries(bench)
    assert [(entry.what, entry.round) for entry in found if isinstance(entry, Found)] == [("plan", 0), ("update", 1)]
    assert found[-1].kind == "started"
    assert not missing(log_of(bench), bench.ledger)
    bench.agent.audit.started(bench.ledger)
    assert [entry.kind for entry in entries(bench)].count("found") == 2  # told once
    bench.train(1)
    assert entries(bench)[-1].kind == "replayed"


def test_an_altered_log_is_found_before_anything_connects(bench: Bench) -> None:
    bench.offer()
    bench.train(1)
    path = audit_path(bench.path)
    path.write_bytes(path.read_bytes().replace(b'"round":1', b'"round":2', 1))
    with pytest.raises(AuditLogError, match="was altered"):
        bench.agent.audit.started(bench.ledger)


def test_log_and_ledger_are_held_against_each_other(bench: Bench) -> None:
    bench.offer()
    bench.train(1)
    log = log_of(bench)
    lacking = Verified([line for line in log.lines if line.fields.get("what") != "update"], [])
    assert any("update" in words and "event 1" in words for words in disagreements(lacking, bench.ledger))
    unapproved = Verified([line for line in log.lines if line.kind != "approved"], [])
    assert any("plan" in words for words in disagreements(unapproved, bench.ledger))
    bench.agent.audit.log.append(
        Released(federation="tiny", plan="ab" * 32, what="update", round=2, event=7, reply_sha256="c" * 64, num_bytes=4)
    )
    assert disagreements(log_of(bench), bench.ledger) == ["line 5: the ledger holds no such reply as event 7"]


def test_a_server_cannot_fill_the_disk_with_lines(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_room, "LINES_AN_HOUR", 5)
    bench.restart()
    seen: list[Entry] = []
    bench.agent.audit.log.observe = seen.append
    before = len(entries(bench))
    for _ in range(20):
        bench.train(9)
    lines = entries(bench)[before:]
    assert len(lines) == 5
    assert len(seen) == 20  # told, and counted
    assert bench.train(1).code is Code.OK
    assert type(entries(bench)[-1]) is Released  # what leaves for the first time is always written
    bench.agent.audit._tokens = 1.0
    bench.train(9)
    assert isinstance(last := entries(bench)[-1], Refused)
    assert last.unlogged == 15


def test_no_secret_of_data_or_file_stands_in_the_log(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.offer()
    bench.train(1)

    def broken(*_: object) -> None:
        raise ValueError(f"could not read {SECRET}")

    monkeypatch.setattr(RoundTrainer, "update", broken)
    assert bench.train(2).code is Code.UNAVAILABLE
    bench.agent.audit.stopped("error")
    text = audit_path(bench.path).read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line["kind"] for line in lines[-2:]] == ["refused", "stopped"]
    private = [*SECRET.split(), "xyzzy", "fever", "chest", "urgent", "calm", "notes.csv", str(bench.folder), "patient"]
    assert [word for word in private if word in text] == []
    assert isinstance(entries(bench)[-1], Stopped)


def test_approval_by_first_use_is_written_with_what_it_reserves(bench: Bench) -> None:
    bench.offer()
    (entry,) = [entry for entry in entries(bench) if isinstance(entry, Approved)]
    row = bench.ledger.plans()[0]
    assert (entry.by, entry.plan) == ("first-use", row.digest)
    assert (entry.epsilon, entry.delta, entry.rounds) == (
        row.admission.epsilon, row.admission.delta, row.admission.horizon
    )  # fmt: skip


def test_a_ledger_and_head_that_were_put_back_are_found_out_by_the_log(bench: Bench) -> None:
    """A server that withholds its head would have a second draw of noise for a round, or a budget given anew."""
    bench.offer()
    copies = _copies(bench)
    bench.offer()
    assert bench.train(1).code is Code.OK
    _put_back(bench, copies)
    audit = SiteAudit(bench.path, "north")
    audit.hold_against(bench.ledger)
    (evidence,) = bench.ledger.behind()
    assert "audit log" in str(evidence)
    audit.hold_against(bench.ledger)
    assert bench.ledger.behind() == [evidence]
    assert bench.offer().code is Code.LEDGER_BEHIND
    assert bench.train(1).code is not Code.OK
    charge = bench.ledger.charge_all()
    assert charge is not None
    assert charge.epsilon == 0  # no approval was lost, only rounds
    audit.charged(charge.epsilon, charge.delta, charge.num_lost)
    audit.hold_against(bench.ledger)
    assert bench.ledger.behind() == []
    assert bench.ledger.verify()
    bench.agent = bench.fresh()
    bench.offer()
    assert bench.train(1).code is Code.ROUND_LOST


def test_an_approval_that_only_the_log_tells_of_is_charged(bench: Bench) -> None:
    copies = _copies(bench)
    bench.offer()
    approved = bench.ledger.committed("tiny").epsilon
    assert approved > 0
    _put_back(bench, copies)
    assert bench.ledger.committed("tiny").epsilon == 0
    SiteAudit(bench.path, "north").hold_against(bench.ledger)
    charge = bench.ledger.charge_all()
    assert charge is not None
    assert approved <= bench.ledger.committed("tiny").epsilon <= approved * (1 + 1e-9)
    assert bench.ledger.verify()


def _copies(bench: Bench) -> dict[Path, bytes]:
    """Of a ledger at rest: the database and its head file, not the audit log."""
    bench.ledger.close()
    found = {path: path.read_bytes() for path in (bench.path, head_path(bench.path))}
    bench.ledger = Ledger.open(bench.path, agent=True)
    bench.agent = bench.fresh()
    return found


def _put_back(bench: Bench, copies: dict[Path, bytes]) -> None:
    bench.ledger.close()
    for path, content in copies.items():
        path.write_bytes(content)
    bench.ledger = Ledger.open(bench.path, agent=True)
    bench.agent = bench.fresh()
    assert bench.ledger.behind() == []  # the two files agree with each other


def test_a_hostile_servers_year_leaves_a_log_that_can_be_read_at_each_start() -> None:
    line = len(
        Line.after(None, Refused(request="offer", code=Code.BAD_REQUEST, federation="a" * 64, plan="b" * 64)).to_bytes()
    )
    assert audit_room.LINES_AN_HOUR * 24 * 365 * line < 500e6
