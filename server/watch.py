"""The sites' keys and the server's certificate, looked at while the server runs: files count without a restart."""

import contextlib
import datetime
import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from cryptography.x509 import load_pem_x509_certificate

from privet.common.config import ServerSpec
from privet.common.errors import PrivetError
from privet.common.live import Listener
from privet.common.logs import unforeseen
from privet.server.certificates import load_certificates
from privet.server.enrolment import load_sites
from privet.server.fleet import Fleet

LOG = logging.getLogger("privet.server")

LOOK_SECONDS = 0.5
"""Between two looks; what changed counts once it looks the same twice, so that half-copied files do not."""
_SOON = datetime.timedelta(days=30)

_Look = tuple[tuple[str, int, int, int], ...]


class Watch:
    """A thread that keeps a fleet's allow-list and certificate as the files say, and tells of it.

    What cannot be used is told once and changes nothing: the keys and the certificate known so far stay.
    """

    def __init__(
        self,
        fleet: Fleet,
        server: ServerSpec,
        on_event: Listener,
        on_enrolled: Callable[[Mapping[bytes, str]], object] = lambda _sites: None,
    ) -> None:
        """`on_enrolled` gets each new allow-list, by public key (PEM), once it counts."""
        self._fleet, self._server, self._on_event, self._on_enrolled = fleet, server, on_event, on_enrolled
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._seen: dict[str, _Look] = {}  # at the last look
        self._used = {"sites": self._sites_now(), "certificate": self._certificate_now()}
        self._told: dict[str, str] = {}

    def __enter__(self) -> Self:
        self._warn_of_end()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def look(self) -> None:
        """Look once, and use what changed before the last look and not since."""
        if self._settled("sites", self._sites_now()):
            self._attempt("sites", self._enrol)
        if self._settled("certificate", self._certificate_now()):
            self._attempt("certificate", self._renew)

    def _run(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            self.look()

    def _settled(self, what: str, now: _Look) -> bool:
        same, self._seen[what] = self._seen.get(what) == now, now
        if not same or (self._used[what] == now and what not in self._told):
            return False
        self._used[what] = now
        return True

    def _attempt(self, what: str, act: Callable[[], None]) -> None:
        """Whatever goes wrong, the next look tries again: a thread that ended would let a withdrawn key in for ever."""
        try:
            act()
        except Exception as error:  # also the database's, of a full disk, and the listener's
            text = str(error)
            if not isinstance(error, PrivetError):
                text = f"{type(error).__name__} while what changed ({what}) was taken up; trying again."
            if self._told.get(what) != text:
                self._told[what] = text
                if not isinstance(error, PrivetError):
                    unforeseen(LOG, "cannot be taken up", error)
                with contextlib.suppress(Exception):
                    self._on_event({"event": "warning", "text": text})
        else:
            self._told.pop(what, None)

    def _enrol(self) -> None:
        sites = load_sites(self._server.sites)
        self._fleet.enrol(sites)  # first: a withdrawn key is shut out whatever else goes wrong
        self._on_enrolled(sites)
        self._on_event({"event": "enrolled", "sites": sorted(sites.values())})

    def _renew(self) -> None:
        self._fleet.renew(load_certificates(self._server))
        self._on_event({"event": "certificate", "until": f"{self._end():%Y-%m-%d}"})
        self._warn_of_end()

    def _end(self) -> datetime.datetime:
        return load_pem_x509_certificate(self._server.certificate.read_bytes()).not_valid_after_utc

    def _warn_of_end(self) -> None:
        """Sites refuse an expired certificate when they connect next."""
        end = self._end()
        if end - datetime.datetime.now(datetime.UTC) < _SOON:
            text = (
                f"the server's certificate expires on {end:%Y-%m-%d}; `privet init invite --renew` renews it, and a "
                "running server takes it up."
            )
            self._on_event({"event": "warning", "text": text})

    def _sites_now(self) -> _Look:
        try:
            return _look(path for path in self._server.sites.iterdir() if path.suffix == ".pub")
        except OSError:
            return ()

    def _certificate_now(self) -> _Look:
        return _look((self._server.certificate, self._server.key, self._server.ca))


def _look(paths: Iterable[Path]) -> _Look:
    """What tells a file from its next version, without reading it."""
    found = []
    for path in paths:
        try:
            stat = path.stat()
        except OSError:
            found.append((str(path), 0, 0, 0))
        else:
            found.append((str(path), stat.st_ino, stat.st_mtime_ns, stat.st_size))
    return tuple(sorted(found))
