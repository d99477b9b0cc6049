"""`privet bench transport`: a round's time, bytes and memory without any training, on this machine.

One real server process and real sites over gRPC and TLS, that answer at once with arrays of the size of an update. A
relay on the loopback stands between them and counts the bytes; its time is part of the figures.
"""

import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from privet.common.errors import RunError
from privet.common.keys import new_site_key
from privet.server.certificates import create_authority
from privet.server.fleet.crowd import MAX_CALLS
from privet.server.fleet.listener import MAX_WORKERS
from privet.simulations.bench.endpoints import update_arrays
from privet.simulations.bench.machine import load, machine
from privet.simulations.bench.relay import Passed, Relay

_LINKS_EACH = 50  # links of a process that holds many
_STOP_SECONDS = 30.0


@dataclass(frozen=True)
class TransportBench:
    """Figures of the timed rounds; bytes are medians of a round, all sites together."""

    machine: dict[str, Any]
    limits: dict[str, int]
    sites: int
    processes: int
    connections: int  # TCP connections that the sites made
    arrays: int
    update_bytes: int
    rounds: int
    median_seconds: float
    p90_seconds: float
    longest_seconds: float
    server_processor_seconds: float  # of a round: what another process on the machine does not change
    payload_bytes: int  # of the arrays, both ways
    wire_up_bytes: int
    wire_down_bytes: int
    server_idle_bytes: int  # resident, all sites connected
    server_peak_bytes: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> list[str]:
        """For people."""
        wire, mib = self.wire_up_bytes + self.wire_down_bytes, float(1 << 20)
        return [
            f"{self.machine['processor']}, {self.machine['cores']} cores, load {self.machine['load_before']:.1f} to "
            f"{self.machine['load_after']:.1f}",
            f"{self.sites} sites in {self.processes} processes, {self.connections} connections, updates of "
            f"{self.update_bytes / 1000:,.0f} kB in {self.arrays} arrays, {self.rounds} rounds",
            f"  round          median {self.median_seconds:6.3f} s   p90 {self.p90_seconds:6.3f} s   longest "
            f"{self.longest_seconds:6.3f} s   server's processor {self.server_processor_seconds:.3f} s",
            f"  bytes a round  arrays {self.payload_bytes / 1e6:8.2f} MB   on the wire {wire / 1e6:8.2f} MB "
            f"(x{wire / self.payload_bytes:.3f})",
            f"  server memory  {self.server_idle_bytes / mib:6.0f} MiB with the sites connected, at most "
            f"{self.server_peak_bytes / mib:.0f} MiB",
            f"  limits         {self.limits['workers']} calls served at once, {self.limits['calls_of_a_site']} of a "
            "site; a waiting site holds one",
        ]


def bench_transport(
    sites: int = 2,
    *,
    rounds: int = 20,
    kilobytes: int | None = 300,
    crowd: bool = False,
    on_step: Callable[[str], None] = lambda _text: None,
) -> TransportBench:
    """Time rounds of `sites` sites; kilobytes: of an update, None for LoRA on BERT-base.

    crowd: many sites share a process, as threads with links of their own; otherwise each is a process.
    Raises: RunError where a process fails or the sites do not come.
    """
    before, each = load(), _LINKS_EACH if crowd else 1
    marks: list[Passed] = []
    events: list[dict[str, Any]] = []
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="privet-bench-")))
        create_authority(folder, ["127.0.0.1"])
        for number in range(sites):
            new_site_key(folder / f"{number}.key")
        shared = {"folder": str(folder), "kilobytes": kilobytes}
        server = stack.enter_context(_process(folder, "server", shared | {"count": sites, "rounds": rounds}))
        told = _events(server, folder)
        relay = Relay(next(told)["port"])
        stack.callback(relay.close)
        on_step(f"Starting {sites} sites.")
        address = f"127.0.0.1:{relay.port}"
        starts = range(0, sites, each)
        for first in starts:
            given = shared | {"address": address, "first": first, "count": min(each, sites - first)}
            stack.enter_context(_process(folder, "sites", given))
        for event in told:
            if event["event"] == "online":
                on_step(f"Running {rounds} rounds.")
            elif event["event"] == "round":
                marks.append(relay.passed)
            events.append(event)
        if server.wait(_STOP_SECONDS) or len(marks) != rounds + 1:
            raise RunError("the server of the measurement ended early.", where=_last_words(folder))
    seconds = [float(event["seconds"]) for event in events if event["event"] == "round"][1:]
    arrays = update_arrays(kilobytes, 0)
    size = sum(array.nbytes for array in arrays.values())
    ups = [later.up - earlier.up for earlier, later in pairwise(marks)]
    downs = [later.down - earlier.down for earlier, later in pairwise(marks)]
    return TransportBench(
        machine=machine() | {"load_before": before, "load_after": load()},
        limits={"workers": MAX_WORKERS, "calls_of_a_site": MAX_CALLS},
        sites=sites,
        processes=len(starts),
        connections=marks[-1].connections,
        arrays=len(arrays),
        update_bytes=size,
        rounds=rounds,
        median_seconds=statistics.median(seconds),
        p90_seconds=sorted(seconds)[max(0, -(-len(seconds) * 9 // 10) - 1)],
        longest_seconds=max(seconds),
        server_processor_seconds=statistics.median(
            float(event["processor"]) for event in events if event["event"] == "round"
        ),
        payload_bytes=2 * size * sites,
        wire_up_bytes=round(statistics.median(ups)),
        wire_down_bytes=round(statistics.median(downs)),
        server_idle_bytes=next(int(event["peak"]) for event in events if event["event"] == "online"),
        server_peak_bytes=max(int(event["peak"]) for event in events if "peak" in event),
    )


@contextlib.contextmanager
def _process(folder: Path, role: str, given: dict[str, Any]) -> Iterator[subprocess.Popen[str]]:
    with (folder / "errors.log").open("a", encoding="utf-8") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "privet.simulations.bench.endpoints", role, json.dumps(given)],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _events(process: subprocess.Popen[str], folder: Path) -> Iterator[dict[str, Any]]:
    """What the server tells, until it ends. Raises: RunError where it tells nothing."""
    assert process.stdout is not None
    empty = True
    for line in process.stdout:
        empty = False
        yield json.loads(line)
    if empty:
        raise RunError("the server of the measurement did not start.", where=_last_words(folder))


def _last_words(folder: Path) -> str:
    lines = (folder / "errors.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "no word from it"
