"""`privet server F.toml --rehearse N`: the fleet on its port, a rehearsal with the sites, and what was found.

No checkpoint, plan or adapter is written.
"""

import json
import os
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from privet.common.base import checked_base
from privet.common.config import Federation, Plan
from privet.common.errors import ConfigError, RunError
from privet.common.live import Listener, one_at_a_time
from privet.common.model import build_classifier
from privet.server.enrolment import load_certificates, load_sites
from privet.server.launch import lock, pausing, serving
from privet.server.rehearsal import Rehearsal
from privet.server.start import load_start
from privet.server.watch import Watch


def rehearse(federation: Federation, rounds: int, on_event: Listener) -> Path:
    """Rehearse `rounds` rounds with the sites that consent; the folder of rehearsal.json.

    Raises: ConfigError, ModelError before anything listens; TransportError where the address is taken; RunError with
    the names of the sites that did not pass.
    """
    plan, server = federation.plan, federation.server
    base = checked_base(plan.model.base, plan.model.sha256)
    classifier = build_classifier(plan, base)
    initial = load_start(plan, server, classifier, base).arrays
    certificates, allowed = load_certificates(server), load_sites(server.sites)
    with ExitStack() as stack:
        stack.callback(os.close, lock(server))
        on_event = one_at_a_time(on_event)
        fleet = stack.enter_context(serving(federation, classifier.spec, certificates, allowed, on_event))
        stack.enter_context(Watch(fleet, server, on_event))
        names = sorted(allowed.values())
        on_event({"event": "listening", "address": server.address, "port": fleet.port, "sites": names})
        on_event({"event": "rehearsing", "federation": plan.name, "plan": plan.digest, "rounds": rounds})
        with fleet.run() as grid:
            rehearsal = Rehearsal(
                plan,
                classifier.spec,
                initial,
                grid,
                enrolled=lambda: _names(server.sites, names),
                name_of=fleet.name_of,
                session_of=fleet.traffic.session_of,
                pause=pausing(fleet, on_event),
                on_event=on_event,
                take_lost=fleet.traffic.take_lost,
            )
            ready = rehearsal.gather(server.wait)
            try:
                for number in range(1, rounds + 1):
                    if ready:
                        rehearsal.round(number, ready)
            finally:
                rehearsal.end(ready)
    return _conclude(plan, server.runs, rounds, rehearsal, on_event)


def _conclude(plan: Plan, runs: Path, rounds: int, rehearsal: Rehearsal, on_event: Listener) -> Path:
    found, estimate = rehearsal.found, rehearsal.estimate()
    sites = {name: asdict(one) | {"passed": one.passed} for name, one in sorted(found.items())}
    document = {
        "rehearsal": True,  # on generated text: no result, no guarantee, nothing spent
        "federation": plan.name,
        "plan": plan.digest,
        "rounds": rounds,
        "estimate_seconds": estimate,
        "sites": sites,
    }
    path = runs / f"{plan.name}-rehearsal-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    try:
        path.mkdir(parents=True)
        (path / "rehearsal.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot be made ({error}).", where=str(path), mend="give a writable folder.") from None
    on_event({"event": "rehearsed", "run": str(path.resolve()), **document})
    failed = {name: one.fault for name, one in sorted(found.items()) if not one.passed}
    if failed:
        raise RunError(
            "not every site passed: " + "; ".join(f"{name}: {fault}" for name, fault in failed.items()) + ".",
            where=f"rehearsal of {plan.name}",
            mend="see to the sites named here, then rehearse again; nothing was spent.",
        )
    return path


def _names(sites: Path, before: list[str]) -> set[str]:
    """The enrolled sites now; a half-copied file must not end the rehearsal."""
    try:
        return set(load_sites(sites).values())
    except ConfigError:
        return set(before)
