"""A process that opens a ledger and is killed at a chosen moment: for tests of the head file's windows."""

import signal
import subprocess
import sys
from pathlib import Path

_OPEN_AND_DIE = """
import os, signal, sys
from pathlib import Path
import privet.client.ledger.file as ledger_file
from privet.client.ledger import Ledger

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def write_and_die(path, head):
    write(path, head)
    die()

path, moment, write = Path(sys.argv[1]), sys.argv[2], ledger_file.write_head
if moment == "before the head":
    ledger_file.write_head = die
elif moment == "after the head":
    ledger_file.write_head = write_and_die
elif moment == "after the commit":
    ledger_file._write_ahead = die
ledger = Ledger.open(path, agent=True)
if moment == "after a charge":
    ledger_file.write_head = die
    ledger.charge_all()
"""


def killed(path: Path, moment: str) -> None:
    """Open the ledger at `path` in a process that ends by SIGKILL.

    moment: before or after the first head file is written, after the commit that it was written in, or after a
    charge's commit, before the head file follows.
    """
    done = subprocess.run([sys.executable, "-c", _OPEN_AND_DIE, str(path), moment], check=False)
    assert done.returncode == -signal.SIGKILL
