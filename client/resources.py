"""What this machine gives: hours, threads, memory. Each is a function of the site file and the clock alone.

Memory. A limit that struck while records are computed on would tell the server of them: a round that fails, or one that
is late. So `memory` bounds what comes before. The records are read under it, before anything connects, and may leave
at most half of it taken. Then each approved plan is tried out in a process apart, that has no record, under the other
half: what does not fit there is answered `unavailable`, before a record is read for it and before anything is
reserved. The work on records itself is never cut short.

The limit is RLIMIT_DATA, what a process asks for. RLIMIT_AS would also count what it only maps: torch's libraries and
the base model's file take gigabytes of addresses that cost no memory of their own.
"""

import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from privet.client.admission import Admission
from privet.client.apart import Apart
from privet.common.config import Plan, Site
from privet.common.errors import ConfigError

_LOOK_SECONDS = 1.0  # between two looks at the clock
_TRY_SECONDS = 600.0  # for a plan to be tried out

Minutes = Callable[[], int]  # of the local day, 0 to 1439


# Threads


def use_threads(count: int) -> None:
    """For torch, the libraries underneath that are not loaded yet, and processes that this one starts."""
    import torch

    torch.set_num_threads(count)
    for name in ("OMP_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ[name] = str(count)


# Hours


def local_minutes() -> int:
    """Minutes of the wall clock's day, now."""
    now = time.localtime()
    return 60 * now.tm_hour + now.tm_min


class Hours:
    """Times of day between which a site is there; none: always.

    Only the wall clock is asked, again and again, and no span of time is ever computed: where the clock is put forward
    or back, a window begins and ends when the clock says so.
    """

    def __init__(self, windows: Sequence[str], minutes: Minutes = local_minutes) -> None:
        self._windows = [tuple(map(_minutes, window.split("-"))) for window in windows]
        self._now = minutes

    @property
    def always(self) -> bool:
        return not self._windows

    def is_open(self) -> bool:
        """Whether the site is there now: from the first minute of a window, until its last is over."""
        now = self._now()
        return self.always or any(_within(now, start, end) for start, end in self._windows)

    def opens(self) -> str:
        """The wall clock's time at which the next window begins: "19:00"."""
        now = self._now()
        start = min((start for start, _ in self._windows), key=lambda start: (start - now - 1) % 1440)
        return f"{start // 60:02}:{start % 60:02}"


class Leave(threading.Event):
    """Set when the site is to stop, or once its hours are over; it stays set."""

    def __init__(self, stop: threading.Event, hours: Hours) -> None:
        super().__init__()
        self._stop, self._hours = stop, hours

    def is_set(self) -> bool:
        if not super().is_set() and (self._stop.is_set() or not self._hours.is_open()):
            self.set()
        return super().is_set()

    def wait(self, timeout: float | None = None) -> bool:
        end = None if timeout is None else time.monotonic() + timeout
        while not self.is_set():
            left = _LOOK_SECONDS if end is None else min(_LOOK_SECONDS, end - time.monotonic())
            if left <= 0:
                break
            self._stop.wait(left)
        return self.is_set()


def attend(
    hours: Hours, stop: threading.Event, serve: Callable[[threading.Event], None], tell: Callable[[str], None]
) -> None:
    """Call serve(leave) in the site's hours, anew in each window, until `stop` is set; `tell` takes operator's words.

    Without hours `leave` is `stop` itself. Raises: what `serve` does.
    """
    if hours.always:
        serve(stop)
        return
    while not stop.is_set():
        if hours.is_open():
            serve(Leave(stop, hours))
            continue
        tell(f"outside [resources] hours until {hours.opens()}: this site is not connected.")
        while not hours.is_open() and not stop.wait(_LOOK_SECONDS):
            pass


def _minutes(text: str) -> int:
    hour, minute = text.split(":")
    return 60 * int(hour) + int(minute)


def _within(now: int, start: int, end: int) -> bool:
    return start <= now < end if start < end else now >= start or now < end


# Memory


def data_bytes() -> int | None:
    """What this process asked for and still has, as RLIMIT_DATA counts it; None where the system does not tell it."""
    try:
        found = re.search(r"^VmData:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        return None
    return None if found is None else int(found[1]) * 1024


@contextmanager
def reading_within(memory: int | None) -> Iterator[None]:
    """While the records are read, before anything connects: at most `memory` bytes, and half of them when it is done.

    Raises: ConfigError, for the operator.
    """
    if memory is None:
        yield
        return
    if data_bytes() is None:
        raise ConfigError(
            "a limit of memory needs Linux.", where="resources.memory", mend="leave the key out on this machine."
        )
    import resource

    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (memory, before[1]))
    try:
        yield
    except MemoryError:
        raise _too_small("the records cannot be read within it.") from None
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)
    taken = data_bytes() or 0
    if taken > memory / 2:
        raise _too_small(f"{taken / 1e6:,.0f} MB are taken once the records are read, more than half of it.")


def fits(plan: Plan, admission: Admission, site: Site, stop: threading.Event | None = None) -> None:
    """Try out an admitted plan's model and shapes in a process apart, under half of `resources.memory`, if that is set.

    Raises: RefusedError where the base is another; ApartError where it does not fit.
    """
    memory = site.resources.memory_bytes
    if memory is None:
        return
    assert admission.event is not None
    room = Apart(threads=site.resources.threads, memory=memory // 2, stop=stop or threading.Event())
    base = site.federation[plan.name].base or plan.model.base
    asked = {"do": "prepare", "plan": plan.canonical(), "base": base, "local_only": False}
    asked |= {"engine": site.resources.engine, "precision": site.resources.precision}
    try:
        room.ask(asked | {"event": asdict(admission.event)}, seconds=_TRY_SECONDS)
    finally:
        room.close()


def _too_small(what: str) -> ConfigError:
    return ConfigError(what, where="resources.memory", mend="give more memory, or leave the key out.")
