"""What the person at the server sees: a live table on a terminal, plain lines without one, JSON lines on request."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from privet.common import live
from privet.common.live import Event, Listener
from privet.common.tasks.score import score_name, score_of
from privet.common.terminal import printable
from privet.server import rehearsal_words

_LINE = 300  # characters of one drawn line
_WORDS = {
    "ok": "agreed",
    "pending": "waits for its operator's approval",
    "refused_policy": "refused: its policy",
    "refused_budget": "refused: its budget",
    "base_mismatch": "refused: its base model differs",
    "adapter_mismatch": "refused: its initial adapter differs",
    "altered_request": "refused: this round was asked for before with other content",
    "outside_horizon": "refused: outside the approved horizon",
    "ledger_behind": "waits: its ledger is older than it was, and what it forgot must be charged first",
    "round_lost": "lost this round to a crash; it is spent",
    "unknown_plan": "refused: a plan that it has not approved",
    "bad_request": "refused: a malformed request",
    "unavailable": "could not answer",
    "no_answer": "did not answer",
}


def in_words(code: object) -> str:
    """A wire code for people."""
    return _WORDS.get(str(code), str(code))


def sites_accuracy(sites: Mapping[str, Any] | None) -> str:
    """What the sites' pooled metrics say of the accuracy, with its standard error and the noise's part in it.

    >>> sites_accuracy({"accuracy": 0.8125, "error": 0.034, "noise_share": 0.78})
    'accuracy at the sites 0.812 ± 0.034 (78 % of the variance is privacy noise)'
    """
    if sites is None:
        return "no site's metrics came"
    name, value = score_name(sites), score_of(sites)
    if value is None:
        return f"{name} at the sites: lost in the privacy noise"
    share = f"{100 * sites['noise_share']:.0f} % of the variance is privacy noise"
    return f"{name} at the sites {value:.3f} ± {sites['error']:.3f} ({share})"


def public_score(public: Mapping[str, Any]) -> str:
    """What the public metrics say in short.

    >>> public_score({"accuracy": 0.8125})
    'public accuracy 0.812'
    """
    return f"public {score_name(public)} {score_of(public) or 0.0:.3f}"


def _metric(event: Event) -> str:
    """What a run went by: the plan's score, on the public file or at the sites."""
    name = score_name(event)
    return f"{name} at the sites" if event["metric"] == "sites" else f"public {name}"


_UNSEEN = "not seen yet"
_REMARKABLE = ("warning", "offer", "enrolled", "certificate", "refused_key", "rehearsal_site", "rehearsed")


@dataclass
class _Site:
    online: bool = False
    state: str = _UNSEEN
    epsilon: float | None = None
    rounds: int = 0


