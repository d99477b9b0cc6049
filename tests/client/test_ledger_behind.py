"""A ledger that was put back to an older copy: found, refused, charged, and then it goes on."""

import hashlib
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import privet.client.ledger.file as ledger_file
from privet.client.ledger import Ledger, LedgerError, New
from privet.client.ledger.head import Head, read_head, seal, unseal
from privet.common.config import Plan, Site
from privet.common.errors import Code, RefusedError
from tests.client.approval_cases import several
from tests.client.ledger_cases import DATA_ID, make_admission, make_plan, make_site

BODY = hashlib.sha256(b"request").hexdigest()
SITE: Site = make_site(member={"epsilon": 8.0, "delta": 1e-5})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledgers" / f"{DATA_ID}.sqlite"


def approve(ledger: Ledger, seed: int, epsilon: float = 1.0) -> Plan:
    plan = make_plan(seed)
    ledger.record_plan(plan, make_admission(plan, epsilon=epsilon, delta=1e-6), SITE)
    return plan


def run(ledger: Ledger, plan: Plan, *rounds: int) -> None:
    for round in rounds:
        reserved = ledger.reserve(plan.digest, round, "train", BODY)
        assert isinstance(reserved, New)
        ledger.store(reserved.event_id, b"reply %d" % round)


def copy(path: Path, name: str) -> Path:
    """A copy of the closed ledger with its head file."""
    folder = path.parent.parent / name
    shutil.copytree(path.parent, folder)
    return folder


def restore(path: Path, folder: Path, *, head: bool) -> None:
    for suffix in (".sqlite", ".head") if head else (".sqlite",):
        shutil.copy(folder / path.with_suffix(suffix).name, path.with_suffix(suffix))


def refused(action: Any, *arguments: Any) -> str:
    with pytest.raises(RefusedError) as caught:
        action(*arguments)
    assert caught.value.code is Code.LEDGER_BEHIND
    return str(caught.value)


def started(path: Path) -> tuple[Plan, Path]:
    """One approved plan, its first round run; and a copy from then."""
    with Ledger.open(path, agent=True) as ledger:
        plan = approve(ledger, 0)
        run(ledger, plan, 1)
    return plan, copy(path, "backup")


def test_the_head_file_follows_every_change(path: Path) -> None:
    with Ledger.open(path, agent=True) as ledger:
        assert read_head(path) == ledger.head()
        plan = approve(ledger, 0)
        assert read_head(path) == ledger.head()
        reserved = ledger.reserve(plan.digest, 1, "train", BODY)
        assert read_head(path) == ledger.head()
        assert isinstance(reserved, New)
        ledger.store(reserved.event_id, b"reply")
        assert read_head(path) == ledger.head()
        assert (ledger.head().seq, ledger.head().epsilon, ledger.head().delta) == (4, 1.0, 1e-6)
        with Ledger.open(path) as operator:
            approve(operator, 1)
        assert read_head(path) == ledger.head()
        assert ledger.head().epsilon == 2.0


