"""A process that has imported everything and forks a real `privet` command a line: restarts cost no seconds.

Not a test. `python -m tests.chaos.zygote` reads JSON lines from standard input: {"argv", "folder", "environment",
"out", "err", "truth"}; it answers {"started": pid}, and {"ended": pid, "code": …} when a child is gone (a negative code
is the signal's number). What training really began is appended to the file `truth`, which outlives a kill.
"""

import ctypes
import json
import os
import signal
import sys
import threading
from typing import Any

_PR_SET_PDEATHSIG = 1
_speaking = threading.Lock()


def main() -> None:
    import opacus  # noqa: F401
    import peft  # noqa: F401
    import torch  # noqa: F401

    from privet.client import app as client_app  # noqa: F401
    from privet.client import check  # noqa: F401
    from privet.common import quiet  # noqa: F401
    from privet.common.cli import main as privet
    from privet.server import app as server_app  # noqa: F401

    _say({"ready": os.getpid()})
    for line in sys.stdin:
        order = json.loads(line)
        with _speaking:  # no thread holds a lock of the output while the process is copied
            child = os.fork()
        if child == 0:
            _become(order, privet)
        _say({"started": child})
        threading.Thread(target=_reap, args=(child,), daemon=True).start()


def _reap(child: int) -> None:
    _, status = os.waitpid(child, 0)
    _say({"ended": child, "code": os.waitstatus_to_exitcode(status)})


def _say(document: dict[str, Any]) -> None:
    with _speaking:
        os.write(1, (json.dumps(document) + "\n").encode())


def _become(order: dict[str, Any], privet: Any) -> None:
    """The child: a privet command of its own, which dies with this process."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, path in ((1, order["out"]), (2, order["err"])):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), number)
    os.chdir(order["folder"])
    os.environ.update(order["environment"])
    sys.argv = ["privet", *order["argv"]]
    _record_truth(order["truth"])
    if capture := os.environ.get("PRIVET_TEST_CAPTURE"):
        _record_calls(capture)
    try:
        privet()
    except SystemExit as end:
        os._exit(end.code if isinstance(end.code, int) else int(end.code is not None))
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(70)
    os._exit(0)


def _record_truth(path: str) -> None:
    from privet.client.training import RoundTrainer

    truth = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    genuine = RoundTrainer.update

    def update(self: RoundTrainer, arrays: Any, examples: Any, round: int, *rest: Any) -> Any:
        os.write(truth, f"{round}\n".encode())
        return genuine(self, arrays, examples, round, *rest)

    RoundTrainer.update = update  # type: ignore[method-assign, assignment]


def _record_calls(path: str) -> None:
    """Every request that this site makes, before TLS hides it."""
    from privet.client.wire import Wire

    captured = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    genuine = Wire.call

    def call(self: Wire, method: str, request: Any, **how: Any) -> Any:
        os.write(captured, method.encode() + request.SerializeToString())
        return genuine(self, method, request, **how)

    Wire.call = call  # type: ignore[method-assign]


if __name__ == "__main__":
    main()