@dataclass
class View:
    """Folds events into what is shown; draws itself. What events bring may be a site's words: none steers."""

    title: str
    total: int = 0
    round: int = 0
    accuracy: list[float] = field(default_factory=list)
    sites: dict[str, _Site] = field(default_factory=dict)
    public_words: str = ""  # of the latest public metrics
    sites_words: str = ""  # of the latest evaluation at the sites
    status: str = "starting"

    def feed(self, event: Event) -> str | None:
        """Take one event; the plain line that tells it, if it is worth one."""
        handler = getattr(self, f"_on_{event['event']}", None)
        line: str | None = handler(event) if handler else None
        return None if line is None else printable(line)

    def site(self, name: object) -> _Site:
        return self.sites.setdefault(str(name), _Site())

    def _on_listening(self, event: dict[str, Any]) -> str:
        for name in event["sites"]:
            self.site(name)
        self.status = f"listening on {event['address']}"
        return f"{self.status}; {len(event['sites'])} enrolled sites"

    def _on_started(self, event: dict[str, Any]) -> str:
        self.total = int(event["rounds"])
        return f"federation {event['federation']}, plan {str(event['plan'])[:16]}, {self.total} rounds"

    def _on_engine(self, event: dict[str, Any]) -> str:
        self.status = f"computed by {event['engine']}: {event['gradients']}"
        return self.status

    def _on_answers(self, event: dict[str, Any]) -> str:
        return "; ".join(f"{count:,} sites: {in_words(code)}" for code, count in event["codes"].items())

    def _on_initial(self, event: dict[str, Any]) -> str:
        self._judged(event["public"])
        return f"before the first round: {self.public_words}"

    def _judged(self, public: Mapping[str, Any]) -> None:
        self.accuracy.append(score_of(public) or 0.0)
        self.public_words = public_score(public)

    def _on_online(self, event: dict[str, Any]) -> None:
        for name, site in self.sites.items():
            site.online = name in event["sites"]
        for name in event["sites"]:
            site = self.site(name)
            site.online = True
            if site.state == _UNSEEN:
                site.state = "preparing"

    def _on_waiting(self, event: dict[str, Any]) -> str:
        self.status = f"round {event['round']}: {len(event['ready'])} of {event['needed']} needed sites are ready"
        return self.status

    def _on_awaiting(self, event: dict[str, Any]) -> str | None:
        self.status = f"waiting up to {event['seconds']} s for {', '.join(event['sites'])} to come back"
        return self.status

    def _on_resumed(self, event: dict[str, Any]) -> str:
        self.round = int(event["round"])
        return f"going on after round {self.round}, {event['completed']} of them aggregated"

    def _on_offer(self, event: dict[str, Any]) -> str:
        site = self.site(event["site"])
        site.online, site.state = True, in_words(event["code"])
        site.epsilon = event.get("epsilon") or site.epsilon
        return f"{event['site']}: {site.state}"

    def _on_round_started(self, event: dict[str, Any]) -> None:
        self.round = int(event["round"])
        self.status = f"round {self.round} of {self.total}"
        for name in event["cohort"]:
            self.site(name).online, self.site(name).state = True, "training"

    def _on_reply(self, event: dict[str, Any]) -> str | None:
        self.site(event["site"]).state = "answered"
        return None

    def _on_round(self, event: dict[str, Any]) -> str | None:
        for name in event["answered"]:
            self.site(name).state = "answered"
            self.site(name).rounds += 1
        for name in event["missing"]:
            self.site(name).online, self.site(name).state = False, f"missing in round {event['round']}"
        for name, code in event["failed"].items():
            self.site(name).state = in_words(code)
        words = [f"round {event['round']}: {len(event['answered'])} answered in {event['seconds']:.1f} s"]
        if event["missing"]:
            words.append("missing: " + ", ".join(event["missing"]))
        words += [f"{name}: {in_words(code)}" for name, code in event["failed"].items()]
        if not event["aggregated"]:
            words.append("too few sound updates: nothing was changed")
        if event["public"]:
            self._judged(event["public"])
            words.append(self.public_words)
        elif event.get("not_judged"):
            words.append("not judged on public text")
        return "; ".join([*words, *self._evaluated(event)])

    def _evaluated(self, event: dict[str, Any]) -> list[str]:
        """What a round's evaluation told, where there was one."""
        evaluation = event.get("evaluation")
        if not evaluation:
            return []
        self.sites_words = sites_accuracy(event["sites"])
        words = [self.sites_words]
        if evaluation["missing"]:
            words.append("no metrics from: " + ", ".join(evaluation["missing"]))
        if evaluation.get("left_out"):
            words.append("too noisy to help, left out: " + ", ".join(evaluation["left_out"]))
        return words + [f"no metrics from {name}: {in_words(code)}" for name, code in evaluation["failed"].items()]

    def _on_stopped_early(self, event: dict[str, Any]) -> str:
        what = f"no better {_metric(event)} in {event['judgements']} judgements"
        return f"stopped early after round {event['round']}: {what}"

    def _on_kept(self, event: dict[str, Any]) -> str:
        return f"kept: the adapter of round {event['best']}, {_metric(event)} {score_of(event) or 0.0:.3f}"

    def _on_enrolled(self, event: dict[str, Any]) -> str:
        for name in event["sites"]:
            self.site(name)
        return f"the sites' keys changed: {len(event['sites'])} enrolled: {', '.join(event['sites']) or 'none'}"

    def _on_certificate(self, event: dict[str, Any]) -> str:
        return f"the server's new certificate is in use, valid until {event['until']}"

    def _on_refused_key(self, event: dict[str, Any]) -> str:
        whose = f" of {event['name']}" if event["name"] else ""
        key = f"the key{whose} {event['fingerprint']}" if event["fingerprint"] else "somebody"
        return f"refused {key}: {event['reason']}"

    def _on_warning(self, event: dict[str, Any]) -> str:
        return f"warning: {event['text']}"

    def _on_rehearsing(self, event: dict[str, Any]) -> str:
        self.total = int(event["rounds"])
        self.status = f"rehearsal of {event['federation']}, plan {str(event['plan'])[:16]}: nothing is spent"
        return self.status

    def _on_rehearsal_site(self, event: dict[str, Any]) -> str:
        return rehearsal_words.site(event, self.site(event["site"]))

    def _on_rehearsal_round(self, event: dict[str, Any]) -> str:
        self.round = int(event["round"])
        return rehearsal_words.round(event, self.site(event["site"]))

    def _on_rehearsed(self, event: dict[str, Any]) -> str:
        self.status = "the rehearsal is over"
        return rehearsal_words.summary(event)

    def _on_finished(self, event: dict[str, Any]) -> str:
        self.status = f"done after {event['rounds']} rounds"
        return f"{self.status}: {event['run']}"

    def __rich__(self) -> Group:
        table = Table(expand=False, pad_edge=False, box=None, header_style="bold")
        for column in ("site", "link", "state", "rounds", "ε of this federation"):
            table.add_column(column, justify="right" if column == "rounds" else "left")
        for name, site in sorted(self.sites.items())[:40]:
            link = Text("online", "green") if site.online else Text("away", "yellow")
            cost = "–" if site.epsilon is None else f"{site.epsilon:.2f}"
            table.add_row(_cell(name), link, _cell(site.state), str(site.rounds), cost)
        done = int(24 * self.round / self.total) if self.total else 0
        bar = Text("━" * done, "green") + Text("━" * (24 - done), "dim")
        accuracy = f"  {self.public_words} {_spark(self.accuracy)}" if self.accuracy else ""
        accuracy += f"  {self.sites_words}" if self.sites_words else ""
        title, status = printable(self.title, _LINE), printable(self.status, _LINE)
        return Group(Text(title, "bold") + Text(f"  {status}"), bar + Text(accuracy), table)


def _cell(text: str) -> str:
    """One line of a table's cell, free of markup."""
    return escape(printable(text, _LINE).replace("\n", " "))


def _spark(values: list[float]) -> str:
    """The last 30 values as a small curve from 0 to 1.

    >>> _spark([0.0, 0.5, 1.0])
    '▁▄█'
    """
    return "".join("▁▂▃▄▅▆▇█"[min(7, int(value * 7.999))] for value in values[-30:])


def watch(title: str, *, as_json: bool) -> AbstractContextManager[Listener]:
    """A listener: JSON lines on standard output, or people's words on standard error."""
    return live.watch(View(title), as_json=as_json, remarkable=_REMARKABLE)
