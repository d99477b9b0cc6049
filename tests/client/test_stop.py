"""An operator stops a site in the middle of a round: it ends in bounded time, and what may have been spent is."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from privet.client.audit import audit_path
from privet.client.ledger import Ledger
from privet.common.audit_log import read
from tests.tiny_models import tiny_base, tiny_plan


@pytest.mark.parametrize(
    ("round_seconds", "let_end", "signals", "code", "state", "last"),
    [
        # the round ends by itself, and its reply is on its way
        pytest.param(0.5, 60, 1, 0, "stored", "signal", marks=pytest.mark.slow),
        # it does not: it is left, and spent
        pytest.param(250, 0.5, 1, 1, "reserved", "abandoned", marks=pytest.mark.slow),
        # a second signal waits for nothing
        pytest.param(250, 60, 2, 128 + signal.SIGTERM, "reserved", None, marks=pytest.mark.slow),
    ],
)
def test_a_stop_in_a_round(
    tmp_path: Path, round_seconds: float, let_end: float, signals: int, code: int, state: str, last: str | None
) -> None:
    base = tiny_base(tmp_path / "base")
    plan = tiny_plan(base, training={"rounds": 3, "local_steps": 1, "expected_batch": 5})
    (tmp_path / "plan.json").write_text(plan.canonical(), encoding="utf-8")
    places = [str(tmp_path), str(base), str(tmp_path / "plan.json")]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.client.slow_site", *places, str(round_seconds), str(let_end)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "XDG_STATE_HOME": str(tmp_path / "state"), "OMP_NUM_THREADS": "1"},
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "training\n"
        for _ in range(signals):
            process.send_signal(signal.SIGTERM)
            time.sleep(0.3)
        assert process.wait(120) == code
    finally:
        process.kill()
        process.communicate()
    path = tmp_path / "state" / "privet" / "ledgers" / f"{'0' * 32}.sqlite"
    with Ledger.open(path, agent=True) as ledger:  # its lock is free
        assert [event.state for event in ledger.events()] == [state]
    lines = read(audit_path(path)).lines
    assert (lines[-1].kind == "stopped") is (last is not None)
    assert lines[-1].fields.get("reason") == last
    assert any(line.fields.get("what") == "update" for line in lines) is (state == "stored")
