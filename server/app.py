"""The launch: builds the parts, runs the rounds, writes the run folder, tells the sites to finish."""

import fcntl
import os
import shlex
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from privet.common.adapter import digest
from privet.common.base import checked_base
from privet.common.config import Federation, ServerSpec
from privet.common.errors import TransportError
from privet.common.live import Event, Listener, one_at_a_time
from privet.common.messages import max_reply_bytes
from privet.common.methods import method_for
from privet.common.model import build_classifier, load_tokenizer
from privet.server.audit import ServerAudit
from privet.server.enrolment import is_invite_stale, load_certificates, load_sites
from privet.server.evaluation import PublicEvaluator, load_public
from privet.server.exporter import ServerExporter
from privet.server.fleet import Fleet
from privet.server.heads import Heads
from privet.server.resume import choose_run, resumable
from privet.server.run_folder import RunFolder
from privet.server.start import load_start
from privet.server.status import StatusKeeper
from privet.server.strategy import PrivetStrategy
from privet.server.watch import Watch


def run_server(federation: Federation, file: Path, on_event: Listener, *, resume: bool = False) -> Path:
    """Run the federation to its end; the run folder. resume: go on with the newest run of this plan that stopped.

    Raises: ConfigError, ModelError, DataError before anything listens; TransportError where the address is taken;
    RunError where the quorum is not reached in time, or the operator stops it.
    """
    command = f"privet server {shlex.quote(str(file))} --resume"
    plan, server = federation.plan, federation.server
    base = checked_base(plan.model.base, plan.model.sha256)
    certificates = load_certificates(server)
    allowed = load_sites(server.sites)
    public = load_public(server.public, plan.task.labels) if server.public is not None else None
    classifier = build_classifier(plan, base)
    start = load_start(plan, server, classifier, base)
    method = method_for(plan)
    frozen = method.frozen_features(classifier.spec)
    evaluate = None
    if public is not None:
        evaluate = PublicEvaluator(plan, classifier, load_tokenizer(base), *public, frozen)

    with ExitStack() as stack:
        stack.callback(os.close, _lock(server))
        going = choose_run(server.runs, plan, resume=resume, command=command)
        audit = ServerAudit(server.state, plan)
        exporter = None if server.metrics is None else stack.enter_context(ServerExporter(server.metrics))
        status = StatusKeeper(federation)
        on_event = one_at_a_time(status.beside(on_event if exporter is None else exporter.beside(on_event)))
        fleet = Fleet(
            address=server.address,
            certificates=certificates,
            database=server.state / "fleet.sqlite",
            allowed=allowed,
            on_refusal=lambda refused: on_event({"event": "refused_key", **asdict(refused)}),
        )
        fleet.max_reply_bytes = max_reply_bytes(classifier.spec.size + len(plan.task.labels) ** 2)  # update or counts
        stack.callback(fleet.close)
        fleet.start()
        folder = RunFolder.new(server.runs, plan) if going is None else RunFolder(going.path, plan, again=True)
        stack.callback(folder.close)
        stack.enter_context(resumable(command))
        audit.started()
        stack.push(lambda _kind, error, _trace: audit.stopped(error))
        status.start(lambda: _silences(fleet))
        stack.push(lambda _kind, error, _trace: status.end(error))
        if exporter is not None:
            refused, checkpoints = (lambda: fleet.num_refused), folder.path / "checkpoints"
            exporter.watch(online=lambda: len(fleet.online()), refused=refused, checkpoints=checkpoints)

        def enrolled(sites: Mapping[bytes, str]) -> None:
            audit.enrolled(sites)
            if exporter is not None:
                exporter.enrolled(len(sites))

        def listen(event: Event) -> None:
            audit.feed(event)
            folder.record({"time": round(time.time(), 3), **event})
            on_event(event)

        enrolled(allowed)
        status.feed({"event": "run_folder", "path": str(folder.path.resolve())})

        listen({"event": "listening", "address": server.address, "port": fleet.port, "sites": sorted(allowed.values())})
        if going is not None and going.fault:
            listen({"event": "warning", "text": going.fault})
        stack.enter_context(Watch(fleet, server, on_event, enrolled))
        if is_invite_stale(file.parent / "invite.toml", plan):
            text = "invite.toml names another plan than this one: run `privet init invite` and send it to the sites."
            listen({"event": "warning", "text": text})
        with fleet.run() as grid:
            grid.on_reply = lambda message: on_event(
                {"event": "reply", "site": fleet.name_of(message.metadata.src_node_id)}
            )
            strategy = PrivetStrategy(
                plan,
                classifier.spec,
                start.arrays,
                name_of=fleet.name_of,
                pause=_pause(fleet, on_event),
                wait=server.wait,
                on_event=listen,
                evaluate=evaluate,
                keep=folder.keep,
                heads=Heads(server.state / "heads.json"),
                session_of=fleet.traffic.session_of,
                asking=folder.ask,
                progress=None if going is None else going.progress,
            )
            strategy.start(grid)
            listen({"event": "sites_told"})
        folder.finish(
            classifier,
            base,
            strategy.state.arrays,
            statements=strategy.roster.statements,
            history=strategy.history,
            simulated=False,
            command=f"privet server {shlex.quote(file.name)}",
            earlier=start.earlier,
        )
        final = digest(strategy.state.arrays)
        listen(
            {
                **{"event": "finished", "run": str(folder.path.resolve()), "rounds": strategy.completed},
                **{"adapter": final},
            }
        )
        return folder.path


def _lock(server: ServerSpec) -> int:
    """One server a state folder: a second one would end the first one's run in the database they share.

    Raises: TransportError.
    """
    server.state.mkdir(parents=True, exist_ok=True)
    path = server.state / "server.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        for patience in (0.05, 0.1, 0.2, 0.0):  # `privet status` holds it for a moment to look
            try:
                fcntl.flock(
                    descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB
                )  # let go by the system, however this process ends
                break
            except OSError:
                if not patience:
                    raise
                time.sleep(patience)
    except OSError:
        os.close(descriptor)
        raise TransportError(
            f"a server for {server.address} is running already.",
            where=str(path),
            mend="stop it first, or give this one its own [server] state, runs and address.",
        ) from None
    return descriptor


def _silences(fleet: Fleet) -> dict[str, float]:
    """The sites that are connected, and for how many seconds each was silent."""
    silences = fleet.traffic.silences()
    return {name: silences.get(node, 0.0) for node, name in fleet.online().items()}


def _pause(fleet: Fleet, on_event: Listener) -> Callable[[float], None]:
    """Wait for a change at the fleet, then tell who is there."""

    def pause(seconds: float) -> None:
        fleet.wait_for_change(min(seconds, 2.0))
        on_event({"event": "online", "sites": sorted(fleet.online().values())})

    return pause
