"""Break privet in one place at a time and see that a test goes red: `make test-mutants`.

Each mutant is one exact replacement in a copy of the tree; the tests that should notice it run there alone. A mutant
whose tests pass has survived: the guarantee that it removes is not held by any of them. Exit 0 where none survives.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.mutants.mutant import Mutant
from tests.mutants.mutants import MUTANTS

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("client", "common", "server", "simulations")
SECONDS = 600  # a mutant that makes a test hang is noticed too, if late


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("names", nargs="*", help="part of a mutant's name; all without one")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    chosen = [mutant for mutant in MUTANTS if not given.names or any(name in mutant.name for name in given.names)]
    tests = sorted({test for mutant in chosen for test in mutant.tests})
    with tempfile.TemporaryDirectory(prefix="privet-mutants-") as folder:
        if _run(_copy(Path(folder) / "sound"), tests) != "survived":
            print("the unbroken tree fails these tests: nothing can be told.", file=sys.stderr)
            return 2
        with ThreadPoolExecutor(given.jobs) as pool:
            verdicts = list(pool.map(lambda mutant: _try(mutant, Path(folder)), chosen))
    survivors = [mutant.name for mutant, verdict in zip(chosen, verdicts, strict=True) if verdict != "killed"]
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} mutants killed.")
    for name in survivors:
        print(f"survived: {name}")
    return 1 if survivors else 0


def _try(mutant: Mutant, folder: Path) -> str:
    started = time.monotonic()
    tree = _copy(folder / re.sub(r"\W+", "-", mutant.name))
    path = tree / mutant.file
    text = path.read_text(encoding="utf-8")
    if text.count(mutant.old) != 1:
        raise SystemExit(f"{mutant.name}: {mutant.file} holds its text {text.count(mutant.old)} times, not once.")
    path.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
    verdict = _run(tree, mutant.tests)
    shutil.rmtree(tree)
    print(f"{verdict:8} {time.monotonic() - started:5.0f} s  {mutant.name}", flush=True)
    return verdict


def _copy(tree: Path) -> Path:
    """The rooms and the tests, importable as `privet.…` from the copy alone."""
    ignore = shutil.ignore_patterns("__pycache__")
    for room in (*ROOMS, "tests", "examples", "docs"):
        shutil.copytree(ROOT / room, tree / room, ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", tree)
    (tree / "path" / "privet").mkdir(parents=True)
    for room in ROOMS:
        (tree / "path" / "privet" / room).symlink_to(tree / room)
    return tree


def _run(tree: Path, tests: tuple[str, ...] | list[str]) -> str:
    """`killed` where a test fails, `survived` where all pass, `broken` where they cannot be run."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(tree / "path"),
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    try:
        done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return "killed"
    if done.returncode not in (0, 1):  # collected nothing, or an error in the mutant itself
        print(done.stdout[-2000:], done.stderr[-1000:], file=sys.stderr)
        return "broken"
    if done.returncode == 1 and "SyntaxError" in done.stdout:
        return "broken"
    return "killed" if done.returncode else "survived"


if __name__ == "__main__":
    sys.exit(main())
