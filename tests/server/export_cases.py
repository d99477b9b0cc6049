"""Adapters on tiny bases, and running a card's snippet where privet cannot be imported."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from privet.server.export import export_adapter
from tests.tiny_models import Kind, tiny_base, tiny_plan, trained

TEXTS = [
    "The patient has a fever",
    "no",
    "my card was charged twice, please refund today!",
    "zebra " * 60,
    "a rash in the chest and pain",
    "the transfer failed",
]
_RUN_EACH = """
import json, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "privet":
            raise ImportError("the snippet needs privet")

sys.meta_path.insert(0, Refuse())
for program in json.load(sys.stdin):
    exec(compile(program, "snippet", "exec"), {})
    print("----")
"""


def adapter_on(folder: Path, kind: Kind = "bert", pooling: str = "mean", **tables: Any) -> Path:
    """A base in `folder`/base and a trained adapter on it in `folder`/adapter."""
    base = tiny_base(folder / "base", kind)
    model = tables.pop("model", {}) | {"pooling": pooling}
    plan = tiny_plan(base, model=model, method={"kind": "fedavg"}, **tables)
    export_adapter(trained(plan, base), base, folder / "adapter")
    return folder / "adapter"


def snippet_of(card: str) -> str:
    """The one Python program of a card."""
    found = re.findall(r"^```python\n(.*?)^```$", card, re.MULTILINE | re.DOTALL)
    assert len(found) == 1
    return str(found[0])


def run_snippet(programs: list[str], place: Path) -> list[list[str]]:
    """What each program prints, in one process that cannot import privet; `place` is on its path, and its home."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _RUN_EACH],
        input=json.dumps(programs),
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(place), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HOME": str(place), "PATH": ""},
        cwd=place,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [part.strip().splitlines() for part in done.stdout.split("----\n")[:-1]]
