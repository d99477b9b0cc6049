"""The launch: builds the parts, runs the rounds, writes the run folder, tells the sites to finish."""

import os
import shlex
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from privet.common.adapter import digest
from privet.common.base import checked_base
from privet.common.config import Federation
from privet.common.live import Event, Listener, one_at_a_time
from privet.common.methods import method_for
from privet.common.model import build_classifier, load_tokenizer
from privet.server.audit import ServerAudit
from privet.server.enrolment import is_invite_stale, load_certificates, load_sites
from privet.server.evaluation import PublicEvaluator, load_public
from privet.server.exporter import ServerExporter
from privet.server.fleet import Fleet
from privet.server.heads import Heads
from privet.server.launch import lock, pausing, serving
from privet.server.resume import choose_run, resumable, unattended
from privet.server.run_folder import RunFolder
from privet.server.start import load_start
from privet.server.status import StatusKeeper
from privet.server.strategy import PrivetStrategy
from privet.server.watch import Watch


def run_server(
    federation: Federation, file: Path, on_event: Listener, *, resume: bool = False, alone: bool = False
) -> Path:
    """Run the federation to its end; the run folder. resume: go on with the newest run of this plan that stopped;
    alone: do what a service manager's restart wants: that, or begin, or nothing where the plan was run to its end.

    Raises: ConfigError, ModelError, DataError before anything listens; TransportError where the address is taken;
    RunError where the quorum is not reached in time; StoppedError where the operator stops it.
    """
    if alone:
        found = unattended(federation.server.runs, federation.plan)
        if isinstance(found, Path):
            on_event({"event": "warning", "text": f"this plan was run to its end already: {found}"})
            return found
        resume = found
    command = f"privet server {shlex.quote(str(file))} --resume"
    plan, server = federation.plan, federation.server
    method = method_for(plan)
    base = checked_base(plan.model.base, plan.model.sha256)
    certificates = load_certificates(server)
    allowed = load_sites(server.sites)
    public = load_public(server.public, plan.task) if server.public is not None else None
    classifier = build_classifier(plan, base)
    start = load_start(plan, server, classifier, base)
    frozen = method.frozen_features(classifier.spec) and not classifier.task.per_token
    evaluate = None
    if public is not None:
        evaluate = PublicEvaluator(plan, classifier, load_tokenizer(base), *public, frozen)

    with ExitStack() as stack:
        stack.callback(os.close, lock(server))
        going = choose_run(server.runs, plan, resume=resume, command=command)
        audit = ServerAudit(server.state, plan)
        exporter = None if server.metrics is None else stack.enter_context(ServerExporter(server.metrics))
        status = StatusKeeper(federation)
        on_event = one_at_a_time(status.beside(on_event if exporter is None else exporter.beside(on_event)))
        fleet = stack.enter_context(serving(federation, classifier.spec, certificates, allowed, on_event))
        if going is None:
            folder = RunFolder.new(server.runs, plan, resume=command)
        else:
            folder = RunFolder(going.path, plan, again=True, resume=command)
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
                pause=pausing(fleet, on_event),
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
            licence=server.license,
        )
        final = digest(strategy.state.arrays)
        listen(
            {
                **{"event": "finished", "run": str(folder.path.resolve()), "rounds": strategy.completed},
                **{"adapter": final},
            }
        )
        return folder.path


def _silences(fleet: Fleet) -> dict[str, float]:
    """The sites that are connected, and for how many seconds each was silent."""
    silences = fleet.traffic.silences()
    return {name: silences.get(node, 0.0) for node, name in fleet.online().items()}