def test_an_older_copy_of_the_ledger_alone_is_found(path: Path) -> None:
    plan, backup = started(path)
    with Ledger.open(path, agent=True) as ledger:
        run(ledger, plan, 2)
        second = approve(ledger, 1, 1.5)
    restore(path, backup, head=False)
    for agent in (True, True, False):  # noted once, however often it is opened
        with Ledger.open(path, agent=agent) as ledger:
            (evidence,) = ledger.behind()
            assert (evidence.source, evidence.epsilon) == ("file", 2.5)
            assert evidence.charge_epsilon == pytest.approx(1.5)
    with Ledger.open(path, agent=True) as ledger:
        assert "--charge-all" in refused(ledger.reserve, plan.digest, 2, "train", BODY)
        refused(ledger.reserve, plan.digest, 1, "train", BODY)
        refused(approve, ledger, 2)
        refused(ledger.approve, plan.digest, make_admission(plan), SITE)
        waits = ledger.record_plan(second, make_admission(second, decision="pending", code=Code.PENDING), SITE)
        refused(ledger.approve, second.digest, make_admission(second), SITE)
        assert waits.admission.decision == "pending"
        with pytest.raises(LedgerError, match="head file holds entry 7"):
            ledger.verify()
        charge = ledger.charge_all()
        assert charge is not None
        assert charge.epsilon == pytest.approx(1.5)
        assert charge.num_lost == 3
        assert charge.delta == pytest.approx(1e-6)
        assert ledger.behind() == []
        assert ledger.charge_all() is None
        assert 2.5 <= ledger.committed("wards").epsilon == pytest.approx(2.5)
        assert 2.5 <= ledger.committed("wards").federation_epsilon == pytest.approx(2.5)
        summary = ledger.summary(SITE)
        assert (summary.num_events, summary.num_lost) == (4, 3)
        assert summary.charged_epsilon == pytest.approx(1.5)
        assert summary.spent_epsilon > 1.5
        for round in (2, 3, 4):
            with pytest.raises(RefusedError) as caught:
                ledger.reserve(plan.digest, round, "train", BODY)
            assert caught.value.code is Code.ROUND_LOST
        run(ledger, approve(ledger, 3), 1)  # and it goes on, with another plan
        assert ledger.verify()
    with Ledger.open(path, agent=True) as ledger:
        assert ledger.behind() == []
        assert ledger.committed("wards").epsilon == pytest.approx(3.5)


def test_a_charge_counts_against_every_federation(path: Path) -> None:
    """Who spent what was lost is not known: nobody's share may hold more than what is left if it was theirs."""
    _, backup = started(path)
    with Ledger.open(path, agent=True) as ledger:
        approve(ledger, 1, 1.5)
    restore(path, backup, head=False)
    site = several({"wards": (3.0, 5e-6), "branches": (3.0, 5e-6)})
    with Ledger.open(path, agent=True) as ledger:
        assert ledger.charge_all() is not None
        for number, (name, own) in enumerate((("wards", 1.0), ("branches", 0.0))):
            committed = ledger.committed(name)
            assert own + 1.5 <= committed.federation_epsilon == pytest.approx(own + 1.5)
            assert own * 1e-6 + 1e-6 <= committed.federation_delta == pytest.approx(own * 1e-6 + 1e-6)
            large, fits = make_plan(10 + number, name=name), make_plan(20 + number, name=name)
            with pytest.raises(RefusedError, match="and charges") as caught:
                ledger.record_plan(large, make_admission(large, epsilon=1.6 - own, delta=1e-6), site)
            assert caught.value.code is Code.REFUSED_BUDGET
            ledger.record_plan(fits, make_admission(fits, epsilon=1.4 - own, delta=1e-6), site)


def test_an_older_copy_of_both_is_found_by_what_a_server_kept(path: Path) -> None:
    plan, backup = started(path)
    with Ledger.open(path, agent=True) as ledger:
        run(ledger, plan, 2)
        token = seal(ledger.head(), DATA_ID)
    restore(path, backup, head=True)
    with Ledger.open(path, agent=True) as ledger:
        assert ledger.behind() == []
        assert "A server holds entry 6" in refused(ledger.meet, unseal(token, DATA_ID))
        refused(ledger.meet, unseal(token, DATA_ID))
        refused(ledger.reserve, plan.digest, 2, "train", BODY)
    with Ledger.open(path, agent=True) as ledger:  # durable
        assert len(ledger.behind()) == 1
        charge = ledger.charge_all()
        assert charge is not None
        assert (charge.epsilon, charge.delta, charge.num_lost) == (0.0, 0.0, 3)
        ledger.meet(unseal(token, DATA_ID))  # settled
        assert ledger.behind() == []


