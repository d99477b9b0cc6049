"""A server's numbers for its own operator's Prometheus."""

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from privet.common.exporter import Exporter
from privet.common.live import Event, Listener
from privet.common.tasks.score import score_key, score_name, score_of

_BUCKETS = (0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200)


class ServerExporter(Exporter):
    """Folds a run's events; what changes between them is asked when the page is."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        registry = self.registry
        self._planned = Gauge("privet_rounds_planned", "Rounds of the plan.", registry=registry)
        self._rounds = Counter("privet_rounds", "Rounds that were run.", registry=registry)
        self._completed = Counter("privet_rounds_completed", "Rounds that changed the adapter.", registry=registry)
        self._seconds = Histogram(
            "privet_round_seconds", "A round, from its requests to its end.", buckets=_BUCKETS, registry=registry
        )
        self._enrolled = Gauge("privet_sites_enrolled", "Sites whose keys are let in.", registry=registry)
        self._ready = Gauge("privet_sites_ready", "Sites ready when last looked at.", registry=registry)
        self._replies = Counter(
            "privet_replies",
            "Answers of sites to offers, rounds and evaluations, by code.",
            ["code"],
            registry=registry,
        )
        self._bytes = Counter(
            "privet_array_bytes", "Of arrays: in (from sites) and out (to sites).", ["direction"], registry=registry
        )
        self._score = Gauge("privet_public_score", "Of the adapter on the public text.", ["metric"], registry=registry)

    def watch(self, *, online: Callable[[], int], refused: Callable[[], int], checkpoints: Path) -> None:
        """What to ask when the page is asked for. refused: calls by keys that are not let in."""
        self.registry.register(_Live(online, refused, checkpoints))

    def beside(self, listener: Listener) -> Listener:
        """A listener that feeds this too."""

        def told(event: Event) -> None:
            self.feed(event)
            listener(event)

        return told

    def enrolled(self, num_sites: int) -> None:
        self._enrolled.set(num_sites)

    def feed(self, event: dict[str, Any]) -> None:
        """Take one event of the run."""
        kind = event["event"]
        if kind == "started":
            self._planned.set(event["rounds"])
        elif kind == "initial":
            self._judged(event["public"])
        elif kind == "waiting":
            self._ready.set(len(event["ready"]))
        elif kind == "round_started":
            self._ready.set(len(event["cohort"]))
        elif kind == "offer":
            self._replies.labels(str(event["code"])).inc()
        elif kind == "round":
            self._round(event)

    def _round(self, event: dict[str, Any]) -> None:
        self._rounds.inc()
        self._completed.inc(bool(event["aggregated"]))
        self._seconds.observe(event["seconds"])
        self._bytes.labels("in").inc(event["bytes_up"])
        self._bytes.labels("out").inc(event["bytes_down"])
        for part in (event, event["evaluation"] or {}):
            self._replies.labels("ok").inc(len(part.get("answered", ())))
            self._replies.labels("no_answer").inc(len(part.get("missing", ())))
            for code in part.get("failed", {}).values():
                self._replies.labels(str(code)).inc()
        if event["public"]:
            self._judged(event["public"])

    def _judged(self, public: Mapping[str, Any]) -> None:
        self._score.labels(score_key(score_name(public))).set(score_of(public) or 0.0)


class _Live:
    """Numbers that no event brings."""

    def __init__(self, online: Callable[[], int], refused: Callable[[], int], checkpoints: Path) -> None:
        self._online, self._refused, self._checkpoints = online, refused, checkpoints

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("privet_sites_online", "Sites that are connected and let in.", value=self._online())
        yield CounterMetricFamily(
            "privet_refused_key_calls", "Calls by keys that are not let in.", value=self._refused()
        )
        newest = max((path.stat().st_mtime for path in self._checkpoints.glob("round-*.safetensors")), default=None)
        if newest is not None:
            age = max(0.0, time.time() - newest)
            yield GaugeMetricFamily("privet_checkpoint_age_seconds", "Since the newest checkpoint.", value=age)
