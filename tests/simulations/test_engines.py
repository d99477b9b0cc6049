"""Workers: the same results as without them, and no process left behind, whatever goes wrong."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from privet.common.adapter import Floats
from privet.common.errors import ConfigError, ModelError, RunError
from privet.simulations.engines import open_engine, ray_cluster
from privet.simulations.engines.engine import Engine, InProcess, Job, Shard
from privet.simulations.engines.local import LocalEngine
from privet.simulations.engines.work import Make
from tests.simulations import works
from tests.simulations.processes import descendants, gone, is_alive

START = np.linspace(0, 1, 15, dtype=np.float32)
SHARDS = [Shard([site, site + 1]) for site in range(0, 20, 2)]


@pytest.fixture(scope="module")
def engine() -> Iterator[LocalEngine]:
    with LocalEngine(2, load=()) as started:
        started.start(works.recipe(works.small), works.store())
        yield started


def _all(engine: Engine, job: Job, shards: list[Shard]) -> Floats:
    found = dict(engine.map(job, shards))
    return np.concatenate([found[index] for index in range(len(shards))])


def _pids(engine: LocalEngine) -> list[int]:
    """Of the process that workers come from, and of theirs."""
    assert engine._nursery is not None
    nursery = engine._nursery.process.pid
    found = descendants(nursery)
    while len(found) < engine.num_workers:  # it imports before it forks
        time.sleep(0.05)
        found = descendants(nursery)
    return [nursery, *found]


def test_workers_give_what_this_process_gives(engine: LocalEngine) -> None:
    """Every kind of job, bit by bit; also after a caller that left in the middle."""
    with InProcess() as alone:
        alone.start(works.recipe(works.small), works.store())
        for each in (alone, engine):
            assert each.built().spec == works.SPEC
            each.begin(works.run(seed=4))
        for job in (Job("train", 3, START), Job("cells", 2, START)):
            assert _all(engine, job, SHARDS).tobytes() == _all(alone, job, SHARDS).tobytes()
        next(engine.map(Job("train", 9, START), SHARDS))
        own = [Shard([1, 2], np.stack([START, 2 * START])), Shard([5], np.stack([3 * START]))]
        assert _all(engine, Job("train", 1), own).tobytes() == _all(alone, Job("train", 1), own).tobytes()
        plain = _all(engine, Job("train", 3, START), SHARDS)
        for each in (alone, engine):
            each.hold({"head.bias": np.ones(3, np.float32)})
        held = _all(engine, Job("train", 3, START), SHARDS)
        assert held.tobytes() == _all(alone, Job("train", 3, START), SHARDS).tobytes() != plain.tobytes()
        ranges = [Shard(range(0, 5)), Shard(range(5, 20))]
        for job in (Job("logits", arrays=START), Job("features")):
            assert _all(engine, job, ranges).tobytes() == _all(alone, job, ranges).tobytes()
    features = _all(engine, Job("features"), ranges)
    engine.attach(features)
    assert list(engine.map(Job("train", 1, START), [])) == []


def test_a_worker_has_one_thread_and_ends_up_with_every_call(engine: LocalEngine) -> None:
    assert engine.call(os.getenv, ["OMP_NUM_THREADS", "HF_HUB_OFFLINE"] * 5) == ["1", "1"] * 5
    assert engine.call(abs, [-3, 0, 2]) == [3, 0, 2]


def _started(make: Make) -> LocalEngine:
    engine = LocalEngine(2, load=())
    engine.start(works.recipe(make), works.store())
    engine.begin(works.run())
    return engine


def test_a_worker_that_is_killed_ends_the_job_and_all_workers() -> None:
    with _started(works.killed) as engine:
        pids = _pids(engine)
        with pytest.raises(RunError, match="SIGKILL") as caught:
            list(engine.map(Job("train", 1, START), SHARDS))
        assert "memory" in caught.value.mend
        assert gone(pids, 0)
        with pytest.raises(RunError, match="have ended"):
            list(engine.map(Job("train", 1, START), SHARDS))


def test_what_a_worker_raises_is_told_here() -> None:
    with _started(works.raising) as engine, pytest.raises(RunError, match="ZeroDivisionError: by site 7"):
        list(engine.map(Job("train", 1, START), SHARDS))
    with LocalEngine(1, load=()) as engine:
        engine.start(works.recipe(works.unbuilt), works.store())
        with pytest.raises(ModelError, match="lack x") as caught:
            engine.built()
    assert (caught.value.where, caught.value.mend) == ("base", "copy it again.")


def test_an_interrupt_leaves_no_worker() -> None:
    """As Ctrl-C comes: while the parent waits for a worker that takes long."""
    previous = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        with _started(works.endless) as engine:
            pids = _pids(engine)
            signal.setitimer(signal.ITIMER_REAL, 1.0)
            with pytest.raises(KeyboardInterrupt):
                list(engine.map(Job("train", 1, START), SHARDS))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert len(pids) == 3
    assert gone(pids, 0)


def test_workers_die_with_their_parent() -> None:
    """Even with one that is killed and cleans nothing up, while they compute."""
    code = """