def test_a_second_server_adds_only_what_the_first_did_not_know(path: Path) -> None:
    _, backup = started(path)
    heads = []
    with Ledger.open(path, agent=True) as ledger:
        for seed in (1, 2, 3):
            run(ledger, approve(ledger, seed), 1)
            heads.append(ledger.head())
    restore(path, backup, head=True)
    with Ledger.open(path, agent=True) as ledger:
        refused(ledger.meet, heads[1])
        charge = ledger.charge_all()
        assert charge is not None
        assert charge.epsilon == pytest.approx(2.0)
        refused(ledger.meet, heads[2])  # another server saw one plan more
        charge = ledger.charge_all()
        assert charge is not None
        assert charge.epsilon == pytest.approx(1.0)
        ledger.meet(heads[2])
        ledger.meet(heads[1])
        assert ledger.committed("wards").epsilon == pytest.approx(4.0)
        assert ledger.committed("wards").epsilon >= 4.0


def test_a_second_server_that_saw_less_needs_no_second_charge(path: Path) -> None:
    plan, backup = started(path)
    with Ledger.open(path, agent=True) as ledger:
        run(ledger, plan, 2)
        first = ledger.head()
        run(ledger, plan, 3)
        second = ledger.head()
    restore(path, backup, head=True)
    with Ledger.open(path, agent=True) as ledger:
        refused(ledger.meet, second)
        refused(ledger.meet, first)  # not settled yet
        ledger.charge_all()
        ledger.meet(first)
        ledger.meet(second)
        assert ledger.behind() == []


def test_what_was_approved_after_the_fork_here_is_not_taken_for_what_was_lost(path: Path) -> None:
    """Both histories approve a plan before the evidence comes: both count."""
    _, backup = started(path)
    with Ledger.open(path, agent=True) as ledger:
        approve(ledger, 1, 1.5)
        lost = ledger.head()
    restore(path, backup, head=True)
    with Ledger.open(path, agent=True) as ledger:
        approve(ledger, 2, 2.0)  # for a server that has seen nothing
        refused(ledger.meet, lost)
        charge = ledger.charge_all()
        assert charge is not None
        assert charge.epsilon == pytest.approx(1.5)
        assert ledger.committed("wards").epsilon >= 4.5


def test_a_second_restoration_before_the_charge_loses_nothing(path: Path) -> None:
    """The server's head gives way to the restored ledger's, which tells what the server's had told."""
    _, backup = started(path)
    with Ledger.open(path, agent=True) as ledger:
        approve(ledger, 1, 1.5)
        lost = ledger.head()
    restore(path, backup, head=True)
    with Ledger.open(path, agent=True) as ledger:
        refused(ledger.meet, lost)
        now_at_the_server = ledger.head()
        assert now_at_the_server.epsilon >= 2.5
    restore(path, backup, head=True)
    with Ledger.open(path, agent=True) as ledger:
        refused(ledger.meet, now_at_the_server)
        assert ledger.charge_all() is not None
        assert ledger.committed("wards").epsilon >= 2.5


def test_a_head_from_before_a_charge_does_not_hide_a_later_loss(path: Path) -> None:
    plan, backup = started(path)
    with Ledger.open(path, agent=True) as ledger:
        approve(ledger, 1, 1.5)
        first = ledger.head()
        approve(ledger, 2, 2.0)
        second = ledger.head()
    restore(path, backup, head=True)
    with Ledger.open(path, agent=True) as ledger:
        refused(ledger.meet, first)
        ledger.charge_all()
        refused(ledger.meet, second)
        refused(ledger.reserve, plan.digest, 2, "train", BODY)


def test_a_head_of_a_lost_history_without_marks_is_charged_whole(path: Path) -> None:
    started(path)
    with Ledger.open(path, agent=True) as ledger:
        refused(ledger.meet, Head(9, "f" * 64, 2.0, 1e-6))
        charge = ledger.charge_all()
        assert charge is not None
        assert charge.epsilon == pytest.approx(2.0)
        assert ledger.committed("wards").epsilon >= 3.0


