"""Kill -9 at any moment: the ledger holds at least what was trained, and a lost round stays lost."""

import hashlib
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from privet.client.ledger import Ledger, LedgerError, New, Stored
from privet.common.errors import Code, RefusedError
from tests.client.ledger_cases import DATA_ID, make_admission, make_plan, make_site

BODY = hashlib.sha256(b"request").hexdigest()
PLAN = make_plan(rounds=5000, spare_rounds=0)

_RESERVE_AND_DIE = """
import os, signal, sys
from pathlib import Path
from privet.client.ledger import Ledger
ledger = Ledger.open(Path(sys.argv[1]), agent=True)
ledger.reserve(sys.argv[2], 1, "train", sys.argv[3])
os.kill(os.getpid(), signal.SIGKILL)
"""

_TRAIN_FOR_EVER = """
import os, sys
from pathlib import Path
from privet.client.ledger import Ledger
truth = os.open(sys.argv[4], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
ledger = Ledger.open(Path(sys.argv[1]), agent=True)
print("open", flush=True)
for round in range(int(sys.argv[5]), 5001):
    reserved = ledger.reserve(sys.argv[2], round, "train", sys.argv[3])
    os.write(truth, b"train %d\\n" % round)
    ledger.store(reserved.event_id, b"reply %d" % round)
    os.write(truth, b"sent %d\\n" % round)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / f"{DATA_ID}.sqlite"
    with Ledger.open(path) as ledger:
        ledger.record_plan(PLAN, make_admission(PLAN), make_site())
    return path


def test_killed_right_after_the_reservation(path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", _RESERVE_AND_DIE, str(path), PLAN.digest, BODY], check=False)
    assert done.returncode == -signal.SIGKILL
    with Ledger.open(path, agent=True) as ledger:  # the dead agent's lock is gone
        assert [(event.round, event.state) for event in ledger.events()] == [(1, "reserved")]
        with pytest.raises(RefusedError) as caught:
            ledger.reserve(PLAN.digest, 1, "train", BODY)
        assert caught.value.code is Code.ROUND_LOST
        assert isinstance(ledger.reserve(PLAN.digest, 2, "train", BODY), New)


def test_a_living_agent_keeps_its_lock(path: Path, tmp_path: Path) -> None:
    agent = _train(path, tmp_path / "truth", 1)
    with pytest.raises(LedgerError, match=f"process {agent.pid}"):
        Ledger.open(path, agent=True)
    _kill(agent)
    Ledger.open(path, agent=True).close()


def test_killed_anywhere(path: Path, tmp_path: Path) -> None:
    """Each life of the agent ends at a random moment; the truth is written by the agent itself as it goes."""
    truth, first = tmp_path / "truth", 1
    for life in range(20):
        agent = _train(path, truth, first)
        time.sleep(random.Random(life).uniform(0.0, 0.1 + 0.1 * (life // 4)))
        _kill(agent)
        lines = [line.split() for line in truth.read_text().splitlines()]
        trained = {int(number) for word, number in lines if word == "train"}
        sent = {int(number) for word, number in lines if word == "sent"}
        with Ledger.open(path, agent=True) as ledger:
            events = {event.round: event.state for event in ledger.events()}
            assert trained <= events.keys()
            assert len(events) <= len(trained) + life + 1  # at most one reservation a life was not trained
            for round in sent:
                assert ledger.reserve(PLAN.digest, round, "train", BODY) == Stored(reply=b"reply %d" % round)
            for round in events.keys() - sent:
                if events[round] == "reserved":
                    with pytest.raises(RefusedError) as caught:
                        ledger.reserve(PLAN.digest, round, "train", BODY)
                    assert caught.value.code is Code.ROUND_LOST
            assert ledger.summary(make_site()).num_events == len(events)
        first = max(events, default=0) + 1
        if life >= 3 and len(events) > 4:  # a busy machine trains little in a short life
            return
    pytest.fail("hardly anything was trained")


def _train(path: Path, truth: Path, first: int) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-c", _TRAIN_FOR_EVER, str(path), PLAN.digest, BODY, str(truth), str(first)]
    agent = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert agent.stdout is not None
    assert agent.stdout.readline() == b"open\n"
    return agent


def _kill(agent: "subprocess.Popen[bytes]") -> None:
    agent.kill()
    agent.communicate()
