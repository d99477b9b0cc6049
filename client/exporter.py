"""A site's numbers for its own operator's Prometheus: link, budget, rounds, refusals. No count of data, no text.

They are of this machine's loopback only: how long a local round took is never told to the server.
"""

import time
from typing import Any

from prometheus_client import Counter, Gauge

from privet.common.audit_log import Entry
from privet.common.audit_log.entries import Refused, Released, Replayed
from privet.common.exporter import Exporter
from privet.common.live import Event, Listener


class SiteExporter(Exporter):
    """Folds the client's events and the entries of its audit log."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        registry = self.registry
        self._online = Gauge(
            "privet_link_online",
            "1 while the server of the federation is connected.",
            ["federation"],
            registry=registry,
        )
        self._epsilon = Gauge(
            "privet_epsilon", "Of the data set's budget: whole, spent, reserved, left.", ["part"], registry=registry
        )
        self._rounds = Counter(
            "privet_local_rounds", "Rounds trained since the start.", ["federation"], registry=registry
        )
        self._evaluations = Counter(
            "privet_local_evaluations", "Evaluations measured since the start.", ["federation"], registry=registry
        )
        self._replayed = Counter(
            "privet_replayed", "Stored replies that were sent again.", ["federation"], registry=registry
        )
        self._refusals = Counter(
            "privet_refusals", "Requests and plans that got no, by code.", ["federation", "code"], registry=registry
        )
        self._seconds = Gauge(
            "privet_local_round_seconds", "Of the last local round.", ["federation"], registry=registry
        )
        self._began: dict[str, float] = {}

    def beside(self, listener: Listener) -> Listener:
        """A listener that feeds this too."""

        def told(event: Event) -> None:
            self.feed(event)
            listener(event)

        return told

    def feed(self, event: dict[str, Any]) -> None:
        """Take one of the client's events."""
        kind, federation = event["event"], str(event.get("federation") or "")
        if kind == "link":
            self._online.labels(federation).set(event["state"] in ("online", "working", "idle", "failed"))
        elif kind == "budget":
            parts = {"whole": "epsilon", "spent": "spent_epsilon", "reserved": "reserved_epsilon"}
            for part, key in (parts | {"left": "left_epsilon"}).items():
                self._epsilon.labels(part).set(float(event[key]))
        elif kind == "training":
            self._began[federation] = time.monotonic()
        elif kind == "trained" and federation in self._began:
            self._seconds.labels(federation).set(time.monotonic() - self._began.pop(federation))

    def note(self, entry: Entry) -> None:
        """Take one entry of the audit log."""
        if isinstance(entry, Replayed):
            self._replayed.labels(entry.federation).inc()
        elif isinstance(entry, Released) and entry.what == "update":
            self._rounds.labels(entry.federation).inc()
        elif isinstance(entry, Released) and entry.what == "metrics":
            self._evaluations.labels(entry.federation).inc()
        elif isinstance(entry, Refused):
            self._refusals.labels(entry.federation or "", str(entry.code)).inc()
