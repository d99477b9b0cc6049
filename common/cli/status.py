"""`privet status`: where a running server stands, or what its last state was."""

import time
from typing import TYPE_CHECKING

from privet.common.cli.options import AsJson, FederationFile, Set
from privet.common.cli.output import emit

if TYPE_CHECKING:
    from privet.server.status import ServerStatus, SiteStatus


def status(federation_file: FederationFile, as_json: AsJson = False, assignments: Set = None) -> None:
    """Show a running server: its round, its sites, who is missing. And why; exit 1 where none runs."""
    from privet.common.cli import leave
    from privet.common.config import load_federation
    from privet.server.status import is_running, read_status

    federation = load_federation(federation_file, assignments or ())
    state = federation.server.state
    running, found = is_running(state), read_status(state)
    document = {"running": running, "status": None if found is None else found.model_dump()}
    emit(document, lines(federation.name, found, running=running, now=time.time()), as_json)
    leave(0 if running else 1)


def lines(name: str, status: "ServerStatus | None", *, running: bool, now: float) -> list[str]:
    """For people."""
    if status is None:
        return [f"Federation {name}: {'a server starts, or rehearses' if running else 'no server ran here'}."]
    head = f"Federation {status.federation}, plan {status.plan[:16]}: "
    if running:
        told = [head + f"running for {span(now - status.started)} at {status.address} (process {status.pid})."]
        if now - status.updated > 60:
            told.append(f"Its last word is {span(now - status.updated)} old: it hangs, or its disk is full.")
        told.append(_phase(status, now))
    else:
        told = [head + f"no server runs. The last one {_end(status)}, {span(now - status.updated)} ago."]
    told += [f"  {site:<24} {_site(status, site, now, running)}" for site in sorted(status.sites)]
    told.append(f"{status.completed} of {status.rounds} rounds done; arrays: {_bytes(status.bytes_up)} from the sites, "
                f"{_bytes(status.bytes_down)} to them.")  # fmt: skip
    if status.accuracy is not None:
        told.append(f"Public {status.score} {status.accuracy:.3f}.")
    if status.sites_accuracy is not None:
        told.append(f"{status.score[0].upper()}{status.score[1:]} at the sites {status.sites_accuracy:.3f} (noised).")
    if status.run is not None:
        told.append(f"Run folder {status.run}")
    return told


def _phase(status: "ServerStatus", now: float) -> str:
    left = "" if status.deadline is None else f"; {span(max(0.0, status.deadline - now))} left"
    if status.phase == "waiting":
        ready = ", ".join(status.ready) or "none"
        return f"Round {status.round}: waits for {status.needed} sites; ready: {ready}{left}."
    if status.phase == "round":
        waited = ", ".join(name for name in status.cohort if name not in status.answered)
        answered = ", ".join(status.answered) or "none"
        if not waited:
            return f"Round {status.round} of {status.rounds}: all of its sites answered: {answered}."
        return f"Round {status.round} of {status.rounds}: waits for {waited}; answered: {answered}{left}."
    return "It listens; no round yet." if status.phase == "listening" else "It is about to end."


def _end(status: "ServerStatus") -> str:
    if status.phase == "finished":
        return "finished its federation"
    if status.phase == "stopped":
        return f"was stopped by its operator in round {status.round}"
    if status.phase == "failed":
        return f"failed in round {status.round} ({status.why})"
    return f"ended without a word in round {status.round} (killed, or the machine went down)"


def _site(status: "ServerStatus", name: str, now: float, running: bool) -> str:
    from privet.server.live import in_words

    site = status.sites[name]
    said = "has not answered yet" if site.code is None else in_words(site.code)
    if site.code is None and site.since is None:
        said = "not seen yet"
    told = [_link(site, now), said] if running else [said]
    if site.epsilon is not None:
        told.append(f"ε {site.epsilon:.2f}")
    told.append(f"{site.rounds} rounds")
    return ", ".join(told)


def _link(site: "SiteStatus", now: float) -> str:
    since = "" if site.since is None else f" for {span(now - site.since)}"
    heard = "" if site.heard is None else f" (heard of {span(now - site.heard)} ago)"
    return ("online" if site.online else "away") + since + heard


def span(seconds: float) -> str:
    """A stretch of time in its largest unit.

    >>> [span(seconds) for seconds in (7.2, 200, 7300, 200_000)]
    ['7 s', '3 min', '2 h', '2 d']
    """
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= (2 if unit == "d" else 1) * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def _bytes(count: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"
