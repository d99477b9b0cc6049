"""A site whose ledger was put back to an older copy, and what a server's memory of it does."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from privet.client.ledger import Ledger
from privet.client.ledger.head import head_path
from privet.common.config import Plan
from privet.common.errors import Code
from tests.client.agent_bench import Bench, payload
from tests.tiny_models import tiny_plan


@pytest.fixture(scope="module")
def plan(base: Path) -> Plan:
    return tiny_plan(base, training={"rounds": 5, "local_steps": 1, "expected_batch": 5})


@pytest.fixture
def bench(tmp_path: Path, plan: Plan, base: Path) -> Iterator[Bench]:
    made = Bench(tmp_path, plan, base)
    yield made
    made.close()


def put_back(bench: Bench, *, head_file: bool) -> None:
    """The ledger as it was when `keep_copy` was called, with the head file or without it."""
    bench.close()
    for suffix in ("-wal", "-shm"):
        bench.path.with_name(bench.path.name + suffix).unlink(missing_ok=True)
    shutil.copy(bench.folder / "copy.sqlite", bench.path)
    if head_file:
        shutil.copy(bench.folder / "copy.head", head_path(bench.path))
    bench.ledger = Ledger.open(bench.path, agent=True)
    bench.agent = bench.fresh()


def keep_copy(bench: Bench) -> None:
    bench.close()
    shutil.copy(bench.path, bench.folder / "copy.sqlite")
    shutil.copy(head_path(bench.path), bench.folder / "copy.head")
    bench.ledger = Ledger.open(bench.path, agent=True)
    bench.restart()


def test_every_reply_carries_a_head_of_one_length_that_tells_nothing(bench: Bench) -> None:
    replies = [bench.train(1), bench.offer(), bench.train(1), bench.train(1), bench.train(9), bench.offer()]
    heads = [reply.body.head for reply in replies]
    assert all(heads)
    assert len({len(head or "") for head in heads}) == 1
    assert len(set(heads)) == len(heads)  # sealed anew each time: not even that nothing happened shows


def test_a_replay_shows_the_head_as_it_is_now(bench: Bench) -> None:
    """So that the last one that a server heard is the newest."""
    bench.offer()
    first = bench.train(1)
    bench.train(2)
    again = bench.train(1)
    assert payload(again) == payload(first)
    keep_copy(bench)
    bench.train(3)
    newest = bench.train(1).body.head
    put_back(bench, head_file=True)
    assert bench.offer(head=newest or "").code is Code.LEDGER_BEHIND


def test_a_ledger_put_back_with_its_head_file_is_found_by_what_the_server_saw(bench: Bench) -> None:
    bench.offer()
    bench.train(1)
    keep_copy(bench)
    head = bench.train(2).body.head or ""
    put_back(bench, head_file=True)
    assert bench.offer(head=head).code is Code.LEDGER_BEHIND
    assert {bench.train(2).code, bench.train(3).code} == {Code.UNKNOWN_PLAN}  # it does not take part
    bench.restart()
    assert bench.offer().code is Code.LEDGER_BEHIND  # also without being told again
    assert [event.round for event in bench.ledger.events()] == [1]
    bench.ledger.charge_all()
    assert bench.offer(head=head).code is Code.OK
    assert bench.train(1).code is Code.OK  # its reply is still there
    assert {bench.train(number).code for number in (2, 3, 4, 5)} == {Code.ROUND_LOST}


def test_a_ledger_put_back_alone_is_found_by_its_head_file(bench: Bench) -> None:
    bench.offer()
    bench.train(1)
    keep_copy(bench)
    bench.train(2)
    put_back(bench, head_file=False)
    assert bench.offer().code is Code.LEDGER_BEHIND
    assert bench.train(2).code is Code.UNKNOWN_PLAN
    assert [event.round for event in bench.ledger.events()] == [1]


def test_evidence_that_comes_while_a_plan_is_served_stops_it(bench: Bench) -> None:
    bench.offer()
    bench.train(1)
    keep_copy(bench)
    head = bench.train(2).body.head or ""
    put_back(bench, head_file=True)
    assert bench.offer().code is Code.OK  # a server that keeps quiet
    assert bench.offer(head=head).code is Code.LEDGER_BEHIND
    assert bench.train(2).code is Code.LEDGER_BEHIND
    assert bench.agent.held is Code.LEDGER_BEHIND


def test_a_head_that_is_older_or_the_same_is_fine(bench: Bench) -> None:
    old = bench.offer().body.head or ""
    bench.train(1)
    assert bench.offer(head=old).code is Code.OK
    assert bench.offer(head=bench.train(2).body.head or "").code is Code.OK


def test_a_forged_head_is_a_bad_request_and_stops_nobody_else(bench: Bench) -> None:
    head = bench.offer().body.head or ""
    swapped = ("A" if head[20] != "A" else "B").join([head[:20], head[21:]])
    assert bench.offer(head=swapped).code is Code.BAD_REQUEST
    assert bench.offer(head="A" * len(head)).code is Code.BAD_REQUEST
    assert bench.offer().code is Code.OK
    assert not bench.ledger.behind()
