"""Pages of docs/ and examples/ as programs: their marked blocks, in order, as one shell script.

    ```sh             commands, run one after another; "# exit 3" behind one announces its exit code
    ```sh terminal    a command that stays: in a terminal of its own, awaited at the page's end, where it must exit 0
    ```toml FILE      keys to be set in a file that an earlier command made
    ```python         a script

and, unseen by a reader,

    <!-- until WORDS -->             the last terminal has said so
    <!-- sends FILE -->              the reader sends FILE to the other side
    <!-- receives NAMES into DIR --> the reader puts what the other side sent there

Blocks of any other kind show what is printed or written, and are not run. DIGEST stands for what the client told.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_START = """\
set -u
PIDS= WATCHED=
failed() { echo "PAGE FAILED: $1"; kill $PIDS $(jobs -p) 2>/dev/null; exit 9; }
waiting() { kill -0 $WATCHED 2>/dev/null || failed "$1"; sleep 0.2; }
"""
_END = """\
for PID in $PIDS; do wait $PID || failed "a terminal: $(tail -n 30 terminal-*.log)"; done
echo PAGE DONE
"""


@dataclass(frozen=True)
class Block:
    """A fenced block, or a direction (`kind` "direction")."""

    kind: str
    argument: str
    text: str


def blocks(page: Path) -> Iterator[Block]:
    """In the page's order."""
    inside: list[str] | None = None
    kind = argument = ""
    for line in page.read_text(encoding="utf-8").splitlines():
        fence = re.match(r"```(\S*) ?(.*)$", line)
        told = re.fullmatch(r"<!-- (until|sends|receives) (.+?) -->", line)
        if fence and inside is None:
            inside, kind, argument = [], fence[1], fence[2].strip()
        elif fence and inside is not None:
            yield Block(kind, argument, "\n".join(inside))
            inside = None
        elif inside is not None:
            inside.append(line)
        elif told:
            yield Block("direction", told[1], told[2])


def commands(text: str) -> Iterator[tuple[str, int]]:
    """Each whole command of a block of shell (a loop is one), and the exit code that its comment announces."""
    pending = ""
    for line in text.splitlines():
        pending += line + "\n"
        whole = subprocess.run(["bash", "-n"], input=pending, capture_output=True, text=True)
        if whole.returncode == 0 and not pending.endswith("\\\n"):
            if pending.strip() and not pending.lstrip().startswith("#"):
                found = re.search(r"# .*\bexit (\d)", pending)
                yield pending.rstrip("\n"), int(found[1]) if found else 0
            pending = ""
    assert not pending.strip(), f"half a command: {pending}"


def script(page: Path, post: Path) -> str:
    """The page as one shell script that stops at the first command with another exit code than announced."""
    lines, terminals = [_START], 0
    for block in blocks(page):
        if block.kind == "sh" and not block.argument:
            for command, code in commands(block.text):
                shown = shlex.quote(command)
                lines.append(f"echo {shlex.quote('$ ')}{shown}")
                if re.search(r"(?<![$\w])DIGEST(?!=)", command):
                    lines.append(
                        "DIGEST=$(grep -oE 'approve \\S+ [0-9a-f]{64}' page.log | tail -n 1 | grep -oE '\\w{64}')"
                    )
                    command = re.sub(r"(?<![$\w])DIGEST", '"$DIGEST"', command)
                lines.append(f'{command}\nCODE=$?; [ $CODE = {code} ] || failed {shown}" ended with $CODE"')
        elif block.kind == "sh" and block.argument == "terminal":
            terminals += 1
            lines.append(f'{block.text.strip()} > terminal-{terminals}.log 2>&1 &\nWATCHED=$! PIDS="$PIDS $!"')
        elif block.kind == "toml" and block.argument:
            edit = f"{shlex.quote(sys.executable)} {ROOT / 'tests/docs/edits.py'} {shlex.quote(block.argument)}"
            lines.append(f"{edit} <<'KEYS' || failed 'keys for {block.argument}'\n{block.text}\nKEYS")
        elif block.kind == "python":
            lines.append(f"{shlex.quote(sys.executable)} - <<'PY' || failed 'the script'\n{block.text}\nPY")
        elif block.kind == "direction":
            lines.append(_direction(block, post, terminals))
    return "\n".join([*lines, _END])


def _direction(block: Block, post: Path, terminals: int) -> str:
    if block.argument == "until":
        told = shlex.quote(block.text)
        return f"until grep -q {told} terminal-{terminals}.log; do waiting {told}; done"
    if block.argument == "sends":
        return f"cp {block.text} {post}/.sent && mv {post}/.sent {post}/$(basename {block.text}) || failed post"
    names, folder = block.text.split(" into ")
    parts = [f"until [ -e {post / name} ]; do sleep 0.2; done; cp {post / name} {folder}" for name in names.split()]
    return "\n".join(parts)


class Reader:
    """Somebody who follows a page in an empty folder."""

    def __init__(self, page: Path, home: Path, post: Path, exchange: dict[str, str]) -> None:
        self.home, self._log = home, home / "page.log"
        home.mkdir(parents=True, exist_ok=True)
        post.mkdir(parents=True, exist_ok=True)
        text = script(page, post)
        for old, new in exchange.items():
            text = re.sub(rf"\b{old}\b", new, text)
        (home / "page.sh").write_text(text)
        bin_ = home / ".bin"
        bin_.mkdir(exist_ok=True)
        (bin_ / "privet").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m privet.common.cli "$@"\n')
        (bin_ / "privet").chmod(0o755)
        environment = os.environ | {
            "PATH": os.pathsep.join([str(bin_), os.environ["PATH"]]),
            "XDG_STATE_HOME": str(home / ".state"),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "200",
        }
        with self._log.open("w") as log:
            self.child = subprocess.Popen(
                ["bash", "page.sh"], cwd=home, env=environment, stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    @property
    def words(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def wait(self, timeout: float) -> str:
        """All that was said; AssertionError where a command did not end as announced."""
        code = self.child.wait(timeout)
        assert code == 0, self.words[-6000:]
        assert self.words.endswith("PAGE DONE\n"), self.words[-6000:]
        return self.words

    def close(self) -> None:
        """End what is left of it."""
        if self.child.poll() is None:
            os.killpg(self.child.pid, signal.SIGKILL)
            self.child.wait(10)


def follow(page: Path, home: Path, timeout: float, exchange: dict[str, str] | None = None) -> str:
    """Follow one page that needs nobody else, to its end."""
    reader = Reader(page, home, home / ".post", exchange or {})
    try:
        return reader.wait(timeout)
    finally:
        reader.close()
