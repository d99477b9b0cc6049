"""What the person at a simulation sees: how far it is, how fast, and for how long still."""

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rich.console import Group
from rich.text import Text

from privet.common.live import Event, Listener
from privet.common.terminal import printable
from privet.server.live import View, _spark, in_words

_OFTEN = 5.0  # seconds between two plain lines of short rounds
_SELDOM = 30.0  # within one round
_LATEST = 20  # rounds that rate and time left go by
_NAMED = 5  # sites of a round that are named; of more it is told how many
_WIDTH = 30  # of a bar, in characters


@dataclass
class SimulationView(View):
    """Folds a simulation's events. clock: seconds, as `time.monotonic`."""

    clock: Callable[[], float] = time.monotonic
    cohort: int = 0  # sites that were asked in this round
    trained: int = 0  # that have answered it
    measured: int = 0  # that have answered its evaluation
    updates: int = 0  # answers to rounds since it began
    marks: deque[tuple[float, int, int]] = field(default_factory=lambda: deque(maxlen=_LATEST))  # of the latest rounds'
    # beginnings: when, and updates and rounds done by then
    first: int = 0  # rounds that were done before this process
    under_way: bool = False  # whether `round` is not over
    told: float = 0.0  # when the latest plain line was given

    @property
    def rate(self) -> float:
        """Client updates per second, over the latest rounds; 0 where nothing came."""
        if not self.marks:
            return 0.0
        since, before, _ = self.marks[0]
        passed = self.clock() - since
        return (self.updates - before) / passed if passed > 0 else 0.0

    @property
    def done(self) -> float:
        """Rounds, with what is done of the present one."""
        part = min(1.0, self.trained / self.cohort) if self.under_way and self.cohort else 0.0
        return self.round - self.under_way + part

    @property
    def left(self) -> float | None:
        """Seconds, if it goes on as in the latest rounds; None where nothing is known."""
        if not self.marks or self.done <= self.marks[0][2] or not self.total:
            return None
        since, _, before = self.marks[0]
        return max(0.0, self.total - self.done) * (self.clock() - since) / (self.done - before)

    @property
    def words(self) -> str:
        """Rate and time left."""
        found = [f"{self.rate:,.1f} updates/s"] if self.updates else []
        left = self.left
        return ", ".join([*found, f"{duration(left)} left"] if left and self.done < self.total else found)

    def _on_resumed(self, event: dict[str, Any]) -> str:
        self.first = int(event["round"])
        return super()._on_resumed(event)

    def _on_round_started(self, event: dict[str, Any]) -> None:
        now = self.clock()
        if not self.marks:
            self.told = now
        self.marks.append((now, self.updates, int(event["round"]) - 1))
        self.round, self.cohort, self.under_way = int(event["round"]), len(event["cohort"]), True
        self.trained = self.measured = 0
        self.status = f"round {self.round} of {self.total}"

    def _on_reply(self, event: dict[str, Any]) -> str | None:
        if event.get("kind") == "evaluate":
            self.measured += 1
            what = f"{self.measured:,} sites measured"
        else:
            self.trained += 1
            self.updates += 1
            what = f"{self.trained:,} of {self.cohort:,} sites"
        self.status = f"round {self.round} of {self.total}: {what}"
        return self._line(f"{self.status}; {self.words}") if self._is_time(_SELDOM) else None

    def _on_offer(self, event: dict[str, Any]) -> str:
        return f"{event['site']}: {in_words(event['code'])}"

    def _on_awaiting(self, event: dict[str, Any]) -> None:
        """Everyone is here."""

    def _on_round(self, event: dict[str, Any]) -> str | None:
        self.round, self.under_way = int(event["round"]), False
        words = [f"round {self.round} of {self.total}: {len(event['answered']):,} answered in {event['seconds']:.1f} s"]
        if event["missing"]:
            words.append("missing: " + _named(event["missing"]))
        if event["failed"]:
            words.append("failed: " + _named(sorted(event["failed"])))
        if not event["aggregated"]:
            words.append("too few sound updates: nothing was changed")
        if event["public"]:
            self._judged(event["public"])
            words.append(self.public_words)
        elif event.get("not_judged"):
            words.append("not judged on public text")
        measured = event.get("evaluation")
        if measured:
            shown = {**measured, "missing": [_named(measured["missing"])] if measured["missing"] else []}
            shown["left_out"] = [_named(measured["left_out"])] if measured.get("left_out") else []
            words += self._evaluated({**event, "evaluation": shown})
        words += [self.words] if self.words else []
        is_end = self.round in (self.first + 1, self.total) or not event["aggregated"]
        return self._line("; ".join(words)) if is_end or self._is_time(_OFTEN) else None

    def _evaluated(self, event: dict[str, Any]) -> list[str]:
        """With what only a simulation can know: how many units' counts the plan's bound clipped."""
        words = super()._evaluated(event)
        if words and event.get("sites_clipped") is not None:
            clipped = f"{100 * event['sites_clipped']:.1f} % of the sites' units clipped"
            self.sites_words += f"; {clipped}"
            words.insert(1, clipped)
        return words

    def _on_finished(self, event: dict[str, Any]) -> str:
        rate = f", {self.words}" if self.updates else ""
        self.status = f"done after {event['rounds']} rounds{rate}"
        return f"{self.status}: {event['run']}"

    def _is_time(self, seconds: float) -> bool:
        return self.clock() - self.told >= seconds

    def _line(self, text: str) -> str:
        self.told = self.clock()
        return text

    def __rich__(self) -> Group:
        found = [Text(printable(self.title, 300), "bold") + Text(f"  {printable(self.status, 300)}")]
        if self.total:
            whole = self.round - self.under_way
            found.append(_bar(whole / self.total) + Text(f"  {whole:,} of {self.total:,} rounds  {self.words}"))
        if self.under_way and self.cohort:
            share = _bar(self.trained / self.cohort)
            found.append(share + Text(f"  {self.trained:,} of {self.cohort:,} sites in round {self.round:,}"))
        if self.accuracy:
            found.append(Text(f"{self.public_words} {_spark(self.accuracy)}"))
        if self.sites_words:
            found.append(Text(self.sites_words))
        return Group(*found)


def duration(seconds: float) -> str:
    """For people.

    >>> duration(8.4), duration(200), duration(8000), duration(200_000)
    ('9 s', '4 min', '2 h 14 min', '2 d 7 h')
    """
    if seconds < 100:
        return f"{math.ceil(round(seconds, 3))} s"
    minutes = math.ceil(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def _named(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= _NAMED else f"{len(names):,} sites"


def _bar(share: float) -> Text:
    done = int(_WIDTH * min(1.0, share))
    return Text("━" * done, "green") + Text("━" * (_WIDTH - done), "dim")


def told_to(*listeners: Callable[[Event], object]) -> Listener:
    """Each of them, in this order."""

    def tell(event: Event) -> None:
        for listener in listeners:
            listener(event)

    return tell
