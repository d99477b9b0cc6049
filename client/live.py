"""What the operator sees: the link, the round and the budget; JSON lines on request."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.text import Text

from privet.common.terminal import printable

Listener = Callable[[dict[str, object]], None]

_BAR = 32
_LINE = 300  # characters of one drawn line


@dataclass
class View:
    """Folds events into what is shown; draws itself. What events bring may be the server's words: none steers."""

    site: str
    links: dict[str, str] = field(default_factory=dict)  # of each federation
    doing: str = ""
    budget: dict[str, Any] = field(default_factory=dict)

    def feed(self, event: dict[str, Any]) -> str | None:
        """Take one event; the plain line that tells it, if it is worth one."""
        kind = printable(str(event["event"]))
        text = printable(str(event.get("text") or ""))
        if kind == "budget":
            self.budget = event
            return None
        if kind == "link":
            federation = printable(str(event.get("federation") or ""))
            changed = self.links.get(federation) != text and bool(text)
            if text:
                self.links[federation] = text
            return text if changed else None
        self.doing = text.splitlines()[0] if text else kind
        return text or kind

    def __rich__(self) -> Group:
        title = printable(f"privet client {self.site}", _LINE)
        links = "; ".join(self.links.values()) or "starting"
        rows = [Text(title, "bold") + Text("  " + printable(links, _LINE)), Text(printable(self.doing, _LINE))]
        if self.budget:
            whole = float(self.budget["epsilon"])
            spent = min(_BAR, round(_BAR * float(self.budget["spent_epsilon"]) / whole))
            reserved = min(_BAR - spent, max(0, round(_BAR * float(self.budget["reserved_epsilon"]) / whole) - spent))
            bar = (
                Text("█" * spent, "red") + Text("▒" * reserved, "yellow") + Text("░" * (_BAR - spent - reserved), "dim")
            )
            words = (
                f"  ε spent {self.budget['spent_epsilon']:.2f}, reserved {self.budget['reserved_epsilon']:.2f}, "
                f"left {self.budget['left_epsilon']:.2f} of {whole:g}; {self.budget['rounds']} rounds"
            )
            rows.append(bar + Text(words))
        return Group(*rows)


@contextmanager
def watch(site: str, *, as_json: bool) -> Iterator[Listener]:
    """A listener: JSON lines on standard output, or people's words on standard error."""
    if as_json:
        yield lambda event: print(json.dumps(event, sort_keys=True), flush=True)
        return
    console, view = Console(stderr=True, highlight=False), View(site)
    if not console.is_terminal:

        def plain(event: dict[str, object]) -> None:
            line = view.feed(event)
            if line:
                print(line, file=sys.stderr, flush=True)

        yield plain
        return
    with Live(view, console=console, refresh_per_second=8) as live:

        def drawn(event: dict[str, object]) -> None:
            line = view.feed(event)
            if line and event["event"] in ("refused", "pending", "error", "replayed", "finished"):
                live.console.print(escape(line))

        yield drawn
