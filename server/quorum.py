"""Waiting for enough sites; bounded, and told."""

import time
from collections.abc import Callable

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
) -> dict[str, int]:
    """Name and node of the sites that are ready for round `number`, once there are `needed` of them.

    Raises: RunError where there are not within `wait` seconds.
    """
    end, told = time.monotonic() + wait, -1
    while True:
        roster.ask(grid)
        ready = roster.ready(grid)
        if len(ready) >= needed:
            return ready
        if len(ready) != told:
            told = len(ready)
            on_event({"event": "waiting", "round": number, "ready": sorted(ready), "needed": needed})
        left = end - time.monotonic()
        if left <= 0:
            raise RunError(
                f"{len(ready)} of at least {needed} sites were ready for round {number} within {wait:g} s"
                f" ({_absent(roster, ready)}).",
                where="cohort.min_sites",
                mend="see to the sites named here, then start the server again.",
            )
        pause(min(left, 2.0))


def _absent(roster: Roster, ready: dict[str, int]) -> str:
    others = [
        f"{name}: {'away' if verdict.code is Code.OK else verdict.code}"
        for name, verdict in sorted(roster.verdicts.items())
        if name not in ready
    ]
    others += [f"{name}: no answer" for name in sorted(roster.silent)]
    return "; ".join(others) or "no other site answered"