def test_a_lost_ledger_is_charged_whole(path: Path) -> None:
    started(path)
    for file in path.parent.glob("*.sqlite*"):
        file.unlink()
    with Ledger.open(path, agent=True) as ledger:
        assert len(ledger.behind()) == 1
        charge = ledger.charge_all()
        assert charge is not None
        assert charge.epsilon == pytest.approx(1.0)
        assert charge.num_lost == 0
        assert ledger.head().epsilon >= 1.0


@pytest.mark.parametrize("damage", [None, b"", b"{}\n", b"\xff" * 40, b'{"seq":1}\n' + b"0" * 64 + b"\n"])
def test_a_missing_or_damaged_head_file(path: Path, damage: bytes | None) -> None:
    plan, _ = started(path)
    if damage is None:
        path.with_suffix(".head").unlink()
    else:
        path.with_suffix(".head").write_bytes(damage)
    with Ledger.open(path, agent=True) as ledger:
        (evidence,) = ledger.behind()
        assert "missing or damaged" in str(evidence)
        refused(ledger.reserve, plan.digest, 2, "train", BODY)
        charge = ledger.charge_all()
        assert charge is not None
        assert (charge.epsilon, charge.num_lost) == (0.0, 3)
        assert read_head(path) == ledger.head()
        run(ledger, approve(ledger, 1), 1)


_DIE_BEFORE_THE_HEAD = """
import os, signal, sys
from pathlib import Path
import privet.client.ledger.file as ledger_file
from privet.client.ledger import Ledger
ledger = Ledger.open(Path(sys.argv[1]), agent=True)
ledger_file.write_head = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
ledger.reserve(sys.argv[2], 2, "train", sys.argv[3])
"""


def test_killed_between_commit_and_head(path: Path) -> None:
    plan, _ = started(path)
    command = [sys.executable, "-c", _DIE_BEFORE_THE_HEAD, str(path), plan.digest, BODY]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    older = read_head(path)
    assert older is not None
    assert older.seq == 4
    with Ledger.open(path, agent=True) as ledger:
        assert ledger.behind() == []
        assert read_head(path) == ledger.head()
        assert ledger.head().seq == 5
        with pytest.raises(RefusedError) as caught:
            ledger.reserve(plan.digest, 2, "train", BODY)
        assert caught.value.code is Code.ROUND_LOST


def test_nobody_trains_when_the_head_cannot_be_written(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, _ = started(path)
    with Ledger.open(path, agent=True) as ledger:

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(ledger_file, "write_head", full)
            with pytest.raises(LedgerError, match="No space left"):
                ledger.reserve(plan.digest, 2, "train", BODY)
        assert [event.round for event in ledger.events()] == [1, 2]  # spent all the same
        assert isinstance(ledger.reserve(plan.digest, 3, "train", BODY), New)


def test_an_older_head_never_replaces_a_newer_one(path: Path) -> None:
    """An operator's process that was slow to write its head finds a newer one there, and writes the newest."""
    plan, _ = started(path)
    with Ledger.open(path, agent=True) as agent, Ledger.open(path) as operator:
        run(agent, plan, 2)
        approve(operator, 5)
        ledger_file.keep_head(agent._connection, path)
        head = agent.head()
        assert read_head(path) == head
        run(agent, plan, 3)
        ledger_file.keep_head(operator._connection, path)
        newest = read_head(path)
        assert newest is not None
        assert newest.seq == head.seq + 2


def test_a_head_that_is_put_in_while_the_agent_runs_stops_it(path: Path) -> None:
    plan, backup = started(path)
    with Ledger.open(path, agent=True) as ledger:
        run(ledger, plan, 2)
    newer = path.with_suffix(".head").read_bytes()
    restore(path, backup, head=True)
    with Ledger.open(path, agent=True) as ledger:
        path.with_suffix(".head").write_bytes(newer)
        refused(ledger.reserve, plan.digest, 3, "train", BODY)
        refused(ledger.reserve, plan.digest, 4, "train", BODY)
        assert path.with_suffix(".head").read_bytes() == newer  # the evidence stays until it is charged
        assert [event.round for event in ledger.events()] == [1, 3]