from tests.simulations.test_engines import *
from tests.simulations.test_engines import _pids, _started
engine = _started(works.endless)
list(engine.map(Job("train", 1, START), [Shard([1]), Shard([2])]))  # both are up
print(*_pids(engine), flush=True)
list(engine.map(Job("train", 1, START), [Shard([works.BAD])] * 2))
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 3
        time.sleep(1)  # until both are at the site that never ends
        assert all(map(is_alive, pids))
        parent.kill()
    assert gone(pids)


def test_a_nursery_that_dies_takes_no_result_with_it_and_leaves_nobody() -> None:
    """As when the system runs out of memory: what it would have told is not known, and is not waited for."""
    engine = _started(works.killed)
    with engine:
        pids = _pids(engine)
        os.kill(pids[0], signal.SIGKILL)
        assert gone(pids[:1])
        with pytest.raises(RunError, match="ended"):
            list(engine.map(Job("train", 1, START), SHARDS))
    assert gone(pids)


def test_what_a_nursery_cannot_import_is_told() -> None:
    with LocalEngine(2, load=("privet.no_such_module",)) as engine:
        engine.start(works.recipe(works.small), works.store())
        with pytest.raises(RunError, match="no_such_module"):
            engine.built()


def test_nobody_waits_for_an_import_that_is_not_needed_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "imports_for_ever.py").write_text("import time\ntime.sleep(3600)\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("privet.simulations.engines.local._PATIENCE", 3600)
    with LocalEngine(2, load=("imports_for_ever",)) as engine:
        assert engine._nursery is not None
        pid = engine._nursery.process.pid
    assert gone([pid], 0)


def test_a_stopped_worker_does_not_outlive_the_engine() -> None:
    with _started(works.small) as engine:
        pids = _pids(engine)
        os.kill(pids[-1], signal.SIGSTOP)
    assert gone(pids, 0)


def test_what_cannot_be_opened_is_told() -> None:
    with open_engine("local", 0) as engine:
        assert isinstance(engine, InProcess)
    for name, workers, address, told in (
        ("local", -1, None, "--workers"),
        ("local", 2000, None, "--workers"),
        ("local", None, "127.0.0.1:6379", "--ray-address"),
        ("dask", None, None, "--engine"),
    ):
        with pytest.raises(ConfigError) as caught:
            open_engine(name, workers, address)  # type: ignore[arg-type]
        assert caught.value.where == told


def test_without_ray_the_mend_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match="not installed") as caught:
        open_engine("ray")
    assert "privet[ray]" in caught.value.mend


def test_a_cluster_that_wants_a_token_late_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    class RefusedError(Exception):
        pass

    class Ray:
        exceptions = SimpleNamespace(AuthenticationError=RefusedError)
        shutdown = staticmethod(lambda: None)

        @staticmethod
        def init(**_: Any) -> None:
            raise RefusedError("no authentication token was found")

    monkeypatch.setattr(ray_cluster, "_ask", lambda _host, _port: False)
    with pytest.raises(ConfigError, match="without its token"):
        ray_cluster.join(Ray, "192.0.2.7:6379")


@pytest.mark.slow
def test_ray_stays_on_this_machine_and_leaves_nothing() -> None:
    pytest.importorskip("ray")
    psutil: Any = pytest.importorskip("psutil")
    with open_engine("ray", 2) as engine:
        engine.start(works.recipe(works.raising), works.store())
        engine.begin(works.run())
        assert engine.built().spec == works.SPEC
        family = [psutil.Process(), *psutil.Process().children(recursive=True)]
        sockets = [each for one in family for each in one.net_connections("inet") if each.status == psutil.CONN_LISTEN]
        assert len(sockets) >= 3
        assert {each.laddr.ip for each in sockets} <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
        assert engine.call(os.getenv, ["OMP_NUM_THREADS"]) == ["1"]
        with pytest.raises(RunError, match="ZeroDivisionError: by site 7"):
            list(engine.map(Job("train", 1, START), SHARDS))
        with pytest.raises(ModelError, match="no such layer"):
            list(engine.map(Job("train", 2, START), SHARDS))
    assert gone([one.pid for one in family[1:]])
    with pytest.raises(ConfigError, match="1 cores"), open_engine("ray", 1) as engine:
        open_engine("ray", 2).close()
