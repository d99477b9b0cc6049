"""Where something went wrong is told; what the data said is not."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from privet.common.errors import ConfigError
from privet.common.logs import outline, set_up, unforeseen

SECRET = "zanzibarian quincunx"

BROKEN = f"""
import logging, sys, threading, warnings
from privet.common.logs import set_up, unforeseen
set_up(as_json="--json" in sys.argv)
SECRET = {SECRET!r}
def private():
    try:
        raise KeyError(SECRET)
    except KeyError as error:
        raise ValueError("could not convert " + SECRET) from error
warnings.warn(SECRET, stacklevel=1)
logging.getLogger("transformers.tokenization").warning("a long text: %s", SECRET)
logging.getLogger("privet.client").warning("a word of privet's own")
try:
    private()
except ValueError as error:
    unforeseen(logging.getLogger("privet.client"), "unforeseen", error)
    logging.getLogger("privet.client").exception("by hand")
thread = threading.Thread(target=private, name="worker")
thread.start()
thread.join()
class Bad:
    def __del__(self):
        private()
Bad()
private()
"""


def run(*arguments: str, level: str | None = None) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PRIVET_LOG"}
    if level is not None:
        environment["PRIVET_LOG"] = level
    done = subprocess.run(
        [sys.executable, "-c", BROKEN, *arguments], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    return done.stdout + done.stderr


def test_no_words_of_an_error_reach_standard_error() -> None:
    told = run()
    assert [word for word in SECRET.split() if word in told] == []
    assert told.count("ValueError") >= 5
    assert told.count("caused by KeyError") >= 5
    assert "in private" in told
    assert "UserWarning" in told
    assert "a word of privet's own" in told
    assert "Traceback" not in told


def test_json_lines_are_json_and_as_silent() -> None:
    told = run("--json")
    lines = [json.loads(line) for line in told.splitlines()]
    assert {"time", "level", "logger", "at", "text"} == set(lines[0])
    assert [word for word in SECRET.split() if word in told] == []
    assert any("ValueError" in line["text"] for line in lines)


def test_who_asks_for_the_words_gets_them() -> None:
    told = run(level="debug")
    assert SECRET in told
    assert "Traceback" in told


def test_an_unknown_level_is_the_users_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRIVET_LOG", "loud")
    with pytest.raises(ConfigError, match="loud"):
        set_up()


def test_an_unforeseen_error_is_silent_however_logging_is_set_up(caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise ValueError(SECRET)
    except ValueError as error:
        unforeseen(logging.getLogger("privet.client"), "unforeseen", error)
    assert SECRET not in caplog.text
    assert f"ValueError at {Path(__file__).parent.name}/test_logs.py" in caplog.text


def test_a_ring_of_causes_ends() -> None:
    first, second = ValueError(SECRET), KeyError(SECRET)
    first.__cause__, second.__cause__ = second, first
    assert outline(first) == "ValueError; caused by KeyError"
