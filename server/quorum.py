"""Waiting for enough sites, and for named ones after a restart; bounded, and told."""

import time
from collections.abc import Callable, Collection

from flwr.serverapp import Grid

from privet.common.errors import Code, RunError
from privet.common.live import Listener
from privet.server.roster import Roster


def await_quorum(
    roster: Roster,
    grid: Grid,
    number: int,
    *,
    needed: int,
    wait: float,
    pause: Callable[[float], None],
    on_event: Listener,
    named: Collection[str] = (),
    patience: float = 0.0,
    trains: bool = True,
) -> dict[str, int]:
    """Name and node of the sites that are ready for round `number`, once there are `needed` of them. trains: of those
    that train, else of all.

    The sites `named` are waited for as well, but for `patience` seconds only.
    Raises: RunError where there are not `needed` ones within `wait` seconds.
    """
    start, told, told_absent = time.monotonic(), -1, list[str]()
    while True:
        roster.ask(grid)
        ready = roster.trainers(grid) if trains else roster.ready(grid)
        passed, absent = time.monotonic() - start, sorted(set(named) - set(ready))
        enough = len(ready) >= needed
        if enough and (not absent or passed >= patience):
            return ready
        if absent and absent != told_absent and passed < patience:
            told_absent = absent
            on_event({"event": "awaiting", "round": number, "sites": absent, "seconds": round(patience - passed)})
        if not enough and len(ready) != told:
            told = len(ready)
            on_event({"event": "waiting", "round": number, "ready": sorted(ready), "needed": needed})
        left = (patience if enough else wait) - passed
        if left <= 0:
            raise RunError(
                f"{len(ready)} of at least {needed} sites were ready for round {number} within {wait:g} s"
                f" ({_absent(roster, ready)}).",
                where="cohort.min_sites",
                mend="see to the sites named here, then start the server again, with --resume to go on with this run.",
            )
        pause(min(left, 2.0))


def await_online(
    roster: Roster, grid: Grid, names: Collection[str], patience: float, pause: Callable[[float], None]
) -> None:
    """Return once all of `names` are connected, or after `patience` seconds."""
    end = time.monotonic() + patience
    while not set(names) <= {roster.name_of(node) for node in grid.get_node_ids()}:
        left = end - time.monotonic()
        if left <= 0:
            return
        pause(min(left, 2.0))


def _absent(roster: Roster, ready: dict[str, int]) -> str:
    others = [
        f"{name}: {'away' if verdict.code is Code.OK else verdict.code}"
        for name, verdict in sorted(roster.verdicts.items())
        if name not in ready
    ]
    others += [f"{name}: no answer" for name in sorted(roster.silent)]
    return "; ".join(others) or "no other site answered"
