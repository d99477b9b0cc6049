"""A hundred seeded faults on a federation of real processes: every run ends as its stored replies say it must."""

import json
import os
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.chaos import oracle
from tests.chaos.processes import Zygote
from tests.chaos.scene import Scene

NUM_FAULTS = int(os.environ.get("PRIVET_CHAOS_FAULTS", "100"))
FIRST_SEED = int(os.environ.get("PRIVET_CHAOS_SEED", "1"))
A_RUN = 15  # faults at most in one run


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_hundred_faults(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """SIGKILL, SIGSTOP for 20 s, cut and hanging connections, full disks, at random points of a run's 12 rounds."""
    done, wasted, total, codes, runs = Counter[str](), 0, 0, Counter[int](), 0
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    while sum(done.values()) < NUM_FAULTS:
        seed, folder = FIRST_SEED + runs, tmp_path / f"run{runs}"
        zygote = Zygote(environment)  # one a run: its children inherit nothing of an earlier run
        try:
            with ExitStack() as stack:
                timeout = 60.0 if seed % 2 else 15.0  # long enough for every fault to pass, or for few of them
                scene = Scene.make(folder, zygote, seed, timeout=timeout, stack=stack)
                code = scene.run(min(A_RUN, NUM_FAULTS - sum(done.values())))
                ends = scene.close_sites()
                with capsys.disabled():
                    print(f"\nseed {seed}, time-out {timeout:g} s: {dict(scene.faults)}; server {code}, sites {ends}")
                assert code == 0, scene.server.words[-3000:]
                assert set(ends.values()) <= {0}, {name: scene.sites[name].words[-1500:] for name in ends}
                found = oracle.ledgers(scene, folder / "export")
                oracle.check_truth(scene, found)
                answered = oracle.check_adapter(scene, found)
                oracle.check_nothing_left(scene)
        finally:
            zygote.close()
        assert scene.faults, "no fault was made: the run is too short"
        done += scene.faults
        codes.update(ends.values())
        wasted, total, runs = wasted + found.wasted, total + found.total, runs + 1
        with capsys.disabled():
            print(f"  answered rounds by site {answered}; {found.wasted} of {found.total} events gave no reply")
    figures = {"runs": runs, "faults": dict(done), "events": total, "wasted": wasted}
    with capsys.disabled():
        print(f"\n{json.dumps(figures)}")
