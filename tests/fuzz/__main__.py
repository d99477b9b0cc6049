"""Fuzz what both ends of the wire parse: ``python -m tests.fuzz [reply|request] [--guided] [--count N] [--seed N]``.

Exit 0 where every message was refused or is sound by the oracle. `--guided` lets atheris choose the mutations by the
code that they reach (the extra `fuzz`).
"""

import argparse
import sys
from typing import Any

from tests.fuzz.mutation import Corpus, mutants
from tests.fuzz.oracle import REPLY, REQUEST, Side, Tally, try_objects


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("side", nargs="?", choices=["reply", "request"], help="both without one")
    parser.add_argument("--guided", action="store_true")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    sides = [side for side in (REPLY, REQUEST) if given.side in (None, side.name)]
    if given.guided:
        if len(sides) != 1:
            parser.error("name a side: atheris ends the process when it is done.")
        _guided(sides[0], given.count, given.seed)
        return 0
    for side in sides:
        tally = Tally()
        for root, contents in mutants(side, given.seed, given.count):
            try_objects(side, root, contents, tally)
        print(f"{side.name}: {tally.refused:,} refused, {tally.sound:,} sound, at most {tally.peak:,} bytes for one.")
    return 0


def _guided(side: Side, count: int, seed: int) -> None:
    import tempfile
    from pathlib import Path

    import atheris

    from privet.common import inflation, messages, record
    from privet.server.fleet import reply

    corpus, tally = Corpus(side), Tally(traced=False)
    for module in (inflation, record, messages, reply):
        _instrument(atheris, module)

    def one(data: bytes) -> None:
        try_objects(side, corpus.root, corpus.objects(data), tally)
        if tally.seen % 1000 == 0:
            print(f"{side.name}: {tally.refused:,} refused, {tally.sound:,} sound.", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "sound").write_bytes(corpus.blob())
        limits = [f"-runs={count}", f"-seed={seed + 1}", "-max_len=20000", "-rss_limit_mb=2048", "-timeout=20"]
        atheris.Setup([sys.argv[0], *limits, folder], one)
        atheris.Fuzz()


def _instrument(atheris: Any, module: Any) -> None:
    """Have atheris see which lines of the module's functions are reached."""
    for name, value in list(vars(module).items()):
        if callable(value) and getattr(value, "__module__", "") == module.__name__ and hasattr(value, "__code__"):
            value.__code__ = atheris.instrument_func(value).__code__
            setattr(module, name, value)


if __name__ == "__main__":
    sys.exit(main())
